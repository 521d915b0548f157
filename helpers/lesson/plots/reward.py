"""Figures of 2-RM-Training: pairs and their scores, training, accuracy, calibration, best-of-n."""

import math
from collections.abc import Iterable, Sequence

import matplotlib.pyplot as plt
import torch
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from torch import Tensor

from helpers.lesson.plots.core import BLUE, GREEN, GREY, INK, ORANGE, PALE, PURPLE, label_tokens

CHOSEN, REJECTED, GOLD = BLUE, ORANGE, GREEN
KINDS = ("hallucinating", "questionless", "copying", "verbose", "incomplete", "bare", "mixed")
KIND_COLOURS = dict(zip(KINDS, (ORANGE, BLUE, GREEN, PURPLE, GREY, INK, PALE), strict=True))


def kinds_in(kinds: Iterable[str]) -> list[str]:
    """The different kinds of pairs, those of tldr first and in their order."""
    present = set(kinds)
    return [kind for kind in KINDS if kind in present] + sorted(present - set(KINDS))


def overview() -> Figure:
    """What the notebook builds: two texts through one model, two scores, one probability."""
    fig, ax = plt.subplots(figsize=(7.6, 2.3))
    ax.set(xlim=(0, 10), ylim=(0, 3))
    ax.axis("off")

    boxes = [
        (1.2, 2.3, "post + summary A", CHOSEN),
        (1.2, 0.7, "post + summary B", REJECTED),
        (4.2, 1.5, "GPT from 1-SFT\n+ one linear row\n+ one weight", GREY),
        (6.6, 2.3, "score A", CHOSEN),
        (6.6, 0.7, "score B", REJECTED),
        (8.9, 1.5, "P(A preferred) =\nsigmoid(A - B)", GREY),
    ]
    frame = {"boxstyle": "round,pad=0.45", "facecolor": "white", "linewidth": 1.6}
    for x, y, text, colour in boxes:
        box = frame | {"edgecolor": colour}
        ax.text(x, y, text, ha="center", va="center", bbox=box, fontsize=9)
    arrow = {"arrowstyle": "->", "color": GREY, "linewidth": 1.2}
    for start, end in [
        ((2.3, 2.2), (3.2, 1.75)),
        ((2.3, 0.8), (3.2, 1.25)),
        ((5.2, 1.75), (6.1, 2.2)),
        ((5.2, 1.25), (6.1, 0.8)),
        ((7.1, 2.2), (7.85, 1.75)),
        ((7.1, 0.8), (7.85, 1.25)),
    ]:
        ax.annotate("", end, start, arrowprops=arrow)
    return fig


def bradley_terry(chosen: float, rejected: float) -> Figure:
    """Probability, loss and gradient against the gap of two scores, with a dot at the gap given."""
    gap, here = torch.linspace(-6, 6, 241), torch.tensor(chosen - rejected)
    curves = {
        "P(chosen wins)": (torch.sigmoid, CHOSEN),
        "loss in nats": (lambda g: -torch.nn.functional.logsigmoid(g), REJECTED),
        "d loss / d chosen": (lambda g: torch.sigmoid(g) - 1, GOLD),
    }
    fig, axes = plt.subplots(1, 3, figsize=(7.6, 2.6))
    for ax, (title, (curve, colour)) in zip(axes, curves.items()):
        ax.plot(gap, curve(gap), color=colour)
        dot = here.clamp(-6, 6)
        ax.plot(dot, curve(dot), "o", color=colour, markersize=8)
        ax.axvline(0, color=GREY, linewidth=0.8)
        ax.set(title=f"{title}: {curve(here).item():.3f}", xlabel="chosen - rejected")
    return fig


def pair_mask(visible: Tensor, labels: Sequence[str], parts: Sequence[int]) -> Figure:
    """Which token (row) sees which (column), (T, T); parts: 0 prompt, 1 chosen, 2 rejected."""
    part = torch.tensor(parts)
    colour = torch.where(visible, part[None, :] + 1, 0)  # a column keeps its part's colour
    fig, ax = plt.subplots(figsize=(4.4, 3.9))
    shades = ListedColormap(["#f3f3f0", PALE, CHOSEN, REJECTED])
    ax.imshow(colour, cmap=shades, vmin=0, vmax=3)
    ticks = range(len(labels))
    ax.set_xticks(ticks, labels, rotation=90, fontsize=8)
    ax.set_yticks(ticks, labels, fontsize=8)
    ax.set(xlabel="token that is seen", ylabel="token that sees it")
    edges = [t - 0.5 for t in ticks]
    ax.set_xticks(edges, minor=True)
    ax.set_yticks(edges, minor=True)
    ax.grid(False)
    ax.grid(which="minor", color="white", linewidth=1.5)
    ax.tick_params(which="minor", length=0)
    return fig


