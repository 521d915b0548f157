"""Data parallelism by hand, over torch.distributed.

Every process holds the whole model. Rank r of W takes rows r, r + W, r + 2 W, ... of each batch,
and the gradients are summed before the update, so all processes take the step that a single process
would take. torchrun (`python -m torch.distributed.run`) starts the processes, on one machine or on
several; without it every function here does what one process needs (W = 1).
"""

import ctypes
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

T = TypeVar("T")
TIMEOUT = timedelta(minutes=30)  # rank 0 measures and writes the checkpoint while the others wait


def rank() -> int:
    """The number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def world() -> int:
    """The number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main() -> bool:
    """Whether this is the process that prints, measures and writes files."""
    return rank() == 0


def device() -> torch.device:
    """The device of tensors that are sent to other processes."""
    on_gpu = dist.is_initialized() and dist.get_backend() == "nccl"
    return torch.device("cuda", torch.cuda.current_device()) if on_gpu else torch.device("cpu")


def own_rows(rows: int) -> range:
    """Which of a batch's `rows` this process takes."""
    return range(rank(), rows, world())


@contextmanager
def process_group(of: torch.device) -> Iterator[None]:
    """For `with`: join the processes that torchrun has started; without torchrun, do nothing.

    NCCL between GPUs, gloo between CPUs. Raises ConnectionError when another process is gone.
    """
    if "RANK" not in os.environ:
        yield
        return
    end_with_parent()
    if of.type == "cuda":
        torch.cuda.set_device(of)
    try:
        dist.init_process_group("nccl" if of.type == "cuda" else "gloo", timeout=TIMEOUT)
    except (RuntimeError, ValueError) as error:  # a port in use, say; without its stack of C++
        reason = str(error).partition("\n")[0][:200]
        raise ConnectionError(f"the processes could not meet ({reason})") from None
    try:
        yield
        barrier()  # leaving while another process still sends may crash it
    except RuntimeError as error:
        if "gloo" not in str(error) and not isinstance(error, dist.DistBackendError):
            raise
        raise ConnectionError("another process has died; its own output says why") from None
    finally:
        dist.destroy_process_group()


def end_with_parent() -> None:
    """Have Linux send SIGTERM when the parent process dies, so that no orphan goes on training."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def add_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace each parameter's gradient by its sum over the processes, in one message.

    A process without rows in this batch has no gradients: they count as 0.
    """
    if world() == 1:
        return
    parameters = list(parameters)
    gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    totals = flat.split([p.numel() for p in parameters])
    for parameter, total in zip(parameters, totals, strict=True):
        parameter.grad = total.view_as(parameter)


def add_numbers(numbers: list[float]) -> list[float]:
    """The sum of each number over the processes; every process passes equally many."""
    return reduced(numbers, dist.ReduceOp.SUM)


def largest_numbers(numbers: list[float]) -> list[float]:
    """The largest of each number over the processes; every process passes equally many."""
    return reduced(numbers, dist.ReduceOp.MAX)


def reduced(numbers: list[float], operation: dist.ReduceOp.RedOpType) -> list[float]:
    """Each number after an operation over the processes."""
    if world() == 1 or not numbers:
        return numbers
    result = torch.tensor(numbers, dtype=torch.float64, device=device())
    dist.all_reduce(result, operation)
    return result.tolist()


def gather_rows(local: Tensor, fill: float = 0) -> Tensor:
    """The batch (B, ...) from the rows of each process (B / W, ...), in the order of `own_rows`.

    Rows (B / W, R) may differ in length R between processes: shorter ones are padded on the right
    with `fill`.
    """
    if world() == 1:
        return local
    if local.dim() == 2:
        widths = [0.0] * world()
        widths[rank()] = local.size(1)
        local = F.pad(local, (0, int(max(add_numbers(widths))) - local.size(1)), value=fill)
    parts = [torch.empty_like(local) for _ in range(world())]
    dist.all_gather(parts, local.contiguous())
    return torch.stack(parts, dim=1).flatten(0, 1)  # (B / W, W, ...) to (B, ...)


def furthest(value: T | None, key: Callable[[T], float]) -> T | None:
    """The value with the largest `key` among those of all processes; None if all have None.

    Machines need not share a disk: a snapshot is on the machine that ran rank 0 at the time.
    """
    if world() == 1:
        return value
    keys = [0.0] * world()
    keys[rank()] = -1.0 if value is None else float(key(value))
    keys = add_numbers(keys)
    best = max(range(world()), key=keys.__getitem__)
    if keys[best] < 0:
        return None
    box = [value if rank() == best else None]
    dist.broadcast_object_list(box, src=best)
    return box[0]


def barrier() -> None:
    """Wait until every process is here."""
    if world() > 1:
        dist.barrier()
