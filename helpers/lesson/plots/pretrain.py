"""Figures of 0-Pretrain: text by token, attention, losses, next tokens.

Shapes: T tokens of a text, H heads, V vocabulary.
"""

import math

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.layout_engine import PlaceHolderLayoutEngine
from matplotlib.patches import FancyBboxPatch, Rectangle
from torch import Tensor

from helpers.lesson.plots.core import (
    BESIDE,
    BLUE,
    GREEN,
    INK,
    ORANGE,
    PLAIN,
    flow,
    grouped_bars,
    plain_label,
)
from helpers.model import GPT, attend_explicit, causal_mask, token_positions

GREY = "#8b9097"
PASTELS = ("#cfe3ec", "#f6dcc9", "#d9e8d5", "#e6d9ec")
NATS = "loss (nats per token)"
WIDTH = 88  # characters in a line of `text_figure`

# ---------------------------------------------------------------- text, token by token


def text_figure(pieces: list[str], values=None, *, most: float = 1.0, label: str = "") -> Figure:
    """A text in boxes, one per token; coloured in turn, or by T `values` from 0 (white) to `most`
    (dark). A line break is drawn as an arrow.
    """
    arrows = (piece.replace("\n", "↵").replace("\t", "→") for piece in pieces)
    texts = [plain_label(piece)[:WIDTH] for piece in arrows]
    places = flow(texts, WIDTH)
    lines = places[-1][0] + 1
    letter, line = 7 / 84, 0.22  # inches: 7 pixels at 84 dots an inch (9.97 points); line height
    bar = 0.0 if values is None else 0.55  # room for the colour bar
    size = WIDTH * letter + 0.1, lines * line + 0.1 + bar
    fixed = PlaceHolderLayoutEngine(True, True)  # boxes stay where they are put
    fig = plt.figure(figsize=size, layout=fixed)
    axes = fig.add_axes((0, bar / size[1], 1, 1 - bar / size[1]))
    axes.set(xlim=(-0.5, WIDTH + 0.5), ylim=(lines + 0.2, -0.2))
    axes.axis("off")
    if values is None:
        colours = [PASTELS[i % len(PASTELS)] for i in range(len(pieces))]
    else:
        scale, oranges = Normalize(0, most, clip=True), plt.get_cmap("Oranges")
        colours = [oranges(0.75 * float(scale(float(value)))) for value in values]
        draw_scale(fig, [oranges(0.75 * i / 99) for i in range(100)], most, label, size[1])
    edge = {"edgecolor": "white", "linewidth": 0.8}
    font = {"family": "DejaVu Sans Mono", "fontsize": 9.97, "color": INK, **PLAIN}
    for text, colour, (y, x) in zip(texts, colours, places, strict=True):
        axes.add_patch(Rectangle((x, y + 0.08), len(text), 0.84, facecolor=colour, **edge))
        axes.text(x, y + 0.52, text, va="center", **font)
    return fig


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
    """The path of a text through a GPT: the shape at each step, and the part that builds it."""
    stream, logits = f"(T, {channels})", f"(T, {vocab_size})"
    steps = [
        ("text", "a string", "section 1", "#f1f0ec"),
        ("tokens", "(T,)", "section 1", PASTELS[2]),
        ("wte + wpe\nembeddings", stream, "section 5", PASTELS[0]),
        (f"{layers} blocks\nattention, MLP", stream, "sections 3, 4", PASTELS[1]),
        ("ln_f\nlast norm", stream, "section 5", PASTELS[0]),
        ("head\nwteᵀ", logits, "section 5", PASTELS[0]),
        ("next token\nsoftmax, draw", "1 of V", "section 10", PASTELS[2]),
    ]
    fig, axes = plt.subplots(figsize=(8.6, 1.6))
    frame = {"boxstyle": "round,pad=0,rounding_size=0.08", "edgecolor": GREY}
    arrow = {"arrowstyle": "->", "color": GREY}
    for i, (name, shape, part, colour) in enumerate(steps):
        x = 1.5 * i
        axes.add_patch(FancyBboxPatch((x, 0), 1.2, 0.9, facecolor=colour, **frame))
        axes.text(x + 0.6, 0.45, name, ha="center", va="center", fontsize=8.5, color=INK)
        axes.text(x + 0.6, -0.16, shape, ha="center", va="top", fontsize=8, color=BLUE)
        axes.text(x + 0.6, 1.05, part, ha="center", fontsize=7.5, color=GREY)
        if i:
            axes.annotate("", (x - 0.03, 0.45), (x - 0.27, 0.45), arrowprops=arrow)
    axes.set(xlim=(-0.1, 10.35), ylim=(-0.5, 1.3))
    axes.axis("off")
    return fig


