"""How often policy A beats policy B on the same prompts, by scores or by a pairwise judge; also at
equal lengths.

A win counts 1, a tie 1/2, a loss 0, so the rates of A over B and of B over A add up to 1.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from helpers.evaluation import bootstrap_ci95

VERDICTS = {"first": 1.0, "tie": 0.5, "second": 0.0}
# prompt, first response, second response -> a verdict, or None without a clear answer
PairwiseJudge = Callable[[str, str, str], str | None]
RIDGE = 0.01  # weight of the penalty: next to nothing, but the fit stays finite when A always wins
RESAMPLES = 400  # for the interval at equal lengths: each is a fit of its own


def wins_by_score(a: Tensor, b: Tensor) -> Tensor:
    """Wins (N,) of A from both responses' scores (N,). ValueError for a NaN or other shapes."""
    if a.shape != b.shape:
        raise ValueError(f"scores of different shapes: {tuple(a.shape)} and {tuple(b.shape)}")
    if a.isnan().any() or b.isnan().any():
        raise ValueError("a score is nan: it can neither win nor lose")
    return ((a > b).double() + (a >= b).double()) / 2


@dataclass(frozen=True)
class Judged:
    """The verdicts of a pairwise judge on N pairs."""

    wins: Tensor  # (N,) of A; NaN where the judge gave no verdict
    flipped: Tensor  # (N,) bool: the verdict changed when the two responses changed places


def wins_by_judge(
    judge: PairwiseJudge, prompts: Sequence[str], a: Sequence[str], b: Sequence[str]
) -> Judged:
    """Judge each pair twice, once in each order. A side wins if both verdicts agree on it;
    otherwise it is a tie.

    Judges favour a position, often the first (Zheng et al. 2023, section 3.4, the source of this
    rule). Raises ValueError for lists of different lengths, or for a verdict other than "first",
    "second", "tie" and None.
    """
    wins, flipped = [], []
    for prompt, x, y in zip(prompts, a, b, strict=True):
        verdicts = judge(prompt, x, y), judge(prompt, y, x)
        for verdict in verdicts:
            if verdict is not None and verdict not in VERDICTS:
                raise ValueError(f"a judge says {', '.join(VERDICTS)} or None, not {verdict!r}")
        if None in verdicts:
            wins.append(torch.nan)
            flipped.append(False)
        else:
            a_first, b_first = VERDICTS[verdicts[0]], 1 - VERDICTS[verdicts[1]]
            flipped.append(a_first != b_first)
            wins.append(0.5 if flipped[-1] else a_first)
    return Judged(torch.tensor(wins, dtype=torch.float64), torch.tensor(flipped, dtype=torch.bool))


# ---------------------------------------------------------------- at equal lengths


def length_feature(lengths_a: Tensor, lengths_b: Tensor) -> Tensor:
    """tanh((length of A - length of B) / std of the differences), (N,); 0 for equal lengths."""
    gap = lengths_a.double() - lengths_b.double()
    return torch.tanh(gap / gap.std().clamp(min=1e-12)) if len(gap) > 1 else torch.zeros_like(gap)


def fit_length(feature: Tensor, wins: Tensor, weights: Tensor) -> Tensor:
    """theta and phi of P(A wins) = sigmoid(theta + phi feature), (R, 2): one logistic regression
    for each row of weights (R, N). feature, wins: (N,); a tie is half a win and half a loss.

    The penalty is RIDGE / 2 (theta^2 + phi^2).
    """
    from sklearn.linear_model import LogisticRegression  # imported here: only real rows need it

    columns = torch.stack([torch.ones_like(feature), feature], 1)  # (N, 2); theta has the ones
    columns = columns.repeat(2, 1).numpy()  # each pair once as a win, once as a loss
    labels = torch.tensor([1, 0]).repeat_interleave(len(wins)).numpy()
    shares = torch.cat([weights * wins, weights * (1 - wins)], 1).numpy()  # (R, 2 N)
    settings = {"C": 1 / RIDGE, "fit_intercept": False, "solver": "newton-cholesky", "tol": 1e-6}
    regression = LogisticRegression(**settings)
    fits = [regression.fit(columns, labels, sample_weight=row).coef_[0].tolist() for row in shares]
    return torch.tensor(fits, dtype=torch.float64)


def bootstrap_controlled(feature: Tensor, wins: Tensor) -> list[float]:
    """95% percentile-bootstrap interval of sigmoid(theta), with a fit for each resample."""
    generator, n = torch.Generator().manual_seed(0), len(wins)
    draws = torch.randint(n, (RESAMPLES, n), generator=generator)
    weights = torch.zeros(draws.shape, dtype=torch.float64)
    weights.scatter_add_(1, draws, torch.ones_like(weights))  # how often each pair was drawn
    rates = torch.sigmoid(fit_length(feature, wins, weights)[:, 0])
    return torch.quantile(rates, torch.tensor([0.025, 0.975]).double()).tolist()


# ---------------------------------------------------------------- the result


@dataclass(frozen=True)
class WinRate:
    """A's win rate over B, 0 to 1, with 95% intervals."""

    rate: float
    ci95: list[float]
    pairs: int  # with a verdict
    unanswered: int  # pairs without one, left out
    ties: float  # share of the pairs
    controlled: float | None = None  # the rate at equal lengths
    controlled_ci95: list[float] | None = None
    length_effect: float | None = None  # phi: above 0 if the longer response wins more often


def win_rate(
    wins: Tensor, lengths_a: Tensor | None = None, lengths_b: Tensor | None = None
) -> WinRate:
    """The win rate of wins (N,), NaN = no verdict; given the responses' lengths (N,), also the
    length-controlled rate.

        P(A wins) = sigmoid(theta + phi tanh((length_A - length_B) / std))
        controlled = sigmoid(theta)

    Source: Dubois et al. 2024, "Length-Controlled AlpacaEval", section 3, without the term for a
    prompt's difficulty, which takes many models to fit. Intervals are percentile bootstrap over
    pairs; they have width 0 when A wins every pair. Raises ValueError without any verdict, or with
    the lengths of one side only.
    """
    if (lengths_a is None) != (lengths_b is None):
        raise ValueError("lengths of both sides or of none")
    answered = ~wins.isnan()
    verdicts = wins[answered].double()
    if not len(verdicts):
        raise ValueError(f"no verdict on any of {len(wins)} pairs")
    result = {
        "rate": verdicts.mean().item(),
        "ci95": bootstrap_ci95(verdicts),
        "pairs": len(verdicts),
        "unanswered": len(wins) - len(verdicts),
        "ties": (verdicts == 0.5).double().mean().item(),
    }
    if lengths_a is not None:
        feature = length_feature(lengths_a[answered], lengths_b[answered])
        theta, phi = fit_length(feature, verdicts, torch.ones(1, len(verdicts)))[0]
        result |= {"controlled": torch.sigmoid(theta).item(), "length_effect": phi.item()}
        few = len(verdicts) < 2
        result["controlled_ci95"] = None if few else bootstrap_controlled(feature, verdicts)
    return WinRate(**result)
