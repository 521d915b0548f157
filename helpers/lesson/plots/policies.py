"""Figures of the policies: by gold reward and flaws, or on real rows a panel for each measure."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from helpers.lesson.plots.core import BLUE, GREEN, GREY, ORANGE, PURPLE, grouped_bars
from helpers.run.policy_table import Cell, all_rows

PANELS = {  # column: (title, dotted line at)
    "score": ("score (SFT sd)", 0.0),
    "kl": ("KL from SFT (nats)", 0.0),
    "judge": ("second judge", None),
    "win_rate": ("wins over SFT", 0.5),
    "win_rate_people": ("wins over people", 0.5),
    "ROUGE-L": ("ROUGE-L", None),
    "greedy/ROUGE-L": ("ROUGE-L, greedy", None),
    "stop_rate": ("stop rate", None),
    "words": ("words", None),
    "distinct-2": ("distinct-2", None),
    "perplexity": ("perplexity under SFT", None),
}
ACROSS = 4  # panels in a row


def comparison_figure(
    gold: Mapping[str, tuple[float, float, float]], flaws: Mapping[str, Mapping[str, float]]
) -> Figure:
    """Gold reward of each policy, (mean, low, high), and the share of its responses by flaw."""
    fig, (left, right) = plt.subplots(1, 2, figsize=(9.9, 3.3), width_ratios=(2, 3))
    by_name = {"base": GREY, "SFT": BLUE, "PPO": ORANGE, "oracle PPO": PURPLE}
    colours = [by_name.get(name.partition(",")[0], GREEN) for name in gold]
    alphas = [0.5 if "," in name else 1.0 for name in gold]  # paler: greedy
    means = [mean for mean, _, _ in gold.values()]
    errors = [
        [max(0.0, mean - low) for mean, low, _ in gold.values()],
        [max(0.0, high - mean) for mean, _, high in gold.values()],
    ]
    bars = left.bar(list(gold), means, color=colours, width=0.65)
    for bar, alpha in zip(bars, alphas, strict=True):
        bar.set_alpha(alpha)
    left.tick_params(axis="x", labelsize=8, rotation=40)
    right.tick_params(axis="x", labelsize=8)
    left.errorbar(list(gold), means, errors, fmt="none", ecolor="black", capsize=3, lw=1)
    left.axhline(0, color="#999", lw=0.8)
    left.set(title="gold reward, 95% interval", ylabel="gold reward")
    percent = {
        name: {flaw: 100 * share for flaw, share in shares.items()}
        for name, shares in flaws.items()
    }
    step = 0.8 / len(gold)
    styles = [{"color": c, "alpha": a} for c, a in zip(colours, alphas, strict=True)]
    grouped_bars(right, percent, step, 0.9 * step, styles)
    right.set(title="responses with a flaw", ylabel="%")
    right.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5))
    return fig


def policies_figure(metrics: Mapping) -> Figure:
    """What `helpers.compare.policies` measured on real rows, as dots with 95% intervals. Policies
    come first, then in grey baselines and what people wrote. A panel without a number is left out.
    """
    rows = all_rows(metrics)
    panels = [key for key in PANELS if any(key in row for row in rows.values())]
    down, across = -(-len(panels) // ACROSS), min(ACROSS, len(panels))
    size = (2.1 + 1.95 * across, down * (0.75 + 0.24 * len(rows)))
    fig, axes = plt.subplots(down, across, figsize=size, sharey=True, squeeze=False)
    for ax, key in zip(axes.flat, panels):
        draw_panel(ax, key, rows, len(metrics["table"]))
    for ax in axes.flat[len(panels) :]:
        ax.axis("off")
    axes[0, 0].set_yticks(range(len(rows)), list(rows))
    axes[0, 0].set_ylim(len(rows) - 0.5, -0.5)  # the first row on top
    return fig


def draw_panel(ax: Axes, key: str, rows: Mapping[str, Mapping[str, Cell]], policies: int) -> None:
    """One number of every row; the first `policies` rows are policies."""
    title, line = PANELS[key]
    if line is not None:
        ax.axvline(line, color="#999", lw=0.8, ls=":")
    for place, (name, row) in enumerate(rows.items()):
        if key not in row:
            continue
        value, interval = row[key]
        colour = ORANGE if name == "PPO" else BLUE if place < policies else GREY
        if interval is not None:
            ax.plot(interval, [place, place], color=colour, lw=1.6, solid_capstyle="butt")
        ax.plot(value, place, marker="o" if interval is not None else "|", color=colour, ms=5)
    if key == "perplexity":
        ax.set_xscale("log")
    ax.set_title(title, fontsize=9)
    ax.tick_params(labelsize=8)
    ax.margins(x=0.12)
