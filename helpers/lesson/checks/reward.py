"""Exercises of 2-RM-Training: Bradley-Terry, where to read the score, accuracy, calibration,
normalising, best-of-n.
"""

import itertools
import math
from functools import partial

import torch
from torch import Tensor

from helpers.lesson.checks.core import Exercise, Prediction


def _bradley_terry(chosen: Tensor, rejected: Tensor, sign: int = 1, mean: bool = True) -> Tensor:
    losses = []
    for gap in (sign * (chosen - rejected)).tolist():
        losses.append(
            math.log1p(math.exp(-abs(gap))) + max(-gap, 0.0)
        )  # log(1 + e^-gap) without overflow
    return torch.tensor(losses).mean() if mean else torch.tensor(losses).sum()


BRADLEY_TERRY = Exercise(
    name="bradley_terry",
    difficulty=1,
    minutes=5,
    signature="my_bradley_terry(chosen, rejected)",
    task="`chosen` and `rejected` are `(N,)` scores. Under Bradley-Terry the chosen one wins with "
    "probability "
    "$\\sigma(\\text{chosen} - \\text{rejected})$. Return the mean over pairs of minus its "
    "logarithm; it must "
    "survive a gap of -200.",
    hint="`torch.sigmoid(-200)` is 0 in float32 and its logarithm is minus infinity. There is "
    "`F.logsigmoid`.",
    solution="""
def my_bradley_terry(chosen, rejected):
    return -F.logsigmoid(chosen - rejected).mean()
""",
    oracle=_bradley_terry,
    cases={
        "small gaps": (torch.tensor([1.0, 0.5, -1.0]), torch.tensor([0.0, 0.7, 1.5])),
        "one huge gap": (torch.tensor([-100.0, 2.0]), torch.tensor([100.0, 1.0])),
    },
    mistakes={
        "chosen and rejected swapped": (
            partial(_bradley_terry, sign=-1),
            "It should fall as chosen - rejected grows.",
        ),
        "sum instead of mean": (
            partial(_bradley_terry, mean=False),
            "Divide by the number of pairs.",
        ),
        "log of sigmoid underflows": (
            lambda chosen, rejected: -torch.sigmoid(chosen - rejected).log().mean(),
            "The formula is right, but sigmoid(-200) is 0 in float32: use F.logsigmoid.",
        ),
        "logarithm forgotten": (
            lambda chosen, rejected: -torch.sigmoid(chosen - rejected).mean(),
            "This is minus the probability; take its logarithm.",
        ),
        "minus forgotten": (
            lambda chosen, rejected: -_bradley_terry(chosen, rejected),
            "A loss is minus the log-probability, otherwise training makes the chosen one lose.",
        ),
    },
)


def _last_token(mask: Tensor) -> Tensor:
    return torch.tensor([max(t for t, real in enumerate(row) if real) for row in mask.tolist()])


LAST_TOKEN = Exercise(
    name="last_token",
    difficulty=2,
    minutes=6,
    signature="my_last_token(mask)",
    task="`mask` is `(B, T)`, True on real tokens; a row may be padded on the right, on the left, "
    "or not at all. "
    "Return `(B,)`, the index of the last real token of every row: the place where the reward "
    "model's score is "
    "read.",
    hint="`torch.where(mask, torch.arange(T), -1)` turns real tokens into their index; which of "
    "them do you want?",
    solution="""
def my_last_token(mask):
    index = torch.arange(mask.shape[1])  # (T,)
    return torch.where(mask, index, -1).max(dim=1).values
""",
    oracle=_last_token,
    cases={
        "pads on the right": (torch.tensor([[1, 1, 0, 0, 0], [1, 1, 1, 1, 1]]).bool(),),
        "pads on the left": (torch.tensor([[0, 0, 1, 1, 1], [0, 1, 1, 1, 1]]).bool(),),
        "pads on both sides": (torch.tensor([[0, 1, 1, 0, 0], [0, 0, 1, 1, 0]]).bool(),),
    },
    mistakes={
        "reward read at a pad": (
            lambda mask: torch.full((len(mask),), mask.shape[1] - 1),
            "The last column is a pad wherever a row is padded on the right.",
        ),
        "left pads not counted": (
            lambda mask: mask.sum(1) - 1,
            "The number of real tokens, minus 1, is their last index only if they start at 0.",
        ),
        "off by one": (
            lambda mask: _last_token(mask) + 1,
            "That is the place after it, a pad or outside: subtract 1.",
        ),
        "first real token": (
            lambda mask: mask.int().argmax(1),
            "argmax finds the first True: you want the last.",
        ),
    },
)


