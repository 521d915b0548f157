"""The second judge: comparisons that the reward model never sees, and the model trained on them."""

import pytest

from helpers.config import RewardConfig
from helpers.model import GPT, GPTConfig
from helpers.records import Comparison
from helpers.rows.embedded import load_rows
from helpers.run.checkpoints import load_stage, save_stage
from helpers.run.course import Course
from helpers.stages.judge import set_apart, train_judge
from helpers.stages.preferences import measure
from tests.support.courses import course_in


def course_of(out, source: str, track: str = "tldr", share: float = 0.2) -> Course:
    config = RewardConfig(judge_share=share, batch_size=8)
    return course_in(out, "reward", source=source, track=track, config=config, preset="cpu")


COMPARISONS = [Comparison(f"prompt {i // 3}", f" good {i}", f" bad {i}") for i in range(3000)]


def test_the_judge_shares_no_prompt_with_the_reward_model(tmp_path):
    ours, apart = set_apart(course_of(tmp_path, "local"), COMPARISONS)
    assert sorted(map(repr, ours + apart)) == sorted(map(repr, COMPARISONS))
    assert not {item.prompt for item in ours} & {item.prompt for item in apart}
    assert len(apart) / len(COMPARISONS) == pytest.approx(0.2, abs=0.04)
    backwards = set_apart(course_of(tmp_path, "hub"), COMPARISONS[::-1])[1]
    assert backwards == apart[::-1]  # a prompt's side does not depend on the others


@pytest.mark.parametrize(
    ("source", "track", "share"),
    [("embedded", "tldr", 0.2), ("local", "sentiment", 0.2), ("local", "tldr", 0.0)],
)
def test_nothing_is_set_apart_where_there_is_a_better_judge(tmp_path, source, track, share):
    course = course_of(tmp_path, source, track, share)
    assert set_apart(course, COMPARISONS) == (COMPARISONS, [])
    with pytest.raises(ValueError, match="judge_share must be 0 or more and below 1"):
        RewardConfig(judge_share=1.0)


def test_the_judge_is_trained_from_the_base_model_and_kept(tmp_path, tokenizer, capsys):
    course = course_of(tmp_path, "local")
    tokenizer.save(tmp_path)  # where a run on real rows keeps its own
    size = GPTConfig(tokenizer.vocab_size, context=256, layers=1, heads=2, channels=16)
    record = dict(stage="pretrain", track="tldr", config={}, metrics={}, parent=None)
    base, folder = GPT(size), course.folder("pretrain")
    save_stage(folder, base, tokenizer, **record, data_fingerprint="")
    rows = load_rows("comparisons", "train", limit=40)
    heldout = load_rows("comparisons", "heldout", limit=50)
    metrics = train_judge(course, rows, heldout)
    model, info = load_stage(course.judge_folder, stage="reward", track="tldr", tokenizer=tokenizer)
    assert measure(model, tokenizer, heldout)["accuracy"] == metrics["judge_accuracy"]
    assert metrics["judge_comparisons"] == 40 and info["metrics"] == metrics
    assert info["parent"]["stage"] == "pretrain"
    assert info["config"]["seed"] == course.config.seed + 1
    assert train_judge(course, [], heldout) == {} and not course.judge_folder.exists()
