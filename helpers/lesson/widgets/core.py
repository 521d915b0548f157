"""What the explorers share: controls of one look, figures as PNG bytes, tokens as coloured boxes.

An explorer is a function that returns a widget to display. Pictures travel as PNG bytes and texts
as HTML, so the same code works with ipywidgets 7 and 8, in Jupyter, Colab and Kaggle, and a test
can read what a control has changed.
"""

import base64
import io
from collections.abc import Callable, Iterator, Sequence
from html import escape
from typing import Any

import ipywidgets as widgets
import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from helpers.lesson.plots.core import visible_spaces

STYLE = {"description_width": "110px"}
SLIDER_WIDTH = "340px"
TEXT_WIDTH = {"max_width": "820px"}
INK = "#222222"  # of texts on a colour of their own; all others have the colour of the theme
BOX = "display:inline-block;margin:1px;padding:0 3px;border-radius:3px;font:13px/1.7 monospace;"


class Explorer(widgets.VBox):
    """Controls, one below the other, and what they show. Where no kernel draws it, as on GitHub,
    its first picture stands for it, or its texts.
    """

    # ipywidgets 8 asks for this; 7, on Colab, displays itself in another way, without a static view
    def _repr_mimebundle_(self, **options: Any) -> dict:
        return super()._repr_mimebundle_(**options) | static_view(self)


def static_view(explorer: widgets.Widget) -> dict[str, str]:
    """What an explorer shows, without its controls, by MIME type: its first picture, or else its
    texts and what stands in its text boxes.
    """
    parts = list(inside(explorer))
    for part in parts:
        if isinstance(part, widgets.Image):
            return {"image/png": base64.b64encode(part.value).decode()}
    texts = ""
    for part in parts:
        if isinstance(part, widgets.HTML):
            texts += f"<div>{part.value}</div>"
        elif isinstance(part, widgets.Textarea):
            texts += f"<p><b>{part.description}:</b> {in_lines(part.value)}</p>"
    return {"text/html": texts}


def inside(widget: widgets.Widget) -> Iterator[widgets.Widget]:
    """A widget and all that it contains, in order."""
    yield widget
    for child in getattr(widget, "children", ()):
        yield from inside(child)


def side_by_side(*parts: widgets.Widget) -> widgets.HBox:
    """Widgets side by side; below one another where the cell is too narrow."""
    return widgets.HBox(parts, layout={"flex_flow": "row wrap", "align_items": "flex-start"})


def slider(
    name: str, value: float, low: float, high: float, step: float = 1, wait: bool = False
) -> widgets.Widget:
    """A slider, for integers where the step is 1. wait: act when the mouse is let go."""
    kind = widgets.IntSlider if step == 1 else widgets.FloatSlider
    look = {"style": STYLE, "layout": {"width": SLIDER_WIDTH}, "continuous_update": not wait}
    return kind(value=value, min=low, max=high, step=step, description=name, **look)


def menu(name: str, options: Sequence) -> widgets.Dropdown:
    """A menu of texts, or of (text, value)."""
    look = {"style": STYLE, "layout": {"width": "460px", "max_width": "100%"}}
    return widgets.Dropdown(options=options, description=name, **look)


def choice(name: str, options: Sequence, value: object) -> widgets.SelectionSlider:
    """A slider over a few values."""
    look = {"style": STYLE, "layout": {"width": SLIDER_WIDTH}}
    return widgets.SelectionSlider(options=options, value=value, description=name, **look)


def text_box(name: str, text: str = "", rows: int = 3, wait: bool = False) -> widgets.Textarea:
    """A box to type a text into. wait: until the cursor leaves it."""
    size = {"width": "740px", "max_width": "100%"}
    look = {"style": STYLE, "layout": size, "continuous_update": not wait}
    return widgets.Textarea(text, description=name, rows=rows, **look)


def words() -> widgets.HTML:
    """The place of a text, in lines that are not too long to read."""
    return widgets.HTML(layout=TEXT_WIDTH)


def picture() -> widgets.Image:
    """The place of a figure, as wide as it was drawn: a box would stretch it to its own width."""
    return widgets.Image(format="png", layout={"align_self": "flex-start", "max_width": "100%"})


def draw(image: widgets.Image, fig: Figure, like: object = None) -> None:
    """Show a figure, pixel for pixel; closes it, so that the cell does not show it a second time.

    like: what its margins depend on, such as its labels. As long as that is the same, the margins
    are those of the figure before, which saves almost half of the time.
    """
    if like is None or like != getattr(image, "like", None):
        image.like, image.margins = like, margins_of(fig)
    image.value = png(fig, image.margins)
    image.width = str(int.from_bytes(image.value[16:20], "big"))  # where a PNG has its width


def margins_of(fig: Figure) -> tuple[Bbox, list[dict]]:
    """What a figure fills, in inches, and where each of its axes is."""
    fig.draw_without_rendering()
    places = [
        {
            "original": ax.get_position(original=True),
            "active": ax.get_position(),
            "anchor": ax.get_anchor(),
            "box_aspect": ax.get_box_aspect(),
        }
        for ax in fig.axes
    ]
    return fig.get_tightbbox().padded(0.1), places


def png(fig: Figure, margins: tuple[Bbox, list[dict]] | None = None) -> bytes:
    """A figure as PNG bytes, with its own margins or those of another one; closes it."""
    box, places = margins or margins_of(fig)
    fig.set_layout_engine("none")
    for ax, place in zip(fig.axes, places, strict=True):
        for which in ("original", "active"):
            ax.set_position(place[which], which=which)
        ax.set(anchor=place["anchor"], box_aspect=place["box_aspect"])
    buffer = io.BytesIO()
    fig.savefig(buffer, format="png", dpi=84, facecolor="white", bbox_inches=box)
    plt.close(fig)
    return buffer.getvalue()


def set_last(place: widgets.Box, last: int) -> None:
    """Let the slider in a box end at `last`, and pull its value down with it.

    It is drawn anew: on the page, the End key leads to where the slider ended when it was drawn.
    """
    (control,) = place.children
    if control.max != last:
        control.max = last
        place.children = ()
        place.children = (control,)


def follow(controls: Sequence[widgets.Widget], update: Callable[[], None]) -> None:
    """Call `update` now and whenever the value of a control changes."""
    for control in controls:
        control.observe(lambda change: update(), names="value")
    update()


def on_colour(colour: str) -> str:
    """CSS of a text on an opaque colour: legible whatever the theme."""
    return f"color:{INK};background:{colour};"


def token_html(piece: str, colour: str, title: str = "", marked: bool = False) -> str:
    """A token as a box of a colour, its white space made visible; a line ends after a newline
    token. title: shown under the mouse. marked: bold, with a frame.
    """
    mark = f"font-weight:bold;box-shadow:inset 0 0 0 2px {INK};" if marked else ""
    style = BOX + on_colour(colour) + mark
    box = f'<span style="{style}" title="{title}">{escape(visible_spaces(piece))}</span>'
    return box + ("<br>" if piece.endswith("\n") else "")


def post_html(prompt: str) -> str:
    """A prompt, paler than the text."""
    return f'<div style="opacity:0.75">{in_lines(prompt)}</div>'


def in_lines(text: str) -> str:
    """A text as HTML, its line breaks kept but not its empty lines."""
    return escape(text).replace("\n\n", "<br>").replace("\n", "<br>")
