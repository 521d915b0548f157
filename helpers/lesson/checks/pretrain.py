"""Exercises of 0-Pretrain: attention, positions, the next-token loss, the schedule, sampling."""

import math

import torch
from torch import Tensor

from helpers.lesson.checks.core import Exercise, Prediction, randn, tiny_gpt
from helpers.lesson.checks.own import Place


def _causal_mask(size: int, rule=lambda query, key: key <= query) -> Tensor:
    return torch.tensor([[rule(query, key) for key in range(size)] for query in range(size)])


def _without_pads(mine, library):
    """`causal_mask` with a learner's triangle, where there are neither pads nor a cache."""

    def causal_mask(T, S, attention_mask=None, device=None) -> Tensor:
        if T == S and attention_mask is None:
            return mine(T).to(device)
        return library(T, S, attention_mask, device)

    return causal_mask


check_causal_mask = Exercise(
    "causal_mask",
    _causal_mask,
    cases={"one token": (1,), "five tokens": (5,)},
    mistakes={
        "True means blocked. Here True means 'may look': invert it.": {"rule": lambda q, k: k > q},
        "looks into the future. Rows are queries, columns are keys: the lower triangle.": {
            "rule": lambda q, k: k >= q
        },
        "off by one on the diagonal. A token must see itself (softmax over nothing is NaN).": {
            "rule": lambda q, k: k < q
        },
    },
    place=Place(cases=((5, 5), (2, 5)), adapt=_without_pads),
)


def _attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    power=0.5,
    hidden=lambda t, s: s > t,
    axis=1,
    fill=-math.inf,
    late_mask=False,
) -> Tensor:
    T, D = q.shape
    scores = torch.tensor([[sum(q[t] * k[s]) / D**power for s in range(T)] for t in range(T)])
    future = torch.tensor([[hidden(t, s) for s in range(T)] for t in range(T)])
    weights = (scores if late_mask else scores.masked_fill(future, fill)).exp()
    weights = weights / weights.sum(axis, keepdim=True)
    return (weights.masked_fill(future, 0.0) if late_mask else weights) @ v


def _every_head(mine, library):
    """`attend_explicit` with a learner's single head, for all heads and rows at once, where only
    the future is masked and nothing is in a cache.
    """
    heads = torch.vmap(torch.vmap(mine))

    def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
        if bias is not None or q.shape != k.shape:
            return library(q, k, v, bias)
        try:
            return heads(q, k, v)
        except RuntimeError:  # vmap allows no writing into a tensor of one's own: head by head
            flat = zip(*(x.flatten(0, 1) for x in (q, k, v)), strict=True)
            return torch.stack([mine(*head) for head in flat]).view_as(q)

    return attend


check_attention = Exercise(
    "attention",
    _attention,
    cases={
        "four tokens, two channels": tuple(randn(4, 2, seed=s) for s in (1, 2, 3)),
        "six tokens, eight channels": tuple(2 * randn(6, 8, seed=s) for s in (4, 5, 6)),
    },
    mistakes={
        "scale forgotten. Divide the scores by sqrt(D) before the softmax.": {"power": 0.0},
        "scale is D, not its root. q.k has variance D, so divide by sqrt(D).": {"power": 1.0},
        "causal mask forgotten. A query must not see the keys after it.": {
            "hidden": lambda t, s: False
        },
        "mask inverted. A query sees itself and the keys before it; hide those after it.": {
            "hidden": lambda t, s: s <= t
        },
        "a token hidden from itself. The first one would see nothing, and its softmax is NaN.": {
            "hidden": lambda t, s: s >= t
        },
        "masked scores set to 0. exp(0) is 1, so they still get weight: set them to -inf.": {
            "fill": 0.0
        },
        "mask after the softmax. Zeroed rows no longer sum to 1: set scores to -inf before it.": {
            "late_mask": True
        },
        "softmax over the queries. Each query spreads weight 1 over keys: dim=-1.": {"axis": 0},
    },
    place=Place(
        cases=tuple(
            tuple(scale * randn(2, 2, 5, 4, seed=s) for s in (1, 2, 3)) for scale in (1, 20)
        ),
        adapt=_every_head,
        learns=(0, 1, 2),
    ),
)


def _next_token_loss(logits: Tensor, ids: Tensor, shift=1, mean=True) -> Tensor:
    losses = []
    for t in range(len(ids)):
        if 0 <= t + shift < len(ids):
            row = logits[t].double()
            losses.append(row.exp().sum().log() - row[ids[t + shift]])
    return sum(losses) / (len(losses) if mean else 1)


def _every_row(mine, library):
    """`next_token_loss` with a learner's loss of each row, weighted by its predictions."""

    def next_token_loss(model, ids: Tensor, mask: Tensor) -> Tensor:
        logits, lengths = model.logits(model.hidden(ids)), mask.sum(1).tolist()
        losses = [
            (n - 1) * mine(row[:n], tokens[:n])
            for row, tokens, n in zip(logits, ids, lengths, strict=True)
            if n > 1
        ]
        return sum(losses) / sum(n - 1 for n in lengths)

    return next_token_loss


