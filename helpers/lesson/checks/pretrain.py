"""Exercises of 0-Pretrain: merging pieces of text, attention, the block, positions, the next-token
loss, the schedule, sampling, the cache.
"""

import math

import torch
from torch import Tensor

from helpers.lesson.checks.core import Exercise, Prediction, randn, tiny_gpt
from helpers.lesson.checks.own import Place


def _merge(
    pieces: list[str], pair: tuple[str, str], step=2, most=99, rest=0, order=tuple
) -> list[str]:
    merged, i, joined = [], 0, 0
    while i < len(pieces) - rest:
        neighbours = tuple(pieces[i : i + 2])
        if joined < most and order(neighbours) == order(pair):
            merged.append("".join(neighbours))
            i, joined = i + step, joined + 1
        else:
            merged.append(pieces[i])
            i += 1
    return merged


def _mirrored(texts) -> tuple[str, ...]:
    return tuple(text[::-1] for text in reversed(texts))


def _merge_in_text(between: str):
    def merge(pieces: list[str], pair: tuple[str, str]) -> list[str]:
        return between.join(pieces).replace(between.join(pair), "".join(pair)).split(between)

    return merge


check_merge = Exercise(
    "merge",
    _merge,
    cases={
        "banana": (list("banana"), ("a", "n")),
        "the pair in reverse": (list("nana"), ("a", "n")),
        "three alike": (list("haaat"), ("a", "a")),
        "longer pieces": (["ban", "an", "a", " ", "na"], ("an", "a")),
    },
    mistakes={
        "joined pieces are still there. After a pair go on two places further, not one.": [
            {"step": 1},
            {"step": 1, "rest": 1},
        ],
        "the last piece is lost. It has no right neighbour, but unless it was joined it stays.": {
            "rest": 1
        },
        "only the first pair is joined. Go on behind it: the pair may come again.": {"most": 1},
        "joined from right to left. Begin at the left: of three alike the first two go together.": (
            lambda pieces, pair: _mirrored(_merge(_mirrored(pieces), _mirrored(pair)))
        ),
        "the order of the pair is ignored. ('a', 'n') is another pair than ('n', 'a').": {
            "order": sorted
        },
        "pieces are compared by letters. 'ban' ends in 'an', but it is another piece: compare "
        "pieces as a whole.": [_merge_in_text(" "), _merge_in_text("|")],
    },
)


def _causal_mask(size: int, rule=lambda query, key: key <= query) -> Tensor:
    return torch.tensor([[rule(query, key) for key in range(size)] for query in range(size)])


def _without_pads(mine, library):
    """`causal_mask` with a learner's triangle, where there are neither pads nor a cache."""

    def causal_mask(T, S, attention_mask=None, device=None) -> Tensor:
        if T == S and attention_mask is None:
            return torch.as_tensor(mine(T), device=device).bool()  # 0 and 1 will do
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
    place=Place(cases=((9, 9), (2, 5)), adapt=_without_pads),
)


def _attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale=lambda T, D: D**0.5,
    hidden=lambda t, s: s > t,
    axis=1,
    fill=-math.inf,
    late_mask=False,
) -> Tensor:
    T, D = q.shape
    scores = torch.tensor([[sum(q[t] * k[s]) / scale(T, D) for s in range(T)] for t in range(T)])
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
        "scale forgotten. Divide the scores by sqrt(D) before the softmax.": {
            "scale": lambda T, D: 1
        },
        "wrong scale. q.k is a sum over D channels: divide by sqrt(D), not by D or sqrt(T).": [
            {"scale": lambda T, D: D},
            {"scale": lambda T, D: T**0.5},
        ],
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


def _block(x: Tensor, attention, mlp, norm_1, norm_2) -> Tensor:
    x = x + attention(norm_1(x))
    return x + mlp(norm_2(x))


def _wrong_half(half) -> list:
    """Blocks with a wrong first, second, or both halves. half: (x, layer, norm) to x."""

    def block(first, second):
        return lambda x, attention, mlp, norm_1, norm_2: second(
            first(x, attention, norm_1), mlp, norm_2
        )

    def right(x, layer, norm):
        return x + layer(norm(x))

    return [block(half, right), block(right, half), block(half, half)]


def largest_so_far(x: Tensor) -> Tensor:
    """Stands for attention."""
    return x.cummax(-2).values


def square(x: Tensor) -> Tensor:
    """Stands for an MLP."""
    return x**2


def minus_mean(x: Tensor) -> Tensor:
    """Stands for a LayerNorm."""
    return x - x.mean(-1, keepdim=True)


def twice_minus_mean(x: Tensor) -> Tensor:
    """Stands for a LayerNorm with other gains."""
    return 2 * minus_mean(x)


