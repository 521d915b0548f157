"""The sizes that both sides of a comparison share. Imports torch only: what TRL runs in knows no
more.
"""

import torch

# layers, heads, width
SIZES = {"2x64": (2, 2, 64), "4x128": (4, 4, 128), "6x256": (6, 8, 256), "8x384": (8, 12, 384)}
COMPARED = ("4x128", "6x256")
VOCABULARY, CONTEXT = 2048, 256
EOS, PAD = 0, 1  # tokens that no random row holds
BATCH = 16  # rows of a training step


def random_rows(rows: int, length: int, seed: int = 0) -> torch.Tensor:
    """ids (rows, length) without end of text or pads."""
    return torch.randint(
        2, VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(seed)
    )


def left_padded(
    rows: int, length: int, shortest: int, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """ids and mask (rows, length): prompts of `shortest` to `length` tokens, padded on the left."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(shortest, length + 1, (rows, 1), generator=generator)
    lengths[0] = length
    mask = torch.arange(length) >= length - lengths
    return random_rows(rows, length, seed).where(mask, PAD), mask
