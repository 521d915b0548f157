"""What the tests of PPO share: tiny models as a run starts with them, rollouts of theirs, and plain
forwards to compare those with.
"""

import copy
from dataclasses import replace

import torch
from torch import Tensor

from helpers.config import PPOConfig
from helpers.model import GPT, GPTConfig, RewardModel
from helpers.rollouts import Models, Rollout, collect, with_advantages
from tests.support.tensors import shaken

SETTINGS = PPOConfig(
    rollout_size=12,
    minibatch_size=5,
    epochs=2,
    iterations=2,
    response_tokens=8,
    missing_eos_score=-7.0,
    kl_coef=0.3,
    lr=1e-3,
    muon_lr=2e-3,
    value_lr=1e-3,
    eval_prompts=10,
)


def starting_models(tokenizer, context: int = 160, layers: int = 2, channels: int = 16) -> Models:
    """Four tiny models as a run starts with them. Half of the responses stop within 8 tokens."""
    config = GPTConfig(tokenizer.vocab_size, context, layers, heads=2, channels=channels)
    sft = shaken(GPT(config), 0.1)
    with torch.no_grad():
        sft.ln_f.bias[0] = 5.0
        sft.wte.weight[tokenizer.eos_id] = sft.wte.weight[tokenizer.pad_id] = 0.0
        sft.wte.weight[tokenizer.eos_id, 0], sft.wte.weight[tokenizer.pad_id, 0] = 0.85, -0.85
    reward = shaken(RewardModel(GPT(config)), 0.2)
    policy, value = copy.deepcopy(sft), copy.deepcopy(reward)
    value.surprise_weight.requires_grad_(False)  # only the head's values are read
    return Models(policy, sft.requires_grad_(False), reward.requires_grad_(False), value)


def own(models: Models) -> Models:
    """Policy and value to train on, with the others as they are."""
    return replace(models, policy=copy.deepcopy(models.policy), value=copy.deepcopy(models.value))


def in_mid_run(models: Models) -> Models:
    """The same in the middle of a run: policy and value have moved away."""
    models = own(models)
    shaken(models.policy, 0.05), shaken(models.value, 0.05)
    return models


def rollout_of(models: Models, prompts, tokenizer, config=SETTINGS, seed: int = 0) -> Rollout:
    """Collected, with advantages."""
    generator = torch.Generator().manual_seed(seed)
    rollout = collect(models, prompts, config, tokenizer, generator)
    return with_advantages(rollout, config.kl_coef, config)


def plain_rows(rollout: Rollout) -> list[tuple[list[int], list[int]]]:
    """Prompt and response of each row, without padding."""
    batch = rollout.batch
    return [
        (ids[: batch.P][mask[: batch.P]].tolist(), ids[batch.P :][mask[batch.P :]].tolist())
        for ids, mask in zip(batch.ids, batch.mask)
    ]


@torch.no_grad()
def plain_logprobs(model: GPT, prompt: list[int], response: list[int]) -> Tensor:
    logprobs = model(torch.tensor([prompt + response]))[0].log_softmax(-1)
    return torch.stack([logprobs[len(prompt) + t - 1, token] for t, token in enumerate(response)])
