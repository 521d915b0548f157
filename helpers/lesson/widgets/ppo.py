"""The explorers of 3-PPO: GAE's lambda on a real response, the clip, a rollout token by token, the
KL coefficient.
"""

from collections.abc import Sequence
from html import escape

import ipywidgets as widgets
import matplotlib.pyplot as plt
import torch
from torch import Tensor

from helpers.lesson import penalty
from helpers.lesson.plots.advantages import advantages_of, clip_curves, gae_figure
from helpers.lesson.plots.penalty import penalty_figure
from helpers.lesson.widgets.core import choice, follow, menu, picture, png, slider, token_html
from helpers.losses import clipped_policy_loss
from helpers.rollouts import Rollout, rewards_of
from helpers.tokenizer import Tokenizer


def pieces(rollout: Rollout, row: int, tokenizer: Tokenizer) -> list[str]:
    """The real response tokens of a row, as text."""
    batch = rollout.batch
    ids = batch.response[row][batch.response_mask[row]].tolist()
    return [tokenizer.decode([id_]) for id_ in ids]


def response_menu(rollout: Rollout, tokenizer: Tokenizer) -> widgets.Dropdown:
    """A menu of the first eight responses."""
    count = min(8, len(rollout.scores))
    texts = ["".join(pieces(rollout, row, tokenizer)) for row in range(count)]
    return menu(
        "response", [(f"{row}: {text[:50].strip()}", row) for row, text in enumerate(texts)]
    )


# ---------------------------------------------------------------- GAE


def explore_gae(rollout: Rollout, kl_coef: float, tokenizer: Tokenizer) -> widgets.VBox:
    """Move lambda and gamma and see the advantages of a real response change."""
    rewards = rewards_of(rollout, kl_coef)
    row = response_menu(rollout, tokenizer)
    lam, gamma = slider("lambda", 0.95, 0, 1, 0.05), slider("gamma", 1, 0.8, 1, 0.02)
    image, note = picture(), widgets.HTML()

    def update() -> None:
        tokens = pieces(rollout, row.value, tokenizer)
        r, v = (x[row.value, : len(tokens)].cpu() for x in (rewards, rollout.values))
        image.value = png(gae_figure(tokens, r, v, [lam.value], gamma.value))
        note.value = gae_note(r, v, gamma.value, lam.value)

    follow([row, lam, gamma], update)
    return widgets.VBox([row, widgets.HBox([lam, gamma]), image, note])


def gae_note(rewards: Tensor, values: Tensor, gamma: float, lam: float) -> str:
    """How far the credit for the last reward reaches back, and the first token's advantage."""
    first = advantages_of(rewards, values, gamma, lam)[0].item()
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
    image, note = picture(), widgets.HTML()

    def update() -> None:
        fig, ax = plt.subplots(figsize=(5.6, 2.9))
        clip_curves(ax, advantage.value, clip_range.value, ratio.value)
        image.value = png(fig)
        note.value = clip_note(ratio.value, advantage.value, clip_range.value)

    follow([ratio, advantage, clip_range], update)
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
    effect = (
        f"makes this token {'more' if push > 0 else 'less'} likely" if push else "no push at all"
    )
    return (
        f"Gradient of the objective with respect to the token's log-prob: <b>{push:+.2f}</b> "
        f"({effect})."
    )


# ---------------------------------------------------------------- a rollout, token by token


def explore_rollout(rollout: Rollout, kl_coef: float, tokenizer: Tokenizer) -> widgets.VBox:
    """Step through a response: the numbers of policy, reference, value model and GAE by token."""
    rewards = rewards_of(rollout, kl_coef)
    row = response_menu(rollout, tokenizer)
    place = slider("token", 0, 0, len(pieces(rollout, 0, tokenizer)) - 1)
    report = widgets.HTML()

    def update() -> None:
        tokens = pieces(rollout, row.value, tokenizer)
        place.max = len(tokens) - 1  # ipywidgets pulls the value down with it
        t = min(place.value, place.max)
        report.value = rollout_html(rollout, rewards, row.value, t, tokens)

    follow([row, place], update)
    return widgets.VBox([row, place, report])


def rollout_html(rollout: Rollout, rewards: Tensor, row: int, t: int, tokens: Sequence[str]) -> str:
    """The response coloured by advantage (blue good, orange bad), and the numbers of token t."""
    advantages = rollout.advantages[row, : len(tokens)].tolist()
    most = max(max(abs(a) for a in advantages), 1e-6)
    boxes = ""
    for i, (token, a) in enumerate(zip(tokens, advantages, strict=True)):
        colour = f"rgba({'47,111,143' if a >= 0 else '209,112,60'},{0.75 * abs(a) / most:.2f})"
        frame = "outline:2px solid #222;" if i == t else ""
        boxes += token_html(token, f"{frame}background:{colour}")
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
    cell = "padding:1px 10px 1px 0;text-align:right"
    body = "".join(
        f'<tr><td>{name}</td><td style="{cell}">{x:+.3f}</td></tr>' for name, x in numbers.items()
    )
    score = rollout.scores[row].item()
    head = f"score of the response {score:+.2f}, token {t + 1} of {len(tokens)}"
    return f"<div>{boxes}</div><p>{head}</p><table>{body}</table>"


# ---------------------------------------------------------------- the KL coefficient


def explore_penalty(record: dict) -> widgets.VBox:
    """Move the KL coefficient of recorded runs and see where they end. record: as from
    `penalty.recorded`.
    """
    coefficients = penalty.coefficients_of(record)
    reward_model = menu("reward model", ["good", "weak"])
    coefficient = choice("kl_coef", coefficients, coefficients[0])
    image, note = picture(), widgets.HTML()

    def update() -> None:
        runs = penalty.runs_of(record, reward_model.value, coefficient.value)
        title = f"{reward_model.value} reward model, kl_coef {coefficient.value:g}"
        image.value = png(penalty_figure({title: runs}, columns=1))
        note.value = penalty_note(runs)

    follow([reward_model, coefficient], update)
    return widgets.VBox([widgets.HBox([reward_model, coefficient]), image, note])


def penalty_note(runs: Sequence[dict]) -> str:
    """Where recorded runs have ended: gold reward, flaws, and a text of each seed."""

    def line(when: str) -> str:
        flaws = penalty.mean_flaws(runs, when).items()
        shares = ", ".join(f"{flaw.replace('_', ' ')} {share:.0%}" for flaw, share in flaws)
        return f"gold reward {penalty.mean_gold(runs, when):.2f}, {shares}"

    texts = "".join(
        f"<li>seed {run['seed']}, gold {run['policy']['gold']:.2f}: "
        f"<i>{escape(run['policy']['texts'][0]) or '(nothing)'}</i></li>"
        for run in runs
    )
    return f"<p><b>SFT</b>, {line('sft')}</p><p><b>PPO</b>, {line('policy')}</p><ul>{texts}</ul>"
