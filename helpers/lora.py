"""LoRA by hand: a frozen weight W plus a trained product of two thin matrices, (alpha / r) B A.

Source: Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models", section 4.1.
Shapes: in, out are a layer's features, r the rank: W (out, in), A (r, in), B (out, r).
"""

import copy
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def plain_linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """An nn.Linear with this weight (out, in) and a copy of this bias, (out,) or None."""
    # no memory, and no random numbers drawn
    linear = nn.Linear(*weight.T.shape, bias=False, device="meta")
    linear.weight = nn.Parameter(weight.detach())
    linear.bias = None if bias is None else nn.Parameter(bias.detach().clone())
    return linear


class LoRALinear(nn.Module):
    """y = W x + b + (alpha / r) B A x, with W and b frozen (Hu et al. 2021, equation 3).

    base: an nn.Linear or another layer with in_features, out_features, weight, bias (an NF4Linear
    makes it QLoRA). B starts at 0, so a fresh adapter changes nothing. ValueError when rank or
    alpha makes no sense.
    """

    def __init__(self, base: nn.Module, rank: int, alpha: float):
        super().__init__()
        largest = min(base.in_features, base.out_features)
        if isinstance(rank, bool) or not isinstance(rank, int) or not 1 <= rank <= largest:
            raise ValueError(
                f"rank must be a whole number from 1 to {largest}, the smaller side, not {rank!r}"
            )
        if not isinstance(alpha, (int, float)) or not 0 < alpha < math.inf:
            raise ValueError(f"alpha must be a number above 0, not {alpha!r}")
        self.base, self.rank, self.alpha = base.requires_grad_(False), rank, alpha
        self.merged = None  # or an nn.Linear that does the work of all three matrices
        # as peft; paper: Gaussian
        A = nn.init.kaiming_uniform_(torch.empty(rank, base.in_features), a=math.sqrt(5))
        self.lora_A = nn.Parameter(A.to(base.weight.device))  # (r, in)
        self.lora_B = nn.Parameter(self.lora_A.new_zeros(base.out_features, rank))  # (out, r)

    def delta(self) -> Tensor:
        """What the adapter adds to the weight: (out, in)."""
        return self.alpha / self.rank * (self.lora_B @ self.lora_A)

    def forward(self, x: Tensor) -> Tensor:  # (..., in) to (..., out)
        if self.merged is not None:
            return self.merged(x)
        low = F.linear(x, self.lora_A.to(x.dtype))  # (..., r): the product B A is never made
        return self.base(x) + self.alpha / self.rank * F.linear(low, self.lora_B.to(x.dtype))

    @torch.no_grad()
    def merge(self) -> None:
        """Fold the adapter into one frozen weight, W + (alpha / r) B A: no extra work a token from
        here on.

        W is kept beside it, so `unmerge` is exact; subtracting B A again, as in section 4.1, would
        round.
        """
        weight = self.base.weight
        self.merged = plain_linear(
            (weight + self.delta()).to(weight.dtype), self.base.bias
        ).requires_grad_(False)

    def unmerge(self) -> None:
        """Undo `merge`, to the last bit: A and B can be trained again."""
        self.merged = None


# ---------------------------------------------------------------- a whole model


def linear_layers(model: nn.Module, targets: Sequence[str]) -> dict[str, nn.Module]:
    """The linear layers in the blocks whose name ends in a target: {"h.0.attn.c_attn": the layer,
    ...}.

    "c_proj" is attn.c_proj and mlp.c_proj. ValueError, with the names that exist, for a target that
    is no layer's.
    """
    if isinstance(targets, str) or not targets:
        raise ValueError(
            f"targets must be a list of layer names, such as ('c_attn',), not {targets!r}"
        )
    layers = {
        name: layer
        for name, layer in model.named_modules()
        if ".h." in f".{name}" and hasattr(layer, "in_features")
    }
    for target in targets:
        if not any(name.endswith(f".{target}") for name in layers):
            # attn.c_attn of h.0.attn.c_attn
            there = sorted({".".join(name.split(".")[-2:]) for name in layers})
            raise ValueError(
                f"no layer of the blocks is called {target!r}; there are {', '.join(there)}"
            )
    return {
        name: layer
        for name, layer in layers.items()
        if name.endswith(tuple(f".{target}" for target in targets))
    }


def lora_layers(model: nn.Module) -> dict[str, LoRALinear]:
    """The layers that have an adapter: {"h.0.attn.c_attn": the layer, ...}. By their parts, whoever
    defined them.
    """
    return {name: layer for name, layer in model.named_modules() if hasattr(layer, "lora_A")}


def add_lora(
    model: nn.Module, rank: int, alpha: float, targets: Sequence[str] = ("c_attn",)
) -> int:
    """Give the named layers of the blocks an adapter, in place, and freeze everything else.

    Returns the number of trained parameters, r (in + out) a layer. Raises ValueError, before
    anything changes, for a rank, alpha or target that makes no sense, or when there are adapters
    already.
    """
    if lora_layers(model):
        raise ValueError("the model has adapters already: merge_lora first")
    adapted = {
        name: LoRALinear(layer, rank, alpha)
        for name, layer in linear_layers(model, targets).items()
    }
    model.requires_grad_(False)
    for name, layer in adapted.items():
        model.set_submodule(name, layer)
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def merge_lora(model: nn.Module) -> None:
    """Fold every adapter into a plain nn.Linear, in place, and unfreeze the model: it saves and
    trains as before.
    """
    for name, layer in lora_layers(model).items():
        layer.merge()
        model.set_submodule(name, layer.merged)
    model.requires_grad_(True)


def shared_copy(model: nn.Module) -> nn.Module:
    """A second model made of the very same tensors: no memory but for their names.

    Give one of the two adapters, and the other stays what both were: PPO's policy and its
    reference.
    """
    tensors = [*model.parameters(), *model.buffers()]
    # "copied already": each is itself
    return copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})
