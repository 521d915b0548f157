"""Figures of 0-Pretrain. Each function returns a matplotlib figure and leaves it open, so that its
cell shows it once.

Shapes: T tokens of a text, H heads, V vocabulary.
"""

import math

import matplotlib.pyplot as plt
import torch
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.layout_engine import PlaceHolderLayoutEngine
from matplotlib.patches import FancyBboxPatch, Rectangle
from torch import Tensor

from helpers.model import GPT, attend_explicit, causal_mask, token_positions

INK, BLUE, ORANGE, GREEN, GREY = "#33373d", "#2f6f8f", "#d1703c", "#5b8c5a", "#8b9097"
PASTELS = ("#cfe3ec", "#f6dcc9", "#d9e8d5", "#e6d9ec")
NATS = "loss (nats per token)"

# ---------------------------------------------------------------- text, token by token


def text_figure(
    pieces: list[str], values=None, *, most: float = 1.0, label: str = "", width: int = 88
) -> Figure:
    """A text in boxes, one per token; coloured in turn, or by T `values` from 0 (white) to `most`
    (dark).

    width: characters a line. A line break is drawn as an arrow.
    """
    places, lines = lay_out(pieces, width)
    character, line = (
        7 / 84,
        0.22,
    )  # inches: 7 pixels a letter at 84 dots an inch (9.97 points), and a line's height
    bar = 0.0 if values is None else 0.55  # room for the colour bar
    size = width * character + 0.1, lines * line + 0.1 + bar
    fig = plt.figure(
        figsize=size, layout=PlaceHolderLayoutEngine(True, True)
    )  # boxes stay where they are put
    axes = fig.add_axes((0, bar / size[1], 1, 1 - bar / size[1]))
    axes.set(xlim=(-0.5, width + 0.5), ylim=(lines + 0.2, -0.2))
    axes.axis("off")
    scale, colours = Normalize(0, most, clip=True), plt.get_cmap("Oranges")
    for i, (x, y, text) in enumerate(places):
        colour = (
            PASTELS[i % len(PASTELS)]
            if values is None
            else colours(0.75 * float(scale(float(values[i]))))
        )
        axes.add_patch(
            Rectangle(
                (x, y + 0.08), len(text), 0.84, facecolor=colour, edgecolor="white", linewidth=0.8
            )
        )
        axes.text(
            x,
            y + 0.52,
            text,
            family="DejaVu Sans Mono",
            fontsize=9.97,
            va="center",
            color=INK,
            parse_math=False,
        )
    if values is not None:
        draw_scale(fig, [colours(0.75 * i / 99) for i in range(100)], most, label, size[1])
    return fig


def lay_out(pieces: list[str], width: int) -> tuple[list[tuple[int, int, str]], int]:
    """Column, line and shown text of each token, and the number of lines."""
    places, x, y, ended = [], 0, 0, False
    for piece in pieces:
        shown = piece.replace("\n", "↵").replace("\t", "→")[:width]
        if x + len(shown) > width or (
            ended and not piece.startswith("\n")
        ):  # several breaks share a line
            x, y = 0, y + 1
        places.append((x, y, shown))
        x, ended = x + len(shown), piece.endswith("\n")
    return places, y + 1


def draw_scale(fig: Figure, colours: list, most: float, label: str, height: float) -> None:
    """A colour bar at the foot of a figure of `height` inches."""
    axes = fig.add_axes((0.02, 0.36 / height, 0.3, 0.12 / height))
    axes.imshow([colours], aspect="auto", extent=(0, most, 0, 1))
    axes.set(yticks=[])
    axes.tick_params(labelsize=7, length=2, pad=1)
    axes.grid(False)
    fig.text(0.34, 0.42 / height, label, fontsize=8, va="center", color=INK)


# ---------------------------------------------------------------- the model


