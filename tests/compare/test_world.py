"""PPO against SFT in an embedded world, with models whose responses are known beforehand."""

import copy

import pytest
import torch

from helpers.compare.world import evaluate_in_world
from helpers.evaluation import respond
from helpers.model import GPT, GPTConfig, RewardModel
from helpers.rollouts import Models
from tests.support.courses import course_in
from tests.support.ppo_models import SETTINGS, starting_models


def always(token: int, tokenizer) -> GPT:
    """A model that writes this token, whatever it reads."""
    model = GPT(GPTConfig(tokenizer.vocab_size, context=160, layers=1, heads=1, channels=8))
    with torch.no_grad():
        model.ln_f.weight.zero_()
        model.ln_f.bias[0] = 10.0
        model.wte.weight[token, 0] = 10.0  # a logit of 100
    return model


def course_of(tmp_path, tokenizer, **changes):
    course = course_in(tmp_path, config=SETTINGS, **changes)
    course.__dict__["tokenizer"] = tokenizer
    return course


def evaluated(tmp_path, tokenizer, sft: GPT, policy: GPT) -> dict:
    reward = RewardModel(copy.deepcopy(sft))
    models = Models(policy, sft, reward, reward)
    return evaluate_in_world(course_of(tmp_path, tokenizer), models, sft, 2)[0]


def test_what_ppo_gains_and_gives_up_has_its_sign(tokenizer, tmp_path):
    """SFT writes a town that no post names, which costs 2, eight times over: one invented fact. PPO
    writes nothing, which is worth 0.
    """
    (town,) = tokenizer.encode(" Boston")
    sft, silent = always(town, tokenizer), always(tokenizer.eos_id, tokenizer)
    metrics = evaluated(tmp_path, tokenizer, sft, silent)
    assert (metrics["sft_gold_reward"], metrics["gold_reward"]) == (-2.0, 0.0)
    assert metrics["gold_gain_ci95"] == [2.0, 2.0]
    assert metrics["hallucination_drop_ci95"] == [1.0, 1.0]
    assert metrics["copying_drop_ci95"] == metrics["missing_question_drop_ci95"] == [0.0, 0.0]
    metrics = evaluated(tmp_path, tokenizer, silent, sft)
    assert metrics["gold_gain_ci95"] == [-2.0, -2.0]
    assert metrics["hallucination_drop_ci95"] == [-1.0, -1.0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_policies_write_in_the_number_format_of_the_course(dtype, tokenizer, tmp_path):
    models, course = starting_models(tokenizer), course_of(tmp_path, tokenizer, dtype=dtype)
    _, responses = evaluate_in_world(course, models, models.reference, 2)
    expected, other = (
        respond(models.policy, tokenizer, responses["PPO"].prompts, max_new_tokens=8, dtype=format_)
        for format_ in sorted((torch.float32, torch.bfloat16), key=lambda one: one != dtype)
    )
    assert responses["PPO"].ids == expected.ids != other.ids
