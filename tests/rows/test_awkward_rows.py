"""Rows that go wrong elsewhere, for each track: what becomes of each, what is counted, and how
records are encoded.
"""

import pytest

from helpers.reward import encode_comparison
from helpers.rows.common import Limits
from helpers.rows.embedded import load_tokenizer
from helpers.sft import encode_demonstration
from tests.support.chosen_rows import load_track
from tests.support.folder_of_rows import write

PROMPT, CONTEXT = 200, 256  # tokens
LONG = "and so it went on " * 1000  # 5,000 words
EMOJI = "👩‍👩‍👧 naïve 🇩🇪"


@pytest.fixture
def load(tmp_path, monkeypatch):
    """load(track, kind, name, rows): the records and the report of rows in a file of a data set."""
    monkeypatch.setenv("RLHF_DATA_DIR", str(tmp_path))

    def load(track: str, kind: str, name: str, rows: list) -> tuple[list, object]:
        tokenizer = load_tokenizer(track)
        # a file of its own to measure with, so that no row is set aside
        for split, content in (
            ("train", rows),
            ("validation", [{column: "x" for column in rows[0]}]),
        ):
            write(tmp_path / name / f"{split}.jsonl", content)
        records, report = load_track(
            track, kind, "train", limits=Limits(tokenizer.encode, PROMPT, CONTEXT)
        )
        assert report.kept + report.left_out.total() == len(rows)  # every row is accounted for
        for record in records:
            check(record, tokenizer)
        return records, report

    return load


def check(record, tokenizer) -> None:
    """What holds for every record: it fits, its tokens are those of the whole text, and one end of
    text is last.
    """
    assert record.prompt == record.prompt.strip()
    completions = [
        getattr(record, name)
        for name in ("completion", "chosen", "rejected")
        if hasattr(record, name)
    ]
    for text in completions:
        assert text.startswith(" ") and text == " " + text.strip()
        assert tokenizer.encode(record.prompt) + tokenizer.encode(text) == tokenizer.encode(
            record.prompt + text
        )
    if hasattr(record, "chosen"):
        pair = encode_comparison(record, tokenizer, CONTEXT)
        rows = [pair.prompt + pair.chosen, pair.prompt + pair.rejected]
    elif completions:
        rows = [encode_demonstration(record, tokenizer, CONTEXT)[0]]
    else:
        rows = [tokenizer.encode(record.prompt) + [tokenizer.eos_id]]
    for row in rows:
        assert row.index(tokenizer.eos_id) == len(row) - 1 < CONTEXT and tokenizer.pad_id not in row


def post(text: str) -> str:
    return f"SUBREDDIT: r/pets\nTITLE: My cat\nPOST: {text}\nTL;DR:"


def written(text: str) -> str:
    return f"SUBREDDIT: r/pets\n\nTITLE: My cat\n\nPOST: {text}\n\nTL;DR:"


def test_tldr_demonstrations(load):
    rows = [
        {
            "prompt": post("It sings.\nTL;DR: it sings.\nAnd more."),
            "label": "TL;DR: Cat sings, TL;DR: help",
        },
        {"prompt": post(EMOJI), "label": f"{EMOJI}<|endoftext|>"},
        {
            "prompt": post("It says <|endoftext|> and <|pad|>."),
            "label": "It says <|endoftext|> a lot.",
        },
        {"prompt": post(LONG), "label": "Long."},
        {"prompt": post("Line.\n" * 1000), "label": "Long."},
        {"prompt": post(EMOJI), "label": EMOJI},  # the second row again
        {"prompt": post("Too long an answer."), "label": LONG},
        {"prompt": post(""), "label": "No post."},
        {"prompt": post("No summary."), "label": " TL;DR: "},
        {"prompt": "Why does my cat sing?", "label": "No Reddit post."},
        {"prompt": 7, "label": "A number."},
        {"prompt": post("None.")},
    ]
    records, report = load("tldr", "demonstrations", "openai_summarize_tldr", rows)
    assert records[0].prompt == written("It sings.\nTL;DR: it sings.\nAnd more.")
    assert [record.completion for record in records] == [
        " Cat sings, TL;DR: help",
        f" {EMOJI}",
        " It says <|endoftext|> a lot.",
        " Long.",
        " Long.",
    ]
    assert report.cut == 2 and records[3].prompt.endswith("\n\nTL;DR:")
    assert report.left_out == {
        "duplicate": 1,
        "too long for the context": 1,
        "empty post": 1,
        "empty completion": 1,
        "prompt is no Reddit post": 1,
        "prompt is no text": 1,
        "no label": 1,
    }


