"""Figures of 1b-Adapters: the 16 values of NF4, and what each way of training costs."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from torch import Tensor

from helpers.lesson.plots.core import BESIDE, BLUE, GREY, ORANGE

PARTS = {"weights": "#9fb8c4", "gradients": "#e3b593", "optimizer": ORANGE}


def values_figure(scaled: Tensor, values: Sequence[float]) -> Figure:
    """A weight's numbers, each block divided by its largest, among NF4's 16 values."""
    even = [-1 + 2 * step / 15 for step in range(16)]
    fig, ax = plt.subplots(figsize=(7.2, 2.6))
    style = {"bins": 81, "density": True, "color": "#d5dde1"}
    ax.hist(scaled.flatten().tolist(), label="numbers of a weight", **style)
    top = ax.get_ylim()[1]
    ax.vlines(values, 0, top, color=BLUE, lw=1.2, label="NF4's 16 values")
    style = {"color": ORANGE, "ms": 9, "mew": 1.6, "clip_on": False}
    ax.plot(even, [-0.06 * top] * 16, "|", label="16 even steps", **style)
    ax.set(xlabel="number / largest of its block of 64", ylabel="density", ylim=(-0.12 * top, top))
    ax.legend(fontsize=8, **BESIDE)
    return fig


def cost_figure(
    losses: Mapping[str, float], base: float, sizes: Mapping[str, Mapping[str, int]], title: str
) -> Figure:
    """Each way's held-out loss after equal steps, and its bytes {way: {part: bytes}}."""
    fig, (left, right) = plt.subplots(1, 2, figsize=(8.4, 2.8))
    left.bar(losses.keys(), losses.values(), 0.6, color=BLUE)
    left.axhline(base, color=GREY, ls=":", label="base model")
    left.set(title="held-out loss, equal steps", ylabel="nats per completion token")
    left.legend(fontsize=8)
    bottom = [0.0] * len(sizes)
    for part, colour in PARTS.items():
        heights = [size[part] / 2**20 for size in sizes.values()]
        right.bar(list(sizes), heights, 0.6, bottom=bottom, color=colour, label=part)
        bottom = [low + height for low, height in zip(bottom, heights, strict=True)]
    right.set(title=title, ylabel="MiB")
    right.legend(fontsize=8)
    for ax in (left, right):
        ax.grid(axis="x", visible=False)
    return fig
