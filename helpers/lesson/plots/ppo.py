"""The figures of 3-PPO: the loop, a batch, KL estimators, advantages, the clip, training live, the
results.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import torch
from matplotlib.colors import LinearSegmentedColormap, ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Patch
from torch import Tensor

from helpers.losses import gae
from helpers.tokenizer import EOS

BLUE, ORANGE, GREEN, PURPLE, GREY = "#2f6f8f", "#d1703c", "#5b8c5a", "#8a5a9b", "#6b6f76"

# ---------------------------------------------------------------- the loop

BOXES = {  # text: (x, y, fill); trained models are warm, fixed ones cool, data white
    "prompts": (0.0, 1.0, "#ffffff"),
    "policy\n(trained)": (2.2, 1.0, "#f6ddc9"),
    "responses": (4.4, 1.0, "#ffffff"),
    "reward model\n(fixed)": (6.8, 2.0, "#d5e5ec"),
    "reference\n(fixed)": (6.8, 1.0, "#d5e5ec"),
    "value model\n(trained)": (6.8, 0.0, "#f6ddc9"),
    "reward for\nevery token": (9.2, 1.5, "#ffffff"),
    "advantage of\nevery token": (11.4, 0.75, "#ffffff"),
}
ARROWS = [
    ("prompts", "policy\n(trained)", ""),
    ("policy\n(trained)", "responses", ""),
    ("responses", "reward model\n(fixed)", ""),
    ("responses", "reference\n(fixed)", ""),
    ("responses", "value model\n(trained)", ""),
    ("reward model\n(fixed)", "reward for\nevery token", "score"),
    ("reference\n(fixed)", "reward for\nevery token", "KL"),
    ("reward for\nevery token", "advantage of\nevery token", ""),
    ("value model\n(trained)", "advantage of\nevery token", "values"),
]
WIDTH, HEIGHT = 1.7, 0.7


def loop_figure() -> Figure:
    """One iteration of PPO: who reads what, and who is trained on it."""
    fig, ax = plt.subplots(figsize=(9.6, 2.9))
    for text, (x, y, fill) in BOXES.items():
        shape = FancyBboxPatch(
            (x, y - HEIGHT / 2), WIDTH, HEIGHT, boxstyle="round,pad=0.02", fc=fill, ec="#888", lw=1
        )
        ax.add_patch(shape)
        ax.text(x + WIDTH / 2, y, text, ha="center", va="center", fontsize=8.5)
    style = {"arrowstyle": "-|>", "color": "#777", "lw": 1.1}
    for start, end, label in ARROWS:
        tail, head = (BOXES[start][0] + WIDTH, BOXES[start][1]), (BOXES[end][0], BOXES[end][1])
        ax.annotate("", head, tail, arrowprops=style)
        ax.text(
            (tail[0] + head[0]) / 2,
            (tail[1] + head[1]) / 2 + 0.1,
            label,
            ha="center",
            fontsize=7.5,
            color="#555",
        )
    start, end = (
        BOXES[name][0] + WIDTH / 2 for name in ("advantage of\nevery token", "policy\n(trained)")
    )
    ax.plot([start, start, end], [0.4, -0.75, -0.75], color=ORANGE, lw=1.2)
    ax.annotate("", (end, 0.62), (end, -0.77), arrowprops={**style, "color": ORANGE})
    ax.text(
        5.2,
        -0.68,
        "update policy and value model, a few small steps; then sample again",
        fontsize=8,
        color=ORANGE,
    )
    ax.set(xlim=(-0.2, 13.3), ylim=(-1, 2.5))
    ax.axis("off")
    return fig


# ---------------------------------------------------------------- a batch and one response of it


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
    ax.legend(
        handles=[Patch(fc=c, ec="#bbb", label=k) for k, c in colours.items()],
        ncols=4,
        fontsize=8,
        loc="lower left",
        bbox_to_anchor=(0, 1.0),
    )
    return fig


def response_figure(tokens: Sequence[str], panels: Mapping[str, Mapping[str, Tensor]]) -> Figure:
    """Numbers along one response: {panel: {label: (R,)}}. A single series is drawn as bars, several
    as lines.
    """
    fig, axes = plt.subplots(
        len(panels), 1, figsize=(9.2, 0.9 + 1.35 * len(panels)), sharex=True, squeeze=False
    )
    for ax, (title, series) in zip(axes[:, 0], panels.items(), strict=True):
        for label, numbers in series.items():
            if len(series) == 1:
                ax.bar(
                    range(len(tokens)),
                    numbers.tolist(),
                    color=[BLUE if x >= 0 else ORANGE for x in numbers],
                )
            else:
                ax.plot(range(len(tokens)), numbers.tolist(), marker="o", ms=3, label=label)
                ax.legend(fontsize=8, ncols=len(series), loc="upper left")
        ax.axhline(0, color="#999", lw=0.8)
        ax.set_title(title, fontsize=9.5)
    label_tokens(axes[-1, 0], tokens)
    return fig


def label_tokens(ax: Any, tokens: Sequence[str]) -> None:
    """The tokens themselves under the x axis."""
    names = [
        "EOS" if token == EOS else plain_label(token.strip()) or repr(token) for token in tokens
    ]
    ax.set_xticks(
        range(len(tokens)), names, rotation=60, ha="right", rotation_mode="anchor", fontsize=8
    )


def plain_label(text: str) -> str:
    """A text that matplotlib shows as it is: no formula between two dollar signs, no control
    characters.
    """
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text).replace("$", r"\$")


# ---------------------------------------------------------------- KL


def estimators_figure(estimates: Mapping[str, Tensor], exact: float, group: int = 16) -> Figure:
    """Histograms of what an average over `group` samples says, for each estimator (N,), beside the
    exact KL.
    """
    fig, axes = plt.subplots(1, len(estimates), figsize=(9, 2.7), sharex=True, sharey=True)
    means = {
        name: x[: len(x) // group * group].view(-1, group).mean(1) for name, x in estimates.items()
    }
    low, high = (
        min(float(x.min()) for x in means.values()),
        max(float(x.quantile(0.995)) for x in means.values()),
    )
    for ax, (name, x) in zip(axes, means.items(), strict=True):
        ax.hist(x.tolist(), bins=40, range=(low, high), color=BLUE)
        ax.axvline(exact, color="black", lw=1.2, label="exact KL")
        ax.axvline(float(x.mean()), color=ORANGE, lw=1.6, ls="--", label="mean of the estimates")
        ax.set(title=name, xlabel="nats")
    axes[0].set_ylabel(f"batches of {group}")
    fig.legend(
        *axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=8
    )
    return fig


def negative_kl_figure(
    panels: Mapping[str, tuple[Mapping[str, float], Mapping[str, float]]],
) -> Figure:
    """{title: (measured, expected)}: a bar for each way of computing "the KL", a mark where the
    formula puts it.
    """
    fig, axes = plt.subplots(1, len(panels), figsize=(9.4, 2.7), sharey=True, squeeze=False)
    for ax, (title, (measured, expected)) in zip(axes[0], panels.items(), strict=True):
        names = list(measured)
        colours = [ORANGE if measured[name] < 0 else BLUE for name in names]
        ax.barh(names, [measured[name] for name in names], color=colours, height=0.6)
        ax.plot(
            [expected[name] for name in names],
            names,
            "k|",
            ms=14,
            mew=2,
            label="KL(q || ref) - KL(q || scored)",
        )
        ax.axvline(0, color="#555", lw=0.8)
        ax.axvline(measured[names[0]], color=BLUE, lw=0.8, ls=":")
        ax.set(title=title, xlabel='"KL", nats per response')
    axes[0, 0].invert_yaxis()
    axes[0, -1].legend(fontsize=8, loc="lower right", bbox_to_anchor=(1, 1.0))
    return fig


# ---------------------------------------------------------------- advantages and the clip


def gae_figure(
    tokens: Sequence[str],
    rewards: Tensor,
    values: Tensor,
    lams: Sequence[float],
    gamma: float = 1.0,
) -> Figure:
    """The advantages of one response (R,) for several lambdas, under its values and rewards."""
    real = torch.ones(1, len(tokens), dtype=torch.bool)
    panels = {"value before each token, and its reward": {"value": values, "reward": rewards}}
    for lam in lams:
        title = f"advantages, lambda = {lam:g}" + (f", gamma = {gamma:g}" if gamma != 1 else "")
        panels[title] = {"": gae(rewards[None], values[None], real, gamma, lam)[0][0]}
    return response_figure(tokens, panels)


def lambda_figure(
    tokens: Sequence[str], rewards: Tensor, values: Tensor, gamma: float = 1.0
) -> Figure:
    """The advantages of one response (R,) for lambda from 0 (bottom) to 1 (top): blue good, orange
    bad.
    """
    real, lams = torch.ones(1, len(tokens), dtype=torch.bool), [i / 20 for i in range(21)]
    rows = torch.cat(
        [gae(rewards[None], values[None], real, gamma, lam)[0] for lam in lams]
    )  # (21, R)
    fig, ax = plt.subplots(figsize=(9.2, 2.7))
    most = rows.abs().max().item() or 1.0
    cmap = LinearSegmentedColormap.from_list("advantage", [ORANGE, "#ffffff", BLUE])
    image = ax.imshow(
        rows,
        aspect="auto",
        origin="lower",
        cmap=cmap,
        vmin=-most,
        vmax=most,
        extent=(-0.5, len(tokens) - 0.5, 0, 1),
    )
    label_tokens(ax, tokens)
    ax.grid(False)
    ax.set(ylabel="lambda", title="advantage of each token, before whitening")
    fig.colorbar(image, ax=ax, pad=0.01)
    return fig


def clip_curves(ax: Any, advantage: float, clip_range: float, ratio: float | None = None) -> None:
    """The clipped objective as a function of the ratio, for one advantage; a dot at the
    given ratio.
    """
    x = torch.linspace(0, 2, 201)
    free, clipped = advantage * x, advantage * x.clamp(1 - clip_range, 1 + clip_range)
    ax.plot(x, free, color=GREY, lw=1, ls=":", label="A · ratio")
    ax.plot(
        x,
        torch.minimum(free, clipped),
        color=BLUE if advantage >= 0 else ORANGE,
        label="clipped objective",
    )
    ax.axvspan(1 - clip_range, 1 + clip_range, color="#f0eee6", zorder=0)
    if ratio is not None:
        near = min(max(ratio, 1 - clip_range), 1 + clip_range)
        ax.plot(ratio, min(advantage * ratio, advantage * near), "o", color="black", ms=7)
    ax.set(
        xlabel="ratio, new over old probability",
        ylabel="objective",
        title=f"advantage {advantage:+g}",
    )
    ax.legend(fontsize=8, loc="upper left" if advantage >= 0 else "upper right")


def clip_figure(clip_range: float = 0.2) -> Figure:
    """The clipped objective for a token that did well and for one that did badly."""
    fig, axes = plt.subplots(1, 2, figsize=(8.4, 2.9))
    for ax, advantage in zip(axes, (1.0, -1.0)):
        clip_curves(ax, advantage, clip_range)
    return fig


# ---------------------------------------------------------------- training

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
    """Eight panels of a PPO run, one point per iteration. Where the gold reward is not known, its
    panel says so.
    """
    fig, axes = plt.subplots(2, 4, figsize=(10.4, 4.2))
    steps = [row["step"] for row in history]
    for i, (ax, (name, title)) in enumerate(zip(axes.flat, PANELS.items())):
        colour = (BLUE, GREEN, ORANGE, PURPLE)[i % 4]
        if name in history[0]:
            ax.plot(steps, [row[name] for row in history], color=colour, marker=".", ms=4, lw=1.2)
        else:
            ax.text(
                0.5,
                0.5,
                "not known\nfor real rows",
                ha="center",
                va="center",
                transform=ax.transAxes,
                fontsize=8,
            )
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

    def __init__(self, iterations: int, updates: int = 10):
        self.iterations, self.every = iterations, max(1, math.ceil(iterations / updates))
        self.handle: Any = None
        self.drawn = 0

    def __call__(self, history: Sequence[Mapping[str, float]]) -> None:
        done = len(history)
        if done < self.iterations and (done < 2 or done % self.every):
            return
        try:
            from IPython import get_ipython
            from IPython.display import display
        except ImportError:
            return
        if get_ipython() is None:
            return
        fig = training_figure(history, self.iterations)
        if self.handle is None:
            self.handle = display(fig, display_id=True)
        else:
            self.handle.update(fig)
        plt.close(fig)  # or the cell would show it a second time when it ends
        self.drawn += 1


# ---------------------------------------------------------------- results


def comparison_figure(
    gold: Mapping[str, tuple[float, float, float]], flaws: Mapping[str, Mapping[str, float]]
) -> Figure:
    """Gold reward of each policy as (mean, low, high), and the share of its responses with each
    flaw.
    """
    fig, (left, right) = plt.subplots(1, 2, figsize=(9.4, 3.1), width_ratios=(2, 3))
    names = list(gold)
    mean, low, high = (torch.tensor([gold[name][i] for name in names]) for i in range(3))
    colours = [GREY, BLUE, GREEN, ORANGE]
    left.bar(names, mean.tolist(), color=colours[: len(names)], width=0.65)
    left.errorbar(
        names,
        mean.tolist(),
        yerr=torch.stack([mean - low, high - mean]).clamp(min=0).tolist(),
        fmt="none",
        ecolor="black",
        capsize=3,
        lw=1,
    )
    left.axhline(0, color="#999", lw=0.8)
    left.set(title="gold reward, 95% interval", ylabel="gold reward")
    kinds = list(flaws[names[0]])
    for i, name in enumerate(names):
        places = [k + 0.2 * (i - (len(names) - 1) / 2) for k in range(len(kinds))]
        right.bar(
            places,
            [100 * flaws[name][kind] for kind in kinds],
            width=0.18,
            color=colours[i],
            label=name,
        )
    right.set_xticks(range(len(kinds)), [kind.replace("_", " ") for kind in kinds])
    right.set(title="responses with a flaw", ylabel="%")
    right.legend(fontsize=8, loc="upper right")
    return fig


def overoptimisation_figure(runs: Mapping[str, Sequence[Mapping[str, float]]]) -> Figure:
    """Score and gold reward of several runs against sqrt(KL), both as gains in SFT standard
    deviations.

    Each row needs "score" and "kl_k3" (never negative, so it has a root); "gold_sd", the gold
    reward in the same unit, is drawn where it is known.
    """
    fig, axes = plt.subplots(
        1, len(runs), figsize=(4.4 * len(runs), 3.1), sharex=True, sharey=True, squeeze=False
    )
    for ax, (title, history) in zip(axes[0], runs.items(), strict=True):
        x = [math.sqrt(max(0.0, row["kl_k3"])) for row in history]
        ax.plot(
            x,
            [row["score"] for row in history],
            marker=".",
            color=BLUE,
            label="score: what PPO sees",
        )
        if "gold_sd" in history[0]:
            ax.plot(
                x,
                [row["gold_sd"] for row in history],
                marker=".",
                color=GREEN,
                label="gold: what we want",
            )
        ax.axhline(0, color="#999", lw=0.8)
        ax.set(title=title, xlabel="distance from SFT, sqrt(KL in nats)")
    axes[0, 0].set_ylabel("SFT standard deviations")
    axes[0, 0].legend(fontsize=8, loc="lower left")
    return fig
