"""The reward stage's ending: the report's curve has the floor that the notebook's figure shows."""

import math

import pytest

from helpers.config import RewardConfig
from helpers.model import GPT, GPTConfig, RewardModel
from helpers.records import Comparison
from helpers.rows.embedded import load_tokenizer
from helpers.run.checkpoints import save_stage
from helpers.stages.preferences import label_noise
from helpers.stages.reward import finish, warn
from tests.support.courses import course_in

PAIRS = [Comparison("p", " a", " b", probability=p) for p in (0.9, 0.6, 0.3)]


def test_the_noise_of_labels_is_the_loss_of_a_model_that_knows_their_probabilities():
    by_hand = -(math.log(0.9) + math.log(0.6) + math.log(0.3)) / 3
    assert label_noise(PAIRS) == pytest.approx(by_hand)
    assert label_noise([*PAIRS, Comparison("p", " a", " b")]) is None


def test_the_curve_of_the_report_has_the_floor_where_it_is_known(tmp_path):
    course, tokenizer = course_in(tmp_path, "reward", config=RewardConfig()), load_tokenizer()
    gpt = GPT(GPTConfig(tokenizer.vocab_size, 32, 1, 2, 16))
    facts = {"stage": "sft", "track": "tldr", "config": {}, "metrics": {}, "parent": None}
    save_stage(course.folder("sft"), gpt, tokenizer, **facts, data_fingerprint="")
    history = [{"loss": 0.7}, {"loss": 0.6}]
    unknown = [Comparison("p", " a", " b")]
    for items, floor in ((PAIRS, label_noise(PAIRS)), (unknown, None)):
        metrics = finish(course, RewardModel(gpt), items, history, {"accuracy": 0.5}, (1.0, 2.0))
        assert metrics == {"accuracy": 0.5, "mean": 1.0, "std": 2.0}
        curve = course.metrics()["curves"]["pairwise loss"]
        assert curve.get("ceiling") == (None if floor is None else pytest.approx(floor))
        assert curve["y"] == [0.7, 0.6]


@pytest.mark.parametrize("preset", ["cpu", "smoke"])
def test_a_reward_model_that_does_not_read_is_warned_of_and_the_course_goes_on(
    tmp_path, capsys, preset
):
    course = course_in(tmp_path, "reward", config=RewardConfig(), preset=preset)
    good = {"accuracy": 0.83, "bayes_accuracy": 0.85, "accuracy_by_fact": {"who": 1.0}}
    warn(course, good)
    assert not course.warnings and not capsys.readouterr().out
    warn(course, good | {"accuracy": 0.7})
    warn(course, good | {"accuracy_by_fact": {"who": 0.95, "place": 0.6}})
    out = capsys.readouterr().out
    if preset == "smoke":
        assert not course.warnings and not out
        return
    way, fact = course.metrics()["warnings"]
    assert "came 57% of the way" in way and "right on 60%" in fact and "'place'" in fact
    assert out.splitlines() == [f"WARNING: {way}", f"WARNING: {fact}"]
