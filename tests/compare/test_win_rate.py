"""Win rates: both orders, symmetry, intervals that cover the truth, and the length-controlled fit
against a search.
"""

import math

import pytest
import torch

from helpers.compare import win_rate as module
from helpers.compare.win_rate import (
    RIDGE,
    fit_length,
    length_feature,
    win_rate,
    wins_by_judge,
    wins_by_score,
)


@pytest.fixture(autouse=True)
def fewer_resamples(monkeypatch):
    monkeypatch.setattr(module, "RESAMPLES", 60)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def simulated(n: int, theta: float, phi: float, seed: int, shift: float = 20.0):
    """Wins that follow sigmoid(theta + phi feature), and the lengths behind them: A is `shift`
    longer on average.
    """
    generator = torch.Generator().manual_seed(seed)
    b = torch.randint(20, 80, (n,), generator=generator)
    a = b + shift + 25 * torch.randn(n, generator=generator, dtype=torch.float64)
    p = torch.sigmoid(theta + phi * length_feature(a, b))
    return (torch.rand(n, generator=generator, dtype=torch.float64) < p).double(), a, b


# ---------------------------------------------------------------- wins


def test_wins_by_score():
    assert wins_by_score(torch.tensor([1.0, 2, 3]), torch.full((3,), 2.0)).tolist() == [0, 0.5, 1]
    with pytest.raises(ValueError, match="different shapes"):
        wins_by_score(torch.zeros(3), torch.zeros(2))
    with pytest.raises(ValueError, match="nan"):
        wins_by_score(torch.tensor([math.nan]), torch.zeros(1))


def longer(prompt: str, first: str, second: str) -> str:
    return "tie" if len(first) == len(second) else "first" if len(first) > len(second) else "second"


def half(prompt: str, first: str, second: str) -> str:
    """For A where A comes first, else a tie."""
    return "first" if first.startswith("a") else "tie"


def test_a_judge_is_asked_in_both_orders_and_a_flip_is_a_tie():
    texts = ["p"] * 3, ["aaa", "a", "aa"], ["b", "bbb", "bb"]
    fair = wins_by_judge(longer, *texts)
    assert fair.wins.tolist() == [1, 0, 0.5] and not fair.flipped.any()
    biased = wins_by_judge(lambda prompt, first, second: "first", *texts)
    assert biased.wins.tolist() == [0.5, 0.5, 0.5] and biased.flipped.all()
    assert wins_by_judge(half, *texts).wins.tolist() == [0.5] * 3
    asked = []
    wins_by_judge(lambda *texts: asked.append(texts) or "tie", ["p"], ["x"], ["y"])
    assert asked == [("p", "x", "y"), ("p", "y", "x")]


def test_a_pair_without_a_verdict_is_left_out_and_counted():
    def judge(p: str, x: str, y: str) -> str | None:
        return None if "?" in x else longer(p, x, y)

    judged = wins_by_judge(judge, ["p"] * 3, ["aa", "?", "a"], ["b", "b", "?"])
    assert judged.wins.isnan().tolist() == [False, True, True] and not judged.flipped.any()
    result = win_rate(judged.wins)
    assert (result.rate, result.pairs, result.unanswered) == (1.0, 1, 2)
    with pytest.raises(ValueError, match="no verdict on any of 2 pairs"):
        win_rate(torch.full((2,), math.nan))
    with pytest.raises(ValueError, match="not 'A'"):
        wins_by_judge(lambda *_: "A", ["p"], ["x"], ["y"])
    with pytest.raises(ValueError):
        wins_by_judge(longer, ["p"], ["x", "y"], ["z"])


# ---------------------------------------------------------------- rates


def test_a_over_b_and_b_over_a_add_up_to_1():
    scores, lengths = torch.randn(2, 150).round(decimals=1), torch.randint(5, 60, (2, 150))
    one = win_rate(wins_by_score(*scores), *lengths)
    other = win_rate(wins_by_score(*scores.flip(0)), *lengths.flip(0))
    assert one.ties == other.ties > 0
    assert one.rate + other.rate == pytest.approx(1)
    assert one.controlled + other.controlled == pytest.approx(1)
    assert one.length_effect == pytest.approx(other.length_effect)
    for ends in ("ci95", "controlled_ci95"):
        low, high = getattr(one, ends)
        assert getattr(other, ends) == pytest.approx([1 - high, 1 - low], abs=1e-6)


