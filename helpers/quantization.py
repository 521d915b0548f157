"""NF4 by hand: a frozen weight quantised to 4 bits per number, in blocks of 64, for QLoRA.

Plain PyTorch, so that CPU and GPU give the same result.

Shapes: n numbers in the weight, N = ceil(n / block) blocks.
Source: Dettmers et al. 2023, "QLoRA: Efficient Finetuning of Quantized LLMs", section 3 and
appendix E.
"""

from collections.abc import Sequence
from statistics import NormalDist

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from helpers.lora import linear_layers, plain_linear

# The 16 values as published in appendix E, bit for bit those of bitsandbytes;
# `nf4_from_quantiles` derives them.
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
    """Derive the NF4 values from quantiles of N(0, 1), so that all codes are used equally often.

    Trained weights are nearly normal. There are 8 values above 0 and 7 below, evenly spaced in
    probability, and an exact 0, so that a pad or a pruned weight stays 0; all are divided by the
    largest. The outermost probability is 1 - (1/32 + 1/30) / 2, half a step (the mean of the two
    sides' steps) short of 1, because the quantile of 1 is infinite. The result equals the published
    values within 2e-7, the rounding error of float32.
    """
    quantile, outermost = NormalDist().inv_cdf, 1 - (1 / 32 + 1 / 30) / 2  # 0.9677
    above = [quantile(outermost + (0.5 - outermost) * step / 8) for step in range(8)]  # descending
    below = [-quantile(outermost + (0.5 - outermost) * step / 7) for step in range(7)]  # ascending
    return [value / above[0] for value in [*below, 0.0, *reversed(above)]]


# ---------------------------------------------------------------- a weight in 4 bits


def in_blocks(flat: Tensor, block: int) -> Tensor:
    """Reshape (n,) to (N, block), with zeros at the end of the last block.

    Raises ValueError unless block is an even number above 0.
    """
    if not isinstance(block, int) or block < 2 or block % 2:
        raise ValueError(f"block must be an even number of at least 2, not {block!r}")
    return F.pad(flat, (0, -flat.numel() % block)).view(-1, block)


def quantize_nf4(weight: Tensor, block: int = 64) -> tuple[Tensor, Tensor]:
    """Divide each block by its largest absolute value, then round to the nearest of the 16 values.

    weight: any shape, n finite numbers. Returns codes, uint8 (ceil(n / 2),), two codes per byte
    with the first in the upper half, as in bitsandbytes; and absmax, float32 (N,). Raises
    ValueError for NaN or infinity.
    """
    flat = weight.detach().reshape(-1).float()
    if not flat.isfinite().all():
        raise ValueError("a weight with NaN or infinity cannot be quantised")
    # In blocks, because an outlier then makes only 64 numbers less precise, not the entire weight.
    blocks = in_blocks(flat, block)  # (N, block)
    absmax = blocks.abs().amax(dim=1)  # (N,)
    # In [-1, 1]. The clamp avoids 0 / 0 in a block of zeros.
    scaled = blocks * (1 / absmax.clamp(min=torch.finfo().tiny))[:, None]
    values = torch.tensor(NF4, device=flat.device)
    borders = (values[:-1] + values[1:]) / 2  # (15,): midpoints between neighbours
    codes = torch.bucketize(scaled, borders, out_int32=True).to(torch.uint8)  # (N, block), 0 to 15
    # Drop the padding of the last block (all but one code, if n is odd) and pack two per byte.
    pairs = codes.view(-1)[: flat.numel() + flat.numel() % 2].view(-1, 2)  # (ceil(n / 2), 2)
    return pairs[:, 0] << 4 | pairs[:, 1], absmax


def dequantize_nf4(codes: Tensor, absmax: Tensor, shape: Sequence[int], block: int = 64) -> Tensor:
    """Undo `quantize_nf4`, up to rounding: each code's value times its block's absmax.

    Returns float32 of the weight's shape.
    """
    n = torch.Size(shape).numel()
    pairs = torch.stack([codes >> 4, codes & 15], dim=1)  # (ceil(n / 2), 2): upper half first
    values = torch.tensor(NF4, device=codes.device)[pairs.view(-1)[:n].int()]  # (n,)
    return (in_blocks(values, block) * absmax[:, None]).view(-1)[:n].view(shape)


def quantize_absmax(absmax: Tensor, block: int = 256) -> tuple[Tensor, Tensor, Tensor]:
    """Double quantisation: the N absmax values in 8 bits, in blocks of 256.

    A float32 per 64 weights costs 0.5 bits per weight; in 8 bits it is 8 / 64 + 32 / (64 * 256) =
    0.127 bits. All absmax values are positive, so the mean is subtracted first to make use of the
    sign. Returns codes, int8 (N,); scales, float32 (ceil(N / 256),); mean, float32 (). The steps
    are uniform here; bitsandbytes' 8-bit type is finer near 0.
    Source: Dettmers et al. 2023 (QLoRA), section 3, "Double Quantization".
    """
    mean = absmax.mean() if absmax.numel() else absmax.new_zeros(())
    centred = in_blocks(absmax - mean, block)
    scales = centred.abs().amax(dim=1) / 127  # (ceil(N / 256),): step size
    codes = (centred / scales.clamp(min=torch.finfo().tiny)[:, None]).round()
    return codes.to(torch.int8).view(-1)[: absmax.numel()].clone(), scales, mean


