"""NF4 by hand: a frozen weight in 4 bits a number, in blocks of 64, for QLoRA.

Source: Dettmers et al. 2023, "QLoRA: Efficient Finetuning of Quantized LLMs", section 3 and
appendix E.
Shapes: n numbers in the weight, N = ceil(n / block) blocks. Plain PyTorch: the same on a CPU and on
a GPU.
"""

from collections.abc import Sequence
from statistics import NormalDist

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from helpers.lora import linear_layers, plain_linear

# Appendix E: the 16 values as published, which bitsandbytes uses to the last bit;
# `nf4_from_quantiles` makes them.
NF4 = (
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
)


def nf4_from_quantiles() -> list[float]:
    """Where NF4 comes from: quantiles of N(0, 1), as trained weights are nearly normal, so each
    code is used alike.

    8 steps above 0 and 7 below, for an exact 0 (a pad or a pruned weight stays 0), divided by the
    largest. They start at the probability 1 - (1/32 + 1/30) / 2: half a step short of 1, whose
    quantile is infinite (the mean of the two sides' steps). Equal to the published values within
    2e-7, the rounding of float32.
    """
    quantile, outermost = NormalDist().inv_cdf, 1 - (1 / 32 + 1 / 30) / 2  # 0.9677
    # 8 values, the largest first
    above = [quantile(outermost + (0.5 - outermost) * step / 8) for step in range(8)]
    # 7 values, the least first
    below = [-quantile(outermost + (0.5 - outermost) * step / 7) for step in range(7)]
    return [value / above[0] for value in [*below, 0.0, *reversed(above)]]


# ---------------------------------------------------------------- a weight in 4 bits


def in_blocks(flat: Tensor, block: int) -> Tensor:
    """(n,) as (N, block), the last block filled up with zeros. ValueError unless block is an even
    number above 0.
    """
    if not isinstance(block, int) or block < 2 or block % 2:
        raise ValueError(f"block must be an even number of at least 2, not {block!r}")
    return F.pad(flat, (0, -flat.numel() % block)).view(-1, block)


def quantize_nf4(weight: Tensor, block: int = 64) -> tuple[Tensor, Tensor]:
    """Each block divided by its largest size, each number then replaced by the nearest of the 16
    values.

    weight: any shape, n finite numbers. Returns codes, uint8 (ceil(n / 2),), two codes a byte with
    the first in the upper half, as bitsandbytes packs them; and absmax, float32 (N,). Raises
    ValueError for NaN or infinity.
    """
    flat = weight.detach().reshape(-1).float()
    if not flat.isfinite().all():
        raise ValueError("a weight with NaN or infinity cannot be quantised")
    # (N, block): one outlier spoils 64 numbers, not the whole weight
    blocks = in_blocks(flat, block)
    absmax = blocks.abs().amax(dim=1)  # (N,)
    # in [-1, 1]; a block of zeros stays 0
    scaled = blocks * (1 / absmax.clamp(min=torch.finfo().tiny))[:, None]
    values = torch.tensor(NF4, device=flat.device)
    borders = (values[:-1] + values[1:]) / 2  # (15,) half-way between neighbours
    codes = torch.bucketize(scaled, borders, out_int32=True).to(torch.uint8)  # (N, block), 0 to 15
    pairs = codes.view(-1)[: flat.numel() + flat.numel() % 2].view(-1, 2)  # (ceil(n / 2), 2)
    return pairs[:, 0] << 4 | pairs[:, 1], absmax


def dequantize_nf4(codes: Tensor, absmax: Tensor, shape: Sequence[int], block: int = 64) -> Tensor:
    """The inverse of `quantize_nf4` but for rounding: float32 of the weight's shape, value of the
    code x absmax.
    """
    n = torch.Size(shape).numel()
    pairs = torch.stack([codes >> 4, codes & 15], dim=1)  # (ceil(n / 2), 2): upper half first
    values = torch.tensor(NF4, device=codes.device)[pairs.view(-1)[:n].int()]  # (n,)
    return (in_blocks(values, block) * absmax[:, None]).view(-1)[:n].view(shape)


def quantize_absmax(absmax: Tensor, block: int = 256) -> tuple[Tensor, Tensor, Tensor]:
    """Double quantisation: the N absmax in 8 bits, in blocks of 256 (section 3, "Double
    Quantization").

    One float32 for 64 weights costs 0.5 bits a weight, in 8 bits 8 / 64 + 32 / (64 * 256) = 0.127.
    The absmax are all positive, so the mean goes first: then the signs are in use too. Returns
    codes, int8 (N,); scales, float32 (ceil(N / 256),); mean, float32 (). The steps are even here;
    bitsandbytes' 8-bit type is finer near 0.
    """
    mean = absmax.mean() if absmax.numel() else absmax.new_zeros(())
    centred = in_blocks(absmax - mean, block)
    scales = centred.abs().amax(dim=1) / 127  # (ceil(N / 256),): the size of a step
    codes = (centred / scales.clamp(min=torch.finfo().tiny)[:, None]).round()
    return codes.to(torch.int8).view(-1)[: absmax.numel()].clone(), scales, mean


