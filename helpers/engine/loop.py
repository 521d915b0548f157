"""What a training loop stands on, as calls that the loop makes: which steps are left, which rows of
a batch this process takes at once, what was measured.

    with loop.run(len(batches), model=model, optimizers=optimizers) as steps:
        for step in steps:  # from 0, or from where the last snapshot was taken
            for batch, share in loop.parts(batches[step], token_counts):
                with loop.retry_smaller():  # out of memory: the whole batch again, in smaller parts
                    loss = ...
                    optimizers.backward(share * loss)
                    loop.add(share, loss=loss)
            metrics = loop.means()  # over all parts and processes
            ...
            loop.log(**metrics)

A loss that is a mean over a batch is the sum of its parts' means, each times the part's share of
what is averaged. So the gradients of the parts add up to those of the batch, whatever the memory
holds at once and however many processes share the work.
"""

import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import OutOfMemoryError, Tensor, nn

from helpers.engine.distributed import add_numbers, is_main, own_rows
from helpers.engine.snapshots import Keeper, resumable
from helpers.engine.state import write_state
from helpers.engine.transfer import mapped, moved


class Loop:
    """The bookkeeping of one training run: resuming, saving, logging, parts of a batch.

    title: of the run, in its progress lines. dtype: the number format of its matrix products.
    keeper: where its log and its snapshots go; without one nothing is written. watch: called with
    the history after every step, for a live figure. lines: how many progress lines it prints.
    """

    def __init__(
        self,
        title: str,
        dtype: torch.dtype = torch.float32,
        keeper: Keeper | None = None,
        watch: Callable[[list[dict]], None] | None = None,
        lines: int = 10,
    ):
        self.title, self.dtype, self.keeper = title, dtype, keeper
        self.watch, self.lines = watch, lines
        self.history: list[dict[str, float]] = []  # the metrics of every step
        self.totals: dict[str, Any] = {}  # of the batch at hand: sums of share * value
        self.batch: Any = None
        self.size = 0  # rows in a part since memory ran out; 0: as many as the settings say
        self.retrying = False

    # ------------------------------------------------------------ steps

    @contextmanager
    def run(self, steps: int, **parts: Any) -> Iterator[Iterator[int]]:
        """Give the numbers of the steps that are left. `parts` is all that the next step depends
        on: models, optimisers, random generators; snapshots hold its state.

        Raises FloatingPointError, with the step and the batch saved, if a number is not finite.
        """
        self.steps, self.every = steps, max(1, steps // self.lines)
        self.modules = [part for part in parts.values() if isinstance(part, nn.Module)]
        self.device = next(self.modules[0].parameters()).device
        self.start, self.resumed = time.perf_counter(), 0  # when, and after which step, we began
        try:
            with resumable(self.title, steps, self.keeper, {**parts, "progress": self}) as left:
                yield left
        except FloatingPointError as error:
            step, where = len(self.history) + 1, ""
            if self.keeper and is_main():
                log = self.keeper.log
                folder = log.with_name(f"{log.stem}-batch-of-step-{step}")
                batch = vars(self.batch) if hasattr(self.batch, "ids") else self.batch
                write_state(folder, {"step": step, "batch": batch})
                where = f" Its batch is saved in {folder}."
            message = f"{self.title}: {error} at step {step}; lower the learning rate.{where}"
            raise FloatingPointError(message) from None

    # ------------------------------------------------------------ parts of a batch

    def parts(
        self, batch: Any, weights: Callable[[Any], Tensor], size: int = 0
    ) -> Iterator[tuple[Any, Any]]:
        """This process's rows of a batch, at most `size` at once (0: all), where the model is, each
        part with its share of the batch's mean.

        batch: a tensor, a tuple of tensors, or an object that holds only tensors; rows first.
        weights(batch): what each row counts in the mean, (B,), such as its tokens; or (B, K) for a
        loss with K means, whose shares then come as a list of K numbers.
        """
        self.batch, counts = batch, weights(batch).double()
        while True:
            self.totals, self.retrying = {}, False
            self.rows = min(filter(None, (size, self.size)), default=0) or len(counts)
            for rows in row_slices(len(counts), self.rows):
                part = batch if rows == slice(0, len(counts), 1) else select(batch, rows)
                yield moved(part, self.device), share_of(counts, rows)
                if self.retrying:
                    break
            if not self.retrying:
                return
            for module in self.modules:
                module.zero_grad(set_to_none=True)

    @contextmanager
    def retry_smaller(self) -> Iterator[None]:
        """If the memory runs out inside, have `parts` begin the batch again with half as many rows
        at once. Any other error, or one row that does not fit, goes through.
        """
        try:
            yield
        except RuntimeError as error:
            rows = min(self.rows, len(own_rows(rows_of(self.batch))))
            out_of_memory = isinstance(error, OutOfMemoryError) or "allocate memory" in str(error)
            if not out_of_memory or rows < 2:
                raise
            self.size, self.retrying = rows // 2, True
            print(
                f"{self.title}: out of memory with {rows} rows at once; from now on {self.size} "
                "at once, the batch stays the same"
            )

    # ------------------------------------------------------------ metrics

    def add(self, share: float, **values: Any) -> None:
        """Add a part's mean values, each times the part's share of the batch."""
        for name, value in values.items():
            value = value.detach() if isinstance(value, Tensor) else value
            self.totals[name] = self.totals.get(name, 0.0) + share * value

    def means(self) -> dict[str, float]:
        """The batch's means, over all parts and processes. Raises FloatingPointError if one is not
        finite, before any weight has changed.
        """
        values = [torch.as_tensor(value, device=self.device) for value in self.totals.values()]
        means = dict(zip(self.totals, add_numbers(torch.stack(values).tolist()), strict=True))
        for name, value in means.items():
            if not math.isfinite(value):
                raise FloatingPointError(f"the {name} is {value}")
        return means

    def log(self, **metrics: float) -> None:
        """Record the metrics of one step (numbers only); print a line now and then."""
        self.history.append({"step": len(self.history) + 1, **metrics})
        done = len(self.history)
        if self.watch:
            self.watch(self.history)
        if not is_main():
            return
        if self.keeper:
            self.write_log(self.history[-1:], "w" if done == 1 else "a")
        if done % self.every == 0 or done in (self.resumed + 1, self.steps):
            seconds = time.perf_counter() - self.start
            left = seconds / (done - self.resumed) * (self.steps - done)
            numbers = "  ".join(f"{name} {value:.3g}" for name, value in metrics.items())
            line = f"{self.title} {done:>4}/{self.steps}  {numbers}"
            print(f"{line}  [{seconds:.0f}s, {left:.0f}s left]", flush=True)

    def write_log(self, rows: list[dict[str, float]], mode: str) -> None:
        """Put steps into the log, one per line: into a new one (mode "w"), or at its end ("a")."""
        self.keeper.log.parent.mkdir(parents=True, exist_ok=True)
        with self.keeper.log.open(mode, encoding="utf-8") as file:
            for row in rows:  # JSON has no NaN
                known = {
                    name: value if math.isfinite(value) else None for name, value in row.items()
                }
                file.write(json.dumps(known) + "\n")

    def state_dict(self) -> dict:
        return {"history": self.history}

    def load_state_dict(self, state: dict) -> None:
        self.history[:] = state["history"]
        self.start, self.resumed = time.perf_counter(), len(self.history)
        if self.keeper and is_main():
            self.write_log(self.history, "w")


def rows_of(batch: Any) -> int:
    """How many rows a batch has."""
    if isinstance(batch, Tensor):
        return len(batch)
    return len(batch[0] if isinstance(batch, tuple) else next(iter(vars(batch).values())))


def select(batch: Any, rows: slice) -> Any:
    """Some rows of a batch."""
    return mapped(batch, lambda tensor: tensor[rows])


def row_slices(rows: int, size: int) -> Iterator[slice]:
    """Slices of this process's rows of so many, at most `size` per slice. The first row, where it
    has none of its own: then it takes part in adding up, with a share of 0.
    """
    own = own_rows(rows) or range(1)
    for start in range(0, len(own), size or len(own)):
        part = own[start : start + (size or len(own))]
        yield slice(part.start, part.stop, part.step)


def share_of(counts: Tensor, rows: slice) -> Any:
    """What part of a batch's counts (B,) or (B, K) these rows have: a number, or K of them; 0 for
    rows that are another process's.
    """
    if not len(own_rows(len(counts))):
        return torch.zeros(counts.shape[1:]).tolist()
    total = counts.sum(0)
    return torch.where(total > 0, counts[rows].sum(0) / total, 0.0).tolist()
