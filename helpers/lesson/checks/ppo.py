"""Exercises of 3-PPO: those on rollouts, then GAE, whitening, the clipped loss and explained
variance.
"""

import math
from functools import partial

import torch
from torch import Tensor

from helpers.lesson.checks.core import Exercise, Prediction
from helpers.lesson.checks.rollout import (  # noqa: F401  (the checks are here for the notebook)
    K3,
    MASK,
    TOKEN_LOGPROBS,
    TOKEN_REWARDS,
    TOTAL_REWARD,
    TRUNCATE,
    X,
    Y,
    Z,
    check_k3,
    check_token_logprobs,
    check_token_rewards,
    check_total_reward,
    check_truncate,
)


def _gae(rewards, values, mask, gamma, lam, use_mask=True, trace=None, ahead=1) -> Tensor:
    advantages = torch.zeros_like(rewards)
    trace = gamma * lam if trace is None else trace(gamma, lam)
    for b, row in enumerate(mask.tolist()):
        length = sum(row) if use_mask else len(row)
        v = [*values[b, :length].tolist(), 0.0]
        delta = [rewards[b, t].item() + gamma * v[t + ahead] - v[t] for t in range(length)]
        for t in range(length):
            advantages[b, t] = sum(trace ** (k - t) * delta[k] for k in range(t, length))
    return advantages


GAE = Exercise(
    name="gae",
    difficulty=3,
    minutes=15,
    signature="my_gae(rewards, values, mask, gamma, lam)",
    task="Return the advantages, `(B, R)`: $A_t = \\delta_t + \\gamma\\lambda A_{t+1}$ with "
    "$\\delta_t = r_t + "
    "\\gamma V_{t+1} - V_t$. All inputs are `(B, R)`, pads on the right; after the last real "
    "token both V "
    "and A are 0, and so are the pads of the result.",
    hint="Set rewards and values to 0 at the pads, then walk from the last column to the first.",
    solution="""
def my_gae(rewards, values, mask, gamma, lam):
    rewards, values = rewards * mask, values * mask
    advantages = torch.zeros_like(values)
    advantage = next_value = torch.zeros(len(values))
    for t in reversed(range(values.shape[1])):
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        advantage = delta + gamma * lam * advantage
        advantages[:, t], next_value = advantage, values[:, t]
    return advantages
""",
    oracle=_gae,
    cases={"lambda 0.9": (X, Y, MASK, 1.0, 0.9), "gamma 0.8, lambda 0.5": (Z, X, MASK, 0.8, 0.5)},
    mistakes={
        "mask forgotten": (
            [
                partial(_gae, use_mask=False),
                lambda r, v, mask, *rest: _gae(r, v, mask, *rest, use_mask=False) * mask,
            ],
            "Pads have values too, and the last real token sees them: set both inputs to 0 there "
            "first.",
        ),
        "lambda forgotten": (
            partial(_gae, trace=lambda gamma, lam: gamma),
            "A decays by gamma * lam per step, not by gamma.",
        ),
        "no recursion": (
            partial(_gae, trace=lambda gamma, lam: 0.0),
            "That is delta alone: add gamma * lam * A_{t+1}.",
        ),
        "off by one in V": (
            partial(_gae, ahead=0),
            "delta looks one step ahead: V_{t+1}, and 0 after the last token.",
        ),
    },
)


def _whiten(x: Tensor, mask: Tensor, power=-0.5, ddof=0, keep_mean=False, pads=False) -> Tensor:
    kept = x[mask].tolist()
    mean = sum(kept) / len(kept)
    variance = sum((value - mean) ** 2 for value in kept) / (len(kept) - ddof)
    return torch.where(
        mask | pads, (x - mean) * (variance + 1e-8) ** power + (mean if keep_mean else 0.0), 0.0
    )


WHITEN = Exercise(
    name="whiten",
    difficulty=2,
    minutes=6,
    signature="my_whiten(x, mask)",
    task="Shift and scale `x`, `(B, R)`, so that its real tokens (where `mask` is True) have mean "
    "0 and variance "
    "1, over the whole batch at once and dividing by n. Return `(B, R)` with 0 at the pads.",
    hint="`x[mask]` is the flat list of real tokens; take its mean and its `var(unbiased=False)`.",
    solution="""
def my_whiten(x, mask):
    mean, variance = x[mask].mean(), x[mask].var(unbiased=False)
    return torch.where(mask, (x - mean) / (variance + 1e-8).sqrt(), 0.0)
""",
    oracle=_whiten,
    cases={"three lengths": (3 * X + 2, MASK), "another": (0.5 * Y - 1, MASK)},
    mistakes={
        "mask forgotten": (
            [
                lambda x, mask, n=n, z=z: _whiten(x, mask | True, ddof=n) * (mask | z)
                for n in (0, 1)
                for z in (0, 1)
            ],
            "The pads are in your mean and variance.",
        ),
        "pads not set to 0": (
            partial(_whiten, pads=True),
            "The numbers are right, but pads must come out as 0.",
        ),
        "divided by n - 1": (
            partial(_whiten, ddof=1),
            "torch's var and std divide by n - 1 unless unbiased=False.",
        ),
        "divided by the variance": (
            partial(_whiten, power=-1),
            "Divide by the standard deviation, its square root.",
        ),
        "mean added back": (
            partial(_whiten, keep_mean=True),
            "That is for rewards; advantages get mean 0.",
        ),
    },
)


