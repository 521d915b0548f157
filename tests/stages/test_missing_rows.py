"""Rows that a stage needs after its training are read before it: what is missing costs no run."""

import pytest

from helpers.model import GPT, GPTConfig
from helpers.rows.embedded import load_tokenizer
from helpers.rows.load import load_track
from helpers.rows.tracks import SourceError
from helpers.run.course import Course
from helpers.stages import ppo, pretrain, reward, sft
from tests.support.courses import course_in
from tests.support.ppo_models import starting_models

STAGES = {"pretrain": pretrain, "sft": sft, "reward": reward, "ppo": ppo}
CASES = [
    ("pretrain", "documents", "heldout"),
    ("sft", "demonstrations", "heldout"),
    ("sft", "prompts", "heldout"),
    ("reward", "comparisons", "heldout"),
    ("reward", "prompts", "train"),
    ("ppo", "prompts", "heldout"),
]
REAL = [
    ("sft", "tldr", "demonstrations", "heldout"),
    ("ppo", "tldr", "demonstrations", "heldout"),
    ("ppo", "tldr", "demonstrations", "train"),
    ("ppo", "sentiment", "labels", "heldout"),
]


@pytest.fixture
def without(tmp_path, monkeypatch):
    """Runs a stage with tiny models, on rows that lack a kind and split; its training fails."""
    tokenizer = load_tokenizer()
    gpt = GPT(GPTConfig(tokenizer.vocab_size, 512, 1, 2, 16))
    monkeypatch.setattr(Course, "tokenizer", tokenizer)
    monkeypatch.setattr(sft, "load_base", lambda course: (gpt, {}))
    monkeypatch.setattr(reward, "load_stage", lambda *_, **__: (gpt, {}))
    monkeypatch.setattr(ppo, "load_models", lambda *_: starting_models(tokenizer))
    for name in ("pretrain.train", "sft.train", "reward.train", "ppo.train"):
        monkeypatch.setattr(f"helpers.{name}", lambda *_: pytest.fail("it trains"))
    monkeypatch.setattr(pretrain, "train", lambda *_: pytest.fail("it trains"))

    def run(stage: str, kind: str, split: str, **changes) -> None:
        def lacking(track, *which):
            if which[:2] == (kind, split):
                raise SourceError(f"{kind}/{split} are missing")
            return load_track(track, *which[:2], limit=8)

        monkeypatch.setattr("helpers.rows.load.load_track", lacking)
        STAGES[stage].run(course_in(tmp_path, stage, **changes))

    return run


@pytest.mark.parametrize("stage, kind, split", CASES)
def test_what_is_missing_is_noticed_before_the_training(stage, kind, split, without):
    with pytest.raises(SourceError, match=f"{kind}/{split} are missing"):
        without(stage, kind, split)


@pytest.mark.parametrize("stage, track, kind, split", REAL)
def test_real_rows_too(stage, track, kind, split, without):
    with pytest.raises(SourceError, match=f"{kind}/{split} are missing"):
        without(stage, kind, split, track=track, source="local")


def test_rows_are_read_once(tmp_path, monkeypatch):
    reads: list = []
    load = lambda *args: reads.append(args[1]) or ([args[1]], "1 row")  # noqa: E731
    monkeypatch.setattr("helpers.rows.load.load_track", load)
    course = course_in(tmp_path, "sft")
    for kind in ("demonstrations", "documents"):  # of these there may be too many to keep
        first, second = (course.rows(kind, "heldout") for _ in range(2))
        assert first == second == [kind] and first is not second
    course.rows("demonstrations", "heldout", 5)
    assert reads == ["demonstrations", "documents", "documents", "demonstrations"]
