"""Batches in parts: for what the memory holds at once, and for several processes. The gradients add
up.

A loss that is a mean over the batch is the sum of its parts' means, each times the part's share of
what is averaged. These are the `split`s of `helpers.training.fit`. Shapes: B rows, T tokens.
"""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from torch import OutOfMemoryError, Tensor

from helpers.engine.distributed import own_rows, world

if TYPE_CHECKING:  # only to name it: reward imports this module
    from helpers.reward import PairBatch


class Parts:
    """Cuts batches by `cut(batch, size)` into parts of at most `size` rows (0: all at once) with
    their shares.
    """

    def __init__(self, cut: Callable[[Any, int], list[tuple[Any, float]]], size: int = 0):
        self.cut, self.size = cut, size

    def __call__(self, batch: Any) -> list[tuple[Any, float]]:
        return self.cut(batch, self.size)

    def add_up(
        self, batch: Any, backward: Callable[[Any, float], dict], again: Callable[[], None]
    ) -> dict[str, Any]:
        """Call `backward(part, share)` for every part; returns the sum of what it gives, each times
        its share.

        If the memory runs out, `again()` is called and everything is done once more in smaller
        parts.
        """
        while True:
            total: dict[str, Any] = {}
            try:
                for part, share in self(batch):
                    for name, value in backward(part, share).items():
                        total[name] = total.get(name, 0.0) + share * value
                return total
            except RuntimeError as error:
                self.shrink(error, batch)
            again()  # here, as an error that is still being handled holds on to the memory

    def shrink(self, error: RuntimeError, batch: Any) -> None:
        """After an error: if it was a lack of memory, have half as many rows in a part from now on,
        and say so.

        Raises the error again if it was anything else, or if a part is one row already.
        """
        parts = len(self(batch))
        lack = isinstance(error, OutOfMemoryError) or "allocate memory" in str(
            error
        )  # the second on a CPU
        rows = self.size or len(own_rows(rows_of(batch)))
        if not lack or rows < 2:
            raise error
        self.size = rows // 2
        print(
            f"out of memory with {rows} rows at once: from now on {self.size}, in "
            f"{len(self(batch))} parts instead "
            f"of {parts}; the batch stays the same"
        )


def rows_of(batch: Any) -> int:
    """How many rows a batch has: a tuple of tensors, or a PairBatch."""
    return len(batch.ids if hasattr(batch, "ids") else batch[0])


WHOLE = Parts(lambda batch, size: [(batch, 1 / world())])  # for losses that nobody cuts


def row_slices(rows: int, size: int) -> Iterator[slice]:
    """Slices of this process's rows of so many, at most `size` a slice. The first row, where it has
    none of its own.
    """
    own = own_rows(rows) or range(1)  # so that it takes part in adding up, with a share of 0
    for start in range(0, len(own), size or len(own)):
        part = own[start : start + (size or len(own))]
        yield slice(part.start, part.stop, part.step)


def share_of(weights: Tensor, rows: slice) -> float:
    """What part of a batch's weights (B,) these rows have; 0 for rows that are another
    process's.
    """
    if not len(own_rows(len(weights))):
        return 0.0
    return (weights[rows].sum() / weights.sum()).item()


def token_parts(size: int) -> Parts:
    """For batches (ids, mask), both (B, T), whose loss is the mean over mask's tokens, but for each
    row's first.
    """

    def cut(batch: tuple[Tensor, Tensor], size: int) -> list[tuple[tuple[Tensor, Tensor], float]]:
        ids, mask = batch
        tokens = mask[:, 1:].sum(1).double()  # (B,)
        return [
            ((ids[rows], mask[rows]), share_of(tokens, rows)) for rows in row_slices(len(ids), size)
        ]

    return Parts(cut, size)


def label_parts(size: int, lm_coef: float) -> Parts:
    """For batches (ids, mask, labels): parts end in their `lm_coef`.

    The loss has two means, over texts and over tokens. A part's share is that of its texts; its
    lm_coef makes up for texts that are longer or shorter than the batch's.
    """

    def cut(batch: tuple[Tensor, Tensor, Tensor], size: int) -> list[tuple[tuple, float]]:
        tokens, found = batch[1][:, 1:].sum(1), []
        for rows in row_slices(len(tokens), size):
            coef, share = balance(tokens, rows, lm_coef)
            found.append(((*(tensor[rows] for tensor in batch), coef), share))
        return found

    return Parts(cut, size)


def pair_parts(size: int, lm_coef: float) -> Parts:
    """For a PairBatch: parts (PairBatch, lm_coef), as in `label_parts`."""

    def cut(batch: "PairBatch", size: int) -> list[tuple[tuple, float]]:
        tokens, found = (batch.targets >= 0).sum(1), []
        for rows in row_slices(len(tokens), size):
            coef, share = balance(tokens, rows, lm_coef)
            found.append(
                ((type(batch)(*(tensor[rows] for tensor in vars(batch).values())), coef), share)
            )
        return found

    return Parts(cut, size)


def balance(tokens: Tensor, rows: slice, lm_coef: float) -> tuple[float, float]:
    """The lm_coef and the share of a part; tokens (B,) of each row of the batch."""
    few, all_rows = len(tokens[rows]), len(tokens)
    more_tokens = (tokens[rows].sum().item() * all_rows) / (
        tokens.sum().item() * few
    )  # than a part of this size has
    return lm_coef * more_tokens, share_of(tokens.new_ones(all_rows).double(), rows)