check_block = Exercise(
    "block",
    _block,
    cases={
        "three tokens": (
            torch.tensor([[[1.0, 3.0], [2.0, 6.0], [0.0, 4.0]]]),
            largest_so_far,
            square,
            minus_mean,
            twice_minus_mean,
        ),
        "two rows": (randn(2, 3, 2, seed=9), largest_so_far, square, twice_minus_mean, minus_mean),
    },
    mistakes={
        "residual forgotten. Each half is added to x; without `x +` only the layer's output is "
        "left.": _wrong_half(lambda x, layer, norm: layer(norm(x))),
        "post-norm. Normalise what a layer reads, not the sum: the stream x stays as it is.": (
            _wrong_half(lambda x, layer, norm: norm(x + layer(x)))
        ),
        "normalised too late. Normalise what a layer reads, not what it returns.": (
            _wrong_half(lambda x, layer, norm: x + norm(layer(x)))
        ),
        "added to the normalised x. Keep x for the sum; only the layer reads the normalised one.": (
            _wrong_half(lambda x, layer, norm: norm(x) + layer(norm(x)))
        ),
        "LayerNorm forgotten. The layer reads norm(x), not x.": (
            _wrong_half(lambda x, layer, norm: x + layer(x))
        ),
        "the MLP reads the old x. First add attention's output; the MLP works on that sum.": (
            lambda x, attention, mlp, norm_1, norm_2: x + attention(norm_1(x)) + mlp(norm_2(x))
        ),
        "LayerNorms mixed up. norm_1 is attention's, norm_2 the MLP's: their gains differ.": [
            lambda x, attention, mlp, norm_1, norm_2: _block(x, attention, mlp, norm_2, norm_1),
            lambda x, attention, mlp, norm_1, norm_2: _block(x, attention, mlp, norm_1, norm_1),
        ],
    },
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
        "divided by T. T tokens make T - 1 predictions: the last row has no answer.": (
            lambda logits, ids: _next_token_loss(logits, ids) * (len(ids) - 1) / len(ids)
        ),
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
        up, down = (max(1, round(share * steps)) for share in (warmup, decay))
        return float(mine(step, steps, 1.0, up, down))  # NumPy's number fits in no snapshot

    return schedule


check_learning_rate = Exercise(
    "learning_rate",
    _learning_rate,
    cases={
        f"step {step} of {steps}": (step, steps, *others)
        for steps, *others, chosen in (
            (20, 0.5, 4, 6, (0, 1, 3, 4, 10, 13, 14, 15, 19)),
            (30, 2.0, 5, 10, (1, 8, 22)),
        )
        for step in chosen
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


def _cached_step(
    q: Tensor, k: Tensor, v: Tensor, keys: Tensor, values: Tensor, sees=slice(None), scale=True
) -> tuple[Tensor, Tensor, Tensor]:
    keys, values = torch.cat([keys, k]), torch.cat([values, v])
    scores = torch.stack([q[0] @ key for key in keys[sees]]) / (q.size(1) ** 0.5 if scale else 1)
    weights = scores.softmax(0)
    return (weights @ values[sees])[None], keys, values


def _with_cache(replace):
    """The right output, with another cache. replace: (cached, new) to what becomes of them."""
    return lambda q, k, v, keys, values: (
        _cached_step(q, k, v, keys, values)[0],
        replace(keys, k),
        replace(values, v),
    )


check_cached_step = Exercise(
    "cached_step",
    _cached_step,
    cases={
        f"{cached} in the cache": tuple(
            randn(n, 2, seed=seed)
            for seed, n in enumerate((1, 1, 1, cached, cached), start=10 * cached)
        )
        for cached in (3, 1)
    },
    mistakes={
        "only the new token attended. Its query looks at all keys, the cached ones too.": {
            "sees": slice(-1, None)
        },
        "the new token does not see itself. Append its key and value first, then attend.": {
            "sees": slice(-1)
        },
        "the mask hides the cache. A causal triangle begins with the first key alone, but this "
        "query is the last: it sees all of them.": {"sees": slice(1)},
        "the cache holds only the new token. The next step needs the earlier ones too: append.": [
            _with_cache(lambda cached, new: new),
            lambda q, k, v, keys, values: (v, k, v),
        ],
        "the cache is as before. Return it with the new key and value, or the next step misses "
        "this token.": [
            _with_cache(lambda cached, new: cached),
            lambda q, k, v, keys, values: (
                _cached_step(q, k, v, keys, values, slice(-1))[0],
                keys,
                values,
            ),
        ],
        "an old entry overwritten. The cache grows by one: append, don't replace.": [
            _with_cache(lambda cached, new: torch.cat([cached[:-1], new])),
            lambda q, k, v, keys, values: _cached_step(q, k, v, keys[:-1], values[:-1]),
        ],
        "the new token comes first. Slots are in the order of the text: append at the end.": (
            _with_cache(lambda cached, new: torch.cat([new, cached]))
        ),
        "wrong scale. Divide the scores by sqrt(D), D the channels, before the softmax.": [
            {"scale": False},
            lambda q, k, v, keys, values: _cached_step(
                q * (q.size(1) / (len(keys) + 1)) ** 0.5, k, v, keys, values
            ),
        ],
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
        "that is the probability of each token. The loss is minus its log.": 1 / 50257,
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
