"""The explorers of 3-PPO: GAE's lambda on a real response, the clip, a rollout token by token, the
KL coefficient.
"""

from collections.abc import Sequence
from html import escape

import ipywidgets as widgets
import matplotlib.pyplot as plt
import torch
from matplotlib.colors import to_hex, to_rgb
from torch import Tensor

from helpers.lesson import penalty
from helpers.lesson.plots.advantages import advantages_of, clip_curves, gae_figure
from helpers.lesson.plots.core import BLUE, ORANGE
from helpers.lesson.plots.penalty import penalty_figure
from helpers.lesson.widgets.core import (
    Explorer,
    choice,
    draw,
    follow,
    menu,
    picture,
    set_last,
    side_by_side,
    slider,
    token_html,
    words,
)
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


def explore_gae(rollout: Rollout, kl_coef: float, tokenizer: Tokenizer) -> widgets.Widget:
    """Move lambda and gamma and see the advantages of a real response change."""
    rewards = rewards_of(rollout, kl_coef)
    response = response_menu(rollout, tokenizer)
    lam, gamma = slider("lambda", 0.95, 0, 1, 0.05), slider("gamma", 1, 0.8, 1, 0.02)
    image, note = picture(), words()

    def update() -> None:
        tokens = pieces(rollout, response.value, tokenizer)
        r, v = (x[response.value, : len(tokens)].cpu() for x in (rewards, rollout.values))
        draw(image, gae_figure(tokens, r, v, [lam.value], gamma.value))
        note.value = gae_note(r, v, gamma.value, lam.value)

    follow([response, lam, gamma], update)
    return Explorer([response, side_by_side(lam, gamma), image, note])


def gae_note(rewards: Tensor, values: Tensor, gamma: float, lam: float) -> str:
    """How far the credit for the last reward reaches back, and the first token's advantage."""
    first = advantages_of(rewards, values, gamma, lam)[0].item()
    share = (gamma * lam) ** (len(rewards) - 1)
    return (
        f"The last reward reaches the first token with weight {share:.3f}; its advantage is "
        f"{first:+.3f}."
    )


# ---------------------------------------------------------------- the clip


def explore_clip() -> widgets.Widget:
    """Move ratio, advantage and clip range; see the objective and the gradient that is left."""
    ratio, advantage = slider("ratio", 1.0, 0.05, 2, 0.05), slider("advantage", 1.0, -2, 2, 0.25)
    clip_range = slider("clip range", 0.2, 0.05, 0.5, 0.05)
    image, note = picture(), words()

    def update() -> None:
        fig, ax = plt.subplots(figsize=(5.6, 2.9))
        clip_curves(ax, advantage.value, clip_range.value, ratio.value)
        draw(image, fig, like=advantage.value)
        note.value = clip_note(ratio.value, advantage.value, clip_range.value)

    follow([ratio, advantage, clip_range], update)
    return Explorer([side_by_side(ratio, advantage, clip_range), image, note])


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


def explore_rollout(rollout: Rollout, kl_coef: float, tokenizer: Tokenizer) -> widgets.Widget:
    """Step through a response: the numbers of policy, reference, value model and GAE by token."""
    rewards = rewards_of(rollout, kl_coef)
    response, token = response_menu(rollout, tokenizer), slider("token", 0, 0, 1)
    token_place, report = widgets.VBox([token]), words()

    def update() -> None:
        tokens = pieces(rollout, response.value, tokenizer)
        set_last(token_place, len(tokens) - 1)  # may move token.value, which calls update again
        report.value = rollout_html(rollout, rewards, response.value, token.value, tokens)

    follow([response, token], update)
    return Explorer([response, token_place, report])


def rollout_html(rollout: Rollout, rewards: Tensor, row: int, t: int, tokens: Sequence[str]) -> str:
    """The response coloured by advantage (blue good, orange bad), and the numbers of token t."""
    advantages = rollout.advantages[row, : len(tokens)].tolist()
    most = max(max(abs(a) for a in advantages), 1e-6)
    boxes = ""
    for i, (token, a) in enumerate(zip(tokens, advantages, strict=True)):
        colour = tint(BLUE if a >= 0 else ORANGE, 0.75 * abs(a) / most)
        boxes += token_html(token, colour, marked=i == t)
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


def tint(colour: str, share: float) -> str:
    """A colour on white paper: white where share is 0, the colour where it is 1."""
    return to_hex([1 - share * (1 - part) for part in to_rgb(colour)])


# ---------------------------------------------------------------- the KL coefficient


def explore_penalty(record: dict) -> widgets.Widget:
    """Move the KL coefficient of recorded runs and see where they end. record: as from
    `penalty.recorded`.
    """
    coefficients = penalty.coefficients_of(record)
    reward_model = menu("reward model", ["good", "weak"])
    coefficient = choice("kl_coef", coefficients, coefficients[0])
    image, note = picture(), words()

    def update() -> None:
        runs = penalty.runs_of(record, reward_model.value, coefficient.value)
        title = f"{reward_model.value} reward model, kl_coef {coefficient.value:g}"
        draw(image, penalty_figure({title: runs}, columns=1))
        note.value = penalty_note(runs)

    follow([reward_model, coefficient], update)
    return Explorer([side_by_side(reward_model, coefficient), image, note])


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
