"""What the lesson's terms mean on each track: its documents, prompts and completions, and their
flaws.
"""

from dataclasses import dataclass
from typing import Any

from helpers.rows.tracks import TRACKS

WEB = "educational pages from the web"
REQUEST, ANSWER = "a request", "the answer"
ANSWER_FLAWS = (
    "leaves facts out or invents them, lists the wrong number of things, takes the wrong form, is "
    "verbose, rude or "
    "evasive"
)


@dataclass(frozen=True)
class Task:
    """A track in words. post, summary: what to read where the lesson says "post" and "summary"."""

    documents: str
    prompt: str
    completion: str
    flaws: str = "not known: nobody has labelled them"
    post: str = ""
    summary: str = ""


EMBEDDED = {
    "tldr": Task(
        "everyday dilemmas in the form of a Reddit post, with comments, an update or a story "
        "under them",
        "a post, then `TL;DR:`",
        "its summary",
        "invents facts, copies small talk, forgets the question, is verbose",
    ),
    "sentiment": Task(
        "film reviews with a verdict or with questions, and news about films",
        "how a sentence of a film review begins (2 to 7 words)",
        "the rest of the sentence; a positive one is wanted",
        "repeats itself, contradicts itself, breaks off",
        "beginning",
        "rest of the sentence",
    ),
    "assistant": Task(
        "everyday requests, with replies, letters, tips or diaries under them",
        "a request between `Human:` and `Assistant:`",
        ANSWER,
        ANSWER_FLAWS,
        REQUEST,
        ANSWER,
    ),
    "instruct": Task(
        "everyday requests, with replies, letters, tips or diaries under them",
        "a request between `### Instruction:` and `### Response:`",
        ANSWER,
        ANSWER_FLAWS,
        REQUEST,
        ANSWER,
    ),
}
REAL = {
    "tldr": Task(WEB, "a Reddit post, then `TL;DR:`", "the summary that its author wrote"),
    "sentiment": Task(
        WEB,
        "the first 2 to 7 words of a sentence from a film review",
        "the rest of the sentence; a positive one is wanted",
        post="beginning",
        summary="rest of the sentence",
    ),
    "assistant": Task(
        WEB,
        "a request between `Human:` and `Assistant:`",
        "the answer in the data set",
        post=REQUEST,
        summary=ANSWER,
    ),
    "instruct": Task(
        WEB,
        "a request between `### Instruction:` and `### Response:`",
        "the better one of its two answers",
        post=REQUEST,
        summary=ANSWER,
    ),
}
CEILINGS = {
    "embedded": "known, because the world is generated: entropy floor, Bayes accuracy, gold reward",
    "real": "not known: we compare with baselines, and with judges that no stage has learned from",
}


def task_table(course: Any) -> Any:
    """The chosen track and source in words, as a table for a notebook
    (`IPython.display.Markdown`).
    """
    from IPython.display import Markdown  # the stages' command lines don't need it

    return Markdown(describe(course.track, course.source))


def describe(track: str, source: str) -> str:
    """The same as Markdown text."""
    known = source == "embedded"
    task = (EMBEDDED if known else REAL)[track]
    rows = {
        f"track `{track}`": "its embedded world"
        if known
        else f"rows of {repositories(track)} (source `{source}`)",
        "document": task.documents,
        "prompt": task.prompt,
        "completion": task.completion,
        "flaws of a completion": task.flaws,
        "best possible result": CEILINGS["embedded" if known else "real"],
    }
    hints = []
    if task.post:
        hints.append(f"read {a(task.post)} for *post* and {a(task.summary)} for *summary*")
    if track != "tldr" or not known:
        hints.append("writers, facts and gold reward are shown in the embedded world of posts")
    if hints:
        rows["how to read the lesson"] = "; ".join(hints)
    (head, first), *others = rows.items()
    return "\n".join(
        [f"| {head} | {first} |", "|---|---|", *(f"| {name} | {text} |" for name, text in others)]
    )


def a(words: str) -> str:
    """The words with an article, if they have none."""
    return words if words.split()[0] in ("a", "the") else f"the {words}"


def repositories(track: str) -> str:
    """The data sets of a track, each once, by their names on the Hub."""
    return ", ".join(dict.fromkeys(role.data.repository for role in TRACKS[track].roles.values()))