def gpt_diagram(layers: int, channels: int, vocab_size: int) -> Figure:
    """The path of a text through a GPT, from left to right: the shape at each step, and the part
    that builds it.
    """
    stream, logits = f"(T, {channels})", f"(T, {vocab_size})"
    steps = [
        ("text", "a string", "part 1", "#f1f0ec"),
        ("tokens", "(T,)", "part 1", PASTELS[2]),
        ("wte + wpe\nembeddings", stream, "part 5", PASTELS[0]),
        (f"{layers} blocks\nattention, MLP", stream, "parts 3 and 4", PASTELS[1]),
        ("ln_f\nlast norm", stream, "part 5", PASTELS[0]),
        ("head\nwteᵀ", logits, "part 5", PASTELS[0]),
        ("next token\nsoftmax, draw", "1 of V", "part 10", PASTELS[2]),
    ]
    fig, axes = plt.subplots(figsize=(8.6, 1.6))
    for i, (name, shape, part, colour) in enumerate(steps):
        x, style = 1.5 * i, "round,pad=0,rounding_size=0.08"
        axes.add_patch(
            FancyBboxPatch((x, 0), 1.2, 0.9, boxstyle=style, facecolor=colour, edgecolor=GREY)
        )
        axes.text(x + 0.6, 0.45, name, ha="center", va="center", fontsize=8.5, color=INK)
        axes.text(x + 0.6, -0.16, shape, ha="center", va="top", fontsize=8, color=BLUE)
        axes.text(x + 0.6, 1.05, part, ha="center", fontsize=7.5, color=GREY)
        if i:
            axes.annotate(
                "",
                (x - 0.03, 0.45),
                (x - 0.27, 0.45),
                arrowprops={"arrowstyle": "->", "color": GREY},
            )
    axes.set(xlim=(-0.1, 10.35), ylim=(-0.5, 1.3))
    axes.axis("off")
    return fig


@torch.no_grad()
def attention_weights(model: GPT, ids: Tensor) -> Tensor:
    """How much every token looks at every other: ids (1, T) to (layers, H, T, T), queries down,
    keys across.
    """
    kept = []

    def watch(q: Tensor, k: Tensor, v: Tensor, bias: None) -> Tensor:
        scores = q @ k.transpose(-2, -1) * q.size(-1) ** -0.5  # (1, H, T, T)
        causal = causal_mask(q.size(-2), k.size(-2), device=q.device)
        kept.append(scores.masked_fill(~causal, -math.inf).softmax(dim=-1)[0])
        return attend_explicit(q, k, v, bias)  # what the block goes on with

    x = model.wte(ids) + model.wpe(token_positions(ids))  # (1, T, C)
    for block in model.h:
        x = block(x, None, None, watch)
    return torch.stack(kept)


def attention_grid(weights: Tensor) -> Figure:
    """All heads at once: weights (layers, H, T, T), a row of maps per layer. Square roots, so that
    faint ones show.
    """
    layers, heads = weights.shape[:2]
    size = 1.45  # inches a map
    fig, grid = plt.subplots(layers, heads, figsize=(size * heads, size * layers), squeeze=False)
    for (layer, head), axes in zip(
        ((a, b) for a in range(layers) for b in range(heads)), grid.flat
    ):
        axes.imshow(weights[layer, head].float().cpu().sqrt().numpy(), cmap="Blues", vmin=0, vmax=1)
        axes.set(xticks=[], yticks=[])
        axes.grid(False)
        axes.set_title(f"layer {layer + 1}, head {head + 1}", fontsize=7, pad=2)
    grid[-1, 0].set_xlabel("key", fontsize=8)
    grid[-1, 0].set_ylabel("query", fontsize=8)
    return fig


def attention_map(weights: Tensor, pieces: list[str], title: str = "") -> Figure:
    """One head: weights (T, T) with the tokens written along both sides."""
    T = len(pieces)
    names = [piece.replace("\n", "↵").strip(" ") or "␣" for piece in pieces]
    fig, axes = plt.subplots(figsize=(min(6.4, 2.4 + 0.13 * T), min(6.0, 2.0 + 0.13 * T)))
    image = axes.imshow(weights.float().cpu().numpy(), cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(T), names, rotation=90, fontsize=min(8, 220 / T), parse_math=False)
    axes.set_yticks(range(T), names, fontsize=min(8, 220 / T), parse_math=False)
    axes.set(xlabel="key: what it looks at", ylabel="query: the token that looks", title=title)
    axes.grid(False)
    fig.colorbar(image, ax=axes, shrink=0.6, label="weight (a row sums to 1)")
    return fig


# ---------------------------------------------------------------- training and what it came to


