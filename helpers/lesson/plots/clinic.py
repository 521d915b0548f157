"""Figures of 5-Clinic: a mistake's signature beside a healthy run, KL controllers."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from helpers.lesson.plots.core import BLUE, GREEN, GREY, ORANGE, PURPLE

TITLES = {
    "kl": "KL, nats per response",
    "ratio_off": "ratio - 1, first minibatch",
    "surprise - entropy": "surprise - entropy, nats",
    "score": "score",
    "score_std": "std of the scores",
    "gold": "gold reward",
    "length": "length, tokens",
    "length_std": "std of the lengths",
    "stop_rate": "stop rate",
    "entropy": "entropy, nats per token",
    "clip_fraction": "clip fraction",
    "explained_variance": "explained variance",
    "value_loss": "value loss",
    "advantage": "mean advantage",
    "return_std": "std of the returns",
}


def column(history: Sequence[Mapping[str, float]], name: str) -> list[float]:
    """A column of a log; "a - b" is a difference of two."""
    first, _, second = name.partition(" - ")
    return [row[first] - (row[second] if second else 0.0) for row in history]


def signature_figure(
    healthy: Sequence[Mapping[str, float]], ill: Sequence[Mapping[str, float]], names: Sequence[str]
) -> Figure:
    """Some columns of a log (orange) beside those of a healthy run (grey)."""
    fig, axes = plt.subplots(1, len(names), figsize=(2.3 * len(names), 1.55), squeeze=False)
    for ax, name in zip(axes[0], names, strict=True):
        for history, colour in ((healthy, GREY), (ill, ORANGE)):
            steps = [row["step"] for row in history]
            ax.plot(steps, column(history, name), ".-", color=colour, lw=1.2, ms=4)
        ax.set_title(TITLES[name], fontsize=8)
        ax.set_xlabel("iteration", fontsize=7)
        ax.tick_params(labelsize=7)
    return fig


def controller_figure(curves: Mapping[str, Sequence[float]], target: float) -> Figure:
    """The KL over the rollouts with several controllers."""
    fig, ax = plt.subplots(figsize=(6.4, 2.6))
    ax.axhline(target, color=GREY, ls=":", lw=1, label="target")
    for (name, kls), colour in zip(curves.items(), (ORANGE, BLUE, GREEN, PURPLE)):
        ax.plot(kls, color=colour, lw=1.2, label=name)
    ax.set(xlabel="rollout", ylabel="KL, nats")
    ax.legend(fontsize=8)
    return fig
