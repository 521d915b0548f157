"""Figures of 4-Alternatives: where each objective ends on a toy, the runs, all methods together."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from helpers.lesson.plots.core import BESIDE, BLUE, GREEN, GREY, ORANGE, PURPLE

# A colour for each family: policy gradients, SFT on chosen responses, losses on pairs.
LOOKS = {
    "PPO": (PURPLE, "*"),
    "PPO, paid at the end": (PURPLE, "P"),
    "REINFORCE": (BLUE, "o"),
    "RLOO": (BLUE, "s"),
    "GRPO": (BLUE, "^"),
    "Dr. GRPO": (BLUE, "v"),
    "rejection sampling": (GREEN, "o"),
    "reward-weighted SFT": (GREEN, "s"),
    "random choice": (GREY, "o"),
    "DPO": (ORANGE, "o"),
    "IPO": (ORANGE, "s"),
    "DPO on comparisons": (ORANGE, "^"),
}


def toy_figure(
    probabilities: Mapping[str, Sequence[float]], rewards: Sequence[float], best: str
) -> Figure:
    """Where each objective ends: {name: probability of each token}; `best` is drawn as lines."""
    fig, ax = plt.subplots(figsize=(7.6, 2.8))
    bars = [name for name in probabilities if name != best]
    width, places = 0.8 / len(bars), range(len(rewards))
    for i, (name, colour) in enumerate(zip(bars, (GREY, BLUE, "#8fb6c9", PURPLE, ORANGE, GREEN))):
        left = [place - 0.4 + (i + 0.5) * width for place in places]
        ax.bar(left, probabilities[name], width, color=colour, label=name)
    for place, height in zip(places, probabilities[best], strict=True):
        ax.hlines(height, place - 0.43, place + 0.43, color="black", lw=1.2)
    ax.plot([], [], color="black", lw=1.2, label=best)
    ax.set_xticks(places, [f"reward {reward:g}" for reward in rewards])
    ax.set_ylabel("probability")
    ax.grid(axis="x", visible=False)
    ax.legend(fontsize=7.5, **BESIDE)
    return fig


def runs_figure(histories: Mapping[str, Sequence[Mapping[str, float]]]) -> Figure:
    """Score and KL over the iterations of several runs."""
    fig, axes = plt.subplots(1, 2, figsize=(9.0, 3.0))
    for name, history in histories.items():
        colour, marker = LOOKS[name]
        for ax, key in zip(axes, ("score", "kl"), strict=True):
            values = [row[key] for row in history]
            style = {"color": colour, "marker": marker, "ms": 4, "lw": 1}
            ax.plot(range(1, len(values) + 1), values, label=name, **style)
    for ax, label in zip(axes, ("score", "KL, nats per response"), strict=True):
        ax.set(xlabel="iteration", ylabel=label)
    axes[1].legend(fontsize=7.5, **BESIDE)
    return fig


def methods_figure(
    points: Mapping[str, Sequence[tuple[float, float]]],
    curves: Mapping[str, Mapping[str, Sequence[float]]],
    cooled: Sequence[tuple[float, float]],
    highest: float,
) -> Figure:
    """Gold reward against KL for all methods, and once more the upper end alone.

    points: {name: (kl, gold) of each seed}; the mean is drawn large, with its 95% interval over the
    seeds where there are several. curves: {name: best of n, "kl" and "gold"}. cooled: (kl, gold) of
    SFT at each temperature. highest: the highest gold reward that is possible.
    """
    fig, (whole, near) = plt.subplots(1, 2, figsize=(10.2, 4.2))
    for ax in (whole, near):
        ax.axhline(highest, color="#999", ls=":", lw=1, label="highest possible")
        for (name, curve), style in zip(curves.items(), ("k.-", "k.:")):
            ax.plot(curve["kl"], curve["gold"], style, lw=1, ms=3, label=name)
        ax.plot(*zip(*cooled), "x--", color=GREY, lw=0.8, ms=5, label="SFT, cooled")
        for name, places in points.items():
            draw_method(ax, name, places)
        ax.set_xlabel("KL from the SFT model, nats per response")
    centres = [tuple(map(mean, zip(*places))) for places in points.values()]
    kls, golds = zip(*[centre for centre in centres if centre[1] > 0.6 * highest] or centres)
    near.set(xlim=(min(kls) - 1.5, max(kls) + 1.5), ylim=(min(golds) - 0.7, highest + 0.2))
    near.set_title("the upper end", fontsize=9)
    whole.set_ylabel("gold reward")
    near.legend(fontsize=7.5, **BESIDE)
    return fig


def draw_method(ax: Axes, name: str, places: Sequence[tuple[float, float]]) -> None:
    """A method's seeds, small, and their mean with its 95% interval."""
    colour, marker = LOOKS[name]
    kl, gold = zip(*places)
    if len(places) > 1:
        ax.plot(kl, gold, marker, color=colour, ms=3, alpha=0.35, mew=0)
    error = half_interval(gold) if len(places) > 1 else None
    size = 13 if marker == "*" else 8
    style = {"color": colour, "marker": marker, "ms": size, "mec": "white", "capsize": 2}
    ax.errorbar(mean(kl), mean(gold), yerr=error, ls="", label=name, **style)


def mean(values: Sequence[float]) -> float:
    """The mean of some numbers."""
    return sum(values) / len(values)


def half_interval(values: Sequence[float]) -> float:
    """Half the width of a normal 95% interval of the mean of independent values."""
    centre, n = mean(values), len(values)
    return 1.96 * (sum((value - centre) ** 2 for value in values) / (n - 1) / n) ** 0.5
