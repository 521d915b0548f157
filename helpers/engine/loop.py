"""The bookkeeping of a training loop, as calls that the loop makes: which steps are left, which
rows of a batch this process takes at once, what was measured.

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

A loss that is a mean over a batch is the sum of its parts' means, each times the part's share. So
the gradients of the parts add up to those of the batch, whatever the memory holds at once and
however many processes share the work.
"""

import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import OutOfMemoryError, Tensor, nn

from helpers.engine.distributed import add_numbers, is_main, largest_numbers, own_rows
from helpers.engine.files import plain, tell
from helpers.engine.progress import ProgressTable
from helpers.engine.snapshots import Snapshots, resumable
from helpers.engine.state import write_state
from helpers.engine.transfer import moved, select

SILENCE = 60  # seconds without a progress line, at most; in long runs a twentieth of the time


class Loop:
    """The bookkeeping of one training run: resuming, saving, logging, parts of a batch.

    title: of the run, in its progress lines. dtype: the number format of its matrix products.
    snapshots: where its log and its snapshots go; without them nothing is written. watch: called
    with the history after every step, for a live figure. lines: how many progress lines it prints
    (0: none).
    """

    def __init__(
        self,
        title: str,
        dtype: torch.dtype = torch.float32,
        snapshots: Snapshots | None = None,
        watch: Callable[[list[dict]], None] | None = None,
        lines: int = 10,
    ):
        self.title, self.dtype, self.snapshots = title, dtype, snapshots
        self.watch, self.lines = watch, lines
        self.history: list[dict[str, float]] = []  # the metrics of every step
        self.totals: dict[str, Any] = {}  # of the batch at hand: sums of share * value
        self.largest: dict[str, Tensor] = {}  # and the largest values
        self.batch: Any = None
        self.size = 0  # rows in a part since memory ran out; 0: as many as the settings say
        self.retrying = False
        self.dtypes = [str(dtype).removeprefix("torch.")]  # of the steps; more if it was changed
        self.logged = True  # whether the log holds the whole history

    # ------------------------------------------------------------ steps

    @contextmanager
    def run(self, steps: int, **objects: Any) -> Iterator[Iterator[int]]:
        """Yield the numbers of the steps that are left. `objects` are all that the next step
        depends on: models, optimisers, random generators; snapshots hold their state.

        Raises FloatingPointError, with the step and the batch saved, if a number is not finite.
        """
        self.steps, self.every = steps, max(1, steps // max(1, self.lines))
        self.modules = [item for item in objects.values() if isinstance(item, nn.Module)]
        self.device = next(self.modules[0].parameters()).device
        self.start, self.resumed = time.perf_counter(), 0  # when, and after which step, we began
        self.printed = 0.0  # when a step was last reported, in seconds from the start
        self.table = ProgressTable(self.title, steps)
        objects["progress"] = self
        try:
            with resumable(self.title, steps, self.snapshots, objects) as left:
                yield left
        except FloatingPointError as error:
            step, where = len(self.history) + 1, ""
            if self.snapshots and is_main():
                log = self.snapshots.log
                folder = log.with_name(f"{log.stem}-batch-of-step-{step}")
                batch = vars(self.batch) if hasattr(self.batch, "ids") else self.batch
                with suppress(OSError):
                    write_state(folder, {"step": step, "batch": batch})
                    where = f" Its batch is saved in {folder}."
            raise FloatingPointError(
                f"{self.title}: {error} at step {step}; lower the learning rate.{where}"
            ) from None

    # ------------------------------------------------------------ parts of a batch

    def parts(
        self, batch: Any, weights: Callable[[Any], Tensor] | None = None, size: int = 0
    ) -> Iterator[tuple[Any, Any]]:
        """This process's rows of a batch, at most `size` at once (0: all), on the model's device;
        each part with its share of the batch's mean.

        batch: a tensor, a tuple of tensors, or an object that holds only tensors; rows first.
        weights(batch): each row's weight in the mean, (B,), such as its tokens; equal without it.
        """
        ones = torch.ones(rows_of(batch))
        self.batch, counts = batch, (weights(batch) if weights else ones).cpu().double()
        while True:
            self.totals, self.largest, self.retrying = {}, {}, False
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
        """If memory runs out inside, have `parts` begin the batch again with half as many rows at
        once. Any other error, or a single row that does not fit, is raised.
        """
        try:
            yield
        except RuntimeError as error:
            rows = min(self.rows, len(own_rows(rows_of(self.batch))))
            out_of_memory = isinstance(error, OutOfMemoryError) or "allocate memory" in str(error)
            if not out_of_memory or rows < 2:
                raise
            self.size, self.retrying = rows // 2, True
            message = f"out of memory with {rows} rows at once; from now on {self.size} at once"
            tell(f"{self.title}: {message}, the batch stays the same")

    # ------------------------------------------------------------ metrics

    def add(self, share: float, **values: Any) -> None:
        """Add a part's mean values, each times the part's share of the batch."""
        for name, value in values.items():
            value = value.detach() if isinstance(value, Tensor) else value
            self.totals[name] = self.totals.get(name, 0.0) + share * value

    def add_largest(self, **values: Tensor) -> None:
        """Keep a part's values that are larger than those of the batch's other parts."""
        for name, value in values.items():
            self.largest[name] = torch.maximum(value, self.largest.get(name, value)).detach()

    def means(self) -> dict[str, float]:
        """The batch's means and largest values over parts and processes; FloatingPointError if one
        is not finite.
        """
        both = [*self.totals.values(), *self.largest.values()]
        numbers = torch.stack([torch.as_tensor(x, device=self.device) for x in both]).tolist()
        sums = add_numbers(numbers[: len(self.totals)])
        numbers = sums + largest_numbers(numbers[len(sums) :])
        means = dict(zip([*self.totals, *self.largest], numbers, strict=True))
        for name, value in means.items():
            if not math.isfinite(value):
                raise FloatingPointError(f"the {name} is {value}")
        return means

    def log(self, **metrics: float) -> None:
        """Record the metrics of one step (numbers only); report it now and then, as a line or, in a
        notebook, as a row of a table.
        """
        self.history.append({"step": len(self.history) + 1, **metrics})
        done = len(self.history)
        if self.watch:
            self.watch(self.history)
        if not is_main():
            return
        if self.snapshots:
            self.write_log()
        if not self.lines:
            return
        seconds = time.perf_counter() - self.start
        slow = seconds - self.printed > max(SILENCE, seconds / 20)
        due = slow or done % self.every == 0 or done in (self.resumed + 1, self.steps)
        self.printed = seconds if due else self.printed
        left = seconds / (done - self.resumed) * (self.steps - done)
        self.table.report(done, metrics, seconds, left, due)

    def write_log(self, whole: bool = False) -> None:
        """Write the last step to the log, one line; or the whole history, where it is not there.
        A log that can't be written stops no run: its steps are written once there is room.
        """
        whole = whole or not self.logged or len(self.history) == 1
        rows, log = self.history if whole else self.history[-1:], self.snapshots.log
        try:
            log.parent.mkdir(parents=True, exist_ok=True)
            with log.open("w" if whole else "a", encoding="utf-8") as file:
                file.writelines(json.dumps(plain(row)) + "\n" for row in rows)
            self.logged = True
        except OSError as error:
            if self.logged:
                tell(f"{self.title}: can't write to {log} ({error.strerror}); the run goes on")
            self.logged = False

    def state_dict(self) -> dict:
        return {"history": self.history, "dtypes": self.dtypes}

    def load_state_dict(self, state: dict) -> None:
        self.history[:] = state["history"]
        self.start, self.resumed = time.perf_counter(), len(self.history)
        earlier, now = state.get("dtypes", self.dtypes), self.dtypes[-1]
        self.dtypes[:] = earlier if earlier[-1] == now else [*earlier, now]
        if earlier[-1] != now and is_main():  # another machine, or another choice: it may go on
            tell(f"{self.title}: the number format was {earlier[-1]} and is {now} from here on")
        if self.snapshots and is_main():
            self.write_log(whole=True)


def rows_of(batch: Any) -> int:
    """How many rows a batch has."""
    if isinstance(batch, Tensor):
        return len(batch)
    return len(batch[0] if isinstance(batch, tuple) else next(iter(vars(batch).values())))


def row_slices(rows: int, size: int) -> Iterator[slice]:
    """This process's rows of a batch of `rows`, as slices of at most `size`. A process without rows
    gets the first row, with a share of 0: it must take part in the sums.
    """
    local = own_rows(rows) or range(1)
    for start in range(0, len(local), size or len(local)):
        part = local[start : start + (size or len(local))]
        yield slice(part.start, part.stop, part.step)


def share_of(counts: Tensor, rows: slice) -> float:
    """The share of these rows in a batch's counts (B,); 0 in a process without rows."""
    total = counts.sum().item() if len(own_rows(len(counts))) else 0.0
    return counts[rows].sum().item() / total if total > 0 else 0.0