def dequantize_absmax(codes: Tensor, scales: Tensor, mean: Tensor, block: int = 256) -> Tensor:
    """Undo `quantize_absmax`, up to an error of at most half a step. Returns float32 (N,)."""
    return (in_blocks(codes.float(), block) * scales[:, None]).view(-1)[: codes.numel()] + mean


# ---------------------------------------------------------------- a layer in 4 bits


class DequantizeAndMultiply(torch.autograd.Function):
    """x W^T without saving W for the backward pass, which dequantises it again.

    Otherwise autograd would hold every layer's float32 W until the backward pass, and 4 bits would
    save no memory.
    """

    @staticmethod
    def forward(ctx, x: Tensor, layer: "NF4Linear") -> Tensor:
        ctx.layer = layer
        return F.linear(x, layer.weight.to(x.dtype))  # (..., in) to (..., out)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient @ ctx.layer.weight.to(gradient.dtype), None  # (..., out) to (..., in)


class NF4Linear(nn.Module):
    """y = W x + b with a frozen 4-bit W (4.13 bits per number), dequantised at each use.

    It has buffers but no parameters: gradients reach only its input, and what is trained is an
    adapter around it (QLoRA, equation 5). Raises ValueError for a weight with NaN or infinity.
    """

    def __init__(self, linear: nn.Linear, block: int = 64):
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.block = block
        codes, absmax = quantize_nf4(linear.weight, block)
        absmax_codes, absmax_scales, absmax_mean = quantize_absmax(absmax)
        self.register_buffer("codes", codes)  # uint8 (out * in / 2,)
        self.register_buffer("absmax_codes", absmax_codes)  # int8 (N,)
        self.register_buffer("absmax_scales", absmax_scales)  # (ceil(N / 256),)
        self.register_buffer("absmax_mean", absmax_mean)  # ()
        bias = None if linear.bias is None else linear.bias.detach().clone()
        self.register_buffer("bias", bias)  # (out,)

    @property
    def weight(self) -> Tensor:
        """The dequantised weight, float32 (out, in), computed at every access."""
        absmax = dequantize_absmax(self.absmax_codes, self.absmax_scales, self.absmax_mean)
        return dequantize_nf4(self.codes, absmax, (self.out_features, self.in_features), self.block)

    def forward(self, x: Tensor) -> Tensor:  # (..., in) to (..., out), in x's dtype
        y = DequantizeAndMultiply.apply(x, self)
        return y if self.bias is None else y + self.bias.to(y.dtype)


# ---------------------------------------------------------------- a whole model


def quantize_model(
    model: nn.Module, targets: Sequence[str] = ("c_attn", "c_proj", "c_fc"), block: int = 64
) -> None:
    """Quantise the named layers of the blocks to 4 bits, in place; `add_lora` comes next.

    Embeddings and norms are unchanged. Raises ValueError, with the model unchanged, for a target
    that is not an nn.Linear.
    """
    layers = linear_layers(model, targets)
    for name, layer in layers.items():
        if not isinstance(layer, nn.Linear):
            raise ValueError(
                f"{name} is no nn.Linear but {type(layer).__name__}: it cannot be quantised"
            )
    quantized = {name: NF4Linear(layer, block) for name, layer in layers.items()}
    for name, layer in quantized.items():
        model.set_submodule(name, layer)


def is_quantized(module: nn.Module) -> bool:
    """Whether a model has 4-bit layers.

    Recognised by their buffers, because 1-SFT defines its own NF4Linear class.
    """
    return any(name.endswith("absmax_codes") for name, _ in module.named_buffers())


def dequantize_model(model: nn.Module) -> None:
    """Replace every 4-bit layer by an nn.Linear with the dequantised weight, in place.

    The model can then be saved as a checkpoint.
    """
    for name, layer in list(model.named_modules()):
        if hasattr(layer, "absmax_codes"):
            model.set_submodule(name, plain_linear(layer.weight, layer.bias))


def nf4_bytes(numbers: int, block: int = 64) -> int:
    """Bytes that an `NF4Linear` takes for a weight with this many numbers."""
    blocks = -(-numbers // block)  # rounded up, as all divisions here
    # Two codes per byte; per block one absmax in 8 bits; their float32 scales; their float32 mean.
    return -(-numbers // 2) + blocks + 4 * -(-blocks // 256) + 4


def memory_bytes(model: nn.Module) -> int:
    """Bytes of a model's parameters and buffers; tied ones count once."""
    tensors = [*model.parameters(), *model.buffers()]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
