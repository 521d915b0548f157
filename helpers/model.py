"""GPT-2, exactly: hand-written causal attention, transformer block, language model, reward model.

Names follow GPT-2's released weights (wte, wpe, h, ln_1, c_attn, ...), so that transformers can
load the checkpoints.

Shapes: B batch, T queries (the tokens passed in), S keys (cached tokens + T), C channels, H heads,
D = C / H, V vocabulary.
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
    """The five sizes that define a GPT-2; the defaults are those of the published 124M model."""

    vocab_size: int = 50257  # V: number of tokens in the vocabulary
    context: int = 1024  # longest sequence, in tokens
    layers: int = 12  # number of transformer blocks
    heads: int = 12  # H: attention heads per block
    channels: int = 768  # C: width of the vector that represents a token

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


def causal_mask(
    T: int, S: int, attention_mask: Tensor | None = None, device: torch.device | str | None = None
) -> Tensor:
    """Which of S keys each of the last T tokens may attend to: no later one, none masked out.

    attention_mask: None; or (B, S), 1 = real token; or (B, T, S), 1 = the query may attend to the
    key. Returns bool (T, S) without an attention_mask, else (B, 1, T, S), with 1 for the heads.
    """
    causal = torch.ones(T, S, dtype=torch.bool, device=device).tril(S - T)  # (T, S)
    if attention_mask is None:
        return causal
    allowed = attention_mask.bool()  # below (B, 1, 1 or T, S)
    allowed = allowed[:, None, None, :] if allowed.dim() == 2 else allowed[:, None]
    # Every token may attend to itself, even a pad: a softmax over no keys would be NaN.
    diagonal = causal.triu(S - T)
    return causal & allowed | diagonal


def mask_to_bias(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Turn a bool mask into a bias for the scores: 0 where True, minus infinity elsewhere.

    exp(-inf) = 0, so the softmax gives a masked key no weight.
    """
    return torch.zeros_like(mask, dtype=dtype).masked_fill_(~mask, -math.inf)


