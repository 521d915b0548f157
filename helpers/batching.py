"""Batches from token rows of different lengths: padding, length buckets, checks of prompts."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


class Batches(Sequence):
    """A lazy sequence of batches: `make(rows)` builds a batch when it is indexed.

    plan: the row indices of each step's batch. A slice is again a `Batches`.
    """

    def __init__(self, plan: list[list[int]], make: Callable[[list[int]], Any]):
        self.plan, self.make = plan, make

    def __len__(self) -> int:
        return len(self.plan)

    def __getitem__(self, step):
        if isinstance(step, slice):
            return Batches(self.plan[step], self.make)
        return self.make(self.plan[step])


def left_pad(rows: list[list[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    """Token rows as ids and mask (B, T), pads before the tokens: for prompts to be continued."""
    return pad_rows(rows, pad_id, left=True)


def right_pad(rows: list[list[int]], pad_id: int, multiple: int = 1) -> tuple[Tensor, Tensor]:
    """Token rows as ids and mask (B, T), pads after the tokens: for training.

    The causal mask already excludes pads on the right. T is rounded up to a multiple of `multiple`:
    kernels are set up once per shape, so fewer shapes save time and memory.
    """
    return pad_rows(rows, pad_id, left=False, multiple=multiple)


def pad_rows(
    rows: list[list[int]], pad_id: int, left: bool, multiple: int = 1
) -> tuple[Tensor, Tensor]:
    """Token rows as ids (B, T), int64, and mask (B, T), bool, True = real token.

    T is the length of the longest row, rounded up to a multiple of `multiple`. Raises ValueError if
    there are no rows.
    """
    if not rows:
        raise ValueError("no rows to pad")
    longest = max(len(row) for row in rows)
    width = -(-longest // multiple) * multiple  # rounded up
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
    """Row indices in batches of similar length, so that a batch needs little padding.

    Every index occurs once, and all batches but one are full. Rows of equal length are in random
    order, and so are the batches. Raises ValueError if batch_size is below 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, not {batch_size}")
    shuffled = torch.randperm(len(lengths), generator=generator).tolist()
    by_length = sorted(shuffled, key=lambda i: lengths[i])  # stable, so equal lengths stay shuffled
    batches = [by_length[i : i + batch_size] for i in range(0, len(by_length), batch_size)]
    order = torch.randperm(len(batches), generator=generator).tolist()
    return [batches[i] for i in order]


def batch_plan(lengths: list[int], batch_size: int, epochs: float, seed: int) -> list[list[int]]:
    """The rows of each step's batch: every row once per epoch, in a new random order each time.

    A fractional epoch takes that share of the batches.
    """
    generator = torch.Generator().manual_seed(seed)
    plan: list[list[int]] = []
    while epochs > 0:
        buckets = length_buckets(lengths, batch_size, generator)
        plan += buckets[: round(len(buckets) * min(1.0, epochs))]
        epochs -= 1
    return plan


def rows_at_once(rows: list[list[int]], vocab_size: int, most: int = 50) -> int:
    """How many rows to read at once: at most `most`, and at most 1 GB of logits (V per token)."""
    longest = max(len(row) for row in rows)
    return max(1, min(most, 2**28 // (longest * vocab_size)))  # 2^28 float32 numbers are 1 GB


def check_prompts(prompt_mask: Tensor, max_new_tokens: int, context: int) -> None:
    """Raise ValueError unless prompts (B, P) can be continued.

    Each needs a real token, pads only on the left, and room for the new tokens in the context.
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
