"""Over-optimisation: reward models from few and many comparisons, and what is done against it.
`python -m benchmarks.overoptimisation` trains with them and records what comes out.
"""

import copy
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from helpers import reward
from helpers.engine.loop import Loop
from helpers.model import GPT, RewardModel
from helpers.records import Prompt
from helpers.run.course import Course

SIZES = (500, 2_000, 8_000)  # comparisons that a reward model learns from


def train_reward_model(
    course: Course, sft: GPT, prompts: list[Prompt], size: int, surprise: bool, seed: int = 0
) -> tuple[RewardModel, float]:
    """A reward model from the first `size` comparisons, and its accuracy on held-out ones.

    surprise: with the surprise weight, or a scalar head alone. seed: of the head and the order.
    """
    settings = course.config_of("reward")
    config = replace(settings, comparisons=size, seed=course.seed + 1000 * seed)
    rows = course.rows("comparisons", "train", size)
    pairs = [reward.encode_comparison(x, course.tokenizer, sft.config.context) for x in rows]
    torch.manual_seed(config.seed)
    weight = settings.surprise_weight if surprise else 0.0
    model = RewardModel(copy.deepcopy(sft).requires_grad_(True), weight).to(course.device)
    batches = reward.comparison_batches(pairs, config, course.tokenizer.pad_id)
    reward.train(model, batches, config, Loop(f"{size} comparisons", course.dtype, lines=1))
    reward.normalise_on(model.requires_grad_(False), sft, course.tokenizer, prompts[:200], config)
    heldout = course.rows("comparisons", "heldout", 1_000)
    held = [reward.encode_comparison(x, course.tokenizer, sft.config.context) for x in heldout]
    return model, reward.accuracy(reward.margins(model, held, course.tokenizer.pad_id))


class Worst(nn.Module):
    """An ensemble of reward models: each response gets the lowest of their scores.

    Source: Coste et al. 2023, "Reward model ensembles help mitigate overoptimization" (worst-case
    optimisation).
    """

    def __init__(self, models: Sequence[RewardModel]):
        super().__init__()
        self.models = nn.ModuleList(models)

    def by_token(self, ids: Tensor, attention_mask: Tensor, completion_mask: Tensor) -> Tensor:
        """What each token adds to the score, (B, T), as `RewardModel.by_token`."""
        batch = ids, attention_mask, completion_mask
        each = torch.stack([model.by_token(*batch) for model in self.models])  # (models, B, T)
        lowest = each.sum(-1).argmin(0)  # (B,)
        return each[lowest, torch.arange(len(ids), device=ids.device)]


class WithoutLength(nn.Module):
    """A reward model minus `slope` for each token: its score no longer depends on the length."""

    def __init__(self, model: RewardModel, slope: float):
        super().__init__()
        self.model, self.slope = model, slope

    def by_token(self, ids: Tensor, attention_mask: Tensor, completion_mask: Tensor) -> Tensor:
        """What each token adds to the score, (B, T), as `RewardModel.by_token`."""
        by_token = self.model.by_token(ids, attention_mask, completion_mask)
        return by_token - self.slope * completion_mask


def slope_of(scores: Tensor, lengths: Tensor) -> float:
    """The least-squares slope of scores (N,) over lengths (N,), score units per token; 0 where all
    lengths are equal.
    """
    lengths = lengths.double() - lengths.double().mean()
    spread = (lengths**2).sum()
    return ((lengths * scores.double()).sum() / spread).item() if spread > 0 else 0.0