def _policy_loss(
    logprobs, old_logprobs, advantages, mask, clip_range, pick=max, sign=1, invert=1, real=True
) -> float:
    terms = []
    for b, t in (mask if real else torch.ones_like(mask)).nonzero().tolist():
        ratio = math.exp(invert * (logprobs[b, t] - old_logprobs[b, t]))
        a, near = sign * advantages[b, t].item(), min(max(ratio, 1 - clip_range), 1 + clip_range)
        terms.append(pick(-a * ratio, -a * near))
    return sum(terms) / len(terms)


POLICY_LOSS = Exercise(
    name="policy_loss",
    difficulty=3,
    minutes=12,
    signature="my_policy_loss(logprobs, old_logprobs, advantages, mask, clip_range)",
    task="PPO's clipped loss: the mean over real tokens of $\\max(-A\\rho,\\; "
    "-A\\,\\text{clip}(\\rho, 1-c, 1+c))$ "
    "with $\\rho = \\pi/\\pi_\\text{old}$. All inputs are `(B, R)` but `clip_range`, c. Return "
    "one number.",
    hint="The ratio is the exp of a difference of log-probs. The maximum of two losses is the "
    "pessimistic choice.",
    solution="""
def my_policy_loss(logprobs, old_logprobs, advantages, mask, clip_range):
    ratio = (logprobs - old_logprobs).exp()
    clipped = ratio.clamp(1 - clip_range, 1 + clip_range)
    return torch.maximum(-advantages * ratio, -advantages * clipped)[mask].mean()
""",
    oracle=_policy_loss,
    cases={
        "three lengths": (X, Y, Z, MASK, 0.2),
        "no pads": (X[:1, :3], Z[:1, :3], Y[:1, :3], torch.ones(1, 3).bool(), 0.1),
    },
    mistakes={
        "minimum of losses": (
            partial(_policy_loss, pick=min),
            "The paper's min is over objectives; losses need max.",
        ),
        "always clipped": (
            partial(_policy_loss, pick=lambda a, b: b),
            "A token that went too far the wrong way would get no gradient back: take the max of "
            "both.",
        ),
        "never clipped": (
            partial(_policy_loss, pick=lambda a, b: a),
            "Nothing holds the ratio: take the max of both.",
        ),
        "ratio upside down": (
            partial(_policy_loss, invert=-1),
            "New over old: exp(logprobs - old_logprobs).",
        ),
        "sign of the advantage": (
            partial(_policy_loss, sign=-1),
            "A loss is minus the objective: -A * ratio.",
        ),
        "mask forgotten": (partial(_policy_loss, real=False), "Average over real tokens only."),
    },
)


def _explained_variance(
    values: Tensor, returns: Tensor, flip=False, complement=True, ddof=0
) -> float:
    v, r = values.tolist(), returns.tolist()
    base = v if flip else r
    variance = sum((x - sum(base) / len(base)) ** 2 for x in base) / (len(base) - ddof)
    error = sum((a - b) ** 2 for a, b in zip(v, r, strict=True)) / len(r)
    return 1 - error / variance if complement else error / variance


EXPLAINED_VARIANCE = Exercise(
    name="explained_variance",
    difficulty=1,
    minutes=4,
    signature="my_explained_variance(values, returns)",
    task="How much of the returns does the value model foresee? Return $1 - \\text{mean}((V - "
    "R)^2) / "
    "\\text{var}(R)$ for `(N,)` values and returns; the variance divides by N.",
    hint="A value model that always says the mean return must get 0, a perfect one 1.",
    solution="""
def my_explained_variance(values, returns):
    return 1 - ((values - returns) ** 2).mean() / returns.var(unbiased=False)
""",
    oracle=_explained_variance,
    cases={
        "fair": (torch.tensor([1.0, 2.0, 2.5, 4.0]), torch.tensor([1.5, 1.0, 3.0, 5.0])),
        "poor": (-X[0], Y[0]),
    },
    mistakes={
        "unexplained part": (
            partial(_explained_variance, complement=False),
            "A perfect model must get 1: subtract it.",
        ),
        "divided by N - 1": (
            partial(_explained_variance, ddof=1),
            "torch's var needs unbiased=False to divide by N.",
        ),
        "variance of the values": (
            partial(_explained_variance, flip=True),
            "Divide by the variance of the returns.",
        ),
    },
)

CLIPPED_GRADIENT = Prediction(
    name="clipped_gradient",
    difficulty=2,
    minutes=3,
    task="A token has advantage +1, its ratio is 1.5 and the clip range 0.2. What is the "
    "derivative of its "
    "clipped loss with respect to its log-prob?",
    hint="max(-1.5, -1.2): which branch wins, and does that one still depend on the log-prob?",
    solution="my_clipped_gradient = 0",
    answer=0.0,
    why="The clipped branch is constant: this token already moved far enough. With advantage -1 "
    "it would be +1.5.",
    mistakes={
        "that is without the clip": (-1.5, "The maximum picks the clipped branch here."),
        "clamp has no slope": (-1.2, "That is the loss itself; outside the range clamp is flat."),
    },
)

EXERCISES = [
    TOKEN_LOGPROBS,
    TRUNCATE,
    K3,
    TOKEN_REWARDS,
    TOTAL_REWARD,
    GAE,
    WHITEN,
    POLICY_LOSS,
    CLIPPED_GRADIENT,
    EXPLAINED_VARIANCE,
]

check_gae = GAE.check
check_whiten = WHITEN.check
check_policy_loss = POLICY_LOSS.check
check_clipped_gradient = CLIPPED_GRADIENT.check
check_explained_variance = EXPLAINED_VARIANCE.check
