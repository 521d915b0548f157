"""How often policy A beats policy B on the same prompts: by scores or by a pairwise judge, and at
equal lengths.

A win counts 1, a tie 1/2, a loss 0, so A over B and B over A add up to 1.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from helpers.evaluation import bootstrap_ci95

VERDICTS = {"first": 1.0, "tie": 0.5, "second": 0.0}
PairwiseJudge = Callable[
    [str, str, str], str | None
]  # prompt, first, second -> a verdict, or None: no answer
# weight of the penalty: about none beside the data, but it keeps a fit finite when A always wins
RIDGE = 0.01
CHUNK = 100  # resamples that are fitted together


def wins_by_score(a: Tensor, b: Tensor) -> Tensor:
    """Wins (N,) of A from the scores of both responses to each prompt, (N,) each. Raises ValueError
    for a nan.
    """
    if a.shape != b.shape:
        raise ValueError(f"scores of different shapes: {tuple(a.shape)} and {tuple(b.shape)}")
    if a.isnan().any() or b.isnan().any():
        raise ValueError("a score is nan: it can neither win nor lose")
    return ((a > b).double() + (a >= b).double()) / 2


@dataclass(frozen=True)
class Judged:
    """What a pairwise judge said of N pairs."""

    wins: Tensor  # (N,) of A; nan where the judge gave no verdict
    flipped: Tensor  # (N,) bool: the verdict changed when the two responses changed places


def wins_by_judge(
    judge: PairwiseJudge, prompts: Sequence[str], a: Sequence[str], b: Sequence[str]
) -> Judged:
    """Ask for each pair twice, A first and B first. A side wins if both answers say so; all else is
    a tie.

    Judges favour a place, often the first (Zheng et al. 2023, section 3.4, where this rule is
    from). Raises ValueError for lists of different lengths or a verdict that is none of "first",
    "second", "tie" and None.
    """
    wins, flipped = [], []
    for prompt, x, y in zip(prompts, a, b, strict=True):
        said = judge(prompt, x, y), judge(prompt, y, x)
        for verdict in said:
            if verdict is not None and verdict not in VERDICTS:
                raise ValueError(f"a judge says {', '.join(VERDICTS)} or None, not {verdict!r}")
        answered = None not in said
        one, other = (
            (VERDICTS[said[0]], 1 - VERDICTS[said[1]]) if answered else (torch.nan, torch.nan)
        )
        flipped.append(answered and one != other)
        wins.append(0.5 if flipped[-1] else one)
    return Judged(torch.tensor(wins, dtype=torch.float64), torch.tensor(flipped, dtype=torch.bool))


# ---------------------------------------------------------------- at equal lengths


def length_feature(lengths_a: Tensor, lengths_b: Tensor) -> Tensor:
    """tanh((length of A - length of B) / std of these differences), (N,); 0 if all differences are
    the same 0.
    """
    gap = lengths_a.double() - lengths_b.double()
    return torch.tanh(gap / gap.std().clamp(min=1e-12)) if len(gap) > 1 else torch.zeros_like(gap)


def fit_length(
    feature: Tensor, wins: Tensor, weights: Tensor, ridge: float = RIDGE, steps: int = 100
) -> Tensor:
    """theta and phi of P(A wins) = sigmoid(theta + phi feature), (R, 2), one fit for each row of
    weights (R, N).

    Minimises the sum of weight * cross-entropy plus ridge / 2 (theta^2 + phi^2) by Newton's method;
    a step that would raise the loss is halved. feature, wins: (N,).
    """
    features = torch.stack([torch.ones_like(feature), feature], 1)  # (N, 2)
    squares = features[:, :, None] * features[:, None]  # (N, 2, 2)

    def loss(params: Tensor) -> Tensor:
        z = params @ features.T  # (R, N)
        return (weights * (F.softplus(z) - wins * z)).sum(1) + ridge / 2 * (params**2).sum(1)

    params = torch.zeros(len(weights), 2, dtype=torch.float64)
    for _ in range(steps):
        p = torch.sigmoid(params @ features.T)
        gradient = (weights * (p - wins)) @ features + ridge * params
        curvature = ((weights * p * (1 - p)) @ squares.flatten(1)).view(
            -1, 2, 2
        ) + ridge * torch.eye(2).double()
        step, now = torch.linalg.solve(curvature, gradient), loss(params)
        for _ in range(30):
            worse = loss(params - step) > now
            if not worse.any():
                break
            step = torch.where(worse[:, None], step / 2, step)
        params = params - step
        if step.abs().max() < 1e-9:
            break
    return params


def bootstrap_controlled(feature: Tensor, wins: Tensor, seed: int, resamples: int) -> list[float]:
    """95% percentile-bootstrap interval of sigmoid(theta): the fit is repeated on every resample of
    the pairs.
    """
    generator, n, rates = torch.Generator().manual_seed(seed), len(wins), []
    for start in range(0, resamples, CHUNK):
        draws = torch.randint(n, (min(CHUNK, resamples - start), n), generator=generator)
        weights = torch.zeros(draws.shape, dtype=torch.float64).scatter_add_(
            1, draws, torch.ones_like(draws).double()
        )
        rates.append(torch.sigmoid(fit_length(feature, wins, weights)[:, 0]))
    return torch.quantile(torch.cat(rates), torch.tensor([0.025, 0.975]).double()).tolist()


# ---------------------------------------------------------------- the result


@dataclass(frozen=True)
class WinRate:
    """A's win rate over B, 0 to 1, with 95% intervals; `controlled` is the rate at equal
    lengths.
    """

    rate: float
    ci95: list[float]
    pairs: int  # with a verdict
    unanswered: int  # without: left out
    ties: float  # share of the pairs
    controlled: float | None = None
    controlled_ci95: list[float] | None = None
    length_effect: float | None = None  # phi: above 0 if the longer response wins more often


def win_rate(
    wins: Tensor,
    lengths_a: Tensor | None = None,
    lengths_b: Tensor | None = None,
    seed: int = 0,
    resamples: int = 1000,
) -> WinRate:
    """The win rate of wins (N,), nan = no verdict; with the responses' lengths (N,) also the
    length-controlled one.

        P(A wins) = sigmoid(theta + phi tanh((length_A - length_B) / std))        controlled =
        sigmoid(theta)

    Source: Dubois et al. 2024, "Length-Controlled AlpacaEval", section 3, without the term for a
    prompt's difficulty, which takes many models to fit. Intervals are percentile bootstrap over
    pairs; they have width 0 when A wins all. Raises ValueError without a verdict, or with the
    lengths of one side only.
    """
    if (lengths_a is None) != (lengths_b is None):
        raise ValueError("lengths of both sides or of none")
    there = ~wins.isnan()
    kept = wins[there].double()
    if not len(kept):
        raise ValueError(f"no verdict on any of {len(wins)} pairs")
    result = {
        "rate": kept.mean().item(),
        "ci95": bootstrap_ci95(kept, seed),
        "pairs": len(kept),
        "unanswered": len(wins) - len(kept),
        "ties": (kept == 0.5).double().mean().item(),
    }
    if lengths_a is not None:
        feature = length_feature(lengths_a[there], lengths_b[there])
        theta, phi = fit_length(feature, kept, torch.ones(1, len(kept), dtype=torch.float64))[0]
        result |= {
            "controlled": torch.sigmoid(theta).item(),
            "length_effect": phi.item(),
            "controlled_ci95": bootstrap_controlled(feature, kept, seed, resamples),
        }
    return WinRate(**result)
