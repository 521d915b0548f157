"""What the explorers share: controls of one look, figures as PNG bytes, tokens as coloured boxes.

An explorer is a function that returns a widget to display. Pictures travel as PNG bytes and texts
as HTML, so the same code works with ipywidgets 7 and 8, in Jupyter, Colab and Kaggle, and a test
can read what a control has changed.
"""

import io
from collections.abc import Callable, Sequence
from html import escape

import ipywidgets as widgets
import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from helpers.lesson.plots.core import visible_spaces

STYLE = {"description_width": "110px"}
BOX = (
    "display:inline-block;margin:1px;padding:0 3px;border-radius:3px;color:#222;"
    "font:13px/1.7 monospace;"
)


def slider(
    name: str, value: float, low: float, high: float, step: float = 1, wait: bool = False
) -> widgets.Widget:
    """A slider, for integers where the step is 1. wait: act when the mouse is let go."""
    kind = widgets.IntSlider if step == 1 else widgets.FloatSlider
    look = {"style": STYLE, "layout": {"width": "400px"}, "continuous_update": not wait}
    return kind(value=value, min=low, max=high, step=step, description=name, **look)


def menu(name: str, options: Sequence) -> widgets.Dropdown:
    """A menu of texts, or of (text, value)."""
    look = {"style": STYLE, "layout": {"width": "460px"}}
    return widgets.Dropdown(options=options, description=name, **look)


def choice(name: str, options: Sequence, value: object) -> widgets.SelectionSlider:
    """A slider over a few values."""
    look = {"style": STYLE, "layout": {"width": "400px"}}
    return widgets.SelectionSlider(options=options, value=value, description=name, **look)


def text_box(name: str, text: str = "", rows: int = 3, wait: bool = False) -> widgets.Textarea:
    """A box to type a text into. wait: until the cursor leaves it."""
    look = {"style": STYLE, "layout": {"width": "740px"}, "continuous_update": not wait}
    return widgets.Textarea(text, description=name, rows=rows, **look)


def picture() -> widgets.Image:
    """The place of a figure."""
    return widgets.Image(format="png")


def png(fig: Figure) -> bytes:
    """A figure as PNG bytes; closes it, so that the cell does not show it a second time."""
    buffer = io.BytesIO()
    fig.savefig(buffer, format="png", dpi=84, facecolor="white", bbox_inches="tight")
    plt.close(fig)
    return buffer.getvalue()


def follow(controls: Sequence[widgets.Widget], update: Callable[[], None]) -> None:
    """Call `update` now and whenever the value of a control changes."""
    for control in controls:
        control.observe(lambda change: update(), names="value")
    update()


def token_html(piece: str, style: str, title: str = "") -> str:
    """A token as a box with some CSS, its white space made visible; a line ends after a newline
    token. title: shown under the mouse.
    """
    box = f'<span style="{BOX}{style}" title="{title}">{escape(visible_spaces(piece))}</span>'
    return box + ("<br>" if piece.endswith("\n") else "")
