"""No stage learns from what another is measured with: splits by hash, splits of the data sets, and
real rows.
"""

import os
from pathlib import Path

import pytest

from helpers.rows.common import mark
from helpers.rows.tracks import TRACKS, SourceError
from tests.support.chosen_rows import load_track
from tests.support.folder_of_rows import write

REAL = os.environ.get("RLHF_DATA_DIR")  # before the fixture below hides it
PAIRS = [{"prompt": f"Why {i}?", "chosen": f"Because {i}.", "rejected": "No."} for i in range(200)]
POST = "SUBREDDIT: r/a\nTITLE: t\nPOST: {}\nTL;DR:"
POSTS = [{"prompt": POST.format(f"It is number {i}."), "label": f"Number {i}."} for i in range(100)]
SUMMARIES = [{"prompt": row["prompt"], "chosen": row["label"], "rejected": "No."} for row in POSTS]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("RLHF_DATA_DIR", str(tmp_path))
    return tmp_path


def load(track: str, kind: str, split: str) -> set[int]:
    return contents(track, kind, load_track(track, kind, split)[0])


def contents(track: str, kind: str, records: list) -> set[int]:
    """Marks of the prompts of records; for `sentiment` of the whole sentences, whose first words
    stand in many.
    """
    if track != "sentiment":
        return {mark(record.prompt) for record in records}
    if (
        kind == "comparisons"
    ):  # the prompt fits one of the two completions; the other is of another sentence
        return {mark(text) for record in records for text in (record.chosen, record.rejected)}
    return {mark(record.prompt + record.completion) for record in records}


def test_splits_share_no_prompt_and_ignore_the_order(folder):
    path = folder / "synthetic-instruct-gptj-pairwise" / "train.jsonl"
    double = [row | {"rejected": "Never."} for row in PAIRS]

    def read(rows):
        write(path, rows)
        return {
            (kind, split): set(load_track("instruct", kind, split)[0])
            for kind in ("demonstrations", "comparisons", "prompts")
            for split in ("train", "heldout")
        }

    found = read(PAIRS + double)
    assert read(double[::-1] + PAIRS[::-1]) == found
    prompts = {name: {record.prompt for record in records} for name, records in found.items()}
    assert prompts["comparisons", "train"] == prompts["demonstrations", "train"]
    assert (
        prompts["comparisons", "heldout"]
        == prompts["demonstrations", "heldout"]
        == prompts["prompts", "heldout"]
    )
    learnt, reserve, heldout = (
        prompts[name]
        for name in (("comparisons", "train"), ("prompts", "train"), ("prompts", "heldout"))
    )
    assert not learnt & reserve and not learnt & heldout and not reserve & heldout
    assert len(learnt | reserve | heldout) == 200 and len(found["comparisons", "train"]) == 2 * len(
        learnt
    )


@pytest.mark.parametrize(
    "held",
    [
        {"openai_summarize_tldr/valid": POSTS[80:]},
        {
            "openai_summarize_tldr/valid": POSTS[80:],
            "openai_summarize_comparisons/valid1": SUMMARIES[60:90],
        },
        {"openai_summarize_comparisons/valid1": SUMMARIES[60:90]},
    ],
)
def test_a_post_that_one_data_set_holds_out_is_not_learned_from_in_another(folder, held):
    """The training splits below hold every post, in other white space and capitals."""
    again = [row | {"prompt": row["prompt"].replace("It is", "it  IS")} for row in POSTS]
    write(folder / "openai_summarize_tldr" / "train.jsonl", again)
    write(folder / "openai_summarize_comparisons" / "train.jsonl", SUMMARIES)
    for name, rows in held.items():
        write(folder / f"{name}.jsonl", rows)
    kinds = ("demonstrations", "comparisons", "prompts")
    measured = set().union(*(load("tldr", kind, "heldout") for kind in kinds))
    assert len(measured) >= 20
    for kind in kinds:
        learned = load("tldr", kind, "train")
        assert not learned & measured and len(learned) >= 50
    report = load_track("tldr", "demonstrations", "train")[1]
    assert report.left_out["held out for measuring"] > 0


def test_without_files_to_measure_with_a_tenth_is_set_aside_in_all_data_sets_alike(folder):
    write(folder / "tldr" / "sft.train.jsonl.gz", POSTS)
    write(folder / "tldr" / "comparisons.train.jsonl.gz", SUMMARIES)
    assert load("tldr", "demonstrations", "heldout") == load("tldr", "comparisons", "heldout")
    assert load("tldr", "demonstrations", "train") == load("tldr", "comparisons", "train")
    report = load_track("tldr", "demonstrations", "train")[1]
    assert 80 < report.kept < 100 and not report.left_out


# the real rows, where there are any


@pytest.mark.skipif(not REAL, reason="RLHF_DATA_DIR names no folder with real rows")
@pytest.mark.parametrize("track", TRACKS)
def test_real_rows(track, monkeypatch):
    """No real row that a stage is measured with is learned from by any stage; white space and
    capitals don't count.
    """
    monkeypatch.setenv("RLHF_DATA_DIR", str(REAL))
    seen = {}
    for kind in [kind for kind in TRACKS[track].roles if kind != "documents"]:
        for split in ("train", "heldout"):
            try:
                records, report = load_track(track, kind, split)
            except SourceError as error:
                assert "has no file for" in str(error)
                continue
            lost = report.left_out.total()
            assert len(records) == report.kept and (
                report.kept > lost or kind == "prompts" or track == "instruct"
            )
            for record in records:
                assert record.prompt == record.prompt.rstrip()
                texts = [
                    value
                    for name, value in vars(record).items()
                    if name in ("completion", "chosen", "rejected")
                ]
                assert all(text.startswith(" ") and text[1:] == text.strip() for text in texts)
                if track == "tldr":
                    assert record.prompt.startswith("SUBREDDIT: r/") and record.prompt.endswith(
                        "\n\nTL;DR:"
                    )
            if (track, kind) != ("sentiment", "prompts"):  # two words, as many sentences begin
                seen[kind, split] = contents(track, kind, records)
    if not seen:
        pytest.skip(f"the folder has no rows of {track}")
    learned, measured = (
        set().union(*(marks for (_, part), marks in seen.items() if part == split))
        for split in ("train", "heldout")
    )
    assert len(learned) > 500 and len(measured) > 50
    assert not learned & measured
    if track == "instruct":
        assert not seen["prompts", "train"] & (
            seen["demonstrations", "train"] | seen["comparisons", "train"]
        )
