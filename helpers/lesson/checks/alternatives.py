"""Exercises of 4-Alternatives: leave one out, a weight of GRPO, DPO's loss, pass@k."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from helpers.lesson.checks.core import Exercise, Prediction, randn


def _leave_one_out(scores: Tensor, out=True, divide=True, sign=1.0) -> Tensor:
    weights = torch.zeros_like(scores)
    for i, row in enumerate(scores.tolist()):
        for j, score in enumerate(row):
            others = row[:j] + row[j + 1 :] if out else row
            count = len(others) if divide else len(row)
            weights[i, j] = sign * (score - sum(others) / count)
    return weights


check_leave_one_out = Exercise(
    "leave_one_out",
    _leave_one_out,
    cases={"two prompts": (randn(2, 4, seed=1),), "pairs": (randn(3, 2, seed=2) + 1,)},
    mistakes={
        "the response's own score is in the baseline. Take it out of the sum.": {"out": False},
        "divided by G. Without the response's own score there are G - 1 others.": {"divide": False},
        "the sign is reversed. A response that beats the others has a positive weight.": {
            "sign": -1.0
        },
        "one baseline for all prompts. Each row has its own.": (
            lambda scores: scores - (scores.sum() - scores) / (scores.numel() - 1)
        ),
        "divided by the standard deviation. That is GRPO's weight.": (
            lambda scores: (scores - scores.mean(1, keepdim=True)) / scores.std(1, keepdim=True)
        ),
    },
)

check_group_weight = Prediction(
    "group_weight",
    answer=-1.5,
    tolerance=0.01,
    why="The mean is 0.75, the standard deviation 0.5.",
    mistakes={
        "not divided. That is the distance from the mean; divide it by the standard deviation.": (
            -0.75
        ),
        "the sign is reversed. A wrong response is pushed down.": 1.5,
        "divided by n. The variance of a sample is a sum over n - 1.": -(3**0.5),
        "that is the weight of a right one.": 0.5,
    },
)

check_dpo_start = Prediction(
    "dpo_start",
    answer=math.log(2),
    tolerance=0.005,
    why="Policy and reference are equal, so every margin is 0, and - log sigmoid(0) = ln 2.",
    mistakes={
        "that is sigmoid(0). The loss is minus its logarithm.": 0.5,
        "a margin of 0 is no loss of 0. The loss is - log sigmoid(0).": 0.0,
        "the sign is reversed. The loss is minus the logarithm.": -math.log(2),
        "that is log2. The loss is in nats.": 1.0,
    },
)


def _dpo_loss(
    better: Tensor,
    worse: Tensor,
    ref_better: Tensor,
    ref_worse: Tensor,
    beta: float,
    reference=True,
    outside=False,
    sign=1.0,
    mean=True,
) -> Tensor:
    losses = []
    for b, w, rb, rw in zip(better, worse, ref_better, ref_worse, strict=True):
        margin = sign * ((b - w) - (rb - rw) * reference)
        losses.append(-F.logsigmoid(margin) * beta if outside else -F.logsigmoid(beta * margin))
    return torch.stack(losses).mean() if mean else torch.stack(losses).sum()


def _pairs(N: int, beta: float, seed: int) -> tuple:
    return *(-5 + 2 * randn(N, seed=seed + i) for i in range(4)), beta


check_dpo_loss = Exercise(
    "dpo_loss",
    _dpo_loss,
    cases={"four pairs": _pairs(4, 0.1, seed=1), "beta 1": _pairs(3, 1.0, seed=9)},
    mistakes={
        "the reference is missing. Its log-probs are subtracted from the policy's.": {
            "reference": False
        },
        "beta is outside. It multiplies the margin, inside the sigmoid.": {"outside": True},
        "the sign is reversed. The loss falls as the better response becomes more likely.": {
            "sign": -1.0
        },
        "a sum over the pairs. Return their mean.": {"mean": False},
        "the reference's difference is added. What counts is how far the policy has moved from "
        "it.": (
            lambda better, worse, ref_better, ref_worse, beta: _dpo_loss(
                better, worse, -ref_better, -ref_worse, beta
            )
        ),
        "beta forgotten. It multiplies the margin.": (
            lambda better, worse, ref_better, ref_worse, beta: _dpo_loss(
                better, worse, ref_better, ref_worse, 1.0
            )
        ),
    },
)


def _pass_at_k(correct: int, n: int, k: int) -> Tensor:
    miss = 1.0
    for i in range(k):  # draw without putting back
        miss *= max(0, n - correct - i) / (n - i)
    return torch.tensor(1 - miss)


check_pass_at_k = Exercise(
    "pass_at_k",
    _pass_at_k,
    cases={
        "3 of 8, k = 2": (3, 8, 2),
        "none right": (0, 8, 4),
        "more draws than wrong ones": (5, 8, 4),
        "1 of 16, k = 8": (1, 16, 8),
    },
    mistakes={
        "1 - (1 - p)^k. That draws with putting back, and is too low on average for an estimated "
        "p: count groups of k different responses.": (
            lambda correct, n, k: torch.tensor(1 - (1 - correct / n) ** k)
        ),
        "pass@1. One right response among k is enough.": (
            lambda correct, n, k: torch.tensor(correct / n)
        ),
        "the chance that all k are wrong. Subtract it from 1.": (
            lambda correct, n, k: 1 - _pass_at_k(correct, n, k)
        ),
        "the chance that all k are right. One is enough.": (
            lambda correct, n, k: torch.tensor(math.comb(correct, k) / math.comb(n, k))
        ),
    },
)
