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
    healthy: Sequence[Mapping[str, float]],
    names: Sequence[str],
    ill: Sequence[Mapping[str, float]] = (),
) -> Figure:
    """Some columns of a healthy run's log (grey), and of an ill one's (orange)."""
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


SIZE_COLOURS = (BLUE, GREEN, PURPLE)


def overoptimisation_figure(
    paths: Mapping[str, Mapping[int, Sequence[Mapping[str, Sequence[float]]]]],
    fits: Mapping[str, Mapping[int, tuple[Sequence[float], Sequence[float]]]],
) -> Figure:
    """Score and gold reward over the square root of the KL, a column for each panel.

    paths: {panel: {comparisons: [{"kl", "score", "gold"} of each seed]}}, drawn thin. fits: {panel:
    {comparisons: (square roots of KL, gold)}}, drawn bold.
    """
    fig, axes = plt.subplots(
        2, len(paths), figsize=(3.3 * len(paths), 4.4), sharex="col", sharey="row", squeeze=False
    )
    for column, (panel, of_size) in zip(axes.T, paths.items(), strict=True):
        for (size, of_seed), colour in zip(of_size.items(), SIZE_COLOURS):
            thin = {"color": colour, "lw": 0.9, "alpha": 0.6}
            for path in of_seed:
                distance = [kl**0.5 for kl in path["kl"]]
                for ax, key in zip(column, ("score", "gold"), strict=True):
                    ax.plot(distance, path[key], **thin)
            if size in fits[panel]:
                column[1].plot(*fits[panel][size], color=colour, lw=2)
            column[0].plot([], [], color=colour, label=f"{size:,} comparisons")
        column[0].set_title(panel, fontsize=9)
        column[1].set_xlabel(r"$\sqrt{\mathrm{KL}}$", fontsize=9)
    for ax, label in zip(axes[:, 0], ("score", "gold reward"), strict=True):
        ax.set_ylabel(label)
    axes[0, -1].legend(fontsize=7, loc="upper left")
    return fig


def accuracy_figure(
    points: Mapping[str, Mapping[str, Sequence[tuple[float, float, int]]]], sft: float
) -> Figure:
    """Gold reward against the accuracy of the reward model, a panel for each way to use one:
    {panel: {kind: (accuracy, gold, comparisons) of each reward model}}; a larger mark for more
    comparisons. sft: the gold reward of the SFT model.
    """
    fig, axes = plt.subplots(1, len(points), figsize=(7.6, 2.8), sharey=True, squeeze=False)
    sizes = sorted(
        {size for kinds in points.values() for some in kinds.values() for *_, size in some}
    )
    for ax, (panel, of_kind) in zip(axes[0], points.items(), strict=True):
        ax.axhline(sft, color=GREY, ls=":", lw=1, label="SFT")
        for (kind, places), colour, marker in zip(of_kind.items(), (ORANGE, BLUE), "os"):
            for accuracy, gold, size in places:
                ms = 4 + 2 * sizes.index(size)
                ax.plot(accuracy, gold, marker, color=colour, ms=ms, alpha=0.7, mec="white")
            ax.plot([], [], marker, color=colour, label=kind)
        ax.set_title(panel, fontsize=9)
        ax.set_xlabel("accuracy of the reward model")
    axes[0, 0].set_ylabel("gold reward")
    axes[0, 0].legend(fontsize=8, loc="lower right")
    return fig
