"""What tests of models and losses share: masks, random numbers, and models in which every part
matters.
"""

import torch
from torch import nn


def random_mask(rows: int, width: int, seed: int = 0) -> torch.Tensor:
    """Right-padded mask (rows, width) with a full row, a one-token row and random lengths
    between.
    """
    lengths = torch.randint(1, width + 1, (rows,), generator=torch.Generator().manual_seed(seed))
    lengths[0], lengths[1] = width, 1
    return torch.arange(width) < lengths.unsqueeze(1)


def randn(*shape: int, seed: int) -> torch.Tensor:
    """Normal random numbers that depend on the seed alone."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float32)


@torch.no_grad()
def shaken(model: nn.Module, size: float = 0.3) -> nn.Module:
    """The model with every parameter moved: a fresh one has layers that do nothing yet, where a
    fault stays hidden.
    """
    for parameter in model.parameters():
        parameter += size * torch.randn_like(parameter)
    return model


@torch.no_grad()
def with_large_logits(gpt: nn.Module, size: float = 60.0) -> nn.Module:
    """The GPT with every logit lowered by `size`, as large as GPT-2's are. Probabilities stay, but
    in 16 bits such logits are rounded to a quarter.
    """
    gpt.ln_f.weight[0], gpt.ln_f.bias[0] = 0, size
    gpt.wte.weight[:, 0] = -1
    return gpt
