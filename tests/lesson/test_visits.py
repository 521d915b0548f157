"""What 5-Clinic shows: signatures, the doctor's words, logged and true KL."""

import pytest

from helpers.doctor.columns import COLUMNS
from helpers.doctor.diagnosis import diagnose
from helpers.doctor.findings import Finding
from helpers.lesson import visits
from helpers.lesson.clinic import AILMENTS
from helpers.lesson.plots import clinic as plots
from helpers.lesson.widgets.core import png


def log(**changes: float) -> list[dict]:
    """A healthy log, made up, with some columns changed."""
    rising = {"kl": 0.2, "score": 0.3, "gold": 0.4, "explained_variance": 0.1}
    names = {name for name in COLUMNS if name not in ("step", "kl_coef")} | {*rising}
    row = dict.fromkeys(names, 0.5) | {"score_std": 1.0, "clip_fraction": 0.02, "advantage": 0.0}
    row |= {"ratio_off": 0.0, "kl_coef": 0.05, "length": 20.0, "stop_rate": 1.0} | changes
    grow = {name: step for name, step in rising.items() if name not in changes}
    return [
        {"step": i + 1, **row, **{name: step * i for name, step in grow.items()}} for i in range(8)
    ]


def test_every_ailment_has_signs_that_are_columns():
    assert visits.SIGNS.keys() == AILMENTS.keys()
    assert {*visits.KL_CAUSES} <= AILMENTS.keys()
    for signs in (*visits.SIGNS.values(), visits.HEALTHY):
        for name in signs:
            assert name in plots.TITLES
            assert {*name.split(" - ")} <= COLUMNS.keys()


def test_signatures_and_controllers_draw():
    some = visits.HEALTHY, visits.SIGNS["dropout"], visits.SIGNS["pad is EOS"]
    figures = [plots.signature_figure(log(), signs, log(score=0.0)[:3]) for signs in some]
    figures.append(plots.controller_figure({"a": [0.0, 1.0], "b": [1.0, 0.5]}, 0.5))
    for figure in figures:
        assert figure.axes and png(figure).startswith(b"\x89PNG")
    ax = plots.signature_figure(log(), [visits.GAP], log(surprise=0.7)).axes[0]
    assert [line.get_ydata()[0] for line in ax.lines] == pytest.approx([0.0, 0.2])


def test_the_doctors_words():
    assert visits.words([]) == "nothing suspicious"
    said = visits.words([Finding("temperature", "sure", "less surprise", ("top-k", "top-p"))])
    assert said.startswith("temperature (sure), or else top-k, top-p\n")
    assert "less surprise. Divide the logits" in said


def test_the_table_of_kls():
    logged = dict.fromkeys(("healthy", *visits.KL_CAUSES), log())
    logged["pads attended"] = log(kl=-3.0)
    lines = visits.kl_table(logged, dict.fromkeys(logged, 1.5)).splitlines()
    assert len(lines) == 2 + len(visits.KL_CAUSES)
    assert lines[1].split() == "healthy +0.00 +1.40 +1.50 nothing suspicious".split()
    (row,) = [line for line in lines if line.startswith("pads attended")]
    assert "-3.00     -3.00     +1.50   pads attended (likely)" in row


def test_a_log_as_trl_writes_it_is_read():
    rows = visits.as_trl(log())
    assert {"objective/kl", "policy/clipfrac_avg", "episode"} <= rows[0].keys()
    assert diagnose(rows) == []
