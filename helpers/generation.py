"""Batched sampling from a GPT, with the keys and values of earlier tokens kept in a cache.

Shapes: B batch, P prompt, R response, V vocabulary, H heads, D channels of a head, T new and S all
tokens read so far.
"""

import copy
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from helpers.batching import check_prompts
from helpers.model import GPT, product_dtype

# ---------------------------------------------------------------- one token


def keep_top_k(logits: Tensor, k: int) -> Tensor:
    """Logits (B, V) with all but each row's k largest at -inf; k = 0 keeps all."""
    if k < 0:
        raise ValueError(f"top_k must be 0 (off) or more, not {k}")
    if k == 0 or k >= logits.size(-1):
        return logits
    smallest = logits.topk(k, dim=-1).values[:, -1:]  # (B, 1) the last one kept
    return logits.masked_fill(logits < smallest, -math.inf)


def keep_top_p(logits: Tensor, p: float) -> Tensor:
    """Logits (B, V) of the fewest tokens that hold p of the probability, the rest -inf; p = 1 keeps
    all.

    Source: nucleus sampling, Holtzman et al. 2020, section 3.1.
    """
    if not 0 < p <= 1:
        raise ValueError(f"top_p must be above 0 and at most 1, not {p}")
    if p == 1:
        return logits
    ordered, order = logits.sort(dim=-1, descending=True)
    probs = ordered.softmax(dim=-1)
    # what the likelier tokens hold: 0 for the first, so one always stays
    before = probs.cumsum(dim=-1) - probs
    # back in vocabulary order
    cut = torch.zeros_like(logits, dtype=torch.bool).scatter(-1, order, before >= p)
    return logits.masked_fill(cut, -math.inf)


def draw(logits: Tensor, u: Tensor) -> Tensor:
    """A token for each row of logits (B, V), from softmax(logits): lay the probabilities end to
    end, point at u.

    u (B,): a random number in [0, 1) for each row, where torch.multinomial takes V of them: about
    ten times faster.
    """
    # double: thousands of small steps, without rounding
    edges = logits.softmax(dim=-1).double().cumsum(dim=-1)
    point = u[:, None] * edges[:, -1:]  # (B, 1): the last edge is 1, but for rounding
    return torch.searchsorted(edges, point, right=True).squeeze(1)  # (B,) the first edge above it


def next_token(
    logits: Tensor, u: Tensor, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0
) -> Tensor:
    """The next token (B,) from logits (B, V): the likeliest one at temperature 0, else a draw with
    u as in `draw`.
    """
    if not 0 <= temperature < math.inf:
        raise ValueError(f"temperature must be 0 (greedy) or more, not {temperature}")
    if temperature == 0:
        return logits.argmax(dim=-1)
    logits = logits if temperature == 1 else logits / temperature
    return draw(keep_top_p(keep_top_k(logits, top_k), top_p), u)


# ---------------------------------------------------------------- many tokens


