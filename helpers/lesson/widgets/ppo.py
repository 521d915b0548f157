"""The explorers of 3-PPO: GAE's lambda on a real response, the clip, and a rollout token by
token.
"""

from collections.abc import Callable, Sequence
from html import escape
from io import BytesIO
from typing import Any

import ipywidgets as widgets
import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure
from torch import Tensor

from helpers.lesson.plots.ppo import clip_curves, gae_figure
from helpers.losses import clipped_policy_loss, gae, token_rewards
from helpers.tokenizer import Tokenizer

CELL = "padding:1px 10px 1px 0;text-align:right"
BOX = (
    "display:inline-block;margin:1px;padding:0 4px;border-radius:3px;font:13px/1.7 "
    "monospace;color:#222;"
)


def png(fig: Figure) -> bytes:
    """A figure as PNG bytes, and closed, so that only the widget shows it."""
    buffer = BytesIO()
    fig.savefig(buffer, format="png", dpi=84, bbox_inches="tight")
    plt.close(fig)
    return buffer.getvalue()


def react(controls: Sequence[widgets.Widget], show: Callable[[], None]) -> None:
    """Call `show` now and whenever a control changes."""
    for control in controls:
        control.observe(lambda _change: show(), names="value")
    show()


def slider(name: str, value: float, low: float, high: float, step: float) -> widgets.FloatSlider:
    """A slider for a number."""
    return widgets.FloatSlider(
        value, min=low, max=high, step=step, description=name, readout_format=".2f"
    )


def pieces(rollout: Any, row: int, tokenizer: Tokenizer) -> list[str]:
    """The real response tokens of a row of a `Rollout`, as text."""
    batch = rollout.batch
    return [
        tokenizer.decode([id_]) for id_ in batch.response[row][batch.response_mask[row]].tolist()
    ]


def rewards_of(rollout: Any, kl_coef: float) -> Tensor:
    """The reward (B, R) of each token of a `Rollout`."""
    return token_rewards(
        rollout.scores, rollout.logprobs, rollout.ref_logprobs, rollout.batch.response_mask, kl_coef
    )


def rows_of(rollout: Any, tokenizer: Tokenizer, most: int = 8) -> widgets.Dropdown:
    """A menu of the first responses of a rollout."""
    count = min(most, len(rollout.scores))
    names = [
        f"{row}: {''.join(pieces(rollout, row, tokenizer))[:50].strip()}" for row in range(count)
    ]
    return widgets.Dropdown(
        options=[(name, row) for row, name in enumerate(names)], description="response"
    )


# ---------------------------------------------------------------- GAE


def explore_gae(rollout: Any, kl_coef: float, tokenizer: Tokenizer) -> widgets.VBox:
    """Move lambda and gamma and see the advantages of a real response change; rollout: a
    `Rollout`.
    """
    rewards = rewards_of(rollout, kl_coef)
    row, lam, gamma = (
        rows_of(rollout, tokenizer),
        slider("lambda", 0.95, 0, 1, 0.05),
        slider("gamma", 1, 0.8, 1, 0.02),
    )
    image, note = widgets.Image(format="png"), widgets.HTML()

    def show() -> None:
        tokens = pieces(rollout, row.value, tokenizer)
        r, v = (x[row.value, : len(tokens)].cpu() for x in (rewards, rollout.values))
        image.value = png(gae_figure(tokens, r, v, [lam.value], gamma.value))
        note.value = gae_note(r, v, gamma.value, lam.value)

    react([row, lam, gamma], show)
    return widgets.VBox([row, widgets.HBox([lam, gamma]), image, note])


def gae_note(rewards: Tensor, values: Tensor, gamma: float, lam: float) -> str:
    """How far the credit for the last reward reaches back, and the first token's advantage."""
    real = torch.ones(1, len(rewards), dtype=torch.bool)
    first = gae(rewards[None], values[None], real, gamma, lam)[0][0, 0].item()
    share = (gamma * lam) ** (len(rewards) - 1)
    return (
        f"The last reward reaches the first token with weight {share:.3f}; its advantage is "
        f"{first:+.3f}."
    )


# ---------------------------------------------------------------- the clip


