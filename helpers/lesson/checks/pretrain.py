"""Exercises of 0-Pretrain: attention, positions, the next-token loss, the schedule, sampling."""

import math
from functools import partial

import torch
from torch import Tensor

from helpers.lesson.checks.core import Exercise, Prediction, randn


def _causal_mask(size: int, rule=lambda query, key: key <= query) -> Tensor:
    return torch.tensor([[rule(query, key) for key in range(size)] for query in range(size)])


CAUSAL_MASK = Exercise(
    name="causal_mask",
    difficulty=1,
    minutes=3,
    signature="my_causal_mask(size)",
    task="Return a boolean tensor of shape `(size, size)`. Row `t` belongs to the query at "
    "position `t`, column `s` "
    "to the key at position `s`; an entry is `True` where the query **may look**: at itself and "
    "at everything "
    "before it.",
    hint="`torch.tril` keeps the lower triangle of a matrix, diagonal included.",
    solution="""
def my_causal_mask(size):
    return torch.ones(size, size, dtype=torch.bool).tril()
""",
    oracle=_causal_mask,
    cases={"one token": (1,), "five tokens": (5,)},
    mistakes={
        "True means blocked": (
            partial(_causal_mask, rule=lambda q, k: k > q),
            "Here True means 'may look': invert it.",
        ),
        "looks into the future": (
            partial(_causal_mask, rule=lambda q, k: k >= q),
            "Rows are queries, columns are keys: the lower triangle.",
        ),
        "off by one on the diagonal": (
            partial(_causal_mask, rule=lambda q, k: k < q),
            "A token must see itself (softmax over nothing is NaN).",
        ),
    },
)


def _attention(
    q: Tensor, k: Tensor, v: Tensor, power=0.5, causal=True, axis=1, late_mask=False
) -> Tensor:
    T, D = q.shape
    scores = torch.tensor([[sum(q[t] * k[s]) / D**power for s in range(T)] for t in range(T)])
    future = torch.tensor([[causal and s > t for s in range(T)] for t in range(T)])
    weights = (scores if late_mask else scores.masked_fill(future, -math.inf)).exp()
    weights = weights / weights.sum(axis, keepdim=True)
    return weights.masked_fill(future, 0.0) @ v


ATTENTION = Exercise(
    name="attention",
    difficulty=2,
    minutes=10,
    signature="my_attention(q, k, v)",
    task="One head of causal self-attention for one sequence. `q`, `k`, `v` are `(T, D)`. Compute "
    "$\\text{softmax}\\left(qk^\\top/\\sqrt{D}\\right)v$, where a query sees no key after itself, "
    "and return `(T, "
    "D)`.",
    hint="Fill the scores of the future with minus infinity *before* the softmax over the last "
    "dimension.",
    solution="""
def my_attention(q, k, v):
    T, D = q.shape
    scores = q @ k.T / math.sqrt(D)  # (T, T): queries down, keys across
    future = torch.ones(T, T, dtype=torch.bool).triu(1)
    return scores.masked_fill(future, -math.inf).softmax(-1) @ v
""",
    oracle=_attention,
    cases={
        "four tokens, two channels": tuple(randn(4, 2, seed=s) for s in (1, 2, 3)),
        "six tokens, eight channels": tuple(2 * randn(6, 8, seed=s) for s in (4, 5, 6)),
    },
    mistakes={
        "scale forgotten": (
            partial(_attention, power=0.0),
            "Divide the scores by sqrt(D) before the softmax.",
        ),
        "scale is D, not its root": (
            partial(_attention, power=1.0),
            "q.k has variance D, so divide by sqrt(D).",
        ),
        "causal mask forgotten": (
            partial(_attention, causal=False),
            "A query must not see the keys after it.",
        ),
        "mask after the softmax": (
            partial(_attention, late_mask=True),
            "Zeroed rows no longer sum to 1: set scores to -inf before it.",
        ),
        "softmax over the queries": (
            partial(_attention, axis=0),
            "Each query spreads weight 1 over keys: dim=-1.",
        ),
    },
)


def _next_token_loss(logits: Tensor, ids: Tensor, shift=1, mean=True) -> Tensor:
    losses = []
    for t in range(len(ids)):
        if 0 <= t + shift < len(ids):
            row = logits[t].double()
            losses.append(row.exp().sum().log() - row[ids[t + shift]])
    return sum(losses) / (len(losses) if mean else 1)