def test_tldr_comparisons(load):
    rows = [
        {
            "prompt": post("It sings."),
            "chosen": "TL;DR: Cat sings.",
            "rejected": "TL;DR: tl;dr: TL;DR: No",
        },
        {
            "prompt": post("It sings."),
            "chosen": "TL;DR: Cat sings.",
            "rejected": "No",
        },  # the same without the marks
        {"prompt": post("It sings."), "chosen": "Same.", "rejected": "TL;DR:  Same.\n"},
        {"prompt": post(LONG), "chosen": EMOJI, "rejected": f"{EMOJI}!"},
        {"prompt": post("It sings."), "chosen": "Fine.", "rejected": LONG},
        {"prompt": post("It sings."), "chosen": "", "rejected": "No"},
    ]
    records, report = load("tldr", "comparisons", "openai_summarize_comparisons", rows)
    assert [(record.chosen, record.rejected) for record in records] == [
        (" Cat sings.", " No"),
        (f" {EMOJI}", f" {EMOJI}!"),
    ]
    assert report.cut == 1
    assert report.left_out == {
        "duplicate": 1,
        "chosen equals rejected": 1,
        "too long for the context": 1,
        "empty chosen": 1,
    }


@pytest.mark.parametrize("kind", ["demonstrations", "labels", "prompts"])
def test_sentiment(load, kind):
    fine = f"the film goes on and on {EMOJI} until it ends"
    rows = [
        {"sentence": fine + " ", "label": 1},
        {"sentence": fine, "label": 1},
        {"sentence": "TL;DR: a film that is far too long for what it says", "label": 0},
        {
            "sentence": "it ends with <|endoftext|> , as all of them do , again <|endoftext|>",
            "label": 0,
        },
        {"sentence": LONG, "label": 0},
        {"sentence": "a fine film", "label": 1},
        {"sentence": " ", "label": 1},
        {"sentence": ["a", "list"], "label": 1},
    ]
    records, report = load("sentiment", kind, "sst2", rows)
    assert len(records) == 3
    if kind != "prompts":
        assert [record.prompt + record.completion for record in records] == [
            fine,
            rows[2]["sentence"],
            "it ends with <|endoftext|> , as all of them do , again",
        ]
    assert report.left_out == {
        "duplicate": 1,
        "too long for the context": 1,
        "sentence too short": 1,
        "empty sentence": 1,
        "sentence is no text": 1,
    }


def test_sentiment_labels_out_of_range(load):
    good = "the film goes on and on until it ends"
    rows = [
        {"sentence": f"{good} {i}", "label": label}
        for i, label in enumerate((0, 1, "0", -1, 2, 0.5, True, None))
    ]
    records, report = load("sentiment", "labels", "sst2", rows)
    assert [record.label for record in records] == [0, 1, 0]
    assert report.left_out == {"label is not 0 or 1": 4, "no label": 1}


