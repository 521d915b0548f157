"""What the lesson's terms mean on each track: documents, prompts, completions and their flaws."""

from dataclasses import dataclass, replace
from typing import Any

from helpers.rows.tracks import TRACKS

WEB = "educational pages from the web"
UNKNOWN = "not known: nobody has labelled them"


@dataclass(frozen=True)
class Task:
    """A track in words. post, summary: what to read where the lesson says "post" and "summary"."""

    documents: str
    prompt: str
    completion: str
    flaws: str
    post: str = ""
    summary: str = ""


def requests(marks: str) -> Task:
    """The embedded world of requests, with the marks of a template."""
    return Task(
        documents="everyday requests, with replies, tips or diaries under them",
        prompt=f"a request between {marks}",
        completion="the answer",
        flaws="gets a fact wrong, leaves facts out, lists the wrong number of things, is verbose "
        "or rude",
        post="a request",
        summary="the answer",
    )


EMBEDDED = {
    "tldr": Task(
        documents="everyday dilemmas in the form of a Reddit post, with comments, an update or a "
        "story under them",
        prompt="a post, then `TL;DR:`",
        completion="its summary",
        flaws="gets a fact wrong, copies small talk, leaves out the question or details, pads",
    ),
    "sentiment": Task(
        documents="film reviews of two sentences, most of them with a verdict",
        prompt="how a sentence of a film review begins (3 to 6 words)",
        completion="the rest of the sentence; a positive one is wanted",
        flaws="is negative, repeats itself, contradicts itself, breaks off",
        post="beginning",
        summary="rest of the sentence",
    ),
    "assistant": requests("`Human:` and `Assistant:`"),
    "instruct": requests("`### Instruction:` and `### Response:`"),
}
DIFFERENCES = {  # of real rows, beside documents and flaws
    "tldr": {
        "prompt": "a Reddit post, then `TL;DR:`",
        "completion": "the summary that its author wrote",
    },
    "sentiment": {"prompt": "the first 2 to 7 words of a sentence from a film review"},
    "assistant": {"completion": "the answer in the data set"},
    "instruct": {"completion": "the better one of its two answers"},
}
REAL = {
    track: replace(EMBEDDED[track], documents=WEB, flaws=UNKNOWN, **texts)
    for track, texts in DIFFERENCES.items()
}
CEILINGS = {
    "embedded": "known, because the world is generated: entropy floor, Bayes accuracy, gold reward",
    "real": "not known: we compare with baselines, and with judges that no stage has learned from",
}


def in_the_lesson(course: Any) -> bool:
    """Whether a run's rows are those of the embedded world of posts, which the lesson uses."""
    return course.source == "embedded" and course.track == "tldr"


def task_table(course: Any) -> Any:
    """The chosen track and source in words, as a table for a notebook."""
    from IPython.display import Markdown  # the stages' command lines don't need it

    return Markdown(describe(course.track, course.source))


def describe(track: str, source: str) -> str:
    """The same as Markdown text."""
    known = source == "embedded"
    task = (EMBEDDED if known else REAL)[track]
    origin = "its embedded world"
    if not known:
        names = dict.fromkeys(role.data.repository for role in TRACKS[track].roles.values())
        origin = f"rows of {', '.join(names)} (source `{source}`)"
    rows = {
        f"track `{track}`": origin,
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
    lines = [f"| {name} | {text} |" for name, text in rows.items()]
    return "\n".join([lines[0], "|---|---|", *lines[1:]])


def a(words: str) -> str:
    """The words with an article, if they have none."""
    return words if words.split()[0] in ("a", "the") else f"the {words}"
