"""The progress of a run: lines in a terminal, in a notebook one table."""

import math
import re
from types import SimpleNamespace

import IPython
import IPython.display
import pytest

from helpers.engine import progress
from helpers.engine.progress import ProgressTable, aligned

METRICS = {f"metric_{i}": float(i) for i in range(8)}


@pytest.fixture
def displayed(monkeypatch):
    """What a notebook's cell shows: the last (HTML, text) of each display, and all of them."""
    shown = SimpleNamespace(outputs=[], updates=0)

    def display(thing, display_id):
        shown.outputs.append((thing._repr_html_(), repr(thing)))
        return SimpleNamespace(update=lambda thing: update(thing, len(shown.outputs) - 1))

    def update(thing, place):
        shown.outputs[place] = (thing._repr_html_(), repr(thing))
        shown.updates += 1

    monkeypatch.setattr(IPython, "get_ipython", lambda: SimpleNamespace(kernel=None))
    monkeypatch.setattr(IPython.display, "display", display)
    return shown


def run(table: ProgressTable, steps: int, metrics: dict, seconds: float = 1.0) -> None:
    """Take steps of so many seconds, and report every tenth of them."""
    for step in range(1, steps + 1):
        now, left = seconds * step, seconds * (steps - step)
        table.report(step, metrics, now, left, due=step % (steps // 10) == 0)


def test_a_terminal_has_lines(capsys):
    run(ProgressTable("ppo", 20), 20, METRICS)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 10
    assert lines[0].startswith("ppo    2/20  metric_0 0  metric_1 1  ")
    assert lines[0].endswith("  metric_5 5  [2s, 18s left]"), "six metrics are enough"


def test_a_notebook_has_one_table(displayed, capsys):
    run(ProgressTable("<ppo>", 20), 20, METRICS)
    assert capsys.readouterr().out == "" and displayed.updates == 19
    ((html, text),) = displayed.outputs
    rows = [re.findall("<t[hd].*?>(.*?)</t[hd]>", row) for row in html.split("<tr>")[1:]]
    assert len(rows) == 11 and {len(row) for row in rows} == {8}
    assert rows[0] == ["step", *(f"metric {i}" for i in range(6)), "time"]
    assert rows[-1] == ["20", "0.00", *(f"{i}.00" for i in range(1, 6)), "20 s"]
    assert "&lt;ppo&gt;: step 20 of 20, 20 s<" in html and "left" not in html
    lines = text.splitlines()
    assert len(lines) == 10 and lines[-1].endswith("[20s, 0s left]"), "the terminal's lines"


def test_between_two_rows_a_notebook_shows_the_time_left(displayed):
    table = ProgressTable("sft", 100)
    table.report(1, {"loss": 2.0}, 1.0, 99.0, due=True)
    table.report(2, {"loss": 1.5}, 1.5, 73.5, due=False)  # half a second later: not drawn
    assert "step 1 of 100, 1 s, 99 s left" in displayed.outputs[0][0]
    table.report(3, {"loss": 1.0}, 3.0, 97.0, due=False)
    html, text = displayed.outputs[0]
    assert "step 3 of 100, 3 s, 97 s left" in html and html.count("<tr>") == 2
    assert text.splitlines()[1:] == ["sft    3/100  loss 1  [3s, 97s left]"]
    table.report(4, {"loss": 0.5}, 4.0, 96.0, due=True)
    assert len(displayed.outputs[0][1].splitlines()) == 2


@pytest.mark.parametrize(
    "values, texts",
    [
        ([6.92, 0.43, 0.386], ["6.920", "0.430", "0.386"]),
        ([-0.0207, 2.05, 2.85], ["-0.02", "2.05", "2.85"]),
        ([-0.001, 12.0, 340.0], ["0.0", "12.0", "340.0"]),
        ([0.0, 0.0], ["0.00", "0.00"]),
        ([3e-4, 0.0], ["0.000300", "0.000000"]),
        ([math.nan, math.inf, 1.0], ["", "inf", "1.00"]),
        ([], []),
    ],
)
def test_a_column_has_equally_many_decimals(values, texts):
    assert aligned(values) == texts


def test_without_ipython_there_is_no_notebook(monkeypatch):
    monkeypatch.delitem(progress.sys.modules, "IPython")
    assert not progress.in_notebook()
