"""Figures of 3-PPO on the parts of an update: KL estimators, baselines, advantages, the clip."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from torch import Tensor

from helpers.lesson.plots.core import BLUE, GREY, ORANGE, label_tokens
from helpers.lesson.plots.rollout import response_figure
from helpers.losses import gae


def estimators_figure(estimates: Mapping[str, Tensor], exact: float) -> Figure:
    """Histograms of averages over 16 samples, for each estimator (N,), beside the exact KL."""
    fig, axes = plt.subplots(1, len(estimates), figsize=(9, 2.7), sharex=True, sharey=True)
    means = {name: x[: len(x) // 16 * 16].view(-1, 16).mean(1) for name, x in estimates.items()}
    low = min(float(x.min()) for x in means.values())
    high = max(float(x.quantile(0.995)) for x in means.values())
    for ax, (name, x) in zip(axes, means.items(), strict=True):
        ax.hist(x.tolist(), bins=40, range=(low, high), color=BLUE)
        ax.axvline(exact, color="black", lw=1.2, label="exact KL")
        ax.axvline(float(x.mean()), color=ORANGE, lw=1.6, ls="--", label="mean of the estimates")
        ax.set(title=name, xlabel="nats")
    axes[0].set_ylabel("batches of 16")
    lines = axes[0].get_legend_handles_labels()
    fig.legend(*lines, loc="outside lower center", ncols=2, fontsize=8)
    return fig


def baseline_figure(baselines: Tensor, variances: Sequence[float], mean: float) -> Figure:
    """The variance of a policy gradient from one sample, for each baseline (N,)."""
    fig, ax = plt.subplots(figsize=(5.6, 2.6))
    ax.plot(baselines.tolist(), variances, color=BLUE)
    for baseline, label in ((0.0, "no baseline"), (mean, "the mean reward")):
        ax.axvline(baseline, color=ORANGE if baseline else GREY, lw=1.2, ls="--", label=label)
    ax.set(xlabel="baseline", ylabel="variance of the gradient", ylim=(0, None))
    ax.legend(fontsize=8)
    return fig


def negative_kl_figure(
    panels: Mapping[str, tuple[Mapping[str, float], Mapping[str, float]]],
) -> Figure:
    """A bar for each way of computing "the KL": {title: (measured, expected by the formula)}."""
    fig, axes = plt.subplots(1, len(panels), figsize=(9.4, 2.7), sharey=True, squeeze=False)
    for ax, (title, (measured, expected)) in zip(axes[0], panels.items(), strict=True):
        names, values = list(measured), list(measured.values())
        ax.barh(names, values, color=[ORANGE if x < 0 else BLUE for x in values], height=0.6)
        marks = {"ms": 14, "mew": 2, "label": "KL(q || ref) - KL(q || scored)"}
        ax.plot([expected[name] for name in names], names, "k|", **marks)
        ax.axvline(0, color="#555", lw=0.8)
        ax.axvline(values[0], color=BLUE, lw=0.8, ls=":")
        ax.set(title=title, xlabel='"KL", nats per response')
    axes[0, 0].invert_yaxis()
    axes[0, -1].legend(fontsize=8, loc="lower right", bbox_to_anchor=(1, 1.0))
    return fig


def advantages_of(rewards: Tensor, values: Tensor, gamma: float, lam: float) -> Tensor:
    """The advantages of one response (R,)."""
    real = torch.ones(1, len(rewards), dtype=torch.bool)
    return gae(rewards[None], values[None], real, gamma, lam)[0][0]


def gae_figure(
    tokens: Sequence[str],
    rewards: Tensor,
    values: Tensor,
    lams: Sequence[float],
    gamma: float = 1.0,
) -> Figure:
    """The advantages of one response (R,) for several lambdas, under its values and rewards."""
    panels = {"value before each token, and its reward": {"value": values, "reward": rewards}}
    for lam in lams:
        title = f"advantages, lambda = {lam:g}" + (f", gamma = {gamma:g}" if gamma != 1 else "")
        panels[title] = {"": advantages_of(rewards, values, gamma, lam)}
    return response_figure(tokens, panels)


def lambda_figure(tokens: Sequence[str], rewards: Tensor, values: Tensor) -> Figure:
    """The advantages of one response (R,) for lambda from 0 (bottom) to 1: blue is good."""
    rows = torch.stack([advantages_of(rewards, values, 1.0, i / 20) for i in range(21)])  # (21, R)
    most = rows.abs().max().item() or 1.0
    scale = {
        "cmap": LinearSegmentedColormap.from_list("advantage", [ORANGE, "#ffffff", BLUE]),
        "vmin": -most,
        "vmax": most,
    }
    fig, ax = plt.subplots(figsize=(9.2, 2.7))
    extent = (-0.5, len(tokens) - 0.5, 0, 1)
    image = ax.imshow(rows, aspect="auto", origin="lower", extent=extent, **scale)
    label_tokens(ax, tokens)
    ax.grid(False)
    ax.set(ylabel="lambda", title="advantage of each token, before whitening")
    fig.colorbar(image, ax=ax, pad=0.01)
    return fig


def clip_curves(ax: Axes, advantage: float, clip_range: float, ratio: float | None = None) -> None:
    """The clipped objective by ratio, for one advantage; a dot at the given ratio."""

    def objective(x: Tensor) -> Tensor:
        return torch.minimum(advantage * x, advantage * x.clamp(1 - clip_range, 1 + clip_range))

    x, good = torch.linspace(0, 2, 201), advantage >= 0
    ax.plot(x, advantage * x, color=GREY, lw=1, ls=":", label="A · ratio")
    ax.plot(x, objective(x), color=BLUE if good else ORANGE, label="clipped objective")
    ax.axvspan(1 - clip_range, 1 + clip_range, color="#f0eee6", zorder=0)
    if ratio is not None:
        ax.plot(ratio, objective(torch.tensor(ratio)), "o", color="black", ms=7)
    ax.set(xlabel="ratio, new over old probability", ylabel="objective")
    ax.set_title(f"advantage {advantage:+g}")
    ax.legend(fontsize=8, loc="upper left" if good else "upper right")


def clip_figure(clip_range: float) -> Figure:
    """The clipped objective for a token that did well and for one that did badly."""
    fig, axes = plt.subplots(1, 2, figsize=(8.4, 2.9))
    for ax, advantage in zip(axes, (1.0, -1.0), strict=True):
        clip_curves(ax, advantage, clip_range)
    return fig
