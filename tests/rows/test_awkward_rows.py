"""Rows that go wrong elsewhere, for each track: what becomes of each, the reason that is counted,
and how records are encoded.
"""

import time
from collections import Counter

import pytest

from helpers.reward import encode_comparison
from helpers.rows.common import Limits, Unusable
from helpers.rows.embedded import load_tokenizer
from helpers.rows.tldr import read_post
from helpers.sft import encode_demonstration
from tests.support.chosen_rows import load_track
from tests.support.folder_of_rows import write

PROMPT, CONTEXT = 200, 256  # tokens
LONG = "and so it went on " * 1000  # 5,000 words
EMOJI = "👩‍👩‍👧 naïve 🇩🇪"


@pytest.fixture
def load(tmp_path, monkeypatch):
    """load(track, kind, name, columns, *lines): records and report of the rows in a file of a data
    set. Each line has the cells of the columns, then the expected reason for which the row is left
    out, or None.
    """
    monkeypatch.setenv("RLHF_DATA_DIR", str(tmp_path))

    def load(track: str, kind: str, name: str, columns: str, *lines: tuple) -> tuple[list, object]:
        names = columns.split()
        rows = [dict(zip(names, cells)) for *cells, _ in lines]
        write(tmp_path / name / "train.jsonl", rows)
        # a file of its own to measure with, so that no row is set aside
        write(tmp_path / name / "validation.jsonl", [dict.fromkeys(names, "x")])
        tokenizer = load_tokenizer(track)
        limits = Limits(tokenizer.encode, PROMPT, CONTEXT)
        records, report = load_track(track, kind, "train", limits=limits)
        assert report.left_out == Counter(reason for *_, reason in lines if reason)
        # every row is accounted for
        assert report.read == report.used + report.left_out.total() == len(rows)
        for record in records:
            check(record, tokenizer)
        return records, report

    return load


def check(record, tokenizer) -> None:
    """What holds for every record: it fits, its tokens are those of the whole text, and one end of
    text is last.
    """
    assert record.prompt == record.prompt.strip()
    names = [name for name in ("completion", "chosen", "rejected") if hasattr(record, name)]
    for text in (getattr(record, name) for name in names):
        assert text.startswith(" ") and text == " " + text.strip()
        parts = tokenizer.encode(record.prompt) + tokenizer.encode(text)
        assert parts == tokenizer.encode(record.prompt + text)
    if "chosen" in names:
        pair = encode_comparison(record, tokenizer, CONTEXT)
        rows = [pair.prompt + pair.chosen, pair.prompt + pair.rejected]
    elif names:
        rows = [encode_demonstration(record, tokenizer, CONTEXT)[0]]
    else:
        rows = [tokenizer.encode(record.prompt) + [tokenizer.eos_id]]
    for row in rows:
        assert row.index(tokenizer.eos_id) == len(row) - 1 < CONTEXT and tokenizer.pad_id not in row


def post(text: str) -> str:
    return f"SUBREDDIT: r/pets\nTITLE: My cat\nPOST: {text}\nTL;DR:"


def test_tldr_demonstrations(load):
    inner = "It sings.\nTL;DR: it sings.\nAnd more."
    records, report = load(
        *("tldr", "demonstrations", "openai_summarize_tldr", "prompt label"),
        (post(inner), "TL;DR: Cat sings, TL;DR: help", None),
        (post(EMOJI), f"{EMOJI}<|endoftext|>", None),
        (post("It says <|endoftext|> and <|pad|>."), "It says <|endoftext|> a lot.", None),
        (post(LONG), "Long.", None),
        (post("Line.\n" * 1000), "Long.", None),
        (post(EMOJI), EMOJI, "duplicate"),
        (post("Too long an answer."), LONG, "too long for the context"),
        (post(""), "No post.", "empty post"),
        (post("No summary."), " TL;DR: ", "empty completion"),
        ("Why does my cat sing?", "No Reddit post.", "prompt is no Reddit post"),
        (7, "A number.", "prompt is no text"),
        (None, "Nothing.", "no prompt"),
        (" \n", "Blank.", "empty prompt"),
        (post("None."), "no label"),
    )
    assert records[0].prompt == f"SUBREDDIT: r/pets\n\nTITLE: My cat\n\nPOST: {inner}\n\nTL;DR:"
    texts = [" Cat sings, TL;DR: help", f" {EMOJI}", " It says <|endoftext|> a lot."]
    assert [record.completion for record in records] == [*texts, " Long.", " Long."]
    assert report.cut == 2 and records[3].prompt.endswith("\n\nTL;DR:")