def test_alpaca(load):
    rows = [
        {"instruction": "Name it.", "input": "", "output": "Cat"},
        {"instruction": "Name it.", "input": " <noinput> ", "output": "Cat"},  # the same request
        {"instruction": "Name it.", "input": "🤔", "output": EMOJI},
        {
            "instruction": f"What is {EMOJI}?",
            "input": "Human: hi\n\nAssistant: TL;DR: no",
            "output": "TL;DR: yes",
        },
        {"instruction": LONG, "input": "", "output": "Long"},
        {"instruction": "Name it.", "input": LONG, "output": "Long"},
        {"instruction": "Tell all.", "input": "", "output": LONG},
        {"instruction": "", "input": "Cat", "output": "Cat"},
        {"instruction": "Name it.", "input": "", "output": " "},
        {"instruction": "Name it.", "input": None, "output": "Cat"},
    ]
    records, report = load("assistant", "demonstrations", "alpaca", rows)
    assert [record.prompt for record in records] == [
        "Human: Name it.\n\nAssistant:",
        "Human: Name it.\n\n🤔\n\nAssistant:",
        f"Human: What is {EMOJI}?\n\nHuman: hi\n\nAssistant: TL;DR: no\n\nAssistant:",
    ]
    assert [record.completion for record in records] == [" Cat", f" {EMOJI}", " TL;DR: yes"]
    assert report.left_out == {
        "duplicate": 1,
        "prompt too long": 2,
        "too long for the context": 1,
        "empty instruction": 1,
        "empty output": 1,
        "no input": 1,
    }


def test_dialogues(load):
    def turns(*texts: str) -> str:
        return (
            "".join(f"\n\n{who}: {text}" for who, text in zip(("Human", "Assistant") * 9, texts))
            + "\n\nAssistant:"
        )

    rows = [
        {"prompt": turns("Hi"), "chosen": " Yes", "rejected": " No"},
        {
            "prompt": turns(LONG, "Hm", f"So? {EMOJI}") + " ",
            "chosen": EMOJI,
            "rejected": "TL;DR: no",
        },
        {
            "prompt": turns("Other words before", "Yes", "Hi"),
            "chosen": "Yes",
            "rejected": "No",
        },  # ends as the first
        {"prompt": turns("Hi"), "chosen": "Same ", "rejected": " Same"},
        {"prompt": turns(LONG), "chosen": "Yes", "rejected": "No"},
        {"prompt": turns("Hi"), "chosen": LONG, "rejected": "No"},
        {"prompt": turns("Hi", "Yes", ""), "chosen": "Yes", "rejected": "No"},
        {"prompt": "Hi", "chosen": "Yes", "rejected": "No"},
        {"prompt": turns("Hi"), "chosen": "", "rejected": "No"},
    ]
    records, report = load("assistant", "comparisons", "rm-static", rows)
    assert [record.prompt for record in records] == [
        "Human: Hi\n\nAssistant:",
        f"Human: So? {EMOJI}\n\nAssistant:",
    ]
    assert report.left_out == {
        "duplicate": 1,
        "chosen equals rejected": 1,
        "prompt too long": 1,
        "too long for the context": 1,
        "empty last turn": 1,
        "prompt is no dialogue": 1,
        "empty chosen": 1,
    }


@pytest.mark.parametrize("kind", ["demonstrations", "comparisons"])
def test_instruct(load, kind):
    rows = [
        {"prompt": f"Why 2, {EMOJI}?", "chosen": " TL;DR: because", "rejected": "No"},
        {
            "prompt": f" Why 2, {EMOJI}? ",
            "chosen": "TL;DR: because<|endoftext|>",
            "rejected": "No ",
        },
        {"prompt": "### Instruction:\nWhy 3?", "chosen": EMOJI, "rejected": "No"},
        {"prompt": "Why 4?", "chosen": "Same", "rejected": "Same\n"},
        {"prompt": LONG, "chosen": "Yes", "rejected": "No"},
        {"prompt": "Why 7?", "chosen": LONG, "rejected": "No"},
        {"prompt": "", "chosen": "Yes", "rejected": "No"},
        {"prompt": "Why 9?", "chosen": None, "rejected": "No"},
    ]
    records, report = load("instruct", kind, "synthetic-instruct-gptj-pairwise", rows)
    template = "### Instruction:\n{}\n\n### Response:"
    kept = [template.format(f"Why 2, {EMOJI}?"), template.format("### Instruction:\nWhy 3?")]
    same = {"chosen equals rejected": 1} if kind == "comparisons" else {}
    if not same:
        kept.append(template.format("Why 4?"))
    assert [record.prompt for record in records] == kept
    assert report.left_out == same | {
        "duplicate": 1,
        "prompt too long": 1,
        "too long for the context": 1,
        "empty prompt": 1,
        "no chosen": 1,
    }
