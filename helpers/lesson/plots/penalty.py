"""Figures of 3-PPO's last experiment: two reward models, with the KL penalty and without."""

import math
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from helpers.lesson.plots.core import BLUE, GREEN
from helpers.lesson.plots.ppo_run import mean_of

SMOOTHED = 5  # iterations


def smooth(values: Sequence[float]) -> list[float]:
    """Means of the last few values."""
    return [mean_of(values[max(0, i - SMOOTHED + 1) : i + 1]) for i in range(len(values))]


def draw_runs(ax: Axes, runs: Sequence[Mapping]) -> None:
    """Score and gold reward of some recorded runs against sqrt(KL), as gains in SFT standard
    deviations; a line for each run.
    """
    lines = {
        "score": (BLUE, "-", "score: what PPO sees"),
        "gold": (GREEN, "--", "gold: what we want"),
    }
    for i, run in enumerate(runs):
        curves, sft = run["curves"], run["sft"]
        x = [math.sqrt(max(0.0, kl)) for kl in smooth(curves["kl"])]
        gains = {
            "score": [score - sft["score"] for score in curves["score"]],
            "gold": [(gold - sft["gold"]) / sft["gold_std"] for gold in curves["gold"]],
        }
        for name, (colour, style, label) in lines.items():
            look = {"color": colour, "ls": style, "lw": 1.4, "label": "" if i else label}
            ax.plot(x, smooth(gains[name]), **look)
    ax.axhline(0, color="#999", lw=0.8)


def penalty_figure(panels: Mapping[str, Sequence[Mapping]], columns: int = 2) -> Figure:
    """A panel for each set of recorded runs, {title: runs}, all on the same axes."""
    rows = math.ceil(len(panels) / columns)
    size = (4.3 * columns, 2.5 * rows + 0.3)
    share = {"sharex": True, "sharey": True, "squeeze": False}
    fig, axes = plt.subplots(rows, columns, figsize=size, **share)
    for ax, (title, runs) in zip(axes.flat, panels.items(), strict=False):
        draw_runs(ax, runs)
        ax.set_title(title, fontsize=9)
    for ax in axes[-1]:
        ax.set_xlabel("distance from SFT, sqrt(KL in nats)")
    for ax in axes[:, 0]:
        ax.set_ylabel("SFT standard deviations")
    axes[0, 0].legend(fontsize=8, loc="upper left", framealpha=0.6)
    return fig
