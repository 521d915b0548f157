"""Figures of 3-PPO on a run: training as it goes on, the ceiling, over-optimisation."""

import math
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from helpers.engine.progress import LiveOutput, in_notebook
from helpers.lesson.plots.core import BLUE, GREEN, ORANGE, PURPLE

PANELS = {  # metric: title with its unit
    "score": "score (reward model)",
    "gold": "gold reward",
    "kl": "KL (nats per response)",
    "entropy": "entropy (nats per token)",
    "clip_fraction": "clip fraction",
    "explained_variance": "explained variance",
    "length": "length (tokens)",
    "stop_rate": "stop rate",
}


def training_figure(
    history: Sequence[Mapping[str, float]], iterations: int | None = None
) -> Figure:
    """Eight panels of a PPO run, one point per iteration. An unknown gold reward is named so."""
    fig, axes = plt.subplots(2, 4, figsize=(9.9, 4.2))
    steps = [row["step"] for row in history]
    for i, (ax, (name, title)) in enumerate(zip(axes.flat, PANELS.items(), strict=True)):
        if name in history[0]:
            style = {"color": (BLUE, GREEN, ORANGE, PURPLE)[i % 4], "marker": ".", "ms": 4}
            ax.plot(steps, [row[name] for row in history], lw=1.2, **style)
        else:
            centred = {"ha": "center", "va": "center", "transform": ax.transAxes}
            ax.text(0.5, 0.5, "not known\nfor real rows", fontsize=8, **centred)
        ax.set_title(title, fontsize=9.5)
        ax.set_xlim(0, (iterations or len(steps)) + 1)
        ax.tick_params(labelsize=8)
    axes[0, 2].set_ylim(bottom=min(0.0, axes[0, 2].get_ylim()[0]))
    axes[1, 1].set_ylim(max(-1.0, axes[1, 1].get_ylim()[0]), 1.0)  # a bad start would hide the rest
    axes[1, 3].set_ylim(min(0.9, axes[1, 3].get_ylim()[0]), 1.005)
    for ax in axes[1]:
        ax.set_xlabel("iteration", fontsize=9)
    return fig


class Dashboard:
    """Redraws the training figure in place, at most about ten times a run. Give it to
    `course.loop(watch=...)`.

    Run headless, the notebook keeps the last picture only; outside a notebook nothing is drawn.
    """

    def __init__(self, iterations: int):
        self.iterations, self.every = iterations, max(1, math.ceil(iterations / 10))
        self.output, self.drawn = LiveOutput(), 0

    def __call__(self, history: Sequence[Mapping[str, float]]) -> None:
        done = len(history)
        if done < self.iterations and (done < 2 or done % self.every):
            return
        if not in_notebook():
            return
        fig = training_figure(history, self.iterations)
        self.output.show(fig)
        plt.close(fig)  # or the cell would show it a second time when it ends
        self.drawn += 1


def ceiling_figure(
    frontier: Mapping[str, Sequence[float]],
    runs: Mapping[str, Sequence[Mapping[str, float]]],
    points: Mapping[str, Sequence[tuple[str, float, float]]],
    highest: float,
) -> Figure:
    """Gold reward against KL.

    frontier: best of n by the gold reward ("kl", "gold", "n"). runs: {name: a PPO run's metrics}.
    points: {name: (label, kl, gold) of each}. highest: the highest gold reward that is possible.
    """
    fig, ax = plt.subplots(figsize=(8.0, 4.2))
    ax.axhline(highest, color="#999", ls=":", lw=1, label="highest possible")
    ax.plot(frontier["kl"], frontier["gold"], "k.-", lw=1, label="best of n by the gold reward")
    for n, kl, gold in zip(frontier["n"], frontier["kl"], frontier["gold"], strict=True):
        ax.annotate(str(n), (kl, gold), (0, 5), textcoords="offset points", fontsize=7)
    for (name, history), colour in zip(runs.items(), (GREEN, PURPLE)):
        kl, gold = ([row[key] for row in history] for key in ("kl", "gold"))
        smooth = [[mean_of(x[max(0, i - 2) : i + 1]) for i in range(len(x))] for x in (kl, gold)]
        ax.plot(*smooth, color=colour, lw=1.2, alpha=0.7, label=f"{name}, over its iterations")
    for (name, places), colour in zip(points.items(), (BLUE, GREEN, PURPLE, ORANGE)):
        _, kl, gold = zip(*places)
        ax.plot(kl, gold, "o--", color=colour, ms=5, lw=0.8, label=name)
        for label, x, y in places:
            ax.annotate(label, (x, y), (6, -9), textcoords="offset points", fontsize=7.5)
    ax.set(xlabel="KL from the SFT model, nats per response", ylabel="gold reward")
    ax.legend(fontsize=7.5, loc="center left", bbox_to_anchor=(1.01, 0.5))
    return fig


def mean_of(values: Sequence[float]) -> float:
    """The mean of some numbers."""
    return sum(values) / len(values)
