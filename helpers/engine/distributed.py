"""Several processes that train one model together: data parallelism by hand, over
torch.distributed.

Every process holds the whole model. Rank r of W takes rows r, r + W, r + 2 W, ... of each batch,
and the gradients are added up before the update, so all processes take the same step, and the same
one that a single process would take. Started by `python -m torch.distributed.run`; without it every
function here is that of one process (W = 1).
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

from helpers.engine.heartbeat import heartbeat

Found = TypeVar("Found")
PATIENCE = timedelta(
    minutes=30
)  # for another process: rank 0 may be writing a checkpoint meanwhile


def rank() -> int:
    """Which of the processes this one is, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def world() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main() -> bool:
    """Whether this process prints, measures and writes files for all."""
    return rank() == 0


def device() -> torch.device:
    """Where tensors must be that are sent to the other processes."""
    on_gpu = dist.is_initialized() and dist.get_backend() == "nccl"
    return torch.device("cuda", torch.cuda.current_device()) if on_gpu else torch.device("cpu")


def own_rows(rows: int) -> range:
    """The rows of a batch of so many that are this process's."""
    return range(rank(), rows, world())


@contextmanager
def process_group(of: torch.device) -> Iterator[None]:
    """Join the processes that torch.distributed.run has started (it says so in the environment),
    and leave at the end.

    NCCL between GPUs, gloo between CPUs. Without such an environment nothing happens. Raises
    ConnectionError when another process is gone.
    """
    if "RANK" not in os.environ:
        yield
        return
    end_with_parent()
    if of.type == "cuda":
        torch.cuda.set_device(of)
    dist.init_process_group("nccl" if of.type == "cuda" else "gloo", timeout=PATIENCE)
    try:
        with heartbeat():
            yield
            barrier()  # whoever leaves while another still sends may bring it down
    except RuntimeError as error:
        if "gloo" not in str(error) and not isinstance(error, dist.DistBackendError):
            raise
        raise ConnectionError("another process is gone; its own last words say why") from None
    finally:
        dist.destroy_process_group()


def end_with_parent() -> None:
    """Have Linux send SIGTERM when the process that started this one is gone: nothing goes on
    behind its back.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def add_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace the gradient of every parameter by its sum over the processes, in one message.

    A process whose share of a batch was empty has no gradients: they count as 0.
    """
    if world() == 1:
        return
    parameters = list(parameters)
    flat = torch.cat(
        [(p.grad if p.grad is not None else torch.zeros_like(p)).flatten() for p in parameters]
    )
    dist.all_reduce(flat)
    for parameter, total in zip(
        parameters, flat.split([p.numel() for p in parameters]), strict=True
    ):
        parameter.grad = total.view_as(parameter)


def add_numbers(numbers: list[float]) -> list[float]:
    """The sum of each number over the processes; all must give equally many, in one order."""
    if world() == 1:
        return numbers
    together = torch.tensor(numbers, dtype=torch.float64, device=device())
    dist.all_reduce(together)
    return together.tolist()


def gather_rows(own: Tensor, fill: float = 0) -> Tensor:
    """The whole batch (B, ...) from each process's rows (B / W, ...), in the order that `own_rows`
    took them from.

    Rows (B / W, R) may be of another length R in each process: `fill` makes up for it on the right.
    """
    if world() == 1:
        return own
    if own.dim() == 2:
        widths = [0.0] * world()
        widths[rank()] = own.size(1)
        own = F.pad(own, (0, int(max(add_numbers(widths))) - own.size(1)), value=fill)
    parts = [torch.empty_like(own) for _ in range(world())]
    dist.all_gather(parts, own.contiguous())
    return torch.stack(parts, dim=1).flatten(0, 1)  # (B / W, W, ...) to (B, ...)


def furthest(found: Found | None, key: Callable[[Found], float]) -> Found | None:
    """What the process has found whose `key` is largest, for all of them; None if nobody has found
    anything.

    Machines need not share a disk: the one that the first process wrote on has the snapshots.
    """
    if world() == 1:
        return found
    keys = [0.0] * world()
    keys[rank()] = -1.0 if found is None else float(key(found))
    keys = add_numbers(keys)
    best = max(range(world()), key=keys.__getitem__)
    if keys[best] < 0:
        return None
    box = [found if rank() == best else None]
    dist.broadcast_object_list(box, src=best)
    return box[0]


def barrier() -> None:
    """Wait until every process is here."""
    if world() > 1:
        dist.barrier()