def loss_curves(curves: dict[str, list[float]], levels: dict[str, float | None]) -> Figure:
    """Training losses by step, with horizontal lines to compare with; a level that is not known
    (None) has none.
    """
    fig, axes = plt.subplots()
    for name, losses in curves.items():
        axes.plot(range(1, len(losses) + 1), losses, label=name, linewidth=1.4)
    for (name, level), colour in zip(levels.items(), (GREY, GREEN, ORANGE, INK)):
        if level is None:
            continue
        axes.axhline(level, color=colour, linestyle="--", linewidth=1)
        place = {"xycoords": ("axes fraction", "data"), "ha": "right", "va": "bottom"}
        axes.annotate(name, (1, level), fontsize=8, color=colour, **place)
    axes.set(xlabel="step", ylabel=NATS, ylim=(0, None))
    if len(curves) > 1:
        axes.legend(loc="upper center")
    return fig


def loss_bars(losses: dict[str, float], floor: float | None) -> Figure:
    """Losses as bars, best at the bottom, with the entropy floor as a line where it is known."""
    fig, axes = plt.subplots(figsize=(7.2, 0.5 + 0.42 * len(losses)))
    names, values = list(losses), list(losses.values())
    bars = axes.barh(names[::-1], values[::-1], color=BLUE, height=0.6)
    axes.bar_label(bars, fmt="%.2f", padding=3, fontsize=9)
    if floor is not None:
        axes.axvline(
            floor, color=ORANGE, linestyle="--", linewidth=1.4, label=f"entropy floor {floor:.2f}"
        )
        axes.legend(loc="lower right")
    axes.set(xlabel=f"held-out {NATS}", xlim=(0, 1.1 * max(values)))
    axes.grid(axis="y", visible=False)
    return fig


def loss_by_part(series: dict[str, dict[str, float]], label: str = NATS) -> Figure:
    """Groups of bars: {name of a series: {part: loss}}, a group per part, a colour per series."""
    fig, axes = plt.subplots(figsize=(7.2, 2.8))
    parts, width = list(next(iter(series.values()))), 0.8 / len(series)
    for i, (name, values) in enumerate(series.items()):
        places = [j + (i - (len(series) - 1) / 2) * width for j in range(len(parts))]
        bars = axes.bar(places, [values[part] for part in parts], 0.94 * width, label=name)
        axes.bar_label(bars, fmt="%.2f", padding=2, fontsize=8)
    axes.set_xticks(range(len(parts)), parts)
    axes.set(ylabel=label)
    axes.grid(axis="x", visible=False)
    axes.margins(y=0.12)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return fig


def spectra(values: dict[str, Tensor]) -> Figure:
    """Singular values of some matrices, each scaled so that its largest is 1."""
    fig, axes = plt.subplots(figsize=(7.2, 2.6))
    for name, singular in values.items():
        singular = singular.float().cpu() / singular.max().item()
        axes.plot(range(1, len(singular) + 1), singular.tolist(), label=name)
    axes.set(xlabel="direction (largest first)", ylabel="singular value / largest", ylim=(0, 1.05))
    axes.legend()
    return fig


# ---------------------------------------------------------------- sampling


def next_token_bars(panels: dict[str, Tensor], pieces: list[str], *, most: int = 12) -> Figure:
    """The likeliest next tokens under different settings: panels of V probabilities, in the order
    of the first.

    pieces: the text of every token of the vocabulary that may be shown, by id.
    """
    order = next(iter(panels.values())).argsort(descending=True)[:most].tolist()
    names = [pieces[i].replace("\n", "↵") for i in order]
    fig, grid = plt.subplots(
        1, len(panels), figsize=(2 * len(panels), 0.6 + 0.19 * most), sharey=True, squeeze=False
    )
    for axes, (title, probs) in zip(grid.flat, panels.items()):
        axes.barh(range(most), probs.float().cpu()[order].tolist(), color=BLUE, height=0.7)
        axes.set_title(title, fontsize=9)
        axes.set(
            xlim=(0, 1.05 * float(max(panel.max() for panel in panels.values()))),
            xlabel="probability",
        )
        axes.grid(axis="y", visible=False)
    grid[0, 0].set_yticks(
        range(most), names, fontsize=8, family="DejaVu Sans Mono", parse_math=False
    )
    grid[0, 0].invert_yaxis()  # shared: the likeliest on top everywhere
    return fig
