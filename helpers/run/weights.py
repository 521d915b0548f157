"""Weights from a file become a model only when every one has GPT-2's name and shape and finite
numbers: nothing is guessed, left out or left at random.
"""

import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from helpers.model import GPT, GPTConfig

# The sizes of a GPTConfig, in its order, in transformers' words and in nanoGPT's.
TRANSFORMERS_SIZES = ("vocab_size", "n_positions", "n_layer", "n_head", "n_embd")
NANOGPT_SIZES = ("vocab_size", "block_size", "n_layer", "n_head", "n_embd")
TANH = ("gelu_new", "gelu_pytorch_tanh", "gelu_fast", "gelu_python_tanh", "gelu_accurate")
# What settings may say in transformers' words, or leave out, for our model to compute the same.
GPT2_IS = {
    "model_type": ("gpt2",),
    "architectures": (["GPT2LMHeadModel"], ["GPT2Model"], [], None),
    "activation_function": TANH,  # names of one formula
    "layer_norm_epsilon": (1e-5,),
    "scale_attn_weights": (True,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "add_cross_attention": (False,),
    "tie_word_embeddings": (True, False),  # False: if the weights are equal all the same
    "pruned_heads": ({}, None),
    "quantization_config": (None,),
    "auto_map": (None,),  # code of its own
}
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
LAYER = re.compile(r"h\.(0|[1-9][0-9]{0,5})\.")
MASKS = re.compile(r"h\.[0-9]+\.attn\.(masked_)?bias")
HEAD, TABLE, POSITIONS = "lm_head.weight", "wte.weight", "wpe.weight"


class WeightsError(RuntimeError):
    """Weights that can't be had or don't fit: one line that says which, why, and what to do."""


def listed(names: Iterable[str], limit: int = 8) -> str:
    """Names in one line, without control characters: the first ones and how many more."""
    names = [ascii(str(name))[1:-1][:80] for name in names]
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def is_conv1d(name: str) -> bool:
    """Whether transformers keeps this weight as a Conv1D: (in, out), not (out, in)."""
    return name.endswith(("c_attn.weight", "c_fc.weight", "c_proj.weight"))


# ---------------------------------------------------------------- the weights of a file


def plain_weights(state: Mapping[str, Tensor], head_is_table: bool = False) -> dict[str, Tensor]:
    """GPT-2's weights in float32 without "transformer." in their names.

    Left out is what says nothing new: causal masks, and a head that equals the token table.
    head_is_table: the two are one matrix, and a file may have it under either name. Raises
    WeightsError, naming the weight, for any other mask or head and for what holds no finite floats.
    """
    weights = {}
    for full_name, weight in state.items():
        name = full_name.removeprefix("transformer.")
        check_tensor(name, weight)
        if MASKS.fullmatch(name):
            check_mask(name, weight)
            continue
        if name in weights:
            raise WeightsError(f"it has {listed([name])} twice")
        weights[name] = floats(name, weight)
    head = weights.pop(HEAD, None)
    if head_is_table and head is not None:
        weights.setdefault(TABLE, head)
    if head is not None and TABLE in weights and not torch.equal(head, weights[TABLE]):
        raise WeightsError(
            f"its head ({HEAD}) is not its token table ({TABLE}), but GPT-2 has one matrix for both"
        )
    return weights


def check_tensor(name: str, weight: Tensor) -> None:
    """Raise WeightsError unless a tensor is dense, in memory, and holds a number for each place."""
    dense = weight.layout == torch.strided and not weight.is_nested and weight.device.type == "cpu"
    if not dense or weight.nbytes > weight.untyped_storage().nbytes():
        raise WeightsError(f"{listed([name])} is no ordinary tensor with all its numbers")


def check_mask(name: str, mask: Tensor) -> None:
    """Raise WeightsError unless a buffer of attention is the causal mask, or the number that older
    files put in the place of minus infinity.
    """
    if name.endswith("masked_bias"):
        right = mask.dtype in FLOATS and mask.numel() == 1 and mask.item() <= -1e4
    else:
        right = mask.dim() >= 2 and mask.numel() == mask.size(-1) ** 2
        square = mask.reshape(mask.size(-1), -1) != 0 if right else mask
        right = right and torch.equal(square, torch.ones_like(square).tril())
    if not right:
        raise WeightsError(f"{name} is not GPT-2's causal mask")


def floats(name: str, weight: Tensor) -> Tensor:
    """A weight in float32. Raises WeightsError unless it holds finite floating-point numbers."""
    name = listed([name])
    if weight.dtype not in FLOATS:
        kind = str(weight.dtype).removeprefix("torch.")
        raise WeightsError(f"{name} holds {kind}, not float16, bfloat16, float32 or float64")
    weight = weight.detach().float()
    if not weight.isfinite().all():
        raise WeightsError(f"{name} holds numbers that are NaN or infinite")
    return weight


# ---------------------------------------------------------------- the model


def found_sizes(weights: Mapping[str, Tensor]) -> tuple[int, int, int, int]:
    """The tokens, positions, layers and channels that weights have. Raises WeightsError."""
    missing = [name for name in (TABLE, POSITIONS) if name not in weights]
    if missing:
        raise WeightsError(f"it lacks {listed(missing)}")
    if weights[TABLE].dim() != 2 or weights[POSITIONS].dim() != 2:
        raise WeightsError(f"{TABLE} and {POSITIONS} must be matrices")
    layers = {int(match[1]) for match in map(LAYER.match, weights) if match}
    gap = next((layer for layer in range(len(layers)) if layer not in layers), None)
    if gap is not None or not layers:
        more = f", but has layer {max(layers)}" if layers else ""
        raise WeightsError(f"it lacks layer {gap or 0}{more}")
    return len(weights[TABLE]), len(weights[POSITIONS]), len(layers), weights[TABLE].size(1)


def build(
    sizes: Mapping[str, int],
    weights: Mapping[str, Tensor],
    source: str,
    conv1d: bool = False,
    zero_biases: bool = False,
) -> GPT:
    """The GPT with these weights, in float32; every one is compared before memory is taken.

    sizes: the five of a GPTConfig, in its order, in the words of their `source` ("config.json").
    conv1d: the matrices of the layers are (in, out). zero_biases: there are none, which is zero.
    Raises WeightsError, naming the sizes or weights that don't fit.
    """
    found = dict(zip([name for name in sizes if name != "n_head"], found_sizes(weights)))
    wrong = [
        f"{name} {sizes[name]}, but its weights have {number}"
        for name, number in found.items()
        if sizes[name] != number
    ]
    if wrong:
        raise WeightsError(f"its {source} says {'; '.join(wrong)}")
    try:
        config = GPTConfig(*sizes.values())
    except ValueError as error:
        raise WeightsError(str(error)) from None
    shapes = gpt2_shapes(config)
    if zero_biases:
        biases = (name for name in shapes if name.endswith(".bias"))
        weights = {**weights, **{name: torch.zeros(shapes[name]) for name in biases}}
    if conv1d:
        shapes = {name: size[::-1] if is_conv1d(name) else size for name, size in shapes.items()}
    check_shapes(shapes, weights)
    model = GPT(config)
    model.load_state_dict(
        {name: w.T if conv1d and is_conv1d(name) else w for name, w in weights.items()}
    )
    return model


def gpt2_shapes(config: GPTConfig) -> dict[str, tuple[int, ...]]:
    """The shape of every weight of a GPT, by name; nn.Linear's are (out, in)."""
    C = config.channels
    block = {"ln_1": (C,), "attn.c_attn": (3 * C, C), "attn.c_proj": (C, C)}
    block |= {"ln_2": (C,), "mlp.c_fc": (4 * C, C), "mlp.c_proj": (C, 4 * C)}
    layers = {
        f"h.{layer}.{name}": size for layer in range(config.layers) for name, size in block.items()
    }
    shapes = {TABLE: (config.vocab_size, C), POSITIONS: (config.context, C)}
    for name, size in (layers | {"ln_f": (C,)}).items():
        shapes |= {f"{name}.weight": size, f"{name}.bias": size[:1]}
    return shapes


def check_shapes(shapes: Mapping[str, tuple[int, ...]], weights: Mapping[str, Tensor]) -> None:
    """Raise WeightsError that lists what is missing, left over, or of another shape."""
    missing = [name for name in shapes if name not in weights]
    left_over = [name for name in weights if name not in shapes]
    other = [
        f"{name} {tuple(weights[name].shape)} instead of {shape}"
        for name, shape in shapes.items()
        if name in weights and weights[name].shape != shape
    ]
    faults = {"lacks": missing, "has": other, "has what GPT-2 does not have:": left_over}
    faults = [f"{verb} {listed(names)}" for verb, names in faults.items() if names]
    if faults:
        raise WeightsError(f"it {'; it '.join(faults)}")
