"""What the tests of LoRA share: a tiny model with and without adapters."""

import copy

import torch

from helpers import lora
from helpers.lora import add_lora
from helpers.model import GPT, GPTConfig
from tests.support.tiny_models import transformers_twin

__all__ = ["ALL", "CONFIG", "IDS", "adapted", "logits", "tiny", "transformers_twin"]

CONFIG = GPTConfig(vocab_size=60, context=24, layers=2, heads=2, channels=16)
ALL = ("c_attn", "c_proj", "c_fc")
IDS = torch.arange(24).view(2, 12)


def tiny() -> GPT:
    model = GPT(CONFIG)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, mean=0.02, std=0.2)
    return model


def adapted(base: GPT, rank: int = 4, alpha: float = 8.0, targets=ALL) -> GPT:
    """A copy of the base with adapters that do something."""
    model = copy.deepcopy(base)
    add_lora(model, rank, alpha, targets)
    for layer in lora.lora_layers(model).values():
        torch.nn.init.normal_(layer.lora_B, std=0.1)
    return model


@torch.no_grad()
def logits(model) -> torch.Tensor:
    return model(IDS)
