"""Exercises of 3-PPO: what a rollout is made of (log-probs, truncation, KL, a reward for each
token), then the policy gradient, GAE, whitening, the clipped loss and explained variance.
"""

import math
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from helpers.lesson.checks.core import Exercise, Prediction, randn
from helpers.lesson.checks.own import Place

# (3, 4), padded on the right
MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 0]], dtype=torch.bool)
# stand-ins for (B, R) inputs, not zero at the pads
X, Y, Z = (randn(3, 4, seed=seed) for seed in (1, 2, 3))


def _token_logprobs(logits: Tensor, ids: Tensor, shift=1, normalise=True, log=True) -> Tensor:
    rows = []
    for row, tokens in zip(logits.double(), ids.tolist(), strict=True):
        total = [x.exp().sum() if normalise else 1.0 for x in row]
        probs = [row[t - shift, tokens[t]].exp() / total[t - shift] for t in range(1, len(tokens))]
        rows.append(torch.stack(probs).log() if log else torch.stack(probs))
    return torch.stack(rows)


check_token_logprobs = Exercise(
    "token_logprobs",
    _token_logprobs,
    cases={"two responses": (randn(2, 4, 5, seed=4), torch.tensor([[0, 3, 1, 4], [2, 2, 0, 1]]))},
    mistakes={
        "not shifted. Row t has already read token t; it predicts token t + 1.": [
            {"shift": 0},
            lambda logits, ids: logits.log_softmax(-1).gather(-1, ids[..., None])[..., 0],
        ],
        "raw logits. A logit is no log-probability: use log_softmax.": {"normalise": False},
        "probabilities. Take the logarithm: log_softmax, not softmax.": {"log": False},
    },
    place=Place(
        cases=tuple(  # of GPT-2's size too, and one of them for a token that is next to impossible
            (logits, torch.tensor([[0, 3, 1, 4], [2, 2, 0, 1]]))
            for logits in (randn(2, 4, 5, seed=4), 60 * randn(2, 4, 5, seed=4) - 120)
        ),
        # the library's targets are shifted already: put a token before them, a row after the logits
        adapt=lambda mine, library: (
            lambda logits, targets: mine(
                F.pad(logits.float(), (0, 0, 0, 1)), F.pad(targets, (1, 0))
            )
        ),
        learns=(0,),
    ),
)


def _truncate(ids: Tensor, eos_id: int, pad_id: int, keep=1, last=False) -> Tensor:
    rows = []
    for row in ids.tolist():
        places = [t for t, token in enumerate(row) if token == eos_id]
        end = (places[-1] if last else places[0]) + keep if places else len(row)
        rows.append(row[:end] + [pad_id] * (len(row) - end))
    return torch.tensor(rows)


def _cut_without_eos(ids: Tensor, eos_id: int, pad_id: int) -> Tensor:
    rows = _truncate(ids, eos_id, pad_id)
    none = ~(ids == eos_id).any(dim=1)
    rows[none, 1:] = pad_id
    return rows


check_truncate = Exercise(
    "truncate",
    _truncate,
    cases={
        "none, one, two EOS": (
            torch.tensor([[5, 6, 7, 8, 9], [5, 1, 7, 8, 9], [5, 6, 1, 8, 1], [1, 1, 4, 1, 5]]),
            1,
            0,
        ),
        "EOS 7, pad 9": (torch.tensor([[5, 6, 7, 8, 1], [1, 0, 4, 0, 5]]), 7, 9),
    },
    mistakes={
        "EOS removed. Keep the EOS: the score is read there, and stopping must be learned.": {
            "keep": 0
        },
        "cut at the last EOS. What follows the first EOS was never meant to be read.": {
            "last": True
        },
        "off by one. One token after the EOS is still there.": {"keep": 2},
        "a response without an EOS is cut. argmax is 0 where there is none: it must stay whole.": (
            _cut_without_eos
        ),
    },
)