NEXT_TOKEN_LOSS = Exercise(
    name="next_token_loss",
    difficulty=2,
    minutes=5,
    signature="my_next_token_loss(logits, ids)",
    task="`logits` is `(T, V)`: row `t` is the model's guess at token `t + 1`. `ids` is `(T,)`. "
    "Return the mean "
    "cross-entropy of the predictions that have an answer in `ids`, in nats.",
    hint="The last row of logits has no answer, the first token has no prediction: `logits[:-1]` "
    "meets `ids[1:]`.",
    solution="""
def my_next_token_loss(logits, ids):
    return F.cross_entropy(logits[:-1], ids[1:])
""",
    oracle=_next_token_loss,
    cases={
        "five tokens": (randn(5, 7, seed=7), torch.tensor([3, 1, 6, 0, 2])),
        "two tokens": (randn(2, 4, seed=8), torch.tensor([1, 3])),
    },
    mistakes={
        "not shifted": (
            partial(_next_token_loss, shift=0),
            "Row t has just read token t: ask it for t + 1.",
        ),
        "shifted the wrong way": (
            partial(_next_token_loss, shift=-1),
            "Row t predicts token t + 1, not token t - 1.",
        ),
        "sum instead of mean": (
            partial(_next_token_loss, mean=False),
            "Divide by the number of predicted tokens.",
        ),
    },
)


def _position_ids(mask: Tensor, start=0, skip_pads=True, pad_value=0) -> Tensor:
    positions = torch.zeros_like(mask, dtype=torch.long)
    for b, row in enumerate(mask.tolist()):
        next_position = start
        for t, real in enumerate(row):
            positions[b, t] = next_position if real or not skip_pads else pad_value
            next_position += 1 if real or not skip_pads else 0
    return positions


POSITION_IDS = Exercise(
    name="position_ids",
    difficulty=2,
    minutes=5,
    signature="my_position_ids(mask)",
    task="For sampling, prompts of different lengths are padded on the **left**. `mask` is `(B, "
    "P)`, 1 on real "
    "tokens. Return `(B, P)` position ids: the first *real* token of each row gets 0, the next 1 "
    "and so on; "
    "pads get 0.",
    hint="A cumulative sum over the mask counts real tokens. Does it count the token itself?",
    solution="""
def my_position_ids(mask):
    return (mask.cumsum(1) - 1).clamp(min=0)  # tokens before this one
""",
    oracle=_position_ids,
    cases={
        "no pads": (torch.tensor([[1, 1, 1]]),),
        "left pads": (torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1], [0, 0, 0, 1]]),),
    },
    mistakes={
        "pads are counted": (
            partial(_position_ids, skip_pads=False),
            "Padding would change what the model answers: count real tokens only.",
        ),
        "off by one": (
            lambda mask: mask.cumsum(1),
            "The first real token is at position 0: count those before it.",
        ),
        "negative at the pads": (
            partial(_position_ids, pad_value=-1),
            "Position -1 is no row of the embedding table: clamp at 0.",
        ),
    },
)


def _learning_rate(step, steps, peak, warmup, decay, first=1, last=0, plateau=True) -> float:
    if step < warmup:
        return peak * (step + first) / warmup
    if not plateau:
        return peak * (steps - step) / (steps - warmup)
    return peak * min(1.0, (steps - step - last) / decay)


LEARNING_RATE = Exercise(
    name="learning_rate",
    difficulty=2,
    minutes=8,
    signature="my_learning_rate(step, steps, peak, warmup, decay)",
    task="Warm up, stay, decay. `step` counts from 0 to `steps - 1`. In the first `warmup` steps "
    "the rate climbs in "
    "equal parts and reaches `peak` on the last of them; in the last `decay` steps it falls in "
    "equal parts, so "
    "that step `steps` (which is never run) would get 0; in between it is `peak`. Return the rate "
    "of this step.",
    hint="Write both ramps as factors, `(step + 1) / warmup` and `(steps - step) / decay`; the "
    "smallest factor wins.",
    solution="""
def my_learning_rate(step, steps, peak, warmup, decay):
    return peak * min(1.0, (step + 1) / warmup, (steps - step) / decay)
""",
    oracle=_learning_rate,
    cases={
        f"step {step} of 20": (step, 20, 0.5, 4, 6) for step in (0, 1, 3, 4, 10, 13, 14, 15, 19)
    },
    mistakes={
        "first step has rate 0": (
            partial(_learning_rate, first=0),
            "Use step + 1: a step at rate 0 learns nothing.",
        ),
        "last step has rate 0": (
            partial(_learning_rate, last=1),
            "Use steps - step: zero comes after the last step.",
        ),
        "no plateau": (
            partial(_learning_rate, plateau=False),
            "The decay only starts `decay` steps before the end.",
        ),
    },
)


def _next_probs(
    logits: Tensor, temperature: float, top_k: int, power=-1, fill=-math.inf, smallest=False
) -> Tensor:
    scaled = logits * temperature**power
    order = scaled.argsort(descending=not smallest).tolist()
    kept = [x if i in order[:top_k] else fill for i, x in enumerate(scaled.tolist())]
    return torch.tensor(kept).softmax(-1)