def _accuracy(chosen: Tensor, rejected: Tensor, tie: float = 0.0, swap: bool = False) -> float:
    pairs = list(zip(chosen.tolist(), rejected.tolist(), strict=True))
    right = [tie if c == r else float((c > r) != swap) for c, r in pairs]
    return sum(right) / len(right)


ACCURACY = Exercise(
    name="accuracy",
    difficulty=1,
    minutes=3,
    signature="my_accuracy(chosen, rejected)",
    task="Return the share of pairs where the chosen one gets the higher score. A tie is "
    "**wrong**: a model that "
    "gives every text the same score knows nothing and must not look good.",
    hint="Compare, turn booleans into floats, average.",
    solution="""
def my_accuracy(chosen, rejected):
    return (chosen > rejected).float().mean()
""",
    oracle=_accuracy,
    cases={
        "with ties": (
            torch.tensor([1.0, 0.0, 2.0, 0.5, 3.0]),
            torch.tensor([0.0, 0.0, 2.0, 1.0, 1.0]),
        ),
        "all ties": (torch.zeros(4), torch.zeros(4)),
    },
    mistakes={
        "ties counted as right": (
            partial(_accuracy, tie=1.0),
            "A constant model would reach 100%: use >, not >=.",
        ),
        "half a point for ties": (
            partial(_accuracy, tie=0.5),
            "Fair, but not what is asked here: a tie gets nothing.",
        ),
        "chosen and rejected swapped": (partial(_accuracy, swap=True), "Count chosen > rejected."),
    },
)


def _bin_accuracy(
    probs: Tensor, won: Tensor, low: float, high: float, inside=lambda p, a, b: a <= p < b
) -> float:
    hits = [w for p, w in zip(probs.tolist(), won.tolist(), strict=True) if inside(p, low, high)]
    return sum(hits) / len(hits)


BIN_ACCURACY = Exercise(
    name="bin_accuracy",
    difficulty=2,
    minutes=5,
    signature="my_bin_accuracy(probs, won, low, high)",
    task="One point of the calibration curve. `probs` is `(N,)`, the model's probability that the "
    "first text wins; "
    "`won` is `(N,)` booleans: did it? Return how often it won among the pairs with `low <= probs "
    "< high`.",
    hint="Make a boolean mask of the pairs in the bin and average `won` over it.",
    solution="""
def my_bin_accuracy(probs, won, low, high):
    inside = (probs >= low) & (probs < high)
    return won[inside].float().mean()
""",
    oracle=_bin_accuracy,
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
        "divided by all pairs": (
            lambda p, won, low, high: (won & (p >= low) & (p < high)).float().mean(),
            "Divide by the pairs in this bin.",
        ),
        "mean probability": (
            lambda p, won, low, high: p[(p >= low) & (p < high)].mean(),
            "That is what the model promised (the x axis); return what happened.",
        ),
        "upper edge inside": (
            partial(_bin_accuracy, inside=lambda p, a, b: a <= p <= b),
            "A pair on the edge would be counted in two bins: use < high.",
        ),
    },
)


def _normalise(
    scores: Tensor, sft_scores: Tensor, reference=lambda s, sft: sft, power: int = -1, ddof: int = 0
) -> Tensor:
    values = reference(scores, sft_scores).tolist()
    mean = sum(values) / len(values)
    variance = sum((x - mean) ** 2 for x in values) / (len(values) - ddof)
    return (scores - mean) * variance ** (power / 2)


NORMALISE = Exercise(
    name="normalise",
    difficulty=2,
    minutes=5,
    signature="my_normalise(scores, sft_scores)",
    task="Only differences of scores mean anything, so we fix the scale once: shift and scale "
    "`scores`, `(N,)`, such "
    "that samples of the SFT model, whose raw scores are `sft_scores` `(M,)`, would have mean 0 "
    "and standard "
    "deviation 1 (dividing by M).",
    hint="`sft_scores.std(unbiased=False)` divides by M. Which of the two arguments gives mean "
    "and deviation?",
    solution="""
def my_normalise(scores, sft_scores):
    return (scores - sft_scores.mean()) / sft_scores.std(unbiased=False)
""",
    oracle=_normalise,
    cases={"better than SFT": (torch.tensor([5.0, 6.0, 9.0]), torch.tensor([1.0, 2.0, 6.0, 3.0]))},
    mistakes={
        "normalised by its own batch": (
            partial(_normalise, reference=lambda s, sft: s),
            "Every batch would then have mean 0, and PPO could never see that it got better.",
        ),
        "scale forgotten": (partial(_normalise, power=0), "Divide by the standard deviation too."),
        "divided by the variance": (partial(_normalise, power=-2), "Divide by its square root."),
        "divided by M - 1": (
            partial(_normalise, ddof=1),
            "torch's std divides by M - 1 unless unbiased=False.",
        ),
    },
)


