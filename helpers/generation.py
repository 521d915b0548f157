"""Batched sampling from a GPT, with the keys and values of earlier tokens kept in a cache.

Shapes: B batch, P prompt, R response, V vocabulary, H heads, D channels per head, T new tokens, S
all tokens read so far.
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
    """Logits (B, V) with all but each row's k largest set to -inf; k = 0 keeps all."""
    if k < 0:
        raise ValueError(f"top_k must be 0 (off) or more, not {k}")
    if k == 0 or k >= logits.size(-1):
        return logits
    smallest = logits.topk(k, dim=-1).values[:, -1:]  # (B, 1): the smallest logit that is kept
    return logits.masked_fill(logits < smallest, -math.inf)


def keep_top_p(logits: Tensor, p: float) -> Tensor:
    """Keep the fewest tokens of each row whose probability is at least p; p = 1 keeps all.

    logits: (B, V). Returns (B, V), -inf at the other tokens.
    Source: nucleus sampling, Holtzman et al. 2020, section 3.1.
    """
    if not 0 < p <= 1:
        raise ValueError(f"top_p must be above 0 and at most 1, not {p}")
    if p == 1:
        return logits
    ordered, order = logits.sort(dim=-1, descending=True)
    probs = ordered.softmax(dim=-1)
    # Total probability of the likelier tokens: 0 for the first token, which is therefore kept.
    before = probs.cumsum(dim=-1) - probs
    remove = before >= p
    # Undo the sorting: back to vocabulary order.
    remove = torch.zeros_like(logits, dtype=torch.bool).scatter(-1, order, remove)
    return logits.masked_fill(remove, -math.inf)


def draw(logits: Tensor, u: Tensor) -> Tensor:
    """Draw a token for each row of logits (B, V) from softmax(logits), by inverting its CDF.

    u: (B,), one uniform random number in [0, 1) per row. torch.multinomial draws V per row, which
    is about ten times slower. Returns token ids (B,).
    """
    device = logits.device
    exact = "cpu" if device.type == "mps" else device  # an Apple GPU has no float64
    # float64, because rounding errors would add up over thousands of small probabilities
    cdf = logits.softmax(dim=-1).to(exact).double().cumsum(dim=-1)
    threshold = u[:, None].to(exact) * cdf[:, -1:]  # (B, 1): the last value is 1, up to rounding
    # (B,): the first token whose cumulative probability exceeds the threshold
    return torch.searchsorted(cdf, threshold, right=True).squeeze(1).to(device)


def next_token(
    logits: Tensor, u: Tensor, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0
) -> Tensor:
    """The next token (B,) from logits (B, V): the argmax at temperature 0, else as in `draw`."""
    if not 0 <= temperature < math.inf:
        raise ValueError(f"temperature must be 0 (greedy) or more, not {temperature}")
    if temperature == 0:
        return logits.argmax(dim=-1)
    logits = logits if temperature == 1 else logits / temperature
    return draw(keep_top_p(keep_top_k(logits, top_k), top_p), u)


# ---------------------------------------------------------------- many tokens


