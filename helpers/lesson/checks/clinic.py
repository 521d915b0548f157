"""Exercises of 5-Clinic: surprise and entropy, a forced token, the first EOS, k1 as a loss, where
over-optimisation begins.
"""

import math

import torch
from torch import Tensor

from helpers.lesson.checks.core import Exercise, Prediction, randn


def _surprise_gap(
    logprobs: Tensor, entropies: Tensor, mask: Tensor, sign=-1.0, masked=True, by_row=False
) -> Tensor:
    gaps = []
    for row_logprobs, row_entropies, row_mask in zip(logprobs, entropies, mask, strict=True):
        row = [
            sign * logprob - entropy
            for logprob, entropy, real in zip(row_logprobs, row_entropies, row_mask, strict=True)
            if real or not masked
        ]
        gaps += [torch.stack(row).mean()] if by_row else row
    return torch.stack(gaps).mean()


def _tokens(B: int, R: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    logprobs, entropies = -randn(B, R, seed=seed).abs(), randn(B, R, seed=seed + 1).abs()
    lengths = torch.tensor([R, *range(1, B)])
    return logprobs, entropies, torch.arange(R) < lengths[:, None]


check_surprise_gap = Exercise(
    "surprise_gap",
    _surprise_gap,
    cases={"two responses": _tokens(2, 5, seed=11), "three responses": _tokens(3, 4, seed=3)},
    mistakes={
        "the pads are counted. Only real tokens have a surprise and an entropy.": {"masked": False},
        "the sign of the surprise. It is minus the log-prob.": {"sign": 1.0},
        "a mean of means. Every token counts the same, whatever the length of its response.": {
            "by_row": True
        },
        "the wrong way round. Surprise minus entropy.": (
            lambda logprobs, entropies, mask: -_surprise_gap(logprobs, entropies, mask)
        ),
        "pads as zeros. Divide by the number of real tokens.": (
            lambda logprobs, entropies, mask: ((-logprobs - entropies) * mask).mean()
        ),
    },
)

check_forced_token = Prediction(
    "forced_token",
    answer=math.log(0.4 / 0.8),
    tolerance=0.01,
    why="Each forced token is *less* likely under the policy, by a factor of 0.4 / 0.8.",
    mistakes={
        "the sign is reversed. The policy gives the token less than the reference.": math.log(2),
        "that is the factor. Take its logarithm.": 0.5,
        "that is the EOS's own difference. It was not sampled: look at what is left.": math.log(3),
        "the difference of the probabilities. Take that of their logarithms.": -0.4,
    },
)


def _first_eos_mask(ids: Tensor, eos_id: int, itself=True, stop=True) -> Tensor:
    mask = torch.zeros_like(ids, dtype=torch.bool)
    for row, real in zip(ids.tolist(), mask, strict=True):
        for t, token in enumerate(row):
            if token == eos_id:
                real[t] = itself
                if stop:
                    break
            else:
                real[t] = True
    return mask


check_first_eos_mask = Exercise(
    "first_eos_mask",
    _first_eos_mask,
    cases={
        "pads after the end": (torch.tensor([[5, 6, 0, 0, 0], [7, 0, 0, 0, 0]]), 0),
        "one without an end": (torch.tensor([[5, 6, 7, 8], [5, 9, 9, 9]]), 9),
        "ended at once": (torch.tensor([[3, 3, 3], [1, 2, 3]]), 3),
        "sampled on after the end": (torch.tensor([[4, 0, 5, 0, 6]]), 0),
    },
    mistakes={
        "the first EOS is not in it. It is a sampled token like any other, and the score lands on "
        "it.": {"itself": False},
        "that is ids != eos_id. The first EOS belongs to the response, the others don't.": {
            "itself": False,
            "stop": False,
        },
        "the tokens after the end are back. After the first EOS everything is False.": {
            "stop": False
        },
        "one too many. The token after the first EOS is no part of the response.": (
            lambda ids, eos_id: (
                ((ids == eos_id).cumsum(1).roll(2, 1) * (torch.arange(ids.size(1)) > 1)) == 0
            )
        ),
    },
)

check_k1_loss_gradient = Prediction(
    "k1_loss_gradient",
    answer=0.0,
    tolerance=1e-6,
    why="The expectation of the gradient of log pi is always 0, so this penalty does nothing but "
    "add noise.",
    mistakes={
        "that holds for no logit: over its samples, the gradient of log pi has mean 0.": 1.0,
        "the sign doesn't matter: over its samples, the gradient of log pi has mean 0.": -1.0,
    },
)

check_peak_distance = Exercise(
    "peak_distance",
    lambda alpha, beta: math.exp(alpha / beta - 1),
    cases={"alpha 4, beta 1.5": (4.0, 1.5), "alpha 1, beta 2": (1.0, 2.0)},
    mistakes={
        "the gain is 0 again there. At its peak the derivative is 0.": (
            lambda alpha, beta: math.exp(alpha / beta)
        ),
        "that is the peak for best of n, whose gain is d (alpha - beta d).": (
            lambda alpha, beta: alpha / (2 * beta)
        ),
        "that is the highest gain. Return the distance where it is reached.": (
            lambda alpha, beta: beta * math.exp(alpha / beta - 1)
        ),
        "that is the KL. The distance is its square root.": (
            lambda alpha, beta: math.exp(2 * (alpha / beta - 1))
        ),
        "a sign. The derivative is alpha - beta ln d - beta.": (
            lambda alpha, beta: math.exp((alpha + beta) / beta)
        ),
    },
)
