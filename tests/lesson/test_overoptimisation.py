"""Over-optimisation: what is tried against it, and what is read from the record."""

import math

import pytest
import torch
from torch import nn

from helpers.lesson import overoptimisation as over, peaks
from helpers.lesson.plots import clinic as plots
from helpers.lesson.widgets.core import png


@pytest.mark.parametrize("best_of_n", [False, True])
def test_the_fit_finds_the_curve_that_made_the_points(best_of_n):
    kls = [0.0, 0.5, 1.0, 4.0, 9.0, 16.0, 50.0]
    gains = []
    for kl in kls:
        d = math.sqrt(kl)
        gains.append(d * (3 - 0.8 * (d if best_of_n else math.log(d))) if kl else 0.0)
    fit = peaks.fit(kls, gains, best_of_n)
    assert (fit.alpha, fit.beta, fit.explained) == pytest.approx((3, 0.8, 1))
    near = [fit.peak + step for step in (-0.01, 0.0, 0.01)]
    values = [d * (3 - 0.8 * (d if best_of_n else math.log(d))) for d in near]
    assert values[1] > max(values[0], values[2])
    for bend in (0.0, 1e-12, -1e-12):  # rounding decides on which side of 0 beta is
        rising = [
            d * (1 - bend * (d if best_of_n else math.log(d or 1))) for d in map(math.sqrt, kls)
        ]
        assert peaks.fit(kls, rising, best_of_n).peak > 100


class Fixed(nn.Module):
    """Adds these numbers, whatever it reads."""

    def __init__(self, numbers):
        super().__init__()
        self.numbers = torch.tensor(numbers)

    def by_token(self, ids, attention_mask, completion_mask):
        return self.numbers * completion_mask


def test_the_worst_of_several_is_chosen_for_each_response():
    ones = torch.ones(2, 3, dtype=torch.bool)
    models = [Fixed([[1.0, 1, 1], [0, 0, 5]]), Fixed([[9.0, 0, -9], [3, 3, 3]])]
    worst = over.Worst(models).by_token(ones.long(), ones, ones)
    assert worst.tolist() == [[9, 0, -9], [0, 0, 5]]


def test_without_length_the_score_has_no_slope():
    lengths = torch.tensor([2, 3, 5, 9])
    mask = torch.arange(9) < lengths[:, None]
    model = Fixed([[0.5] * 9] * 4)
    scores = model.by_token(None, mask, mask).sum(1)
    slope = over.slope_of(scores, lengths)
    assert slope == pytest.approx(0.5)
    left = over.WithoutLength(model, slope).by_token(None, mask, mask).sum(1)
    assert over.slope_of(left, lengths) == pytest.approx(0, abs=1e-6)
    assert over.slope_of(scores, torch.full((4,), 3)) == 0


def curves_of(alpha: float, beta: float) -> dict:
    """Curves of PPO whose gold reward begins at 2 and follows Gao's form."""
    distances = [0.5 * i for i in range(20)]
    gains = [d * (alpha - beta * math.log(d)) if d else 0.0 for d in distances]
    return {
        "kl": [d**2 for d in distances],
        "score": distances,
        "gold": [2 + gain for gain in gains],
        "length": [25.0] * 20,
    }


@pytest.fixture
def record() -> dict:
    """A record, made up: two seeds that differ by a constant in how they end."""
    best = {"n": [1, 2, 4], "kl": [0.0, 0.2, 0.6], "score": [0, 1, 2], "gold": [2.0, 3.0, 3.5]}
    kinds = [(surprise, size, "") for surprise in (True, False) for size in (500, 2_000)]
    rows = []
    for seed in (0, 1):
        for surprise, size, cure in [*kinds, (False, 2_000, "worst of three")]:
            curves = curves_of(4.0 if surprise else 2.0, 1.0 if size == 500 else 0.5)
            about = {"surprise": surprise, "size": size, "cure": cure, "accuracy": 0.7}
            about |= {"slope": 0.1, "best_of_n": best, "curves": curves}
            ended = {"gold": 4.0 + seed + 3 * bool(cure), "kl": 90.0, "words": 20.0}
            ended["flaws"] = {"hallucination": 0.5}
            rows.append({"seed": seed, "sft": {"gold": 2.3}, **about, **ended})
    return {"runs": rows}


def test_the_fit_of_a_record_has_its_peak(record):
    found = peaks.fit_of(peaks.runs_of(record, True, 500), best_of_n=False)
    assert (found.alpha, found.beta) == pytest.approx((4, 1))
    assert found.peak == pytest.approx(math.exp(3))
    assert peaks.gain_at(2.0, found, best_of_n=False) == pytest.approx(2 * (4 - math.log(2)))
    assert peaks.fit_of(peaks.runs_of(record, False, 500), False).peak == pytest.approx(math.e)


def test_the_figures_draw(record):
    figures = [plots.overoptimisation_figure(*peaks.panels(record))]
    figures.append(plots.accuracy_figure(*peaks.bought(record)))
    assert all(png(figure).startswith(b"\x89PNG") for figure in figures)
    scores, golds = figures[0].axes[:3], figures[0].axes[3:]
    assert [len(ax.lines) for ax in golds] == [6, 4, 6]  # two sizes of two seeds, and the fits
    thin, bold = golds[0].lines[0], golds[0].lines[2]
    starts = [line.get_ydata()[0] for line in (thin, bold)]
    assert starts == pytest.approx([2.673, 2.696], abs=1e-3) and bold.get_linewidth() == 2
    assert [text.get_text() for text in scores[2].get_legend().texts][1] == "2,000 comparisons"
    left, right = figures[1].axes
    assert {line.get_ydata()[0] for line in right.lines if len(line.get_ydata()) == 1} == {4, 5}
    assert {line.get_ydata()[0] for line in left.lines if len(line.get_ydata()) == 1} == {3.5}


def test_the_tables(record):
    lines = peaks.peaks_table(record).splitlines()
    assert len(lines) == 6 and lines[2].split()[:4] == ["scalar", "head", "500", "0.700"]
    assert lines[2].split()[-6:] == ["4.0", "5.0", "2.0", "1.0", "1.00", "7"]
    assert lines[4].split()[-2:] == ["4.0", "5.0"]  # no fit with the surprise weight
    lines = peaks.cures_table(record).splitlines()
    assert lines[2].split() == ["none", "4.5", "90", "20", "50%"]
    assert lines[3].split() == "worst of three 7.5 +3.0 +3.0 90 20 50%".split()
    lines = peaks.slopes_table(record).splitlines()
    assert len(lines) == 6 and lines[5].split()[-4:] == ["2,000", "+0.100", "+0.100", "+0.100"]
