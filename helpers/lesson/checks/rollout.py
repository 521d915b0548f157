"""The first exercises of 3-PPO, on what a rollout is made of: log-probs, truncation, KL, a reward
for each token.
"""

import math
from functools import partial

import torch
from torch import Tensor

from helpers.lesson.checks.core import Exercise, Prediction, randn

MASK = torch.tensor(
    [[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 0]], dtype=torch.bool
)  # (3, 4), padded on the right
X, Y, Z = (
    randn(3, 4, seed=seed) for seed in (1, 2, 3)
)  # stand-ins for (B, R) inputs, not zero at the pads


def _token_logprobs(logits: Tensor, ids: Tensor, shift=1, normalise=True, log=True) -> Tensor:
    rows = []
    for row, tokens in zip(logits.double(), ids.tolist(), strict=True):
        total = [x.exp().sum() if normalise else 1.0 for x in row]
        picked = [
            row[t + 1 - shift, tokens[t + 1]].exp() / total[t + 1 - shift]
            for t in range(len(tokens) - 1)
        ]
        rows.append(torch.stack(picked).log() if log else torch.stack(picked))
    return torch.stack(rows)


TOKEN_LOGPROBS = Exercise(
    name="token_logprobs",
    difficulty=2,
    minutes=6,
    signature="my_token_logprobs(logits, ids)",
    task="`logits` is `(B, T, V)`, row `t` predicting token `t + 1`; `ids` is `(B, T)`. Return "
    "`(B, T - 1)`: the "
    "log-probability that the model gave to each token that has a prediction.",
    hint="`log_softmax` over the vocabulary, then `gather(-1, ids.unsqueeze(-1))` picks one "
    "number per position.",
    solution="""
def my_token_logprobs(logits, ids):
    logprobs = logits[:, :-1].log_softmax(-1)  # (B, T-1, V)
    return logprobs.gather(-1, ids[:, 1:].unsqueeze(-1)).squeeze(-1)
""",
    oracle=_token_logprobs,
    cases={"two responses": (randn(2, 4, 5, seed=4), torch.tensor([[0, 3, 1, 4], [2, 2, 0, 1]]))},
    mistakes={
        "not shifted": (
            partial(_token_logprobs, shift=0),
            "Row t has already read token t; it predicts token t + 1.",
        ),
        "raw logits": (
            partial(_token_logprobs, normalise=False),
            "A logit is no log-probability: use log_softmax.",
        ),
        "probabilities": (
            partial(_token_logprobs, log=False),
            "Take the logarithm: log_softmax, not softmax.",
        ),
    },
)


def _truncate(ids: Tensor, eos_id: int, pad_id: int, keep: int = 1, last: bool = False) -> Tensor:
    rows = []
    for row in ids.tolist():
        places = [t for t, token in enumerate(row) if token == eos_id]
        end = (places[-1] if last else places[0]) + keep if places else len(row)
        rows.append(row[:end] + [pad_id] * (len(row) - end))
    return torch.tensor(rows)


TRUNCATE = Exercise(
    name="truncate",
    difficulty=2,
    minutes=8,
    signature="my_truncate(ids, eos_id, pad_id)",
    task="`ids` is `(B, R)`, responses as sampled: after an EOS the model went on writing. Return "
    "a copy where "
    "everything after the **first** EOS is `pad_id`. The EOS stays; a response without one stays "
    "as it is.",
    hint="`(ids == eos_id).cumsum(1)` counts the EOS up to and including each place. Subtract the "
    "token itself.",
    solution="""
def my_truncate(ids, eos_id, pad_id):
    is_eos = (ids == eos_id).long()
    eos_before = is_eos.cumsum(1) - is_eos  # (B, R): how many came before this token
    return ids.masked_fill(eos_before > 0, pad_id)
""",
    oracle=_truncate,
    cases={
        "none, one, two EOS": (
            torch.tensor([[5, 6, 7, 8, 9], [5, 1, 7, 8, 9], [5, 6, 1, 8, 1], [1, 1, 4, 1, 5]]),
            1,
            0,
        )
    },
    mistakes={
        "EOS removed": (
            partial(_truncate, keep=0),
            "Keep the EOS: the score is read there, and stopping must be learned.",
        ),
        "cut at the last EOS": (
            partial(_truncate, last=True),
            "What follows the first EOS was never meant to be read.",
        ),
        "off by one": (partial(_truncate, keep=2), "One token after the EOS is still there."),
    },
)