NEXT_PROBS = Exercise(
    name="next_probs",
    difficulty=3,
    minutes=10,
    signature="my_next_probs(logits, temperature, top_k)",
    task="`logits` is `(V,)`. Return the `(V,)` probabilities to sample the next token from: "
    "sharpen or flatten with "
    "`temperature`, keep only the `top_k` most likely tokens, and make the result sum to 1.",
    hint="`logits.topk(top_k).values[-1]` is the smallest logit that stays. What must the others "
    "become?",
    solution="""
def my_next_probs(logits, temperature, top_k):
    smallest_kept = logits.topk(top_k).values[-1]
    logits = logits.masked_fill(logits < smallest_kept, -math.inf)
    return (logits / temperature).softmax(-1)
""",
    oracle=_next_probs,
    cases={
        "cold": (torch.tensor([0.5, 2.0, -1.0, 1.0]), 0.5, 2),
        "hot": (torch.tensor([0.5, 2.0, -1.0, 1.0, -3.0]), 2.0, 3),
        "nothing cut": (torch.tensor([1.0, 0.0, -1.0]), 0.7, 3),
    },
    mistakes={
        "temperature upside down": (
            partial(_next_probs, power=1),
            "Divide by it: a low temperature makes gaps larger.",
        ),
        "temperature forgotten": (
            partial(_next_probs, power=0),
            "Divide the logits by the temperature before the softmax.",
        ),
        "cut tokens still get drawn": (
            partial(_next_probs, fill=0.0),
            "exp(0) is 1: a cut token's logit must be -inf.",
        ),
        "not renormalised": (
            lambda logits, temperature, top_k: torch.where(
                _next_probs(logits, temperature, top_k) > 0, (logits / temperature).softmax(-1), 0.0
            ),
            "After the cut the rest no longer sums to 1: cut before the softmax, or divide by the "
            "sum.",
        ),
    },
)

INITIAL_LOSS = Prediction(
    name="initial_loss",
    difficulty=1,
    minutes=2,
    task="Before training, a GPT gives every token of its vocabulary about the same probability. "
    "With GPT-2's 50,257 tokens, what is the cross-entropy of the very first batch, in nats per "
    "token?",
    hint="Every token gets probability 1/V, and the loss is minus the log of what the right token "
    "got.",
    solution="my_initial_loss = math.log(50257)",
    answer=math.log(50257),
    why="It is ln V. A first loss far from ln V means a bug: in the init, the shift, or the loss.",
    mistakes={
        "that is in bits": (
            lambda answer: answer / math.log(2),
            "PyTorch's log is the natural one: ln V, not log2 V.",
        ),
        "that is the perplexity": (
            math.exp,
            "V is the number of equally likely tokens; the loss is the log of that.",
        ),
        "a loss of 0 is perfect knowledge": (0.0, "It would have to be sure of every next token."),
    },
)

ATTENTION_COST = Prediction(
    name="attention_cost",
    difficulty=1,
    minutes=1,
    task="A sequence gets twice as long. By what factor does the number of attention scores "
    "(query-key pairs) grow?",
    hint="Twice as many queries. And how many keys does each of them have?",
    solution="my_attention_cost = 4",
    answer=4.0,
    why="T queries times T keys: attention is quadratic in the length, everything else in the "
    "block is linear.",
    mistakes={
        "only one side doubled": (
            2.0,
            "The queries double, and so do the keys that each of them looks at.",
        )
    },
)

PERPLEXITY = Prediction(
    name="perplexity",
    difficulty=1,
    minutes=2,
    task="The held-out loss is 2 nats per token. On average, among how many equally likely tokens "
    "is the model effectively choosing?",
    hint="If there were n, the loss would be ln n.",
    solution="my_perplexity = math.exp(2)",
    answer=math.exp(2),
    why="exp(loss) is called perplexity.",
    mistakes={"base 2 instead of e": (4.0, "The loss is in nats, so n = e^loss.")},
)

EXERCISES = [
    INITIAL_LOSS,
    CAUSAL_MASK,
    ATTENTION,
    ATTENTION_COST,
    NEXT_TOKEN_LOSS,
    PERPLEXITY,
    POSITION_IDS,
    LEARNING_RATE,
    NEXT_PROBS,
]

check_initial_loss = INITIAL_LOSS.check
check_causal_mask = CAUSAL_MASK.check
check_attention = ATTENTION.check
check_attention_cost = ATTENTION_COST.check
check_next_token_loss = NEXT_TOKEN_LOSS.check
check_perplexity = PERPLEXITY.check
check_position_ids = POSITION_IDS.check
check_learning_rate = LEARNING_RATE.check
check_next_probs = NEXT_PROBS.check