def _best_of_n(scores: Tensor, n: int, pick=max) -> float:
    groups = list(itertools.combinations(scores.tolist(), n))
    return sum(map(pick, groups)) / len(groups)


def _with_replacement(scores: Tensor, n: int) -> float:
    N = len(scores)
    return sum(
        r * ((i / N) ** n - ((i - 1) / N) ** n)
        for i, r in enumerate(scores.sort().values.tolist(), 1)
    )


BEST_OF_N = Exercise(
    name="best_of_n",
    difficulty=3,
    minutes=12,
    signature="my_best_of_n(scores, n)",
    task="You drew N responses to one prompt and scored them: `scores`, `(N,)`. What would the "
    "best of `n <= N` "
    "draws score on average? Use all N: the mean of the maximum over every group of `n` of them. "
    "Sorted "
    "upwards, the i-th score is the maximum of $\\binom{i-1}{n-1}$ of the $\\binom{N}{n}$ groups.",
    hint="`math.comb(i - 1, n - 1) / math.comb(N, n)` is the weight of the i-th score, i counted "
    "from 1.",
    solution="""
def my_best_of_n(scores, n):
    N = len(scores)
    weights = torch.tensor([math.comb(i - 1, n - 1) / math.comb(N, n) for i in range(1, N + 1)])
    return (weights * scores.sort().values).sum()
""",
    oracle=_best_of_n,
    cases={
        f"best of {n}": (torch.tensor([0.5, -1.0, 2.0, 0.0, 1.2, -0.3]), n) for n in (1, 2, 4, 6)
    },
    mistakes={
        "first n only": (
            lambda scores, n: scores[:n].max(),
            "The other N - n draws know something too: use them.",
        ),
        "maximum of all": (lambda scores, n: scores.max(), "That is the best of N; n is smaller."),
        "sorted downwards": (
            partial(_best_of_n, pick=min),
            "This is the worst of n: sort from low to high.",
        ),
        "drawn with replacement": (
            _with_replacement,
            "A group that holds one draw twice has a lower maximum, so this is biased: take "
            "distinct draws.",
        ),
    },
)

UNTRAINED_LOSS = Prediction(
    name="untrained_loss",
    difficulty=1,
    minutes=1,
    task="A reward model that gives every text the same score: what is its Bradley-Terry loss, in "
    "nats?",
    hint="What probability does it give to 'the chosen one wins'?",
    solution="my_untrained_loss = math.log(2)",
    answer=math.log(2),
    why="-log sigmoid(0) = ln 2. The pairwise loss starts here; much higher means scores that are "
    "large and random.",
    mistakes={
        "that is the probability": (0.5, "The loss is minus its logarithm."),
        "that is in bits": (1.0, "One bit is ln 2 nats."),
        "that is ln 4": (math.log(4), "Chance among four texts; here are two."),
    },
)

BAYES_ACCURACY = Prediction(
    name="bayes_accuracy",
    difficulty=2,
    minutes=3,
    task="In every pair the better text is ahead by exactly 1 in gold reward, and annotators "
    "choose it with "
    "probability sigmoid(1). How accurate against the annotators' labels can a reward model "
    "become?",
    hint="The best model always backs the better text. How often did the annotator?",
    solution="my_bayes_accuracy = 1 / (1 + math.exp(-1))",
    answer=1 / (1 + math.exp(-1)),
    why="That is the Bayes accuracy. A higher figure on held-out pairs is luck or a leak.",
    mistakes={
        "the labels are noisy": (
            1.0,
            "A perfect model still disagrees with an annotator who slipped.",
        ),
        "that is chance": (0.5, "A gap of 1 is more than a coin flip."),
        "that is for a model that rolls dice too": (
            lambda answer: answer**2 + (1 - answer) ** 2,
            "A model need not imitate the noise: it can back the better text every time.",
        ),
    },
)

EXERCISES = [
    BRADLEY_TERRY,
    UNTRAINED_LOSS,
    LAST_TOKEN,
    ACCURACY,
    BAYES_ACCURACY,
    BIN_ACCURACY,
    NORMALISE,
    BEST_OF_N,
]

check_bradley_terry = BRADLEY_TERRY.check
check_untrained_loss = UNTRAINED_LOSS.check
check_last_token = LAST_TOKEN.check
check_accuracy = ACCURACY.check
check_bayes_accuracy = BAYES_ACCURACY.check
check_bin_accuracy = BIN_ACCURACY.check
check_normalise = NORMALISE.check
check_best_of_n = BEST_OF_N.check