@torch.no_grad()
def attention_weights(model: GPT, ids: Tensor) -> Tensor:
    """How much every token looks at every other: ids (1, T) to (layers, H, T, T), queries down,
    keys across.
    """
    weights = []

    def watch(q: Tensor, k: Tensor, v: Tensor, bias: None) -> Tensor:
        scores = q @ k.transpose(-2, -1) * q.size(-1) ** -0.5  # (1, H, T, T)
        causal = causal_mask(q.size(-2), k.size(-2), device=q.device)
        weights.append(scores.masked_fill(~causal, -math.inf).softmax(dim=-1)[0])
        return attend_explicit(q, k, v, bias)  # what the block goes on with

    x = model.wte(ids) + model.wpe(token_positions(ids))  # (1, T, C)
    for block in model.h:
        x = block(x, None, None, watch)
    return torch.stack(weights)


def attention_grid(weights: Tensor) -> Figure:
    """All heads, (layers, H, T, T), a row per layer. Square roots, so that faint weights show."""
    layers, heads = weights.shape[:2]
    size = (1.45 * heads, 1.45 * layers)  # inches
    fig, grid = plt.subplots(layers, heads, figsize=size, squeeze=False)
    for (layer, head), axes in np.ndenumerate(grid):
        shares = weights[layer, head].float().cpu().sqrt().numpy()
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
        axes.set(xticks=[], yticks=[])
        axes.grid(False)
        axes.set_title(f"layer {layer + 1}, head {head + 1}", fontsize=7, pad=2)
    grid[-1, 0].set_xlabel("key", fontsize=8)
    grid[-1, 0].set_ylabel("query", fontsize=8)
    return fig


def attention_map(weights: Tensor, pieces: list[str]) -> Figure:
    """One head: weights (T, T) with the tokens written along both sides."""
    T = len(pieces)
    names = [plain_label(piece.replace("\n", "↵").strip(" ")) or "␣" for piece in pieces]
    look = {"fontsize": min(8, 220 / T), **PLAIN}
    size = (min(5.7, 2.4 + 0.13 * T), min(5.3, 2.0 + 0.13 * T))  # leaves room for the controls
    fig, axes = plt.subplots(figsize=size)
    image = axes.imshow(weights.float().cpu().numpy(), cmap="Blues", vmin=0, vmax=1)
    axes.set(xticks=[], yticks=[])
    for i, name in enumerate(names):  # ticks with labels would take twice as long to draw
        axes.text(i, T - 0.2, name, rotation=90, ha="center", va="top", **look)
        axes.text(-0.8, i, name, ha="right", va="center", **look)
    axes.set_title("row: query, the token that looks; column: key", fontsize=9)
    fig.colorbar(image, ax=axes, shrink=0.6, label="weight (a row sums to 1)")
    return fig


# ---------------------------------------------------------------- training and what it came to