def attend_explicit(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """Scaled dot-product attention, written out: softmax(q k^T / sqrt(D) + bias) v.

    q: (B, H, T, D); k, v: (B, H, S, D). bias: from `mask_to_bias`, (B or 1, 1, T, S) or (T, S),
    always masking the future; None: causal. Returns (B, H, T, D). The queries are processed in two
    halves, so that the first half skips the keys in its future.
    Source: Vaswani et al. 2017, equation 1.
    """
    T, S = q.size(-2), k.size(-2)
    bias = mask_to_bias(causal_mask(T, S, device=q.device), q.dtype) if bias is None else bias
    q = q * q.size(-1) ** -0.5  # cheaper here than on the T x S scores
    k = k.contiguous()  # otherwise the product below makes a transposed copy, which is slower
    half, out = T // 2, []
    for start, end in [(0, half), (half, T)] if half else [(0, T)]:
        keys = S - T + end  # how many keys the last query of this half may attend to
        scores = q[..., start:end, :] @ k[..., :keys, :].transpose(-2, -1)  # (B, H, T / 2, keys)
        weights = (scores + bias[..., start:end, :keys]).softmax(dim=-1)  # each row sums to 1
        out.append(weights @ v[..., :keys, :])  # (B, H, T / 2, D)
    return torch.cat(out, dim=-2) if half else out[0]


def attend_sdpa(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """`attend_explicit`, computed by PyTorch's fused kernel, which is faster on a GPU."""
    T, S = q.size(-2), k.size(-2)
    # The kernel's built-in causal mask assumes that there are no cached keys.
    if bias is None and 1 < T < S:
        bias = mask_to_bias(causal_mask(T, S, device=q.device), q.dtype)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, is_causal=bias is None and T > 1)


def choose_attention(name: str, device: torch.device) -> Callable:
    """The function for "explicit", "sdpa" or "auto" (the faster one on this device)."""
    functions = {"explicit": attend_explicit, "sdpa": attend_sdpa}
    functions["auto"] = attend_sdpa if device.type == "cuda" else attend_explicit
    if name not in functions:
        raise ValueError(f"attention must be one of {', '.join(functions)}, not {name!r}")
    return functions[name]


class CausalSelfAttention(nn.Module):
    """Multi-head attention: each token gathers information from itself and earlier tokens."""

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.heads = config.heads
        # One matrix product computes queries, keys and values.
        self.c_attn = nn.Linear(config.channels, 3 * config.channels)
        self.c_proj = nn.Linear(config.channels, config.channels)

    def forward(
        self,
        x: Tensor,
        bias: Tensor | None = None,
        cache_layer: Callable | None = None,
        attend: Callable = attend_explicit,
        last_only: bool = False,
    ) -> Tensor:
        """x (B, T, C) to (B, T, C), or to (B, 1, C) with last_only: only the last position.

        bias: added to the scores, as in `attend_explicit`. cache_layer: stores the new keys and
        values and returns all S.
        """
        B, T, C = x.shape
        qkv = self.c_attn(x).view(B, T, 3, self.heads, C // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (B, H, T, D)
        if cache_layer is not None:
            k, v = cache_layer(k, v)  # (B, H, S, D)
        # Keys and values are needed at every position, queries only where there is an output.
        if last_only:
            q, bias = q[:, :, -1:], None if bias is None else bias[..., -1:, :]
        y = attend(q, k, v, bias)  # (B, H, T or 1, D)
        return self.c_proj(y.transpose(1, 2).flatten(2))  # concatenate the heads


# ---------------------------------------------------------------- the language model


class MLP(nn.Module):
    """Feed-forward layer, applied at each position: expand to 4C, apply GELU, project back to C."""

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.c_fc = nn.Linear(config.channels, 4 * config.channels)
        self.c_proj = nn.Linear(4 * config.channels, config.channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.c_proj(F.gelu(self.c_fc(x), approximate="tanh"))  # the variant in GPT-2


class Block(nn.Module):
    """Transformer block: attention, then MLP, each applied to a normalised x and added to x."""

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.channels)
        self.attn = CausalSelfAttention(config)
        self.ln_2 = nn.LayerNorm(config.channels)
        self.mlp = MLP(config)

    def forward(self, x: Tensor, *attention, keep=None, last_only: bool = False) -> Tensor:
        # keep, (B, T) bool, and last_only name the positions whose output is needed: default all.
        attended = self.attn(self.ln_1(x), *attention, last_only=last_only)  # (B, T or 1, C)
        x = (x[:, -1:] if last_only else x) + attended
        # The MLP does not mix positions, so those whose output is not needed can be dropped.
        x = x if keep is None else x[keep]
        return x + self.mlp(self.ln_2(x))


def init_weights(model: nn.Module, layers: int) -> None:
    """GPT-2's initialisation: weights from N(0, 0.02), biases 0, LayerNorm gains 1.

    The output projections (c_proj) are smaller by a factor of sqrt(2 layers), because each block
    adds two of their outputs to x.
    """
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(parameter)
        elif parameter.dim() == 2:  # leaves out the LayerNorm gains, which are 1 already
            is_output = name.endswith("c_proj.weight")
            nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * layers) if is_output else 0.02)


def token_positions(ids: Tensor, attention_mask: Tensor | None = None, start: int = 0) -> Tensor:
    """Position of each token of ids (B, T), (B or 1, T): the number of real tokens before it.

    start: the number of cached tokens before ids. attention_mask: (B, start + T), covers those too.
    """
    T = ids.size(1)
    if attention_mask is None:
        return torch.arange(start, start + T, device=ids.device)[None]
    if attention_mask.dim() != 2:
        raise ValueError("with an attention_mask of (B, T, T), give position_ids too")
    real = attention_mask.long()
    return (real.cumsum(1) - real)[:, -T:]  # 0 at left pads, as at the first token


def product_dtype(weight: Tensor) -> torch.dtype:
    """The dtype of matrix products with a weight: autocast's where it is on, else the weight's."""
    device = weight.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype


def attention_bias(
    ids: Tensor, attention_mask: Tensor | None, cache, dtype: torch.dtype
) -> Tensor | None:
    """The bias for ids (B, T) in every layer: masks the future, pads and unused cache slots.

    None if only the future is masked, which the attention functions do by themselves.
    """
    past = 0 if cache is None else cache.length
    if attention_mask is None and not past:
        return None
    T = ids.size(1)
    mask = causal_mask(T, past + T, attention_mask, ids.device)
    if past:
        mask = F.pad(mask, (0, cache.size - past - T))  # False at the unused slots
    return mask_to_bias(mask, dtype)


