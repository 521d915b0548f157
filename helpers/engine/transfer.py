"""Batches on their way to a GPU: made ahead of time, pinned, moved to the model's device."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor


class Ahead(Sequence):
    """The same batches; during a training step a thread makes the next one, in pinned memory."""

    def __init__(self, batches: Sequence):
        self.batches, self.thread = batches, ThreadPoolExecutor(1)
        self.coming: dict[int, Future] = {}

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, step: int) -> Any:
        batch = self.coming.pop(step, None) or self.thread.submit(self.make, step)
        if step + 1 < len(self):
            self.coming = {step + 1: self.thread.submit(self.make, step + 1)}
        return batch.result()

    def make(self, step: int) -> Any:
        batch = self.batches[step]
        pin = torch.cuda.is_available()
        return mapped(batch, lambda tensor: tensor.pin_memory()) if pin else batch


def ahead(batches: Sequence, device: torch.device) -> Sequence:
    """Batches made while a GPU works; on a CPU, which has no time to spare, the same batches."""
    return Ahead(batches) if device.type == "cuda" else batches


def mapped(batch: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """A batch with `change` applied to each tensor: a tensor, a tuple, or an object of tensors."""
    if isinstance(batch, Tensor):
        return change(batch)
    if isinstance(batch, tuple):
        return tuple(map(change, batch))
    return type(batch)(*map(change, vars(batch).values()))


def select(batch: Any, rows: slice) -> Any:
    """Some rows of a batch."""
    return mapped(batch, lambda tensor: tensor[rows])


def moved(batch: Any, device: torch.device) -> Any:
    """A batch on the model's device."""
    return mapped(batch, lambda tensor: tensor.to(device, non_blocking=True))