def loss_curves(curves: dict[str, list[float]], levels: dict[str, float | None]) -> Figure:
    """Training losses by step, with horizontal lines to compare with; an unknown level is None."""
    fig, axes = plt.subplots()
    for name, losses in curves.items():
        axes.plot(range(1, len(losses) + 1), losses, label=name, linewidth=1.4)
    beside = {"xycoords": ("axes fraction", "data"), "va": "center", "fontsize": 8}
    for (name, level), colour in zip(levels.items(), (GREY, GREEN, ORANGE, INK)):
        if level is not None:
            axes.axhline(level, color=colour, linestyle="--", linewidth=1)
            axes.annotate(name, (1.01, level), color=colour, **beside)
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
        line = {"color": ORANGE, "linestyle": "--", "linewidth": 1.4}
        axes.axvline(floor, label=f"entropy floor {floor:.2f}", **line)
        axes.legend(loc="lower right")
    axes.set(xlabel=f"held-out {NATS}", xlim=(0, 1.1 * max(values)))
    axes.grid(axis="y", visible=False)
    return fig


def loss_by_part(series: dict[str, dict[str, float]], label: str = NATS) -> Figure:
    """Groups of bars: {name of a series: {part: loss}}, a group per part, a colour per series."""
    fig, axes = plt.subplots(figsize=(7.2, 2.8))
    step = 0.8 / len(series)
    for bars in grouped_bars(axes, series, step, 0.94 * step, [{}] * len(series)):
        axes.bar_label(bars, fmt="%.2f", padding=2, fontsize=8)
    axes.set(ylabel=label)
    axes.grid(axis="x", visible=False)
    axes.margins(y=0.12)
    axes.legend(**BESIDE)
    return fig


def mentions_over_training(series: dict[int, dict[str, float]]) -> Figure:
    """{step: {fact: loss of its later mentions}}: a line for each fact."""
    fig, axes = plt.subplots(figsize=(7.2, 2.8))
    for fact in next(iter(series.values())):
        losses = [by_fact[fact] for by_fact in series.values()]
        axes.plot(list(series), losses, label=fact, linewidth=1.4, marker=".", markersize=4)
    axes.set(xlabel="step", ylabel="loss of later mentions\n(nats)", ylim=(0, None))
    axes.legend(**BESIDE)
    return fig


def ablations(increase: dict[str, dict[str, float]]) -> Figure:
    """{head: {fact: how much the loss of its later mentions rises without the head, in nats}}."""
    facts = list(next(iter(increase.values())))
    table = np.array([[row[fact] for fact in facts] for row in increase.values()])
    fig, axes = plt.subplots(figsize=(1.6 + 0.85 * len(facts), 0.6 + 0.3 * len(table)))
    most = max(table.max(), 0.1)
    axes.imshow(table, cmap="Blues", vmin=0, vmax=most, aspect="auto")
    for (i, j), value in np.ndenumerate(table):
        colour = "white" if value > 0.6 * most else INK
        shown = round(value, 2) + 0.0  # no "-0.00"
        axes.text(j, i, f"{shown:.2f}", ha="center", va="center", color=colour, fontsize=8)
    axes.set_xticks(range(len(facts)), facts)
    axes.set_yticks(range(len(table)), list(increase), fontsize=8)
    axes.tick_params(length=0)
    axes.grid(False)
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


def next_token_bars(panels: dict[str, Tensor], pieces: list[str]) -> Figure:
    """The twelve likeliest next tokens under different settings: panels of V probabilities, in the
    order of the first.

    pieces: the text of every token of the vocabulary that may be shown, by id.
    """
    order = next(iter(panels.values())).argsort(descending=True)[:12].tolist()
    names = [plain_label(pieces[i].replace("\n", "↵")) for i in order]
    size = (2 * len(panels), 0.6 + 0.19 * 12)
    fig, grid = plt.subplots(1, len(panels), figsize=size, sharey=True, squeeze=False)
    top = 1.05 * max(float(probs.max()) for probs in panels.values())
    for axes, (title, probs) in zip(grid.flat, panels.items()):
        axes.barh(range(12), probs.float().cpu()[order].tolist(), color=BLUE, height=0.7)
        axes.set_title(title, fontsize=9)
        axes.set(xlim=(0, top), xlabel="probability")
        axes.grid(axis="y", visible=False)
    font = {"fontsize": 8, "family": "DejaVu Sans Mono", **PLAIN}
    grid[0, 0].set_yticks(range(12), names, **font)
    grid[0, 0].invert_yaxis()  # shared: the likeliest on top everywhere
    return fig
