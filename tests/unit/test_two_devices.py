"""PPO with its models on two devices: those that learn on a GPU, those that only read beside the CPU."""

import pytest
import torch

from helpers import ppo, ppo_models
from helpers.config import PPOConfig
from helpers.datasets import Prompt
from tests.unit.runs import Letters, model

CONFIG = PPOConfig(iterations=3, rollout_size=8, minibatch_size=4, response_tokens=12, lr=1e-3, muon_lr=0.0,
                   value_lr=1e-3)  # fmt: skip


def history(first: str, second: str) -> list[dict]:
    models = ppo_models.Models(model(), model(), model(True), model(True)).on_two(first, second)
    prompts = [Prompt(text) for text in ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine")]
    return ppo.train(models, prompts, CONFIG, Letters())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_losses_are_those_of_one_device():
    apart, together = history("cuda", "cpu"), history("cuda", "cuda")
    for ours, theirs in zip(apart, together, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-4)


def test_both_places_may_be_the_same():
    assert len(history("cpu", "cpu")) == CONFIG.iterations
