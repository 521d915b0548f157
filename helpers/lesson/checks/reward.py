"""Exercises of 2-RM-Training: the loss, reading the score, accuracy, normalising, best-of-n."""

import itertools
import math

import torch
from torch import Tensor

from helpers.lesson.checks.core import Exercise, Prediction
from helpers.lesson.checks.own import Place


def _bradley_terry(chosen: Tensor, rejected: Tensor, sign=1, mean=True) -> Tensor:
    losses = []
    for gap in (sign * (chosen - rejected)).tolist():
        # log(1 + e^-gap) without overflow
        losses.append(math.log1p(math.exp(-abs(gap))) + max(-gap, 0.0))
    return torch.tensor(losses).mean() if mean else torch.tensor(losses).sum()


check_bradley_terry = Exercise(
    "bradley_terry",
    _bradley_terry,
    cases={
        "small gaps": (torch.tensor([1.0, 0.5, -1.0]), torch.tensor([0.0, 0.7, 1.5])),
        "one huge gap": (torch.tensor([-100.0, 2.0]), torch.tensor([100.0, 1.0])),
    },
    mistakes={
        "chosen and rejected swapped. It should fall as chosen - rejected grows.": {"sign": -1},
        "sum instead of mean. Divide by the number of pairs.": {"mean": False},
        "infinite at a huge gap. The formula is right, but in float32 sigmoid(-200) is 0 and "
        "exp(200) infinite: use F.logsigmoid.": lambda chosen, rejected: (
            -torch.sigmoid(chosen - rejected).log().mean()
        ),
        "logarithm forgotten. This is minus the probability; take its logarithm.": (
            lambda chosen, rejected: -torch.sigmoid(chosen - rejected).mean()
        ),
        "minus forgotten. A loss is minus the log-probability, otherwise training makes the chosen "
        "one lose.": lambda chosen, rejected: -_bradley_terry(chosen, rejected),
    },
    place=Place(
        cases=(
            (torch.tensor([1.0, 0.5, -1.0]), torch.tensor([0.0, 0.7, 1.5])),
            (torch.tensor([-100.0, 2.0]), torch.tensor([100.0, 1.0])),
        ),
        learns=(0, 1),
    ),
)


def _last_token(mask: Tensor) -> Tensor:
    return torch.tensor([max(t for t, real in enumerate(row) if real) for row in mask.tolist()])


check_last_token = Exercise(
    "last_token",
    _last_token,
    cases={
        "pads on the right": (torch.tensor([[1, 1, 0, 0, 0], [1, 1, 1, 1, 1]]).bool(),),
        "pads on the left": (torch.tensor([[0, 0, 1, 1, 1], [0, 1, 1, 1, 1]]).bool(),),
        "pads on both sides": (torch.tensor([[0, 1, 1, 0, 0], [0, 0, 1, 1, 0]]).bool(),),
    },
    mistakes={
        "reward read at a pad. The last column is a pad wherever a row is padded on the right.": (
            lambda mask: torch.full((len(mask),), mask.shape[1] - 1)
        ),
        "left pads not counted. The number of real tokens, minus 1, is their last index only if "
        "they start at 0.": lambda mask: mask.sum(1) - 1,
        "off by one. That is the place after it, a pad or outside: subtract 1.": (
            lambda mask: _last_token(mask) + 1
        ),
        "first real token. argmax finds the first True: you want the last.": (
            lambda mask: mask.int().argmax(1)
        ),
    },
)


def _accuracy(chosen: Tensor, rejected: Tensor, tie=0.0, swap=False) -> float:
    pairs = list(zip(chosen.tolist(), rejected.tolist(), strict=True))
    right = [tie if c == r else float((c > r) != swap) for c, r in pairs]
    return sum(right) / len(right)


check_accuracy = Exercise(
    "accuracy",
    _accuracy,
    cases={
        "with ties": (
            torch.tensor([1.0, 0.0, 2.0, 0.5, 3.0]),
            torch.tensor([0.0, 0.0, 2.0, 1.0, 1.0]),
        ),
        "all ties": (torch.zeros(4), torch.zeros(4)),
    },
    mistakes={
        "ties counted as right. A constant model would reach 100%: use >, not >=.": {"tie": 1.0},
        "half a point for ties. Fair, but not what is asked here: a tie gets nothing.": {
            "tie": 0.5
        },
        "chosen and rejected swapped. Count chosen > rejected.": {"swap": True},
    },
)


