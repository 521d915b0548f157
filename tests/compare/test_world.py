"""PPO against SFT in an embedded world, with models whose responses are known beforehand."""

import copy

import pytest
import torch

from helpers.compare.world import evaluate_in_world, kl_of
from helpers.evaluation import Responses, respond
from helpers.model import GPT, GPTConfig, RewardModel
from helpers.rollouts import Models
from helpers.rows.embedded import load_rows
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


def evaluated(
    tmp_path, tokenizer, sft: GPT, policy: GPT, oracle: GPT | None = None, n: int = 2
) -> dict:
    reward = RewardModel(copy.deepcopy(sft))
    models = Models(policy, sft, reward, reward)
    return evaluate_in_world(course_of(tmp_path, tokenizer), models, sft, n, oracle)[0]


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


def test_ppo_is_held_against_the_highest_gold_reward_and_the_oracle(tokenizer, tmp_path):
    (town,) = tokenizer.encode(" Boston")
    sft, silent = always(town, tokenizer), always(tokenizer.eos_id, tokenizer)
    metrics = evaluated(tmp_path, tokenizer, sft, silent, oracle=silent)
    assert metrics["maximum_gold_reward"] == 12 and metrics["oracle_gold_reward"] == 0
    assert metrics["share_of_maximum"] == pytest.approx(2 / 14) and metrics["share_of_oracle"] == 1
    golds = {"1.0": -2.0, "0.7": -2.0, "0.5": -2.0, "0.0": -2.0}
    assert metrics["sft_gold_by_temperature"] == golds
    assert metrics["ppo_gold_by_temperature"] == dict.fromkeys(golds, 0.0)
    assert metrics["gain_over_cooled_sft_ci95"] == [2.0, 2.0]
    assert metrics["frontier"]["gold"] == pytest.approx([-2.0] * 2)
    assert metrics["frontier"]["n"] == [1, 2]
    assert "share_of_oracle" not in evaluated(tmp_path, tokenizer, sft, silent)


@pytest.mark.parametrize("temperature", [1.0, 0.5, 0.0])
def test_the_kl_of_a_cooled_policy_by_hand(temperature, tokenizer):
    models = starting_models(tokenizer)
    prompts = load_rows("prompts", "heldout", limit=3)
    ids = [tokenizer.encode(text) + [tokenizer.eos_id] for text in (" My", " A dog", "")]
    total = 0.0
    for prompt, response in zip(prompts, ids):
        row = torch.tensor([tokenizer.encode(prompt.prompt) + response])
        places = slice(-len(response) - 1, -1)
        logits = [m(row)[0, places] for m in (models.value.gpt, models.reference)]
        if temperature:
            own = (logits[0] / temperature).log_softmax(-1)
            total += own.gather(1, torch.tensor(response)[:, None]).sum().item()
        total -= logits[1].log_softmax(-1).gather(1, torch.tensor(response)[:, None]).sum().item()
    written = Responses(prompts, ids, [""] * 3, [True] * 3)
    kl = kl_of(models.value.gpt, models.reference, tokenizer, written, temperature)
    assert kl == pytest.approx(total / 3, rel=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_policies_write_in_the_number_format_of_the_course(dtype, tokenizer, tmp_path):
    models, course = starting_models(tokenizer), course_of(tmp_path, tokenizer, dtype=dtype)
    _, responses = evaluate_in_world(course, models, models.reference, 2)
    expected, other = (
        respond(models.policy, tokenizer, responses["PPO"].prompts, max_new_tokens=8, dtype=format_)
        for format_ in sorted((torch.float32, torch.bfloat16), key=lambda one: one != dtype)
    )
    assert responses["PPO"].ids == expected.ids != other.ids
