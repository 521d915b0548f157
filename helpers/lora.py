"""LoRA by hand: a frozen weight W plus a trained low-rank update, (alpha / r) B A.

Shapes: W (out, in), A (r, in), B (out, r), with a layer's in and out features and the rank r.
Source: Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models", section 4.1.
"""

import copy
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def plain_linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """An nn.Linear with this weight (out, in) and a copy of this bias, (out,) or None."""
    # On the meta device it takes no memory and draws no random numbers.
    linear = nn.Linear(*weight.T.shape, bias=False, device="meta")
    linear.weight = nn.Parameter(weight.detach())
    linear.bias = None if bias is None else nn.Parameter(bias.detach().clone())
    return linear


class LoRALinear(nn.Module):
    """y = W x + b + (alpha / r) B A x, with W and b frozen (Hu et al. 2021, equation 3).

    base: an nn.Linear or another layer with in_features, out_features, weight and bias; with an
    NF4Linear this is QLoRA. B is initialised to 0, so a new adapter changes nothing. Raises
    ValueError for an invalid rank or alpha.
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
        self.merged = None  # after `merge`: one nn.Linear in place of W, A and B
        # Initialised as in peft; the paper uses a Gaussian.
        A = nn.init.kaiming_uniform_(torch.empty(rank, base.in_features), a=math.sqrt(5))
        self.lora_A = nn.Parameter(A.to(base.weight.device))  # (r, in)
        self.lora_B = nn.Parameter(self.lora_A.new_zeros(base.out_features, rank))  # (out, r)

    def delta(self) -> Tensor:
        """The adapter's update of the weight, (alpha / r) B A: (out, in)."""
        return self.alpha / self.rank * (self.lora_B @ self.lora_A)

    def forward(self, x: Tensor) -> Tensor:  # (..., in) to (..., out)
        if self.merged is not None:
            return self.merged(x)
        # First A x, then B: cheaper than the product B A.
        low_rank = F.linear(x, self.lora_A.to(x.dtype))  # (..., r)
        return self.base(x) + self.alpha / self.rank * F.linear(low_rank, self.lora_B.to(x.dtype))

    @torch.no_grad()
    def merge(self) -> None:
        """Fold the adapter into one frozen weight, W + (alpha / r) B A: no extra cost per token.

        W is kept, so that `unmerge` is exact; subtracting B A again, as in the paper's section 4.1,
        would leave rounding errors.
        """
        weight = self.base.weight
        merged_weight = (weight + self.delta()).to(weight.dtype)
        self.merged = plain_linear(merged_weight, self.base.bias).requires_grad_(False)

    def unmerge(self) -> None:
        """Undo `merge` exactly; A and B can be trained again."""
        self.merged = None


# ---------------------------------------------------------------- a whole model


def linear_layers(model: nn.Module, targets: Sequence[str]) -> dict[str, nn.Module]:
    """Linear layers of the blocks whose name ends in a target: {"h.0.attn.c_attn": layer, ...}.

    "c_proj" matches attn.c_proj and mlp.c_proj. Raises ValueError, listing the existing names, for
    a target without a layer.
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
            # attn.c_attn for h.0.attn.c_attn
            short_names = sorted({".".join(name.split(".")[-2:]) for name in layers})
            raise ValueError(
                f"no layer of the blocks is called {target!r}; there are {', '.join(short_names)}"
            )
    endings = tuple(f".{target}" for target in targets)
    return {name: layer for name, layer in layers.items() if name.endswith(endings)}


def lora_layers(model: nn.Module) -> dict[str, LoRALinear]:
    """The layers with an adapter: {"h.0.attn.c_attn": layer, ...}.

    Recognised by their attribute lora_A, because 1-SFT defines its own LoRALinear class.
    """
    return {name: layer for name, layer in model.named_modules() if hasattr(layer, "lora_A")}


def add_lora(
    model: nn.Module, rank: int, alpha: float, targets: Sequence[str] = ("c_attn",)
) -> int:
    """Add an adapter to the named layers of the blocks, in place, and freeze everything else.

    Returns the number of trained parameters, r (in + out) per layer. Raises ValueError, before
    anything changes, for an invalid rank, alpha or target, or if the model already has adapters.
    """
    if lora_layers(model):
        raise ValueError("the model has adapters already: merge_lora first")
    layers = linear_layers(model, targets)
    adapted = {name: LoRALinear(layer, rank, alpha) for name, layer in layers.items()}
    model.requires_grad_(False)
    for name, layer in adapted.items():
        model.set_submodule(name, layer)
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def merge_lora(model: nn.Module) -> None:
    """Fold every adapter into a plain nn.Linear, in place, and unfreeze the model.

    The model can then be saved and trained like one that never had adapters.
    """
    for name, layer in lora_layers(model).items():
        layer.merge()
        model.set_submodule(name, layer.merged)
    model.requires_grad_(True)


def shared_copy(model: nn.Module) -> nn.Module:
    """A second model that shares all tensors with the first, and so takes almost no memory.

    Adapters added to one leave the other unchanged: PPO's policy and its reference.
    """
    tensors = [*model.parameters(), *model.buffers()]
    # deepcopy takes these tensors as already copied and does not duplicate them.
    return copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})