def _k3(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    pairs = zip(logprobs.tolist(), ref_logprobs.tolist(), strict=True)
    return torch.tensor([math.exp(q) / math.exp(p) - 1 - (q - p) for p, q in pairs])


K3 = Exercise(
    name="k3",
    difficulty=2,
    minutes=5,
    signature="my_k3(logprobs, ref_logprobs)",
    task="The tokens were sampled from the policy. With $r = \\text{ref}/\\pi$, Schulman's third "
    "estimator of "
    "$KL(\\pi \\| \\text{ref})$ is $k_3 = r - 1 - \\log r$. Return it for every token, `(N,)`.",
    hint="log r is a difference of log-probs. Which one is on top of the fraction?",
    solution="""
def my_k3(logprobs, ref_logprobs):
    log_r = ref_logprobs - logprobs
    return log_r.exp() - 1 - log_r
""",
    oracle=_k3,
    cases={
        "more and less likely": (
            torch.tensor([-1.0, -2.0, -0.5, -3.0]),
            torch.tensor([-2.0, -1.0, -0.5, -2.8]),
        )
    },
    mistakes={
        "KL sign": (
            lambda p, q: _k3(q, p),
            "r is ref / policy, so log r = ref_logprobs - logprobs.",
        ),
        "that is k1": (
            lambda p, q: p - q,
            "k1 = -log r is unbiased too, but can be negative; add r - 1.",
        ),
        "that is k2": (lambda p, q: (p - q) ** 2 / 2, "k2 is biased; k3 has no square."),
        "minus 1 forgotten": (lambda p, q: _k3(p, q) + 1, "For equal models it must be 0."),
    },
)


def _token_rewards(
    scores, logprobs, ref_logprobs, mask, kl_coef, sign=-1, place="last", pads=False
) -> Tensor:
    rewards = torch.zeros_like(logprobs)
    for b, row in enumerate(mask.tolist()):
        length = sum(row)
        for t in range(len(row)):
            if t < length or pads:
                rewards[b, t] = sign * kl_coef * (logprobs[b, t] - ref_logprobs[b, t])
            spots = {
                "last": [length - 1],
                "column": [len(row) - 1],
                "all": range(length),
                "first": [0],
            }[place]
            rewards[b, t] += scores[b] if t in spots else 0.0
    return rewards


TOKEN_REWARDS = Exercise(
    name="token_rewards",
    difficulty=3,
    minutes=10,
    signature="my_token_rewards(scores, logprobs, ref_logprobs, mask, kl_coef)",
    task="Every real token pays $-\\text{kl\\_coef}\\,(\\log\\pi - \\log\\text{ref})$; the last "
    "real token also gets "
    "the response's score. `scores` is `(B,)`, the others are `(B, R)`, pads on the right. Return "
    "`(B, R)` "
    "with 0 at the pads.",
    hint="`mask.sum(1) - 1` is the index of the last real token; `rewards[torch.arange(B), last] "
    "+= scores`.",
    solution="""
def my_token_rewards(scores, logprobs, ref_logprobs, mask, kl_coef):
    rewards = torch.where(mask, -kl_coef * (logprobs - ref_logprobs), 0.0)  # (B, R)
    last = mask.sum(1) - 1  # (B,)
    rewards[torch.arange(len(scores)), last] += scores
    return rewards
""",
    oracle=_token_rewards,
    cases={"three lengths": (torch.tensor([1.0, -2.0, 0.5]), -X.abs(), -Y.abs(), MASK, 0.1)},
    mistakes={
        "KL sign": (
            partial(_token_rewards, sign=1),
            "This pays the policy for leaving the reference: it would run away.",
        ),
        "score at a pad": (
            partial(_token_rewards, place="column"),
            "Short responses end before the last column.",
        ),
        "score on every token": (
            partial(_token_rewards, place="all"),
            "It is paid once, or long responses win.",
        ),
        "score on the first token": (
            partial(_token_rewards, place="first"),
            "It is known only when the text is done.",
        ),
        "mask forgotten": (partial(_token_rewards, pads=True), "Pads have no KL: set them to 0."),
    },
)


TOTAL_REWARD = Prediction(
    name="total_reward",
    difficulty=1,
    minutes=2,
    task="A response gets score 1.0. Summed over its tokens, log pi - log ref is 12 nats, and "
    "kl_coef is 0.05. "
    "What do its token rewards add up to?",
    hint="Score minus price.",
    solution="my_total_reward = 1.0 - 0.05 * 12",
    answer=0.4,
    why="PPO maximises score minus kl_coef times KL: being 12 nats away ate 0.6 of the score.",
    mistakes={
        "KL sign": (1.6, "The distance is a price, not a prize."),
        "coefficient forgotten": (-11.0, "Multiply the KL by kl_coef first."),
    },
)

check_token_logprobs = TOKEN_LOGPROBS.check
check_truncate = TRUNCATE.check
check_k3 = K3.check
check_token_rewards = TOKEN_REWARDS.check
check_total_reward = TOTAL_REWARD.check