@pytest.mark.parametrize("run", ["\n", " ", "\nTITLE:", "\t", "r/"])
def test_a_prompt_of_one_run_takes_no_time(run):
    started = time.perf_counter()
    for start in ("SUBREDDIT: r/a", "SUBREDDIT:", "SUBREDDIT: a\nTITLE: b"):
        with pytest.raises(Unusable):
            read_post({"prompt": start + run * 300_000 + "\nTITLE: c"})
    assert time.perf_counter() - started < 2


def test_tldr_comparisons(load):
    sings = post("It sings.")
    records, report = load(
        *("tldr", "comparisons", "openai_summarize_comparisons", "prompt chosen rejected"),
        (sings, "TL;DR: Cat sings.", "TL;DR: tl;dr: TL;DR: No", None),
        (sings, "TL;DR: Cat sings.", "No", "duplicate"),  # the same without the cues
        (sings, "Same.", "TL;DR:  Same.\n", "chosen equals rejected"),
        (post(LONG), EMOJI, f"{EMOJI}!", None),
        (sings, "Fine.", LONG, "too long for the context"),
        (sings, "", "No", "empty chosen"),
        (sings, "Yes", "", "empty rejected"),
        (sings, ["x"], "No", "chosen is no text"),
    )
    pairs = [(record.chosen, record.rejected) for record in records]
    assert pairs == [(" Cat sings.", " No"), (f" {EMOJI}", f" {EMOJI}!")] and report.cut == 1


@pytest.mark.parametrize("kind", ["demonstrations", "labels", "prompts"])
def test_sentiment(load, kind):
    texts = [
        f"the film goes on and on {EMOJI} until it ends",
        "TL;DR: a film that is far too long for what it says",
        "it ends with <|endoftext|> , as all of them do , again",
    ]
    records, _ = load(
        *("sentiment", kind, "sst2", "sentence label"),
        (texts[0] + " ", 1, None),
        (texts[0], 1, "duplicate"),
        (texts[1], 0, None),
        (texts[2] + " <|endoftext|>", 0, None),
        (LONG, 0, "too long for the context"),
        ("a fine film", 1, "sentence too short"),
        (" ", 1, "empty sentence"),
        (["a", "list"], 1, "sentence is no text"),
    )
    assert len(records) == 3
    if kind != "prompts":
        assert [record.prompt + record.completion for record in records] == texts


def test_sentiment_labels_out_of_range(load):
    reasons = {0: None, 1: None, " 1": None, None: "no label"}
    labels = (0, 1, " 1", -1, 2, 0.5, True, None, "positive")
    lines = [
        (f"the film goes on and on until it ends {i}", label, reason)
        for i, label in enumerate(labels)
        for reason in [reasons.get(label, "label is not 0 or 1")]
    ]
    lines[6] = (*lines[6][:2], "label is not 0 or 1")  # True, which equals 1
    records, _ = load("sentiment", "labels", "sst2", "sentence label", *lines)
    assert [record.label for record in records] == [0, 1, 1]


PLACEHOLDERS = [
    "<nooutput>",
    "No Output",
    "<noinput>",
    "<No output, cannot design this>",
    "<nooutput> This can't be done.",
    "N/A.",
]