def _bin_accuracy(
    probs: Tensor, won: Tensor, low: float, high: float, inside=lambda p, a, b: a <= p < b
) -> float:
    hits = [w for p, w in zip(probs.tolist(), won.tolist(), strict=True) if inside(p, low, high)]
    return sum(hits) / len(hits)


check_bin_accuracy = Exercise(
    "bin_accuracy",
    _bin_accuracy,
    cases={
        f"bin {low} to {high}": (
            torch.tensor([0.25, 0.5, 0.55, 0.75, 0.625, 0.9, 0.5, 0.75]),
            torch.tensor([False, False, True, False, True, True, False, False]),
            low,
            high,
        )
        for low, high in ((0.5, 0.75), (0.25, 0.5))
    },
    mistakes={
        "divided by all pairs. Divide by the pairs in this bin.": (
            lambda p, won, low, high: (won & (p >= low) & (p < high)).float().mean()
        ),
        "mean probability. That is what the model promised (the x axis); return what happened.": (
            lambda p, won, low, high: p[(p >= low) & (p < high)].mean()
        ),
        "upper edge inside. A pair on the edge would be counted in two bins: use < high.": {
            "inside": lambda p, a, b: a <= p <= b
        },
    },
)


def _normalise(
    scores: Tensor, sft_scores: Tensor, reference=lambda s, sft: sft, power=-1, ddof=0
) -> Tensor:
    values = reference(scores, sft_scores).tolist()
    mean = sum(values) / len(values)
    variance = sum((x - mean) ** 2 for x in values) / (len(values) - ddof)
    return (scores - mean) * variance ** (power / 2)


check_normalise = Exercise(
    "normalise",
    _normalise,
    cases={"better than SFT": (torch.tensor([5.0, 6.0, 9.0]), torch.tensor([1.0, 2.0, 6.0, 3.0]))},
    mistakes={
        "normalised by its own batch. Every batch would then have mean 0, and PPO could never see "
        "that it got better.": [
            {"reference": lambda s, sft: s},
            {"reference": lambda s, sft: s, "ddof": 1},
        ],
        "scale forgotten. Divide by the standard deviation too.": {"power": 0},
        "divided by the variance. Divide by its square root.": {"power": -2},
        "divided by M - 1. torch's std divides by M - 1 unless unbiased=False.": {"ddof": 1},
    },
)


def _best_of_n(scores: Tensor, n: int, pick=max, groups_of=itertools.combinations) -> float:
    picked = [pick(group) for group in groups_of(scores.tolist(), n)]
    return sum(picked) / len(picked)


check_best_of_n = Exercise(
    "best_of_n",
    _best_of_n,
    cases={
        f"best of {n}": (torch.tensor([0.5, -1.0, 2.0, 0.0, 1.2, -0.3]), n) for n in (1, 2, 4, 6)
    },
    mistakes={
        "first n only. The other N - n draws know something too: use them.": (
            lambda scores, n: scores[:n].max()
        ),
        "maximum of all. That is the best of N; n is smaller.": lambda scores, n: scores.max(),
        "sorted downwards. This is the worst of n: sort from low to high.": {"pick": min},
        "drawn with replacement. A group that holds one draw twice has a lower maximum, so this is "
        "biased: take distinct draws.": {
            "groups_of": lambda scores, n: itertools.product(scores, repeat=n)
        },
    },
)

check_untrained_loss = Prediction(
    "untrained_loss",
    answer=math.log(2),
    why="-log sigmoid(0) = ln 2. The pairwise loss starts here; much higher means scores that are "
    "large and random.",
    mistakes={
        "that is the probability. The loss is minus its logarithm.": 0.5,
        "that is in bits. One bit is ln 2 nats.": 1.0,
        "that is ln 4. Chance among four texts; here are two.": math.log(4),
    },
)

check_bayes_accuracy = Prediction(
    "bayes_accuracy",
    answer=1 / (1 + math.exp(-1)),
    why="That is the Bayes accuracy. A higher figure on held-out pairs is luck or a leak.",
    mistakes={
        "the labels are noisy. A perfect model still disagrees with an annotator who slipped.": 1.0,
        "that is chance. A gap of 1 is more than a coin flip.": 0.5,
        "that is for a model that rolls dice too. A model need not imitate the noise: it can back "
        "the better text every time.": lambda answer: answer**2 + (1 - answer) ** 2,
    },
)