class GPT(nn.Module):
    """GPT-2: embeddings, blocks, a final LayerNorm, and the token embedding again as the head."""

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.config = config
        self.attention = "auto"  # or "explicit", or "sdpa"
        self.checkpointing = False  # True: recompute a block's activations in the backward pass
        self.wte = nn.Embedding(config.vocab_size, config.channels)  # token embedding
        self.wpe = nn.Embedding(config.context, config.channels)  # position embedding
        self.h = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.ln_f = nn.LayerNorm(config.channels)
        init_weights(self, config.layers)

    def hidden(
        self, ids, attention_mask=None, position_ids=None, cache=None, keep=None, last_only=False
    ) -> Tensor:
        """Hidden states (B, T, C) of ids (B, T), after the final LayerNorm.

        attention_mask: None if there are no pads, or only on the right; (B, S), 1 = real token,
        with pads on either side; (B, T, S), 1 = the query may attend to the key, which also needs
        position_ids (B, T). cache: a KVCache with earlier tokens. keep: an index of (B, T), such as
        a bool mask; returns hidden(ids)[keep] and computes the last MLP only there. last_only:
        returns hidden(ids)[:, -1:], (B, 1, C), and computes only this position in the last block.
        Raises ValueError for a sequence longer than the context.
        """
        past = 0 if cache is None else cache.length
        longest = past + ids.size(1) if position_ids is None else int(position_ids.max()) + 1
        if longest > self.config.context:
            raise ValueError(
                f"{longest} tokens do not fit the model's context of {self.config.context}"
            )
        if position_ids is None:
            position_ids = token_positions(ids, attention_mask, past)
        bias = attention_bias(ids, attention_mask, cache, product_dtype(self.wte.weight))
        attend = choose_attention(self.attention, ids.device)
        x = self.wte(ids) + self.wpe(position_ids)  # (B, T, C)
        for layer, block in enumerate(self.h):
            final = block is self.h[-1]
            # With a cache, shapes change at every token: block.forward avoids recompilation.
            run = block if cache is None else block.forward
            run = partial(checkpoint, block, use_reentrant=False) if self.checkpointing else run
            store = None if cache is None else partial(cache.append, layer)
            keep_here = keep if final else None
            x = run(x, bias, store, attend, keep=keep_here, last_only=last_only and final)
        return self.ln_f(x)

    def logits(self, hidden: Tensor) -> Tensor:
        return F.linear(hidden, self.wte.weight).float()  # (..., C) to (..., V), float32

    def logprobs(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """log p(target), (N,) float32, at hidden states (N, C) that predict targets (N,)."""
        return -F.cross_entropy(self.logits(hidden), targets, reduction="none")

    def forward(self, ids: Tensor, attention_mask=None, position_ids=None) -> Tensor:
        return self.logits(self.hidden(ids, attention_mask, position_ids))  # (B, T, V)

    def num_parameters(self) -> int:
        return sum(p.numel() for p in self.parameters())  # the head is wte, so it counts once


# ---------------------------------------------------------------- the reward model


def last_real_token(attention_mask: Tensor) -> Tensor:
    """Index (B,) of the last 1 in each row of a (B, T) mask, with pads on either side."""
    steps = torch.arange(attention_mask.size(1), device=attention_mask.device)
    return (attention_mask.bool() * steps).argmax(dim=1)


class RewardModel(nn.Module):
    """A GPT that scores a completion y of a prompt x:

        score = w . h_T - head_mean + a (log p(y | x) - logprob_mean)

    The scalar head w reads the hidden state h_T of the last token. The surprise weight a adds the
    log-probability that the model's own language-model head gives to the completion: a word that
    contradicts the prompt surprises it, and the head alone cannot see that. Both means are 0 until
    `normalise` sets them. PPO's value model is this class too; it reads the head at every token.
    Source: Stiennon et al. 2020, section 3.4 (the head); the surprise weight is our addition.
    """

    def __init__(self, gpt: GPT, surprise_weight: float = 0.3):
        super().__init__()
        self.gpt = gpt  # complete: wte still serves as the language model's head
        self.score = nn.Linear(gpt.config.channels, 1, bias=False)
        nn.init.normal_(self.score.weight, std=1 / math.sqrt(gpt.config.channels + 1))
        # With a start of 0 it stays 0: a scalar head alone, as in most reward models.
        learned = surprise_weight != 0
        self.surprise_weight = nn.Parameter(torch.tensor(float(surprise_weight)), learned)
        self.register_buffer("head_mean", torch.zeros(()))
        self.register_buffer("logprob_mean", torch.zeros(()))

    def head(self, hidden: Tensor) -> Tensor:
        """The head's float32 values (...) at hidden states (..., C)."""
        # Not a matrix product: autocast would round it to 16 bits.
        return (hidden.float() * self.score.weight[0]).sum(-1) - self.head_mean

    def combine(self, head: Tensor, logprobs: Tensor) -> Tensor:
        """Scores from the head's values and the completions' log-probabilities, of one shape."""
        return head + self.surprise_weight * (logprobs - self.logprob_mean)

    def values(self, ids: Tensor, attention_mask=None, position_ids=None, keep=None) -> Tensor:
        """The head's value at every token, (B, T) float32; arguments as in `GPT.hidden`."""
        return self.head(self.gpt.hidden(ids, attention_mask, position_ids, keep=keep))

    def head_and_logprobs(
        self, ids: Tensor, attention_mask: Tensor, completion_mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The head's value at the last token, (B,), and the log-probability of every token of the
        completion given what precedes it, (B, T), 0 elsewhere.

        ids: (B, T), with pads on either side. attention_mask, completion_mask: (B, T), 1 on real
        tokens, and on those of the completion with its end of text.
        """
        # Pads on the right need no mask: causal attention never reads them.
        pads_left = not attention_mask[:, 0].all()
        # (B, T): the tokens whose next one belongs to the completion
        predicts = F.pad(completion_mask[:, 1:].bool(), (0, 1))
        last = F.one_hot(last_real_token(attention_mask), ids.size(1)).bool()
        keep = predicts | last
        hidden = self.gpt.hidden(ids, attention_mask if pads_left else None, keep=keep)  # (N, C)
        found = self.gpt.logprobs(hidden[predicts[keep]], ids.roll(-1, 1)[predicts])
        logprobs = found.new_zeros(ids.shape).masked_scatter(predicts.roll(1, 1), found)
        return self.head(hidden[last[keep]]), logprobs

    def by_token(self, ids: Tensor, attention_mask: Tensor, completion_mask: Tensor) -> Tensor:
        """What each token adds to the score, (B, T): its surprise, and the last one also the rest.
        Arguments as in `head_and_logprobs`.
        """
        head, logprobs = self.head_and_logprobs(ids, attention_mask, completion_mask)
        rest = head - self.surprise_weight * self.logprob_mean  # (B,)
        last = F.one_hot(last_real_token(attention_mask), ids.size(1))
        return self.surprise_weight * logprobs + rest[:, None] * last

    def forward(self, ids: Tensor, attention_mask: Tensor, completion_mask: Tensor) -> Tensor:
        """Scores (B,); arguments as in `head_and_logprobs`."""
        head, logprobs = self.head_and_logprobs(ids, attention_mask, completion_mask)
        return self.combine(head, logprobs.sum(1))

    @torch.no_grad()
    def normalise(self, heads: Tensor, logprobs: Tensor) -> tuple[float, float]:
        """Shift and scale, once, so that completions with these head values and log-probabilities
        (N,) have scores of mean 0 and standard deviation 1, and a mean head value of 0.

        Returns mean and standard deviation of their scores before. Raises ValueError when all
        scores are equal.
        """
        scores = self.combine(heads, logprobs)
        mean, std = scores.mean().item(), scores.std().item()
        if not std > 0:
            raise ValueError(f"the scores' standard deviation must be above 0, not {std}")
        self.head_mean.copy_((self.head_mean + heads.mean()) / std)
        self.logprob_mean.copy_(logprobs.mean())
        self.score.weight /= std
        self.surprise_weight /= std
        return mean, std
