"""Over-optimisation: reward models from few and many comparisons, what is done against it, and the
curves of gold reward over the distance from the SFT model. `python -m benchmarks.overoptimisation`
trains and records them, 5-Clinic draws them.
"""

import copy
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import mean

import torch
from torch import Tensor, nn

from helpers import reward
from helpers.engine.files import ROOT
from helpers.engine.loop import Loop
from helpers.model import GPT, RewardModel
from helpers.records import Prompt
from helpers.run.course import Course

RECORDED = ROOT / "docs" / "overoptimisation.json"
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


@dataclass(frozen=True)
class Fit:
    """gold(d) - gold(0) = d (alpha - beta f(d)), d the square root of the KL."""

    alpha: float
    beta: float
    explained: float  # R^2
    peak: float  # d where the gold reward is highest; inf if it only rises


def fit(kls: Sequence[float], gains: Sequence[float], best_of_n: bool) -> Fit:
    """The least-squares fit of gold gains over the KL: f(d) = d for best of n, ln d for RL.

    Source: Gao et al. 2022, "Scaling laws for reward model overoptimization".
    """
    points = [(math.sqrt(kl), gain) for kl, gain in zip(kls, gains, strict=True) if kl > 1e-3]
    d, gain = (torch.tensor(column, dtype=torch.float64) for column in zip(*points, strict=True))
    columns = torch.stack([d, -d * (d if best_of_n else d.log())], 1)  # (N, 2)
    alpha, beta = torch.linalg.lstsq(columns, gain[:, None]).solution[:, 0].tolist()
    left = gain - columns @ torch.tensor([alpha, beta], dtype=torch.float64)
    explained = 1 - (left.square().sum() / (gain - gain.mean()).square().sum()).item()
    # A beta of nearly 0, as of a curve that only rises, has its peak beyond all numbers.
    peak = math.inf
    if beta > 0:
        peak = alpha / (2 * beta) if best_of_n else math.exp(min(alpha / beta - 1, 700.0))
    return Fit(alpha, beta, explained, peak)


def recorded() -> dict:
    """What `python -m benchmarks.overoptimisation` has recorded."""
    return json.loads(RECORDED.read_text(encoding="utf-8"))


def runs_of(record: dict, surprise: bool, size: int, cure: str = "") -> list[dict]:
    """The recorded runs against one kind of reward model, one a seed."""
    asked = {"surprise": surprise, "size": size, "cure": cure}
    return [run for run in record["runs"] if asked.items() <= run.items()]


def mean_path(runs: Sequence[dict]) -> dict[str, list[float]]:
    """The mean over seeds of what PPO's log has, for each iteration; gold and score as means of
    three iterations, as each has few responses.
    """
    means = {
        key: [mean(values) for values in zip(*(run["curves"][key] for run in runs), strict=True)]
        for key in runs[0]["curves"]
    }
    return means | {key: of_three(means[key]) for key in ("gold", "score")}


def of_three(values: Sequence[float]) -> list[float]:
    """The mean of each value and its two neighbours."""
    return [mean(values[max(0, i - 1) : i + 2]) for i in range(len(values))]


def mean_best_of_n(runs: Sequence[dict]) -> dict[str, list[float]]:
    """The mean over seeds of the best of each n."""
    return {
        key: [mean(values) for values in zip(*(run["best_of_n"][key] for run in runs), strict=True)]
        for key in ("n", "kl", "score", "gold")
    }
