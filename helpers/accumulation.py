"""Batches in parts that the memory can hold, so that their gradients add up to the whole batch's.

A loss that is a mean over the batch is the sum of its parts' means, each times the part's share of what is averaged.
These are the `split`s of `helpers.training.fit`; a size of 0 leaves a batch whole. Shapes: B rows, T tokens.
"""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:  # only to name it: reward imports this module
    from helpers.reward import PairBatch


def row_slices(rows: int, size: int) -> Iterator[slice]:
    """Slices of at most `size` of so many rows."""
    for start in range(0, rows, size or rows):
        yield slice(start, start + (size or rows))


def token_parts(size: int) -> Callable[[tuple[Tensor, Tensor]], list]:
    """For batches (ids, mask), both (B, T), whose loss is the mean over mask's tokens, but for each row's first."""

    def split(batch: tuple[Tensor, Tensor]) -> list[tuple[tuple[Tensor, Tensor], float]]:
        ids, mask = batch
        tokens = mask[:, 1:].sum(1)  # (B,)
        whole = tokens.sum().item()
        return [((ids[rows], mask[rows]), tokens[rows].sum().item() / whole) for rows in row_slices(len(ids), size)]

    return split


def label_parts(size: int, lm_coef: float) -> Callable[[tuple[Tensor, Tensor, Tensor]], list]:
    """For batches (ids, mask, labels): parts end in their `lm_coef`.

    The loss has two means, over texts and over tokens. A part's share is that of its texts; its lm_coef makes up for
    texts that are longer or shorter than the batch's.
    """

    def split(batch: tuple[Tensor, Tensor, Tensor]) -> list[tuple[tuple, float]]:
        tokens, found = batch[1][:, 1:].sum(1), []
        for rows in row_slices(len(tokens), size):
            coef, share = balance(tokens, rows, lm_coef)
            found.append(((*(tensor[rows] for tensor in batch), coef), share))
        return found

    return split


def pair_parts(size: int, lm_coef: float) -> Callable[["PairBatch"], list]:
    """For a PairBatch: parts (PairBatch, lm_coef), as in `label_parts`."""

    def split(batch: "PairBatch") -> list[tuple[tuple, float]]:
        tokens, found = (batch.targets >= 0).sum(1), []
        for rows in row_slices(len(tokens), size):
            coef, share = balance(tokens, rows, lm_coef)
            found.append(((type(batch)(*(tensor[rows] for tensor in vars(batch).values())), coef), share))
        return found

    return split


def balance(tokens: Tensor, rows: slice, lm_coef: float) -> tuple[float, float]:
    """The lm_coef and the share of a part; tokens (B,) of each row of the batch."""
    few, all_rows = len(tokens[rows]), len(tokens)
    more_tokens = (tokens[rows].sum().item() * all_rows) / (tokens.sum().item() * few)  # than a part of this size has
    return lm_coef * more_tokens, few / all_rows