def _k3(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    pairs = zip(logprobs.tolist(), ref_logprobs.tolist(), strict=True)
    return torch.tensor([math.exp(q) / math.exp(p) - 1 - (q - p) for p, q in pairs])


check_k3 = Exercise(
    "k3",
    _k3,
    cases={
        "more and less likely": (
            torch.tensor([-1.0, -2.0, -0.5, -3.0]),
            torch.tensor([-2.0, -1.0, -0.5, -2.8]),
        )
    },
    mistakes={
        "KL sign. r is ref / policy, so log r = ref_logprobs - logprobs.": lambda p, q: _k3(q, p),
        "that is k1. k1 = -log r is unbiased too, but can be negative; add r - 1.": (
            lambda p, q: p - q
        ),
        "that is k2. k2 is biased; k3 has no square.": lambda p, q: (p - q) ** 2 / 2,
        "minus 1 forgotten. For equal models it must be 0.": lambda p, q: _k3(p, q) + 1,
        "ratio of log-probs. r = ref / policy is a ratio of probabilities: exp(log r).": (
            lambda p, q: q / p - 1 - (q / p).log()
        ),
    },
)


def _token_rewards(
    scores, logprobs, ref_logprobs, mask, kl_coef, sign=-1, place="last", pads=False
) -> Tensor:
    rewards = torch.zeros_like(logprobs)
    for b, row in enumerate(mask.tolist()):
        end = sum(row) - 1
        paid = {"last": [end], "column": [len(row) - 1], "all": range(end + 1), "first": [0]}[place]
        for t in range(len(row)):
            if t <= end or pads:
                rewards[b, t] = sign * kl_coef * (logprobs[b, t] - ref_logprobs[b, t])
            rewards[b, t] += scores[b] if t in paid else 0.0
    return rewards


def _scores_in_all_rows(scores, logprobs, ref_logprobs, mask, kl_coef) -> Tensor:
    rewards = -kl_coef * (logprobs - ref_logprobs) * mask
    rewards[:, mask.sum(1) - 1] += scores
    return rewards


check_token_rewards = Exercise(
    "token_rewards",
    _token_rewards,
    cases={
        "three lengths": (torch.tensor([1.0, -2.0, 0.5]), -X.abs(), -Y.abs(), MASK, 0.1),
        "a high price": (torch.tensor([1.0, -2.0, 0.5]), -Y.abs(), -Z.abs(), MASK, 0.8),
    },
    mistakes={
        "KL sign. This pays the policy for leaving the reference: it would run away.": {"sign": 1},
        "score at a pad. Short responses end before the last column.": {"place": "column"},
        "score on every token. It is paid once, or long responses win.": {"place": "all"},
        "score on the first token. It is known only when the text is done.": {"place": "first"},
        "mask forgotten. Pads have no KL: set them to 0.": {"pads": True},
        "every score in every row. rewards[:, last] selects the columns in all rows; pair them: "
        "rewards[torch.arange(B), last].": _scores_in_all_rows,
    },
    place=Place(cases=((torch.tensor([1.0, -2.0, 0.5]), -X.abs(), -Y.abs(), MASK, 0.1),)),
)


def _reinforce_loss(logprobs: Tensor, rewards: Tensor, sign=-1, of=float) -> float:
    terms = [sign * r * of(p) for p, r in zip(logprobs.tolist(), rewards.tolist(), strict=True)]
    return sum(terms) / len(terms)


check_reinforce_loss = Exercise(
    "reinforce_loss",
    _reinforce_loss,
    cases={
        "four samples": (-X[0].abs() - 0.1, Y[0]),
        "three samples": (-Z[1, :3].abs() - 0.1, X[1, :3]),
    },
    mistakes={
        "sign. An optimiser descends: this makes rewarded samples less likely.": {"sign": 1},
        "sum over the samples. The mean estimates an expectation; a sum grows with their number.": (
            lambda logprobs, rewards: len(rewards) * _reinforce_loss(logprobs, rewards)
        ),
        "probabilities. Their gradient is pi times that of log pi: likely samples count twice, as "
        "they are sampled more often already.": {"of": math.exp},
        "mean of the rewards. Each sample's log-prob has a factor of its own: multiply first, then "
        "average.": lambda logprobs, rewards: -(rewards.mean() * logprobs.mean()),
    },
)


def _gae(
    rewards, values, mask, gamma, lam, pads=False, trace=None, ahead=1, zero=False, discount=None
) -> Tensor:
    advantages = torch.zeros_like(rewards)
    trace = gamma * lam if trace is None else trace(gamma, lam)
    gamma = gamma if discount is None else discount
    for b, row in enumerate(mask.tolist()):
        length = len(row) if pads else sum(row)
        v = [*values[b, :length].tolist(), 0.0]
        delta = [rewards[b, t].item() + gamma * v[t + ahead] - v[t] for t in range(length)]
        for t in range(length):
            advantages[b, t] = sum(trace ** (k - t) * delta[k] for k in range(t, length))
    return advantages * mask if zero else advantages


def _gae_forwards(rewards, values, mask, gamma, lam) -> Tensor:
    delta = _gae(rewards, values, mask, gamma, lam, trace=lambda gamma, lam: 0.0)
    advantages = [delta[:, 0]]
    for t in range(1, delta.size(1)):
        advantages.append(delta[:, t] + gamma * lam * advantages[-1])
    return torch.stack(advantages, 1) * mask


def _with_returns(mine, library):
    """The library's `gae` returns the value model's targets too."""

    def gae(rewards, values, mask, gamma=1.0, lam=0.95) -> tuple[Tensor, Tensor]:
        advantages = mine(rewards, values, mask, gamma, lam)
        return advantages, advantages + torch.where(mask, values, 0.0)

    return gae


check_gae = Exercise(
    "gae",
    _gae,
    cases={"lambda 0.9": (X, Y, MASK, 1.0, 0.9), "gamma 0.8, lambda 0.5": (Z, X, MASK, 0.8, 0.5)},
    mistakes={
        "mask forgotten. Pads have values too, and the last real token sees them: set both inputs "
        "to 0 there first.": [{"pads": True}, {"pads": True, "zero": True}],
        "lambda forgotten. A decays by gamma * lam per step, not by gamma.": {
            "trace": lambda gamma, lam: gamma
        },
        "gamma forgotten. Both are discounted: gamma * V_{t+1} and gamma * lam * A_{t+1}.": [
            {"discount": 1.0},
            {"discount": 1.0, "trace": lambda gamma, lam: lam},
            {"trace": lambda gamma, lam: lam},
        ],
        "a walk forward. A_t needs A_{t+1}: begin with the last token.": _gae_forwards,
        "no recursion. That is delta alone: add gamma * lam * A_{t+1}.": {
            "trace": lambda gamma, lam: 0.0
        },
        "off by one in V. delta looks one step ahead: V_{t+1}, and 0 after the last token.": {
            "ahead": 0
        },
    },
    place=Place(cases=((X, Y, MASK, 1.0, 0.9), (Z, X, MASK)), adapt=_with_returns),
)


def _whiten(x: Tensor, mask: Tensor, power=-0.5, ddof=0, shift=0.0, pads=False) -> Tensor:
    real = x[mask].tolist()
    mean = sum(real) / len(real)
    variance = sum((value - mean) ** 2 for value in real) / (len(real) - ddof)
    white = (x - mean) * (variance + 1e-8) ** power + shift * mean
    return torch.where(mask | pads, white, 0.0)


def _whiten_with_pads(x: Tensor, mask: Tensor, ddof: int, zero: bool, before: bool) -> Tensor:
    white = _whiten(x * mask if before else x, torch.ones_like(mask), ddof=ddof)
    return white * mask if zero else white


def _by_row(x: Tensor, mask: Tensor, ddof: int) -> Tensor:
    rows = zip(x, mask, strict=True)
    return torch.stack([_whiten(row[None], real[None], ddof=ddof)[0] for row, real in rows])


check_whiten = Exercise(
    "whiten",
    _whiten,
    cases={"three lengths": (3 * X + 2, MASK), "another": (0.5 * Y - 1, MASK)},
    mistakes={
        "mask forgotten. The pads are in your mean and variance.": [
            partial(_whiten_with_pads, ddof=ddof, zero=zero, before=before)
            for ddof in (0, 1)
            for zero in (True, False)
            for before in (True, False)
        ],
        "each row by itself. A poor response would look as good as a rich one: take all real "
        "tokens of the batch together.": [
            lambda x, mask: torch.where(mask, _by_row(x, mask, 0), 0.0),
            lambda x, mask: torch.where(mask, _by_row(x, mask, 1), 0.0),
        ],
        "pads not set to 0. The numbers are right, but pads must come out as 0.": {"pads": True},
        "divided by n - 1. torch's var and std divide by n - 1 unless unbiased=False.": {"ddof": 1},
        "divided by the variance. Divide by the standard deviation, its square root.": {
            "power": -1
        },
        "mean added back. That is for rewards; advantages get mean 0.": {"shift": 1.0},
    },
    place=Place(cases=((3 * X + 2, MASK),)),
)


def _policy_loss(
    logprobs, old_logprobs, advantages, mask, clip_range, pick=max, sign=1, invert=1, pads=False
) -> float:
    terms = []
    for b, t in (mask | pads).nonzero().tolist():
        ratio = math.exp(invert * (logprobs[b, t] - old_logprobs[b, t]))
        a, near = sign * advantages[b, t].item(), min(max(ratio, 1 - clip_range), 1 + clip_range)
        terms.append(pick(-a * ratio, -a * near))
    return sum(terms) / len(terms)


def _with_clip_fraction(mine, library):
    """The library's `clipped_policy_loss` also counts the clipped tokens, for the log."""
    return lambda *arguments: (mine(*arguments), library(*arguments)[1])


def _with_ratio_of_logs(logprobs, old_logprobs, advantages, mask, clip_range) -> Tensor:
    ratio = logprobs / old_logprobs
    clipped = ratio.clamp(1 - clip_range, 1 + clip_range)
    return torch.maximum(-advantages * ratio, -advantages * clipped)[mask].mean()


check_policy_loss = Exercise(
    "policy_loss",
    _policy_loss,
    cases={
        "three lengths": (X, Y, Z, MASK, 0.2),
        "no pads": (X[:1, :3], Z[:1, :3], -Y[:1, :3], torch.ones(1, 3).bool(), 0.1),
    },
    mistakes={
        "minimum of losses. The paper's min is over objectives; losses need max.": {"pick": min},
        "always clipped. A token that went too far the wrong way would get no gradient back: take "
        "the max of both.": {"pick": lambda free, clipped: clipped},
        "never clipped. Nothing holds the ratio: take the max of both.": {
            "pick": lambda free, clipped: free
        },
        "ratio upside down. New over old: exp(logprobs - old_logprobs).": {"invert": -1},
        "sign of the advantage. A loss is minus the objective: -A * ratio.": {"sign": -1},
        "mask forgotten. Average over real tokens only.": {"pads": True},
        "ratio of log-probs. A ratio of probabilities is exp(logprobs - old_logprobs).": (
            _with_ratio_of_logs
        ),
    },
    place=Place(  # far from the old policy, near it, and equal, as each rollout begins
        cases=tuple((X + gap * Y, X, Z, MASK, 0.2) for gap in (1, 0.1, 0)),
        adapt=_with_clip_fraction,
        learns=(0,),
    ),
)


def _explained_variance(values: Tensor, returns: Tensor, flip=False, ddof=0) -> float:
    v, r = values.tolist(), returns.tolist()
    base = v if flip else r
    variance = sum((x - sum(base) / len(base)) ** 2 for x in base) / (len(base) - ddof)
    return 1 - sum((a - b) ** 2 for a, b in zip(v, r, strict=True)) / len(r) / variance


check_explained_variance = Exercise(
    "explained_variance",
    _explained_variance,
    cases={
        "fair": (torch.tensor([1.0, 2.0, 2.5, 4.0]), torch.tensor([1.5, 1.0, 3.0, 5.0])),
        "poor": (-X[0], Y[0]),
    },
    mistakes={
        "unexplained part. A perfect model must get 1: subtract it.": (
            lambda values, returns: 1 - _explained_variance(values, returns)
        ),
        "divided by N - 1. torch's var needs unbiased=False to divide by N.": {"ddof": 1},
        "variance of the values. Divide by the variance of the returns.": {"flip": True},
        "variance of the errors. A constant error is an error too: take the mean of (V - R)^2.": (
            lambda v, r: 1 - (v - r).var(unbiased=False) / r.var(unbiased=False)
        ),
    },
)

check_total_reward = Prediction(
    "total_reward",
    answer=0.4,
    why="PPO maximises score minus kl_coef times KL: being 12 nats away ate 0.6 of the score.",
    mistakes={
        "KL sign. The distance is a price, not a prize.": 1.6,
        "coefficient forgotten. Multiply the KL by kl_coef first.": -11.0,
    },
)

check_logit_gradient = Prediction(
    "logit_gradient",
    answer=0.4,
    why="The probability times the reward above average: whatever is better than the policy's mean "
    "rises, the rest falls.",
    mistakes={
        "other tokens forgotten. They have a derivative too: -pi(v) each, times their rewards.": (
            0.2 * 0.8 * 3
        ),
        "average forgotten. Raising this logit takes probability from all others, worth J on "
        "average.": 0.6,
        "probability forgotten. The token is sampled in a fifth of the cases.": 2.0,
    },
)

check_clipped_gradient = Prediction(
    "clipped_gradient",
    answer=0.0,
    why="The clipped branch is constant: this token already moved far enough. With advantage -1 "
    "it would be +1.5.",
    mistakes={
        "that is without the clip. The maximum picks the clipped branch here.": -1.5,
        "clamp has no slope. That is the loss itself; outside the range clamp is flat.": -1.2,
    },
)