check_next_token_loss = Exercise(
    "next_token_loss",
    _next_token_loss,
    cases={
        "five tokens": (randn(5, 7, seed=7), torch.tensor([3, 1, 6, 0, 2])),
        "two tokens": (randn(2, 4, seed=8), torch.tensor([1, 3])),
    },
    mistakes={
        "not shifted. Row t has just read token t; it predicts token t + 1.": {"shift": 0},
        "shifted the wrong way. Row t predicts token t + 1, not token t - 1.": {"shift": -1},
        "sum instead of mean. Divide by the number of predicted tokens.": {"mean": False},
    },
    place=Place(
        cases=(
            (
                tiny_gpt(),
                torch.tensor([[1, 2, 3, 4], [4, 3, 0, 0]]),
                torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]]).bool(),
            ),
        ),
        adapt=_every_row,
    ),
)


def _position_ids(mask: Tensor, skip_pads=True, pad_value=0) -> Tensor:
    positions = torch.zeros_like(mask, dtype=torch.long)
    for b, row in enumerate(mask.tolist()):
        next_position = 0
        for t, real in enumerate(row):
            positions[b, t] = next_position if real or not skip_pads else pad_value
            next_position += 1 if real or not skip_pads else 0
    return positions


check_position_ids = Exercise(
    "position_ids",
    _position_ids,
    cases={
        "no pads": (torch.tensor([[1, 1, 1]]),),
        "left pads": (torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1], [0, 0, 0, 1]]),),
    },
    mistakes={
        "pads are counted. Padding would change what the model answers: count real tokens only.": {
            "skip_pads": False
        },
        "off by one. The first real token is at position 0: count those before it.": (
            lambda mask: mask.cumsum(1)
        ),
        "negative at the pads. Position -1 is no row of the embedding table: clamp at 0.": {
            "pad_value": -1
        },
    },
)


def _learning_rate(step, steps, peak, warmup, decay, first=1, last=0, plateau=True) -> float:
    if step < warmup:
        return peak * (step + first) / warmup
    if not plateau:
        return peak * (steps - step) / (steps - warmup)
    return peak * min(1.0, (steps - step - last) / decay)


def _as_factor(mine, library):
    """`schedule` takes warm-up and decay as shares of the steps, and its peak is 1."""

    def schedule(step: int, steps: int, warmup: float = 0.05, decay: float = 0.4) -> float:
        return mine(step, steps, 1.0, max(1, round(warmup * steps)), max(1, round(decay * steps)))

    return schedule


check_learning_rate = Exercise(
    "learning_rate",
    _learning_rate,
    cases={
        f"step {step} of 20": (step, 20, 0.5, 4, 6) for step in (0, 1, 3, 4, 10, 13, 14, 15, 19)
    },
    mistakes={
        "first step has rate 0. Use step + 1: a step at rate 0 learns nothing.": {"first": 0},
        "last step has rate 0. Use steps - step: zero comes after the last step.": {"last": 1},
        "no plateau. The decay only starts `decay` steps before the end.": {"plateau": False},
    },
    place=Place(cases=tuple((step, 40) for step in range(40)), adapt=_as_factor),
)


def _next_probs(
    logits: Tensor, temperature: float, top_k: int, power=-1, fill=-math.inf, renormalise=True
) -> Tensor:
    scaled = logits * temperature**power
    top = scaled.argsort(descending=True).tolist()[:top_k]
    cut = torch.tensor([x if i in top else fill for i, x in enumerate(scaled.tolist())])
    return cut.softmax(-1) if renormalise else torch.where(cut > fill, scaled.softmax(-1), 0.0)


check_next_probs = Exercise(
    "next_probs",
    _next_probs,
    cases={
        "cold": (torch.tensor([0.5, 2.0, -1.0, 1.0]), 0.5, 2),
        "hot": (torch.tensor([0.5, 2.0, -1.0, 1.0, -3.0]), 2.0, 3),
        "nothing cut": (torch.tensor([1.0, 0.0, -1.0]), 0.7, 3),
    },
    mistakes={
        "temperature upside down. Divide by it: a low temperature makes gaps larger.": {"power": 1},
        "temperature forgotten. Divide the logits by the temperature before the softmax.": {
            "power": 0
        },
        "cut tokens still get drawn. exp(0) is 1: a cut token's logit must be -inf.": {"fill": 0.0},
        "not renormalised. After the cut the rest no longer sums to 1: cut before the softmax, or "
        "divide by the sum.": {"renormalise": False},
    },
)

check_initial_loss = Prediction(
    "initial_loss",
    answer=math.log(50257),
    why="It is ln V. A first loss far from ln V means a bug: in the init, the shift, or the loss.",
    mistakes={
        "that is in bits. PyTorch's log is the natural one: ln V, not log2 V.": (
            lambda answer: answer / math.log(2)
        ),
        "that is the perplexity. V is the number of equally likely tokens; the loss is the log of "
        "that.": math.exp,
        "a loss of 0 is perfect knowledge. It would have to be sure of every next token.": 0.0,
    },
)

check_attention_cost = Prediction(
    "attention_cost",
    answer=4.0,
    why="T queries times T keys: attention is quadratic in the length, everything else in the "
    "block is linear.",
    mistakes={
        "only one side doubled. The queries double, and so do the keys that each of them looks "
        "at.": 2.0
    },
)

check_perplexity = Prediction(
    "perplexity",
    answer=math.exp(2),
    why="exp(loss) is called perplexity.",
    mistakes={"base 2 instead of e. The loss is in nats, so n = e^loss.": 4.0},
)