def explore_clip() -> widgets.VBox:
    """Move ratio, advantage and clip range; see the objective and the gradient that is left."""
    ratio, advantage = slider("ratio", 1.0, 0.05, 2, 0.05), slider("advantage", 1.0, -2, 2, 0.25)
    clip_range = slider("clip range", 0.2, 0.05, 0.5, 0.05)
    image, note = widgets.Image(format="png"), widgets.HTML()

    def show() -> None:
        fig, ax = plt.subplots(figsize=(5.6, 2.9))
        clip_curves(ax, advantage.value, clip_range.value, ratio.value)
        image.value = png(fig)
        note.value = clip_note(ratio.value, advantage.value, clip_range.value)

    react([ratio, advantage, clip_range], show)
    return widgets.VBox([widgets.HBox([ratio, advantage, clip_range]), image, note])


def clip_gradient(ratio: float, advantage: float, clip_range: float) -> float:
    """The derivative of one token's objective (minus its loss) by its log-prob."""
    logprob = torch.tensor([[ratio]]).log().requires_grad_()
    old, mask = torch.zeros(1, 1), torch.ones(1, 1, dtype=torch.bool)
    loss, _ = clipped_policy_loss(logprob, old, torch.tensor([[advantage]]), mask, clip_range)
    return -torch.autograd.grad(loss, logprob)[0].item() + 0.0


def clip_note(ratio: float, advantage: float, clip_range: float) -> str:
    """In words: does this token still push, and which way?"""
    push = clip_gradient(ratio, advantage, clip_range)
    says = (
        "no push at all"
        if push == 0
        else f"makes this token {'more' if push > 0 else 'less'} likely"
    )
    return (
        f"Gradient of the objective with respect to the token's log-prob: <b>{push:+.2f}</b> "
        f"({says})."
    )


# ---------------------------------------------------------------- a rollout, token by token


def explore_rollout(rollout: Any, kl_coef: float, tokenizer: Tokenizer) -> widgets.VBox:
    """Step through a response: what policy, reference, value model and GAE say of each token."""
    rewards = rewards_of(rollout, kl_coef)
    row = rows_of(rollout, tokenizer)
    place = widgets.IntSlider(
        0, min=0, max=len(pieces(rollout, 0, tokenizer)) - 1, description="token"
    )
    report = widgets.HTML()

    def show() -> None:
        tokens = pieces(rollout, row.value, tokenizer)
        place.max = len(tokens) - 1  # ipywidgets pulls the value down with it
        report.value = rollout_html(
            rollout, rewards, row.value, min(place.value, place.max), tokens
        )

    react([row, place], show)
    return widgets.VBox([row, place, report])


def rollout_html(rollout: Any, rewards: Tensor, row: int, t: int, tokens: Sequence[str]) -> str:
    """The response coloured by advantage (blue good, orange bad), one token framed, and its numbers
    below.
    """
    advantages = rollout.advantages[row, : len(tokens)].tolist()
    most = max(max(abs(a) for a in advantages), 1e-6)
    boxes = []
    for i, (token, a) in enumerate(zip(tokens, advantages, strict=True)):
        colour = f"rgba({'47,111,143' if a >= 0 else '209,112,60'},{0.75 * abs(a) / most:.2f})"
        frame = "outline:2px solid #222;" if i == t else ""
        shown = escape(token.replace("\n", "↵").replace(" ", "·"))
        boxes.append(f'<span style="{BOX}{frame}background:{colour}">{shown}</span>')
    logprob, ref = rollout.logprobs[row, t].item(), rollout.ref_logprobs[row, t].item()
    numbers = {
        "log-prob, policy": logprob,
        "log-prob, reference": ref,
        "KL (k1)": logprob - ref,
        "value before it": rollout.values[row, t].item(),
        "reward": rewards[row, t].item(),
        "return": rollout.returns[row, t].item(),
        "advantage (whitened)": advantages[t],
    }
    body = "".join(
        f'<tr><td>{name}</td><td style="{CELL}">{x:+.3f}</td></tr>' for name, x in numbers.items()
    )
    head = (
        f"score of the response {rollout.scores[row].item():+.2f}, token {t + 1} of {len(tokens)}"
    )
    return f"<div>{''.join(boxes)}</div><p>{head}</p><table>{body}</table>"
