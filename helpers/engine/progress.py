"""How far a training run is: lines in a terminal; in a notebook a table, replaced in place."""

import math
import statistics
import sys
from collections.abc import Sequence
from html import escape
from typing import Any

from helpers.engine.files import tell

COLUMNS = 6  # metrics of a line or of the table; the log has all of them
REFRESH = 1  # seconds between two pictures of the table


def in_notebook() -> bool:
    """Whether this is a Jupyter kernel, whose output can be replaced. It has imported IPython."""
    ipython = sys.modules.get("IPython")
    return hasattr(ipython and ipython.get_ipython(), "kernel")


class LiveOutput:
    """A place in a notebook cell's output, which shows one thing after another."""

    def __init__(self):
        self.handle: Any = None

    def show(self, thing: Any) -> None:
        from IPython.display import display  # imported here: only a notebook needs it

        if self.handle is None:
            self.handle = display(thing, display_id=True)
        else:
            self.handle.update(thing)


class ProgressTable:
    """The steps of a run that were reported. As HTML it is a table with the time that is left, as
    text the lines that a terminal shows.
    """

    def __init__(self, title: str, steps: int):
        self.title, self.steps = title, steps
        self.rows: list[tuple[int, dict[str, float], float]] = []  # step, metrics, seconds
        self.lines: list[str] = []
        self.now = (0, 0.0, 0.0)  # step, seconds, seconds left
        self.line = ""  # of the last step, reported or not
        self.output, self.drawn = LiveOutput(), 0.0

    def report(
        self, step: int, metrics: dict[str, float], seconds: float, left: float, due: bool
    ) -> None:
        """A step was taken. due: report it for good. Else only a notebook shows how far the run is,
        once a second.
        """
        live = in_notebook()
        if not due and not (live and seconds - self.drawn >= REFRESH):
            return
        shown = dict(list(metrics.items())[:COLUMNS])
        numbers = "".join(f"  {name} {value:.3g}" for name, value in shown.items())
        times = f"[{seconds:.0f}s, {left:.0f}s left]"
        self.line = f"{self.title} {step:>4}/{self.steps}{numbers}  {times}"
        self.now = step, seconds, left
        if due:
            self.rows.append((step, shown, seconds))
            self.lines.append(self.line)
        if live:
            self.drawn = seconds
            self.output.show(self)
        else:
            tell(self.line)

    def __repr__(self) -> str:
        return "\n".join(dict.fromkeys([*self.lines, self.line]))

    def _repr_html_(self) -> str:
        names = list(dict.fromkeys(name for _, metrics, _ in self.rows for name in metrics))
        values = [[metrics.get(name, math.nan) for _, metrics, _ in self.rows] for name in names]
        times = [f"{seconds:.0f} s" for *_, seconds in self.rows]
        columns = [[str(step) for step, *_ in self.rows], *map(aligned, values), times]
        head = html_row("th", ["step", *(name.replace("_", " ") for name in names), "time"])
        body = "".join(html_row("td", cells) for cells in zip(*columns, strict=True))
        step, seconds, left = self.now
        rest = f", {left:.0f} s left" if step < self.steps else ""
        status = f"{escape(self.title)}: step {step} of {self.steps}, {seconds:.0f} s{rest}"
        table = f"<thead>{head}</thead><tbody>{body}</tbody>"
        return f'<p>{status}</p><table style="white-space:nowrap">{table}</table>'


def html_row(tag: str, cells: Sequence[str]) -> str:
    """A row of an HTML table."""
    inner = "".join(f'<{tag} style="text-align:right">{cell}</{tag}>' for cell in cells)
    return f"<tr>{inner}</tr>"


def aligned(values: Sequence[float]) -> list[str]:
    """A column of numbers with equally many decimals, as many as give the middle one three digits;
    nothing for NaN.
    """
    sizes = [abs(value) for value in values if math.isfinite(value) and value]
    whole = math.floor(math.log10(statistics.median(sizes))) if sizes else 0
    decimals = min(max(2 - whole, 0), 6)
    rounded = [value if math.isnan(value) else round(value, decimals) + 0.0 for value in values]
    return ["" if math.isnan(value) else f"{value:.{decimals}f}" for value in rounded]
