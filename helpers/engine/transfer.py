"""Batches on their way to a GPU: made ahead of time, pinned, and moved where the model is."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor


class Ahead(Sequence):
    """The same batches; while one is learned from, a thread makes the next, in memory that a GPU
    can fetch from.
    """

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
    """Batches that are made while a GPU works; on a CPU, which has nothing to spare, the batches as
    they are.
    """
    return Ahead(batches) if device.type == "cuda" else batches


def mapped(batch: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """A batch (a tensor, a tuple of tensors, or an object that holds only tensors) with every
    tensor changed.
    """
    if isinstance(batch, Tensor):
        return change(batch)
    if isinstance(batch, tuple):
        return tuple(map(change, batch))
    return type(batch)(*map(change, vars(batch).values()))


def moved(batch: Any, device: torch.device) -> Any:
    """A batch where the model is."""
    return mapped(batch, lambda tensor: tensor.to(device, non_blocking=True))