class KVCache:
    """The keys and values of all tokens read so far, so that a new token costs one step, not a
    whole forward.

    One block of memory, (layers, 2, B, H, size, D), filled from the left; the first `length` places
    are in use, and the model hides the rest: to multiply all is cheaper than to copy those in use,
    side by side, for every token.
    """

    def __init__(self, model: GPT, batch: int, size: int):
        config, weight = model.config, model.wte.weight
        shape = (config.layers, 2, batch, config.heads, size, config.channels // config.heads)
        self.data = torch.zeros(shape, dtype=product_dtype(weight), device=weight.device)
        self.length, self.size = 0, size

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store the new k and v (B, H, T, D) of a layer; returns those of all places, (B, H, size,
        D).

        Of the first tokens it returns just k and v: there is nothing before them."""
        start, end = self.length, self.length + k.size(2)
        keys, values = self.data[layer, 0], self.data[layer, 1]
        keys[:, :, start:end] = k
        values[:, :, start:end] = v
        if layer == len(self.data) - 1:  # the last layer: the T tokens are read
            self.length = end
        return (keys, values) if start else (k, v)

    def keep(self, rows: Tensor) -> None:
        """Forget the other rows of the batch; rows (B,) bool."""
        self.data = self.data[:, :, rows]


@dataclass
class Samples:
    """Responses, padded on the right after their end of text."""

    ids: Tensor  # (B, R) tokens
    mask: Tensor  # (B, R) True = token of the response, the end of text included
    stopped: Tensor  # (B,) True = came to its end of text


def up_to_end(written: Tensor, eos_id: int, pad_id: int) -> Samples:
    """Responses from rows (B, R) that may go on behind their end of text, or end in pads."""
    ends = (written == eos_id).long()
    # an end of text came before this token
    ids = written.masked_fill(ends.cumsum(1) > ends, pad_id)
    mask = ids != pad_id
    longest = int(mask.sum(1).max())
    return Samples(ids[:, :longest], mask[:, :longest], ends.any(dim=1))


def in_dtype(model: GPT, dtype: torch.dtype) -> GPT:
    """A copy of the model for sampling, its weights rounded to dtype; the model itself if they are
    of that dtype.
    """
    if model.wte.weight.dtype == dtype:
        return model
    rounded = {
        id(p): nn.Parameter(p.detach().to(dtype), requires_grad=False) for p in model.parameters()
    }
    # these are taken instead of copies: no second set of large weights
    return copy.deepcopy(model, rounded)


@torch.no_grad()
def sample(
    model: GPT,
    prompt_ids: Tensor,
    prompt_mask: Tensor,
    *,
    max_new_tokens: int,
    eos_id: int,
    pad_id: int,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    generator: torch.Generator | None = None,
    uniforms: Tensor | None = None,
    dtype: torch.dtype | None = None,
    use_cache: bool = True,
    drop_every: int = 8,
) -> Samples:
    """Continue prompts (B, P), padded on the left, up to their end of text or for max_new_tokens
    (R).

    pad_id is never sampled, so it must not be eos_id. uniforms: random numbers (B, R) in [0, 1), by
    default from the generator: a row's response depends on its own numbers only, not on the rows
    beside it, nor on the cache. dtype: that of weights and cache meanwhile, by default the
    weights'. 16 bits are faster where they multiply fast. Every drop_every tokens the finished rows
    leave the batch (seldom: it copies the cache, and a GPU must be asked). Raises ValueError for an
    empty prompt, one too long for the context, or a bad setting.
    """
    check_prompts(prompt_mask, max_new_tokens, model.config.context)
    if eos_id == pad_id:
        raise ValueError(f"the pad token must not be the end of text, but both are {pad_id}")
    (B, P), R, device = prompt_ids.shape, max_new_tokens, prompt_ids.device
    uniforms = (
        torch.rand(R, B, generator=generator, device=device).T if uniforms is None else uniforms
    )
    if uniforms.shape != (B, R):
        raise ValueError(
            f"uniforms must have shape {(B, R)}, a number for each new token, not "
            f"{tuple(uniforms.shape)}"
        )
    model = model if dtype is None else in_dtype(model, dtype)
    ids = F.pad(prompt_ids, (0, R), value=pad_id)  # (B, P + R)
    mask = F.pad(prompt_mask.bool(), (0, R), value=True)
    rows = torch.arange(B, device=device)  # the b rows that are not finished
    cache = KVCache(model, B, P + R) if use_cache else None
    for t in range(R):
        if t and t % drop_every == 0:
            going = (ids[rows, P : P + t] != eos_id).all(dim=1)
            rows = rows[going]
            if len(rows) == 0:
                break
            if use_cache and len(rows) < len(going):
                cache.keep(going)
        # the prompt, then a token at a time
        unread = ids[rows, cache.length if use_cache else 0 : P + t]
        hidden = model.hidden(unread, mask[rows, : P + t], cache=cache, last=True)  # (b, 1, C)
        logits = model.logits(hidden[:, 0])  # (b, V)
        logits[:, pad_id] = -math.inf
        ids[rows, P + t] = next_token(logits, uniforms[rows, t], temperature, top_k, top_p)
    return up_to_end(ids[:, P:], eos_id, pad_id)