def dequantize_absmax(codes: Tensor, scales: Tensor, mean: Tensor, block: int = 256) -> Tensor:
    """The inverse of `quantize_absmax` but for rounding, which is at most half a step: float32
    (N,).
    """
    return (in_blocks(codes.float(), block) * scales[:, None]).view(-1)[: codes.numel()] + mean


# ---------------------------------------------------------------- a layer in 4 bits


class DequantizeAndMultiply(torch.autograd.Function):
    """x W^T, keeping no float copy of W for the backward pass: there W is dequantised once more.

    Without this, autograd would hold every layer's W in full until its gradient is due, and save no
    memory at all.
    """

    @staticmethod
    def forward(ctx, x: Tensor, layer: "NF4Linear") -> Tensor:
        ctx.layer = layer
        return F.linear(x, layer.weight.to(x.dtype))  # (..., in) to (..., out)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient @ ctx.layer.weight.to(gradient.dtype), None  # (..., out) to (..., in)


class NF4Linear(nn.Module):
    """An nn.Linear whose frozen weight takes 4.13 bits a number: y = W x + b, W dequantised each
    time it is used.

    It has buffers and no parameters: gradients reach the input only, and what learns is an adapter
    around it (QLoRA, equation 5). ValueError for a weight with NaN or infinity.
    """

    def __init__(self, linear: nn.Linear, block: int = 64):
        super().__init__()
        self.in_features, self.out_features, self.block = (
            linear.in_features,
            linear.out_features,
            block,
        )
        codes, absmax = quantize_nf4(linear.weight, block)
        absmax_codes, absmax_scales, absmax_mean = quantize_absmax(absmax)
        self.register_buffer("codes", codes)  # uint8 (out * in / 2,)
        self.register_buffer("absmax_codes", absmax_codes)  # int8 (N,)
        self.register_buffer("absmax_scales", absmax_scales)  # (ceil(N / 256),)
        self.register_buffer("absmax_mean", absmax_mean)  # ()
        # (out,)
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach().clone())

    @property
    def weight(self) -> Tensor:
        """The weight as it multiplies, float32 (out, in), made anew at every use."""
        absmax = dequantize_absmax(self.absmax_codes, self.absmax_scales, self.absmax_mean)
        return dequantize_nf4(self.codes, absmax, (self.out_features, self.in_features), self.block)

    def forward(self, x: Tensor) -> Tensor:  # (..., in) to (..., out), in x's dtype
        y = DequantizeAndMultiply.apply(x, self)
        return y if self.bias is None else y + self.bias.to(y.dtype)


# ---------------------------------------------------------------- a whole model


def quantize_model(
    model: nn.Module, targets: Sequence[str] = ("c_attn", "c_proj", "c_fc"), block: int = 64
) -> None:
    """Put the named layers of the blocks into 4 bits, in place; then `add_lora`.

    Embeddings and norms stay as they are. ValueError, with the model as it was, for a target that
    is no nn.Linear.
    """
    layers = linear_layers(model, targets)
    for name, layer in layers.items():
        if not isinstance(layer, nn.Linear):
            raise ValueError(
                f"{name} is no nn.Linear but {type(layer).__name__}: it cannot be quantised"
            )
    small = {name: NF4Linear(layer, block) for name, layer in layers.items()}
    for name, layer in small.items():
        model.set_submodule(name, layer)


def is_quantized(module: nn.Module) -> bool:
    """Whether there are 4-bit layers in a model. By their parts: 1-SFT defines NF4Linear once
    more.
    """
    return any(name.endswith("absmax_codes") for name, _ in module.named_buffers())


def dequantize_model(model: nn.Module) -> None:
    """Put nn.Linear back in place of every 4-bit layer, in place, with the rounded weights: such a
    model saves.
    """
    for name, layer in list(model.named_modules()):
        if hasattr(layer, "absmax_codes"):
            model.set_submodule(name, plain_linear(layer.weight, layer.bias))


def nf4_bytes(numbers: int, block: int = 64) -> int:
    """Bytes of a weight of so many numbers in an `NF4Linear`: half a byte each, and the twice
    quantised absmax.
    """
    absmax = -(-numbers // block)  # rounded up
    # codes; absmax in 8 bits, their scales, their mean
    return -(-numbers // 2) + absmax + 4 * -(-absmax // 256) + 4


def memory_bytes(model: nn.Module) -> int:
    """Bytes of a model's weights (parameters and buffers, tied ones once)."""
    return sum(
        tensor.numel() * tensor.element_size() for tensor in [*model.parameters(), *model.buffers()]
    )
