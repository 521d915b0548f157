"""Blind votes, and that the course reads them as rows."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from helpers.demo.answers import Answer
from helpers.demo.votes import Pair, Votes, blind, rows_of
from helpers.engine.files import ROOT
from helpers.records import Comparison, Labelled
from helpers.rows.embedded import load_rows
from helpers.rows.load import load_track

A, B = Answer("SFT", "It is <b>bad</b>."), Answer("PPO", "It is “good”\n😀.")


def test_which_answer_is_a_is_left_to_chance():
    orders = {blind("p", A, B).answers for _ in range(50)}
    assert orders == {(A, B), (B, A)}
    assert blind("p", A, A) is None and blind("p", A, Answer("PPO", "")) is None


@pytest.mark.parametrize("track", ["tldr", "sentiment", "assistant", "instruct"])
def test_the_course_learns_from_votes(track, tmp_path):
    """Read with `load_track`, as `python -m helpers reward --data-dir` does."""
    votes, prompts = Votes(tmp_path, track), load_rows("prompts", "heldout", track, 40)
    for prompt in prompts:
        answers = (
            Answer("SFT", f"bad one of {prompt.prompt[:9]}"),
            Answer("PPO", "a good one here"),
        )
        assert votes.cast(Pair(prompt.prompt, answers), 1)
    where = {"source": "local", "data_dir": tmp_path}
    texts = {prompt.prompt for prompt in prompts}
    if track == "sentiment":
        labels = [
            r for s in ("train", "heldout") for r in load_track(track, "labels", s, **where)[0]
        ]
        good = {label.prompt + label.completion: label.label for label in labels}
        assert all(isinstance(label, Labelled) for label in labels) and set(good.values()) == {0, 1}
        for text, label in good.items():
            assert text.endswith(" a good one here") == (label == 1)
            assert any(text.startswith(prompt) for prompt in texts)
        return
    split = [load_track(track, "comparisons", name, **where)[0] for name in ("train", "heldout")]
    found = {(one.prompt, one.chosen) for rows in split for one in rows}
    assert found <= {(text, " a good one here") for text in texts} and all(split)
    reserved = 0.3 if track == "instruct" else 0  # for PPO's prompts
    assert len(found) >= (1 - reserved) * len(texts) - 5
    assert {one.prompt for one in load_track(track, "prompts", "train", **where)[0]} <= texts


def test_a_vote_is_in_the_courses_comparison_format(tmp_path):
    Votes(tmp_path, "tldr").cast(Pair("p", (A, B)), 0)
    (line,) = (tmp_path / "votes.jsonl").read_text(encoding="utf-8").splitlines()
    row = json.loads(line)
    assert (row.pop("chosen_by"), row.pop("rejected_by")) == ("SFT", "PPO")
    assert Comparison(**row) == Comparison("p", A.text, B.text)
    vote = Comparison("Human: hi\n\nAssistant:", "x", "y")
    rows = rows_of("assistant", vote)["rm-static"]
    assert rows[0]["prompt"] == "\n\nHuman: hi\n\nAssistant:"


def test_a_pair_is_counted_once_however_often_its_buttons_are_pressed(tmp_path):
    votes, pair = Votes(tmp_path, "tldr"), Pair("p", (A, B))
    with ThreadPoolExecutor(8) as pool:
        counted = list(pool.map(lambda i: votes.cast(pair, i % 2), range(16)))
    assert counted.count(True) == 1 and votes.tally().total() == 1


def test_users_and_processes_at_once_write_whole_lines(tmp_path):
    code = (
        "from pathlib import Path; from helpers.demo.answers import Answer\n"
        "from helpers.demo.votes import Pair, Votes\n"
        f"votes = Votes(Path({str(tmp_path)!r}), 'tldr')\n"
        "answers = Answer('SFT', 'x' * 9000), Answer('PPO', 'y')\n"
        "for i in range(40): votes.cast(Pair(f'q{i}', answers), 0)"
    )
    other = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    votes = Votes(tmp_path, "tldr")

    def user(name: int) -> None:
        for i in range(40):
            votes.cast(Pair(f"{name} {i}", (Answer("SFT", f"{name}" * 9000), A)), 0)

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(user, range(3)))
    assert other.wait(timeout=60) == 0
    for path in tmp_path.rglob("*.jsonl"):
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        assert len(rows) == 160 and len({row["prompt"] for row in rows}) == 160
    assert votes.tally() == {("SFT", "PPO"): 40, ("SFT", "SFT"): 120}


def test_a_vote_that_cannot_be_written_is_not_counted(tmp_path):
    (tmp_path / "file").touch()
    votes, pair = Votes(tmp_path / "file", "tldr"), Pair("p", (A, B))
    with pytest.raises(OSError):
        votes.cast(pair, 0)
    (tmp_path / "file").unlink()
    assert votes.cast(pair, 0)


def test_a_damaged_file_of_votes_costs_no_other_vote(tmp_path):
    votes = Votes(tmp_path, "tldr")
    votes.cast(Pair("p", (A, B)), 0)
    with open(votes.log, "ab") as file:
        file.write(b'[]\n\xff\n{"prompt": "ha')  # the last line was cut off
    votes.cast(Pair("q", (A, B)), 0)
    assert [*votes.tally().values()] == [2]
