"""GPT-2, exactly: hand-written causal attention, block, language model and reward model.

Names follow GPT-2's released weights (wte, wpe, h, ln_1, c_attn, ...), so that checkpoints open in
transformers.
Shapes: B batch, T queries (the tokens given), S keys (cached tokens + T), C channels, H heads, D =
C / H, V vocabulary.
Source: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", section 2.3.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


@dataclass(frozen=True)
class GPTConfig:
    """The five numbers that fix a GPT-2; the defaults are the published 124M model."""

    vocab_size: int = 50257  # V: tokens the model can read and write
    context: int = 1024  # longest sequence, in tokens
    layers: int = 12  # blocks, one after the other
    heads: int = 12  # H: attention heads of a block
    channels: int = 768  # C: numbers that stand for a token

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not isinstance(value, int) or value < 1:
                raise ValueError(
                    f"GPTConfig.{name} must be a whole number of at least 1, not {value!r}"
                )
        if self.channels % self.heads:
            raise ValueError(
                f"channels ({self.channels}) must be divisible by heads ({self.heads})"
            )


# ---------------------------------------------------------------- attention


def visible(
    T: int, S: int, attention_mask: Tensor | None = None, device: torch.device | str | None = None
) -> Tensor:
    """Which key each of the last T of S tokens may look at: never ahead, and nothing the mask
    leaves out.

    attention_mask: None, or (B, S) with 1 = real token, or (B, T, S) with 1 = may look. Returns
    bool (T, S) without a mask, else (B, 1, T, S): the 1 stands for the heads.
    """
    causal = torch.ones(T, S, dtype=torch.bool, device=device).tril(S - T)  # (T, S)
    if attention_mask is None:
        return causal
    shown = attention_mask.bool()
    shown = shown[:, None, None, :] if shown.dim() == 2 else shown[:, None]  # (B, 1, 1 or T, S)
    itself = causal.triu(S - T)  # a pad may look at itself: a softmax over nothing would be NaN
    return causal & shown | itself


def hide(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """A bool mask as numbers to add to scores: 0 where it is True; minus infinity, whose exp is 0,
    elsewhere.
    """
    return torch.zeros_like(mask, dtype=dtype).masked_fill_(~mask, -math.inf)


def attend_explicit(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """softmax(q k^T / sqrt(D) + bias) v, written out (Vaswani et al. 2017, equation 1).

    q (B, H, T, D); k, v (B, H, S, D); bias from `hide`, (B or 1, 1, T, S) or (T, S), never ahead;
    None = causal. Returns (B, H, T, D). Queries go in two halves: the first never touches the keys
    of its future.
    """
    T, S = q.size(-2), k.size(-2)
    bias = hide(visible(T, S, device=q.device), q.dtype) if bias is None else bias
    q = q * q.size(-1) ** -0.5  # cheaper here than on the T x S scores
    k = k.contiguous()  # or the product below would copy it transposed, which takes longer
    half, out = T // 2, []
    for start, end in [(0, half), (half, T)] if half else [(0, T)]:
        seen = S - T + end  # the keys up to the last query of this half
        scores = q[..., start:end, :] @ k[..., :seen, :].transpose(-2, -1)  # (B, H, T / 2, seen)
        weights = (scores + bias[..., start:end, :seen]).softmax(dim=-1)  # every row sums to 1
        out.append(weights @ v[..., :seen, :])  # (B, H, T / 2, D)
    return torch.cat(out, dim=-2) if half else out[0]


def attend_sdpa(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """The same numbers from PyTorch's fused kernel: faster on a GPU. Arguments as
    `attend_explicit`.
    """
    T, S = q.size(-2), k.size(-2)
    if bias is None and 1 < T < S:
        # the kernel's own causal mask knows no cached keys
        bias = hide(visible(T, S, device=q.device), q.dtype)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, is_causal=bias is None and T > 1)


def choose_attention(name: str, device: torch.device) -> Callable:
    """The function for "explicit", "sdpa" or "auto" (the faster one on this device)."""
    functions = {"explicit": attend_explicit, "sdpa": attend_sdpa}
    functions["auto"] = attend_sdpa if device.type == "cuda" else attend_explicit
    if name not in functions:
        raise ValueError(f"attention must be one of {', '.join(functions)}, not {name!r}")
    return functions[name]


class CausalSelfAttention(nn.Module):
    """Every token gathers from the tokens before it, in H heads side by side."""

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.heads = config.heads
        # query, key and value in one product
        self.c_attn = nn.Linear(config.channels, 3 * config.channels)
        self.c_proj = nn.Linear(config.channels, config.channels)

    def forward(
        self,
        x: Tensor,  # (B, T, C)
        bias: Tensor
        | None = None,  # (B or 1, 1, T, S) or (T, S), added to the scores; None = causal
        cache_layer: Callable | None = None,  # stores the new keys and values, returns all S
        attend: Callable = attend_explicit,
        last: bool = False,  # only the last token asks: returns (B, 1, C)
    ) -> Tensor:
        B, T, C = x.shape
        qkv = self.c_attn(x).view(B, T, 3, self.heads, C // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (B, H, T, D)
        if cache_layer is not None:
            k, v = cache_layer(k, v)  # (B, H, S, D)
        if last:
            q, bias = q[:, :, -1:], None if bias is None else bias[..., -1:, :]
        y = attend(q, k, v, bias)  # (B, H, T or 1, D)
        return self.c_proj(y.transpose(1, 2).flatten(2))  # the heads side by side again


# ---------------------------------------------------------------- the language model


class MLP(nn.Module):
    """Every token by itself: four times wider, a bend, and back."""

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.c_fc = nn.Linear(config.channels, 4 * config.channels)
        self.c_proj = nn.Linear(4 * config.channels, config.channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.c_proj(F.gelu(self.c_fc(x), approximate="tanh"))  # GPT-2 has the tanh form


class Block(nn.Module):
    """Attention, then MLP; each reads a normalised copy of x and adds to x."""

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.channels)
        self.attn = CausalSelfAttention(config)
        self.ln_2 = nn.LayerNorm(config.channels)
        self.mlp = MLP(config)

    def forward(self, x: Tensor, *attention, keep=None, last: bool = False) -> Tensor:
        gathered = self.attn(self.ln_1(x), *attention, last=last)  # (B, T or 1, C)
        x = (x[:, -1:] if last else x) + gathered
        # the MLP takes every token by itself, so some can be left out
        x = x if keep is None else x[keep]
        return x + self.mlp(self.ln_2(x))


def init_weights(model: nn.Module, layers: int) -> None:
    """GPT-2's start: weights N(0, 0.02), biases 0; what adds to x smaller by sqrt(2 layers), as 2
    layers add up.
    """
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(parameter)
        elif parameter.dim() == 2:  # not the LayerNorm gains, which start at 1
            adds_to_x = name.endswith("c_proj.weight")
            nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * layers) if adds_to_x else 0.02)


def token_positions(ids: Tensor, attention_mask: Tensor | None = None, start: int = 0) -> Tensor:
    """The position of each token of ids (B, T): how many real tokens stand before it, (B or 1, T).

    start: how many tokens came before ids (in a cache); attention_mask (B, start + T) covers those
    too.
    """
    T = ids.size(1)
    if attention_mask is None:
        return torch.arange(start, start + T, device=ids.device)[None]
    if attention_mask.dim() != 2:
        raise ValueError("with an attention_mask of (B, T, T), give position_ids too")
    real = attention_mask.long()
    return (real.cumsum(1) - real)[:, -T:]  # pads on the left have 0, like the first token


def product_dtype(weight: Tensor) -> torch.dtype:
    """The number format that a weight is multiplied in: autocast's where it is on, else the
    weight's own.
    """
    device = weight.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype


def attention_bias(
    ids: Tensor, attention_mask: Tensor | None, cache, dtype: torch.dtype
) -> Tensor | None:
    """What hides the future, pads and a cache's free places from ids (B, T), in every layer; None =
    just the future.
    """
    past = 0 if cache is None else cache.length
    if attention_mask is None and not past:
        return None
    T = ids.size(1)
    mask = visible(T, past + T, attention_mask, ids.device)
    return hide(F.pad(mask, (0, cache.size - past - T)) if past else mask, dtype)


class GPT(nn.Module):
    """GPT-2: embeddings, blocks, one more LayerNorm, and a head that is the token embedding,
    transposed.
    """

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.config = config
        self.attention = "auto"  # or "explicit", or "sdpa"
        # True: keep no activations inside a block, but work them out again for gradients
        self.checkpointing = False
        self.wte = nn.Embedding(config.vocab_size, config.channels)  # which token
        self.wpe = nn.Embedding(config.context, config.channels)  # at which position
        self.h = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.ln_f = nn.LayerNorm(config.channels)
        init_weights(self, config.layers)

    def hidden(
        self, ids, attention_mask=None, position_ids=None, cache=None, keep=None, last=False
    ) -> Tensor:
        """ids (B, T) to vectors (B, T, C). A KVCache holds earlier tokens; ValueError if longer
        than the context.

        attention_mask: None = no pads, or none but on the right; (B, S) 1 = real token, pads on
        either side; (B, T, S) 1 = this query may look at this key (then with position_ids (B, T)).
        keep: an index of (B, T), such as a bool mask: hidden(ids)[keep], and the last MLP works on
        nothing else. last: hidden(ids)[:, -1:], (B, 1, C), and in the last block no other token
        asks."""
        past = 0 if cache is None else cache.length
        longest = past + ids.size(1) if position_ids is None else int(position_ids.max()) + 1
        if longest > self.config.context:
            raise ValueError(
                f"{longest} tokens do not fit the model's context of {self.config.context}"
            )
        positions = (
            token_positions(ids, attention_mask, past) if position_ids is None else position_ids
        )
        bias = attention_bias(ids, attention_mask, cache, product_dtype(self.wte.weight))
        attend = choose_attention(self.attention, ids.device)
        x = self.wte(ids) + self.wpe(positions)  # (B, T, C)
        for layer, block in enumerate(self.h):
            final = block is self.h[-1]
            # not compiled: a cache changes its shape at every token
            run = block if cache is None else block.forward
            run = partial(checkpoint, block, use_reentrant=False) if self.checkpointing else run
            store = None if cache is None else partial(cache.append, layer)
            x = run(x, bias, store, attend, keep=keep if final else None, last=last and final)
        return self.ln_f(x)

    def logits(self, hidden: Tensor) -> Tensor:
        return F.linear(hidden, self.wte.weight).float()  # (..., C) to (..., V), float32

    def forward(self, ids: Tensor, attention_mask=None, position_ids=None) -> Tensor:
        return self.logits(self.hidden(ids, attention_mask, position_ids))  # (B, T, V)

    def num_parameters(self) -> int:
        return sum(p.numel() for p in self.parameters())  # the head is wte: counted once


# ---------------------------------------------------------------- the reward model


def last_real_token(attention_mask: Tensor) -> Tensor:
    """Index (B,) of the last 1 of each row of a (B, T) mask, whichever side the pads are on."""
    steps = torch.arange(attention_mask.size(1), device=attention_mask.device)
    return (attention_mask.bool() * steps).argmax(dim=1)


class RewardModel(nn.Module):
    """A GPT whose head writes one number instead of V: a score of the text so far (Stiennon et al.
    2020, 3.4).

    PPO's value model is this class too: it reads the number at every token, not only at the last.
    """

    def __init__(self, gpt: GPT):
        super().__init__()
        self.gpt = gpt  # whole: its wte can still serve as a language-model head
        self.score = nn.Linear(gpt.config.channels, 1, bias=False)
        nn.init.normal_(self.score.weight, std=1 / math.sqrt(gpt.config.channels + 1))

    def values(self, ids: Tensor, attention_mask=None, position_ids=None, keep=None) -> Tensor:
        """One float32 number a token, (B, T); arguments as `GPT.hidden`."""
        hidden = self.gpt.hidden(ids, attention_mask, position_ids, keep=keep).float()  # (B, T, C)
        # not a matmul, which autocast would round to 16 bits
        return (hidden * self.score.weight[0]).sum(-1)

    def forward(self, ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Scores (B,), read at the last real token. attention_mask (B, T), pads on either side."""
        # pads on the right come later: being causal hides them
        pads_left = not attention_mask[:, 0].all()
        last = torch.arange(len(ids), device=ids.device), last_real_token(attention_mask)
        return self.values(ids, attention_mask if pads_left else None, keep=last)

    @torch.no_grad()
    def normalise(self, mean: float, std: float) -> None:
        """Fold value -> (value - mean) / std into the weights; ValueError unless std > 0.

        score has no bias, so ln_f's bias moves along the score weight w: w.(b - a w) = w.b - a
        |w|^2.
        """
        if not std > 0:
            raise ValueError(f"std must be above 0, not {std}")
        self.score.weight /= std
        w = self.score.weight[0]  # (C,)
        self.gpt.ln_f.bias -= (mean / std) * w / (w @ w)
