"""What the figures share: colours, places of a text's pieces, labels of tokens, groups of bars."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes

from helpers.tokenizer import EOS

BLUE, ORANGE, GREEN, PURPLE = "#2f6f8f", "#d1703c", "#3f9f83", "#b98bb8"
INK, GREY, PALE = "#33373d", "#6b6f76", "#b9bcc0"
PLAIN = {"parse_math": False}  # of a text from rows: its dollar signs are no formula
BESIDE = {"loc": "center left", "bbox_to_anchor": (1, 0.5)}  # a legend on the right of its axes


def visible_spaces(piece: str) -> str:
    """A token with visible white space."""
    return piece.replace("\n", "↵").replace(" ", "·")


def flow(pieces: Sequence[str], columns: int, indent: int = 0) -> list[tuple[int, int]]:
    """(line, column) of each piece, set one after another; a new line where the next piece does not
    fit (from column `indent` on), at "\\n", and after the last of some newline tokens (shown as ↵).
    """
    places, line, column = [], 0, 0
    for piece, following in zip(pieces, [*pieces[1:], ""], strict=True):
        if column and column + len(piece) > columns:
            line, column = line + 1, indent
        places.append((line, column))
        column += len(piece)
        if piece.endswith(("\n", "↵")) and not following.startswith("↵"):
            line, column = line + 1, 0
    return places


def plain_label(text: str) -> str:
    """A text from rows as fonts have it: control characters by their codes."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def label_tokens(ax: Axes, tokens: Sequence[str], size: float = 8) -> None:
    """The tokens themselves under the x axis."""
    names = [
        "EOS" if token == EOS else plain_label(token.strip()) or repr(token) for token in tokens
    ]
    slanted = {"rotation": 60, "ha": "right", "rotation_mode": "anchor", **PLAIN}
    ax.set_xticks(range(len(tokens)), names, fontsize=size, **slanted)


def grouped_bars(
    ax: Axes, series: Mapping[str, Mapping[str, float]], step: float, width: float, styles: Sequence
) -> list[Any]:
    """A group of bars per part, a bar per series {name: {part: height}}, each with its style; the
    bars of a group are `step` apart.
    """
    parts = list(next(iter(series.values())))
    drawn = []
    for i, ((name, heights), style) in enumerate(zip(series.items(), styles, strict=False)):
        places = [j + (i - (len(series) - 1) / 2) * step for j in range(len(parts))]
        drawn.append(ax.bar(places, [heights[part] for part in parts], width, label=name, **style))
    ax.set_xticks(range(len(parts)), [part.replace("_", " ") for part in parts])
    return drawn