def training(history: Sequence[dict], floor: float, window: int, loss: str = "pairwise") -> Figure:
    """Loss and accuracy of the training batches, averaged over `window` steps, against the
    annotators' (NaN: not known).

    loss: "pairwise", or "label" for training on labels.
    """
    fig, axes = plt.subplots(1, 2, figsize=(7.6, 2.8))
    names = {"loss": f"{loss} loss (nats)", "accuracy": "accuracy on the batch"}
    for ax, (name, label), colour in zip(axes, names.items(), (REJECTED, CHOSEN)):
        values = torch.tensor([step[name] for step in history])
        smooth = values.unfold(0, window, 1).mean(-1)  # (steps - window + 1,)
        ax.plot(range(1, len(values) + 1), values, color=colour, alpha=0.2, linewidth=0.8)
        ax.plot(range(window, len(values) + 1), smooth, color=colour)
        ax.set(xlabel="step", ylabel=label)
    axes[0].axhline(torch.log(torch.tensor(2.0)), color=GREY, linestyle=":", label="coin: ln 2")
    if not math.isnan(floor):
        axes[0].axhline(floor, color=GREY, linestyle="--", label="floor: the annotators' own noise")
    axes[0].legend(fontsize=8)
    axes[1].axhline(0.5, color=GREY, linestyle=":")
    return fig


def learning_curves(histories: dict[str, Sequence[dict]], floor: float) -> Figure:
    """The loss of several trainings on one axis, averaged over ten steps; floor: of the annotators
    (NaN: not known).
    """
    fig, ax = plt.subplots(figsize=(7.2, 2.8))
    for (name, history), colour in zip(histories.items(), (REJECTED, CHOSEN)):
        values = torch.tensor([step["loss"] for step in history])
        smooth = values.unfold(0, 10, 1).mean(-1)  # (steps - 9,)
        ax.plot(range(10, len(values) + 1), smooth, color=colour, label=name)
    ax.axhline(math.log(2), color=GREY, linestyle=":", label="coin: ln 2")
    if not math.isnan(floor):
        ax.axhline(floor, color=GREY, linestyle="--", label="floor: the annotators' own noise")
    ax.set(xlabel="step", ylabel="pairwise loss (nats)")
    ax.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.01, 1))
    return fig


def accuracies(rows: dict[str, tuple[float, float, float]], bayes: float) -> Figure:
    """A bar per model, {name: (accuracy, low, high)}, chance, and Bayes accuracy (may be NaN)."""
    fig, ax = plt.subplots(figsize=(7.2, 0.7 + 0.45 * len(rows)))
    for y, (value, low, high) in enumerate(rows.values()):
        ax.barh(y, value, color=CHOSEN if y == len(rows) - 1 else PALE, height=0.6)
        ax.plot([low, high], [y, y], color="black", linewidth=1.4)
    for name, level, style in (("Bayes", bayes, "--"), ("chance", 0.5, ":")):
        if not math.isnan(level):
            ax.axvline(level, color=GREY, linestyle=style)
            ax.text(level, -0.75, f" {name}", color=GREY, fontsize=8, va="center")
    ax.set_yticks(range(len(rows)), rows)
    ax.set(xlim=(0, 1), ylim=(len(rows) - 0.5, -1))
    ax.set_xlabel("accuracy on held-out comparisons")
    return fig


def by_kind(bars: dict[str, tuple[float, float, float]], bayes: dict[str, float]) -> Figure:
    """Accuracy by kind of pair, (accuracy, low, high), and Bayes accuracies (may be NaN)."""
    fig, ax = plt.subplots(figsize=(7.2, 2.8))
    for x, (kind, (value, low, high)) in enumerate(bars.items()):
        ax.bar(x, value, color=KIND_COLOURS.get(kind, f"C{x}"), width=0.6)
        ax.plot([x, x], [low, high], color="black", linewidth=1.4)
        ends = [x - 0.36, x + 0.36]
        ax.plot(ends, [bayes[kind]] * 2, color="black", linestyle="--", linewidth=1.2)
    ax.axhline(0.5, color=GREY, linestyle=":")
    ax.set_xticks(range(len(bars)), bars, fontsize=8)
    ax.set(ylim=(0, 1), ylabel="accuracy")
    ax.set_title("dashed: Bayes accuracy of the kind; dotted: chance")
    return fig


def calibration(
    promised: Sequence[float],
    observed: Sequence[float],
    true: Sequence[float],
    counts: Sequence[int],
) -> Figure:
    """Predicted probability against observed agreement; `true` is the annotators', or NaN."""
    fig, ax = plt.subplots(figsize=(4.4, 3.4))
    ax.plot([0.5, 1], [0.5, 1], color=GREY, linestyle=":", label="perfectly calibrated")
    sizes = [20 + count / 4 for count in counts]
    ax.scatter(promised, observed, sizes, color=CHOSEN, alpha=0.8, label="observed")
    if not math.isnan(true[0]):
        line = {"color": INK, "markersize": 18, "markeredgewidth": 2, "zorder": 3}
        ax.plot(promised, true, "_", **line, label="true agreement")
    ax.set(xlabel="predicted probability of the pick", xlim=(0.48, 1.02))
    ax.set(ylabel="annotators agree", ylim=(0.3, 1.02))
    ax.legend(fontsize=8, loc="lower right")
    return fig


