"""Weights as other programs keep them, and nanoGPT's forward pass, written once more."""

import torch
import torch.nn.functional as F
from transformers import GPT2Config, GPT2LMHeadModel

from helpers.run.weights import is_conv1d

IDS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6]])


def theirs(vocabulary=60, channels=64, layers=2, heads=1, context=32) -> GPT2LMHeadModel:
    """A GPT-2 of transformers with every weight random."""
    torch.manual_seed(0)
    sizes = dict(vocab_size=vocabulary, n_positions=context, n_embd=channels)
    model = GPT2LMHeadModel(GPT2Config(**sizes, n_layer=layers, n_head=heads)).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def nanogpt(model: GPT2LMHeadModel, before: str = "") -> dict[str, torch.Tensor]:
    """The state dict as nanoGPT would have it: nn.Linear's layout, the tied head, and a mask
    buffer.
    """
    state = {
        name: weight.T.contiguous() if is_conv1d(name) else weight
        for name, weight in model.state_dict().items()
    }
    state["transformer.h.0.attn.bias"] = torch.ones(1, 1, 32, 32).tril()
    return {before + name: weight for name, weight in state.items()}


def nanogpt_args(model: GPT2LMHeadModel) -> dict:
    """nanoGPT's model_args."""
    names = ("vocab_size", "n_layer", "n_head", "n_embd")
    args = {name: getattr(model.config, name) for name in names}
    return args | {"block_size": model.config.n_positions, "bias": True, "dropout": 0.1}


@torch.no_grad()
def nanogpt_logits(state: dict[str, torch.Tensor], heads: int) -> torch.Tensor:
    """The logits of IDS by a state dict in nanoGPT's layout, biases or none, in float32."""

    def weight(name: str) -> torch.Tensor | None:
        found = state.get(f"transformer.{name}")
        return None if found is None else found.float()

    def linear(x, name):
        return F.linear(x, weight(f"{name}.weight"), weight(f"{name}.bias"))

    def norm(x, name):
        return F.layer_norm(x, x.shape[-1:], weight(f"{name}.weight"), weight(f"{name}.bias"))

    x = weight("wte.weight")[IDS] + weight("wpe.weight")[: IDS.size(1)]
    for layer in range(len([name for name in state if name.endswith("attn.c_attn.weight")])):
        block = f"h.{layer}"
        parts = linear(norm(x, f"{block}.ln_1"), f"{block}.attn.c_attn").chunk(3, -1)
        q, k, v = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in parts)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
        x = x + linear(y, f"{block}.attn.c_proj")
        y = F.gelu(linear(norm(x, f"{block}.ln_2"), f"{block}.mlp.c_fc"), approximate="tanh")
        x = x + linear(y, f"{block}.mlp.c_proj")
    return F.linear(norm(x, "ln_f"), weight("wte.weight"))


@torch.no_grad()
def same_logits(ours, model: GPT2LMHeadModel, vocabulary: int | None = None) -> None:
    """The same logits of the first tokens."""
    ours, expected = ours(IDS)[..., :vocabulary], model(IDS).logits[..., :vocabulary]
    torch.testing.assert_close(ours, expected, atol=1e-4, rtol=1e-4)
