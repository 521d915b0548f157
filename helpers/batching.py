"""Rows of different lengths as rectangles: padding on either side, batches of similar length,
checks of prompts.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


class Batches(Sequence):
    """The batches of a plan (which rows each step reads), made by `make(rows)` only when they are
    asked for.
    """

    def __init__(self, plan: list[list[int]], make: Callable[[list[int]], Any]):
        self.plan, self.make = plan, make

    def __len__(self) -> int:
        return len(self.plan)

    def __getitem__(self, step):
        return (
            Batches(self.plan[step], self.make)
            if isinstance(step, slice)
            else self.make(self.plan[step])
        )


def left_pad(rows: list[list[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    """Token rows as ids and mask, both (B, T), pads before the tokens: for prompts, which go on at
    the right.
    """
    return pad_rows(rows, pad_id, left=True)


def right_pad(rows: list[list[int]], pad_id: int, multiple: int = 1) -> tuple[Tensor, Tensor]:
    """Token rows as ids and mask, both (B, T), pads after the tokens: for training, where being
    causal hides them.

    T is rounded up to a multiple of `multiple`: kernels are prepared once a shape, so few shapes
    save time and memory.
    """
    return pad_rows(rows, pad_id, left=False, multiple=multiple)


def pad_rows(
    rows: list[list[int]], pad_id: int, left: bool, multiple: int = 1
) -> tuple[Tensor, Tensor]:
    """ids (B, T) int64 and mask (B, T) bool, True = real token; T fits the longest row. ValueError
    without rows.
    """
    if not rows:
        raise ValueError("no rows to pad")
    width = -(-max(len(row) for row in rows) // multiple) * multiple
    ids = torch.full((len(rows), width), pad_id)
    mask = torch.zeros(len(rows), width, dtype=torch.bool)
    for i, row in enumerate(rows):
        place = slice(width - len(row), width) if left else slice(0, len(row))
        ids[i, place] = torch.tensor(row, dtype=torch.long)
        mask[i, place] = True
    return ids, mask


def length_buckets(
    lengths: list[int], batch_size: int, generator: torch.Generator | None = None
) -> list[list[int]]:
    """Row indices in batches of similar length, so that little of a batch is padding.

    Every index comes once and all batches but one are full. Rows of one length, and the batches,
    come in random order. Raises ValueError when batch_size is below 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, not {batch_size}")
    shuffled = torch.randperm(len(lengths), generator=generator).tolist()
    by_length = sorted(shuffled, key=lambda i: lengths[i])  # stable: equal lengths stay shuffled
    batches = [by_length[i : i + batch_size] for i in range(0, len(by_length), batch_size)]
    order = torch.randperm(len(batches), generator=generator).tolist()
    return [batches[i] for i in order]


def batch_plan(lengths: list[int], batch_size: int, epochs: float, seed: int) -> list[list[int]]:
    """Which rows make up each step's batch: all rows once an epoch, in a new random order each
    time.
    """
    generator = torch.Generator().manual_seed(seed)
    plan: list[list[int]] = []
    while epochs > 0:
        buckets = length_buckets(lengths, batch_size, generator)
        plan += buckets[: round(len(buckets) * min(1.0, epochs))]
        epochs -= 1
    return plan


def rows_at_once(rows: list[list[int]], vocab_size: int, most: int = 50) -> int:
    """How many rows to read at once, when each token's logits (V,) are kept: `most`, or what a
    gigabyte holds.
    """
    longest = max(len(row) for row in rows)
    return max(1, min(most, 2**28 // (longest * vocab_size)))  # float32: 4 bytes each


def check_prompts(prompt_mask: Tensor, max_new_tokens: int, context: int) -> None:
    """Raise ValueError, in one line, unless prompts (B, P) can be continued: real tokens, left
    pads, room enough.
    """
    if prompt_mask.size(0) == 0:
        raise ValueError("no prompts to continue")
    empty = (~prompt_mask.bool().any(dim=1)).nonzero().flatten().tolist()
    if empty:
        raise ValueError(f"the prompt in row {empty[0]} is empty: give at least one token")
    if not prompt_mask[:, -1].all():
        raise ValueError(
            "prompts must be padded on the left (helpers.batching.left_pad), or new tokens follow "
            "pads"
        )
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens must be at least 1, not {max_new_tokens}")
    width = prompt_mask.size(1)
    if width + max_new_tokens > context:
        raise ValueError(
            f"a prompt of {width} and {max_new_tokens} new tokens do not fit the context of "
            f"{context}"
        )