def test_alpaca(load):
    dialogue = "Human: hi\n\nAssistant: TL;DR: no"
    records, _ = load(
        *("assistant", "demonstrations", "alpaca", "instruction input output"),
        ("Name it.", "", "Cat", None),
        ("Name it.", " <noinput> ", "Cat", "duplicate"),
        ("Name it.", "🤔", EMOJI, None),
        (f"What is {EMOJI}?", dialogue, "TL;DR: yes", None),
        (LONG, "", "Long", "prompt too long"),
        ("Name it.", LONG, "Long", "prompt too long"),
        ("Tell all.", "", LONG, "too long for the context"),
        ("", "Cat", "Cat", "empty instruction"),
        ("Name it.", "", " ", "empty output"),
        ("Name it.", None, "Cat", "duplicate"),  # no input is an empty one
        ("Name it.", "N/A", "Cat", "duplicate"),
        ("Name it.", "No input required.", "Cat", "duplicate"),
        ("Name it.", 7, "Cat", "input is no text"),
        *(("Draw it.", "", text, "output is a placeholder") for text in PLACEHOLDERS),
        ("What is printed?", "", "No output is printed.", None),
    )
    assert [record.prompt for record in records] == [
        "Human: Name it.\n\nAssistant:",
        "Human: Name it.\n\n🤔\n\nAssistant:",
        f"Human: What is {EMOJI}?\n\n{dialogue}\n\nAssistant:",
        "Human: What is printed?\n\nAssistant:",
    ]
    texts = ["Cat", EMOJI, "TL;DR: yes", "No output is printed."]
    assert [record.completion for record in records] == [f" {text}" for text in texts]


def turns(*texts: str) -> str:
    lines = [f"\n\n{who}: {text}" for who, text in zip(("Human", "Assistant") * 9, texts)]
    return "".join(lines) + "\n\nAssistant:"


def test_dialogues(load):
    records, _ = load(
        *("assistant", "comparisons", "rm-static", "prompt chosen rejected"),
        (turns("Hi"), " Yes", " No", None),
        (turns(LONG, "Hm", f"So? {EMOJI}") + " ", EMOJI, "TL;DR: no", None),
        (turns("Other words before", "Yes", "Hi"), "Yes", "No", "duplicate"),  # ends as the first
        (turns("Hi"), "Same ", " Same", "chosen equals rejected"),
        (turns(LONG), "Yes", "No", "prompt too long"),
        (turns("Hi"), LONG, "No", "too long for the context"),
        (turns("Hi", "Yes", ""), "Yes", "No", "empty last turn"),
        ("Hi", "Yes", "No", "prompt is no dialogue"),
        ("Human: hi\n\nAssistant: yes", "Yes", "No", "prompt is no dialogue"),
        ("\n\nHuman:\n\nAssistant:", "Yes", "No", "empty last turn"),
        (turns("Hi"), "", "No", "empty chosen"),
    )
    requests = ["Hi", f"So? {EMOJI}"]
    assert [r.prompt for r in records] == [f"Human: {one}\n\nAssistant:" for one in requests]


@pytest.mark.parametrize("kind", ["demonstrations", "comparisons"])
def test_instruct(load, kind):
    same = "chosen equals rejected" if kind == "comparisons" else None
    records, _ = load(
        *("instruct", kind, "synthetic-instruct-gptj-pairwise", "prompt chosen rejected"),
        (f"Why 2, {EMOJI}?", " TL;DR: because", "No", None),
        (f" Why 2, {EMOJI}? ", "TL;DR: because<|endoftext|>", "No ", "duplicate"),
        ("### Instruction:\nWhy 3?", EMOJI, "No", None),
        ("Why 4?", "Same", "Same\n", same),
        (LONG, "Yes", "No", "prompt too long"),
        ("Why 7?", LONG, "No", "too long for the context"),
        ("", "Yes", "No", "empty prompt"),
        ("Why 9?", None, "No", "no chosen"),
    )
    requests = [f"Why 2, {EMOJI}?", "### Instruction:\nWhy 3?"] + ["Why 4?"] * (same is None)
    template = "### Instruction:\n{}\n\n### Response:"
    assert [record.prompt for record in records] == list(map(template.format, requests))
