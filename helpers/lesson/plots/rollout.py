"""Figures of 3-PPO on rollouts: the loop, a batch of responses, numbers along one of them."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import torch
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Patch
from torch import Tensor

from helpers.lesson.plots.core import BLUE, ORANGE, label_tokens

TRAINED, FIXED, DATA = "#f6ddc9", "#d5e5ec", "#ffffff"
BOXES = {  # name: (text, x, y, fill)
    "prompts": ("prompts", 0.0, 1.0, DATA),
    "policy": ("policy\n(trained)", 2.2, 1.0, TRAINED),
    "responses": ("responses", 4.4, 1.0, DATA),
    "reward model": ("reward model\n(fixed)", 6.8, 2.0, FIXED),
    "reference": ("reference\n(fixed)", 6.8, 1.0, FIXED),
    "value model": ("value model\n(trained)", 6.8, 0.0, TRAINED),
    "rewards": ("reward for\nevery token", 9.2, 1.5, DATA),
    "advantages": ("advantage of\nevery token", 11.4, 0.75, DATA),
}
ARROWS = [
    ("prompts", "policy", ""),
    ("policy", "responses", ""),
    ("responses", "reward model", ""),
    ("responses", "reference", ""),
    ("responses", "value model", ""),
    ("reward model", "rewards", "score"),
    ("reference", "rewards", "KL"),
    ("rewards", "advantages", ""),
    ("value model", "advantages", "values"),
]
WIDTH, HEIGHT = 1.7, 0.7


def loop_figure() -> Figure:
    """One iteration of PPO: who reads what, and who is trained on it."""
    fig, ax = plt.subplots(figsize=(9.6, 2.9))
    rounded = {"boxstyle": "round,pad=0.02", "ec": "#888", "lw": 1}
    for text, x, y, fill in BOXES.values():
        ax.add_patch(FancyBboxPatch((x, y - HEIGHT / 2), WIDTH, HEIGHT, fc=fill, **rounded))
        ax.text(x + WIDTH / 2, y, text, ha="center", va="center", fontsize=8.5)
    style = {"arrowstyle": "-|>", "color": "#777", "lw": 1.1}
    for start, end, label in ARROWS:
        (_, x0, y0, _), (_, x1, y1, _) = BOXES[start], BOXES[end]
        ax.annotate("", (x1, y1), (x0 + WIDTH, y0), arrowprops=style)
        middle = (x0 + WIDTH + x1) / 2, (y0 + y1) / 2 + 0.1
        ax.text(*middle, label, ha="center", fontsize=7.5, color="#555")
    start, end = (BOXES[name][1] + WIDTH / 2 for name in ("advantages", "policy"))
    ax.plot([start, start, end], [0.4, -0.75, -0.75], color=ORANGE, lw=1.2)
    ax.annotate("", (end, 0.62), (end, -0.77), arrowprops={**style, "color": ORANGE})
    update = "update policy and value model, a few small steps; then sample again"
    ax.text(5.2, -0.68, update, fontsize=8, color=ORANGE)
    ax.set(xlim=(-0.2, 13.3), ylim=(-1, 2.5))
    ax.axis("off")
    return fig


def batch_figure(ids: Tensor, mask: Tensor, P: int, eos_id: int) -> Figure:
    """The places of prompt, response, end of text and pads in a batch (B, P + R)."""
    kind = torch.where(torch.arange(ids.size(1)) < P, 1, 2).expand_as(ids).clone()
    kind[:, P:][ids[:, P:] == eos_id] = 3
    kind[~mask.bool()] = 0
    colours = {"pad": "#f4f4f1", "prompt": "#9db8c4", "response": "#e8b48f", "end of text": ORANGE}
    fig, ax = plt.subplots(figsize=(9, 0.6 + 0.11 * len(ids)))
    cmap = ListedColormap(list(colours.values()))
    ax.imshow(kind.cpu(), aspect="auto", interpolation="none", cmap=cmap, vmin=0, vmax=3)
    ax.axvline(P - 0.5, color="black", lw=1)
    ax.set(xlabel="column (tokens)", ylabel="row")
    ax.grid(False)
    patches = [Patch(fc=colour, ec="#bbb", label=name) for name, colour in colours.items()]
    ax.legend(handles=patches, ncols=4, fontsize=8, loc="lower left", bbox_to_anchor=(0, 1.0))
    return fig


def response_figure(tokens: Sequence[str], panels: Mapping[str, Mapping[str, Tensor]]) -> Figure:
    """Numbers along one response, {panel: {label: (R,)}}: one series as bars, several as lines."""
    size = (9.2, 0.9 + 1.35 * len(panels))
    fig, axes = plt.subplots(len(panels), 1, figsize=size, sharex=True, squeeze=False)
    places = range(len(tokens))
    for ax, (title, series) in zip(axes[:, 0], panels.items(), strict=True):
        for label, numbers in series.items():
            if len(series) == 1:
                colours = [BLUE if x >= 0 else ORANGE for x in numbers]
                ax.bar(places, numbers.tolist(), color=colours)
            else:
                ax.plot(places, numbers.tolist(), marker="o", ms=3, label=label)
                ax.legend(fontsize=8, ncols=len(series), loc="lower right", bbox_to_anchor=(1, 1.0))
        ax.axhline(0, color="#999", lw=0.8)
        ax.set_title(title, fontsize=9.5)
    label_tokens(axes[-1, 0], tokens)
    return fig