def test_rate_by_hand():
    result = win_rate(torch.tensor([1.0, 1.0, 0.5, 0.0, 0.5, 1.0, math.nan]))
    assert result.rate == pytest.approx(4 / 6) and result.ties == pytest.approx(2 / 6)
    assert {result.controlled, result.controlled_ci95, result.length_effect} == {None}
    with pytest.raises(ValueError, match="both sides or of none"):
        win_rate(torch.ones(3), torch.ones(3))


def test_intervals_cover_the_truth_19_times_in_20():
    covered, runs = torch.zeros(2), 40
    for seed in range(runs):
        wins, a, b = simulated(150, theta=0.5, phi=1.0, seed=seed, shift=0.0)
        result = win_rate(wins, a, b)
        truths = torch.sigmoid(0.5 + length_feature(a, b)).mean().item(), sigmoid(0.5)
        for i, (low, high) in enumerate((result.ci95, result.controlled_ci95)):
            covered[i] += low <= truths[i] <= high
    # 3 standard errors below 0.95; given the lengths, the interval is a little too wide
    assert (covered / runs >= 0.85).all()


# ---------------------------------------------------------------- at equal lengths


def test_length_control_removes_a_pure_length_effect():
    result = win_rate(*simulated(3000, theta=0.0, phi=2.0, seed=1))
    assert result.rate > 0.68  # A is longer, and longer wins
    assert result.controlled == pytest.approx(0.5, abs=0.04)
    assert result.controlled_ci95[0] < 0.5 < result.controlled_ci95[1]
    assert result.length_effect == pytest.approx(2.0, abs=0.35)


def test_length_control_keeps_what_is_no_length_effect():
    result = win_rate(*simulated(3000, theta=1.0, phi=0.0, seed=2))
    assert result.rate == pytest.approx(sigmoid(1), abs=0.03)
    assert result.controlled == pytest.approx(sigmoid(1), abs=0.04)
    # better, but longer, and the judge likes it short
    result = win_rate(*simulated(3000, theta=1.0, phi=-1.5, seed=3))
    assert result.rate < sigmoid(1) - 0.08
    assert result.controlled == pytest.approx(sigmoid(1), abs=0.04)


def penalised_loss(theta: float, phi: float, feature: list, wins: list, weights: list) -> float:
    total = RIDGE / 2 * (theta**2 + phi**2)
    for x, win, weight in zip(feature, wins, weights):
        p = sigmoid(theta + phi * x)
        total -= weight * (win * math.log(p) + (1 - win) * math.log(1 - p))
    return total


def grid_search(*data: list) -> tuple[float, float]:
    """The least loss on a 9 x 9 grid, again and again on a finer grid around the best point."""
    best, width = (0.0, 0.0), 8.0
    while width > 1e-5:
        steps = [width * i / 4 for i in range(-4, 5)]
        points = [(best[0] + i, best[1] + j) for i in steps for j in steps]
        best = min(points, key=lambda point: penalised_loss(*point, *data))
        width /= 2
    return best


@pytest.mark.parametrize("theta, phi", [(0.0, 0.0), (0.7, -1.5), (-2.0, 3.0)])
def test_the_fit_is_what_a_grid_search_finds(theta, phi):
    wins, a, b = simulated(30, theta, phi, seed=5)
    wins[:4] = 0.5
    feature = length_feature(a, b)
    weights = torch.stack([torch.ones(30), torch.arange(30) % 3]).double()
    for row, weight in zip(fit_length(feature, wins, weights), weights):
        expected = grid_search(feature.tolist(), wins.tolist(), weight.tolist())
        assert row.tolist() == pytest.approx(expected, abs=1e-3)


def test_extreme_wins_and_equal_lengths_stay_finite():
    a, b = torch.arange(50), torch.arange(50).flip(0)
    always = win_rate(torch.ones(50), a, b)
    assert always.rate == 1 and 0.98 < always.controlled < 1
    apart = win_rate((a > b).double(), a, b)  # length alone decides: perfectly separable
    assert apart.controlled == pytest.approx(0.5, abs=1e-6) and math.isfinite(apart.length_effect)
    same = win_rate((a % 5 > 0).double(), b, b)
    assert same.controlled == pytest.approx(0.8, abs=1e-3) and same.length_effect == 0
    assert win_rate(torch.ones(1), a[:1], b[:1]).controlled > 0.5