def gaps(gap: Tensor, margin: Tensor, kinds: Sequence[str], name: str) -> Figure:
    """The model's margin against another gap (N,), the annotators' log-odds if they are known."""
    fig, ax = plt.subplots(figsize=(6.2, 3.6))
    gold = name.startswith("gold")
    limit = 5.0 if gold else gap.abs().max().item()
    x, y = gap.clamp(-limit, limit), margin.clamp(-10.0, 10.0)
    for number, kind in enumerate(kinds_in(kinds)[::-1]):
        rows = [i for i, other in enumerate(kinds) if other == kind]
        style = {"color": KIND_COLOURS.get(kind, f"C{number}"), "alpha": 0.5, "linewidths": 0}
        ax.scatter(x[rows], y[rows], 7, label=kind, **style)
    if gold:
        ax.axline((0, 0), slope=1, color=GREY, linestyle=":")
    ax.axhline(0, color=GREY, linewidth=0.8)
    ax.axvline(0, color=GREY, linewidth=0.8)
    ax.set(xlabel=name, ylabel="margin of the model")
    ax.legend(fontsize=8, markerscale=2)
    return fig


def token_scores(rows: dict[str, tuple[Sequence[str], Tensor]], start: str) -> Figure:
    """The score after each token of one or more completions: {title: (pieces (R,), values (R +
    1,))}.

    values[0] is the score before the first token, at the end of the prompt: `start` names that
    place. Bars are the changes, coloured by sign.
    """
    fig, axes = plt.subplots(len(rows), 1, figsize=(7.6, 2.1 * len(rows) + 0.3), squeeze=False)
    every = torch.cat([values for _, values in rows.values()])
    limits = every.min().item() - 0.3, every.max().item() + 0.3
    for ax, (title, (pieces, values)) in zip(axes[:, 0], rows.items(), strict=True):
        change = values[1:] - values[:-1]
        colours = [CHOSEN if c >= 0 else REJECTED for c in change]
        places = range(1, len(pieces) + 1)
        ax.bar(places, change, bottom=values[:-1], color=colours, width=0.8)
        ax.plot(values, color="black", linewidth=0.8, marker=".", markersize=4)
        label_tokens(ax, [start, *(piece.strip() or "·" for piece in pieces)], size=7)
        ax.set(ylim=limits, xlim=(-0.7, len(pieces) + 0.7), ylabel="score so far")
        ax.set_title(title, fontsize=9)
        ax.grid(axis="x", visible=False)
    return fig


def score_histogram(scores: Tensor, mean: float, std: float) -> Figure:
    """Normalised scores; the axis on top has the raw ones."""
    fig, ax = plt.subplots(figsize=(6.2, 2.8))
    ax.hist(scores, bins=30, color=CHOSEN, alpha=0.85)
    ax.axvline(scores.mean(), color="black", linewidth=1.2)
    ax.set(xlabel="score after normalising", ylabel="samples of the SFT model")
    both_ways = (lambda score: score * std + mean, lambda raw: (raw - mean) / std)
    top = ax.secondary_xaxis("top", functions=both_ways)
    top.set_xlabel("raw score")
    return fig


def score_and_gold(scores: Tensor, golds: Tensor, flawed: Tensor, flaw: str, unit: str) -> Figure:
    """The score of sampled responses against their gold reward, or whatever `unit` says that
    `golds` are. flawed: 1 where a response has the flaw, 0 where not.
    """
    fig, ax = plt.subplots(figsize=(6.2, 3.2))
    for flag, colour, label in ((0, CHOSEN, f"without {flaw}"), (1, REJECTED, f"with {flaw}")):
        here = flawed == flag
        style = {"color": colour, "alpha": 0.6, "linewidths": 0}
        ax.scatter(golds[here], scores[here], 10, label=label, **style)
    ax.legend(fontsize=8)
    ax.set(xlabel=unit, ylabel="score")
    return fig


def best_of_n(
    ns: Sequence[int], kls: Sequence[float], curves: dict[str, tuple[Tensor, Tensor, Tensor, str]]
) -> Figure:
    """Two panels by unit against the KL bound: {name: (mean, low, high, unit)}, each (len(ns),)."""
    fig, axes = plt.subplots(1, 2, figsize=(7.6, 3.0))
    for ax, unit in zip(axes, dict.fromkeys(unit for *_, unit in curves.values())):
        for name, (mean, low, high, ylabel) in curves.items():
            if ylabel == unit:
                (line,) = ax.plot(kls, mean, marker="o", label=name)
                ax.fill_between(kls, low, high, color=line.get_color(), alpha=0.15, linewidth=0)
        ax.set_xticks(kls, [f"{kl:.2f}\nn = {n}" for n, kl in zip(ns, kls)], fontsize=8)
        ax.set(xlabel="KL bound (nats)", ylabel=f"{unit} of the pick")
        ax.legend(fontsize=8)
    return fig