class KVCache:
    """Keys and values of all tokens read so far, so that a step computes only the new token.

    One preallocated tensor per layer, (2, B, H, size, D), filled from the left. The first `length`
    slots are in use and the model masks the others: attending to all slots is cheaper than copying
    the used ones into contiguous memory at every token.
    """

    def __init__(self, model: GPT, batch: int, size: int):
        config, weight = model.config, model.wte.weight
        shape = (2, batch, config.heads, size, config.channels // config.heads)
        like = {"dtype": product_dtype(weight), "device": weight.device}
        self.data = [torch.zeros(shape, **like) for _ in range(config.layers)]
        self.length, self.size = 0, size

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store a layer's new k and v (B, H, T, D); return those of all slots, (B, H, size, D).

        For the first tokens it returns k and v themselves, as nothing precedes them.
        """
        start, end = self.length, self.length + k.size(2)
        keys, values = self.data[layer][0], self.data[layer][1]
        keys[:, :, start:end] = k
        values[:, :, start:end] = v
        if layer == len(self.data) - 1:  # only after the last layer have the tokens been read
            self.length = end
        return (keys, values) if start else (k, v)

    def keep(self, rows: Tensor) -> None:
        """Drop all other rows of the batch; rows: (B,) bool."""
        for layer, data in enumerate(self.data):  # never a second copy of the whole cache
            self.data[layer] = data[:, rows]


@dataclass
class Samples:
    """Responses, right-padded after their end of text (EOS)."""

    ids: Tensor  # (B, R) token ids
    mask: Tensor  # (B, R) True = token of the response, including the EOS
    stopped: Tensor  # (B,) True = the response has an EOS


def truncate_at_eos(ids: Tensor, eos_id: int, pad_id: int) -> Samples:
    """Responses from token ids (B, R) that may continue after their EOS or end in pads."""
    is_eos = (ids == eos_id).long()
    after_eos = is_eos.cumsum(1) > is_eos  # an earlier token was an EOS
    ids = ids.masked_fill(after_eos, pad_id)
    mask = ids != pad_id
    longest = int(mask.sum(1).max())
    return Samples(ids[:, :longest], mask[:, :longest], is_eos.any(dim=1))


def in_dtype(model: GPT, dtype: torch.dtype) -> GPT:
    """A copy of the model with its weights in dtype; the model itself if they already are."""
    if model.wte.weight.dtype == dtype:
        return model
    rounded = {
        id(p): nn.Parameter(p.detach().to(dtype), requires_grad=False) for p in model.parameters()
    }
    # deepcopy takes these as already copied, so that the large weights are never duplicated.
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
    """Continue left-padded prompts (B, P) until the EOS, or for max_new_tokens (R).

    pad_id is never sampled, so it must differ from eos_id. uniforms: random numbers (B, R) in
    [0, 1), by default from the generator. A response depends only on its own row of them, neither
    on the other rows nor on the cache. dtype: of weights and cache during sampling, by default the
    weights'; 16 bits are faster where the hardware multiplies them fast. Every drop_every tokens
    the finished rows leave the batch; not more often, because this copies the cache and makes the
    CPU wait for a GPU. Raises ValueError for an empty prompt, one too long for the context, or a
    bad setting.
    """
    check_prompts(prompt_mask, max_new_tokens, model.config.context)
    if eos_id == pad_id:
        raise ValueError(f"the pad token must not be the end of text, but both are {pad_id}")
    (B, P), R, device = prompt_ids.shape, max_new_tokens, prompt_ids.device
    if uniforms is None:
        uniforms = torch.rand(R, B, generator=generator, device=device).T
    if uniforms.shape != (B, R):
        shape = tuple(uniforms.shape)
        raise ValueError(
            f"uniforms must have shape {(B, R)}, a number for each new token, not {shape}"
        )
    model = model if dtype is None else in_dtype(model, dtype)
    ids = F.pad(prompt_ids, (0, R), value=pad_id)  # (B, P + R)
    mask = F.pad(prompt_mask.bool(), (0, R), value=True)
    rows = torch.arange(B, device=device)  # (b,): indices of the unfinished rows
    cache = KVCache(model, B, P + R) if use_cache else None
    for t in range(R):
        if t and t % drop_every == 0:
            unfinished = (ids[rows, P : P + t] != eos_id).all(dim=1)
            rows = rows[unfinished]
            if len(rows) == 0:
                break
            if use_cache and len(rows) < len(unfinished):
                cache.keep(unfinished)
        # With a cache: the prompt in the first step, then one token per step.
        new_ids = ids[rows, cache.length if use_cache else 0 : P + t]
        hidden = model.hidden(new_ids, mask[rows, : P + t], cache=cache, last_only=True)
        logits = model.logits(hidden[:, 0])  # (b, 1, C) to (b, V)
        logits[:, pad_id] = -math.inf
        ids[rows, P + t] = next_token(logits, uniforms[rows, t], temperature, top_k, top_p)
    return truncate_at_eos(ids[:, P:], eos_id, pad_id)
