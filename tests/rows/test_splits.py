"""No stage learns from what another is measured with: splits by hash, splits of the data sets, and
real rows.
"""

import os
from pathlib import Path

import pytest

from helpers.rows.common import prompt_hash
from helpers.rows.tracks import TRACKS, SourceError
from tests.support.chosen_rows import load_track
from tests.support.folder_of_rows import PAIRS, write

REAL = os.environ.get("RLHF_DATA_DIR")  # before the fixture below hides it
POST = "SUBREDDIT: r/a\nTITLE: t\nPOST: {}\nTL;DR:"
POSTS = [{"prompt": POST.format(f"It is number {i}."), "label": f"Number {i}."} for i in range(100)]
SUMMARIES = [{"prompt": row["prompt"], "chosen": row["label"], "rejected": "No."} for row in POSTS]
KINDS, SPLITS = ("demonstrations", "comparisons", "prompts"), ("train", "heldout")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("RLHF_DATA_DIR", str(tmp_path))
    return tmp_path


def load(kind: str, split: str) -> set[int]:
    return hashes("tldr", kind, load_track("tldr", kind, split)[0])


def hashes(track: str, kind: str, records: list) -> set[int]:
    """Hashes of the prompts of records; for `sentiment` of the sentences, as many begin alike."""
    if track != "sentiment":
        return {prompt_hash(record.prompt) for record in records}
    if kind == "comparisons":  # the prompt fits only one of the two completions
        return {prompt_hash(text) for one in records for text in (one.chosen, one.rejected)}
    return {prompt_hash(record.prompt + record.completion) for record in records}


def test_splits_share_no_prompt_and_ignore_the_order(folder):
    path = folder / "synthetic-instruct-gptj-pairwise" / "train.jsonl"
    double = [row | {"rejected": "Never."} for row in PAIRS]

    def read(rows):
        write(path, rows)
        names = [(kind, split) for kind in KINDS for split in SPLITS]
        return {name: set(load_track("instruct", *name)[0]) for name in names}

    records = read(PAIRS + double)
    assert read(double[::-1] + PAIRS[::-1]) == records
    prompts = {name: {record.prompt for record in rows} for name, rows in records.items()}
    learned, heldout = prompts["comparisons", "train"], prompts["comparisons", "heldout"]
    reserve = prompts["prompts", "train"]
    assert learned == prompts["demonstrations", "train"]
    assert heldout == prompts["demonstrations", "heldout"] == prompts["prompts", "heldout"]
    assert not learned & reserve and not learned & heldout and not reserve & heldout
    assert len(learned | reserve | heldout) == 200
    assert len(records["comparisons", "train"]) == 2 * len(learned)


HELD_POSTS = {"openai_summarize_tldr/valid": POSTS[80:]}
HELD_SUMMARIES = {"openai_summarize_comparisons/valid1": SUMMARIES[60:90]}


@pytest.mark.parametrize("held", [HELD_POSTS, HELD_SUMMARIES, HELD_POSTS | HELD_SUMMARIES])
def test_a_post_that_one_data_set_holds_out_is_not_learned_from_in_another(folder, held):
    """The training splits below hold every post, in other white space and capitals."""
    again = [row | {"prompt": row["prompt"].replace("It is", "it  IS")} for row in POSTS]
    write(folder / "openai_summarize_tldr" / "train.jsonl", again)
    write(folder / "openai_summarize_comparisons" / "train.jsonl", SUMMARIES)
    for name, rows in held.items():
        write(folder / f"{name}.jsonl", rows)
    measured = set().union(*(load(kind, "heldout") for kind in KINDS))
    assert len(measured) >= 20
    for kind in KINDS:
        learned = load(kind, "train")
        assert not learned & measured and len(learned) >= 50
    report = load_track("tldr", "demonstrations", "train")[1]
    assert report.left_out["held out for measuring"] > 0


def test_without_files_to_measure_with_a_tenth_is_set_aside_in_all_data_sets_alike(folder):
    write(folder / "tldr" / "sft.train.jsonl.gz", POSTS)
    write(folder / "tldr" / "comparisons.train.jsonl.gz", SUMMARIES)
    for split in SPLITS:
        assert load("demonstrations", split) == load("comparisons", split)
    report = load_track("tldr", "demonstrations", "train")[1]
    assert 80 < report.records < 100 and not report.left_out


# the real rows, where there are any


def check_real(track: str, kind: str, records: list, report) -> None:
    lost = report.left_out.total()
    assert len(records) == report.records
    assert report.records > lost or kind == "prompts" or track == "instruct"
    for record in records:
        assert record.prompt == record.prompt.rstrip()
        texts = [getattr(record, name, " x") for name in ("completion", "chosen", "rejected")]
        assert all(text.startswith(" ") and text[1:] == text.strip() for text in texts)
        if track == "tldr":
            start, end = "SUBREDDIT: r/", "\n\nTL;DR:"
            assert record.prompt.startswith(start) and record.prompt.endswith(end)


@pytest.mark.skipif(not REAL, reason="RLHF_DATA_DIR names no folder with real rows")
@pytest.mark.parametrize("track", TRACKS)
def test_real_rows(track, monkeypatch):
    """No real row that a stage is measured with is learned from by any stage; white space and
    capitals don't count.
    """
    monkeypatch.setenv("RLHF_DATA_DIR", str(REAL))
    seen = {}
    for kind in [kind for kind in TRACKS[track].roles if kind != "documents"]:
        for split in SPLITS:
            try:
                records, report = load_track(track, kind, split)
            except SourceError as error:
                assert "has no file for" in str(error)
                continue
            check_real(track, kind, records, report)
            if (track, kind) != ("sentiment", "prompts"):  # two words, as many sentences begin
                seen[kind, split] = hashes(track, kind, records)
    if not seen:
        pytest.skip(f"the folder has no rows of {track}")
    learned, measured = (
        set().union(*(part for (_, one), part in seen.items() if one == split)) for split in SPLITS
    )
    assert len(learned) > 500 and len(measured) > 50 and not learned & measured
    if track == "instruct":
        others = seen["demonstrations", "train"] | seen["comparisons", "train"]
        assert not seen["prompts", "train"] & others
