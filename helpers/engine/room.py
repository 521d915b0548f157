"""The room that a training run needs on its disk, and errors that say what to free."""

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn

SNAPSHOTS = 3  # the last two, and the one that is being written
MARGIN = 16 * 2**20  # bytes: the log, metrics, figures, the executed notebook


class NoRoom(OSError):
    """A disk without the room that a run will need."""


def check_room(folder: Path, objects: Iterable[Any]) -> None:
    """Raise NoRoom if the disk of `folder` has no room for the snapshots of these objects (models,
    optimisers) and for the checkpoint. What `folder` holds already counts as room.
    """
    sizes = [bytes_of(item) for item in objects]
    checkpoint = max(sizes, default=0)
    needed = SNAPSHOTS * sum(sizes) + checkpoint + MARGIN - folder_bytes(folder)
    free = shutil.disk_usage(existing(folder)).free
    if free < needed:
        raise NoRoom(
            f"{folder} has {megabytes(free)} free, but this run needs {megabytes(needed)} for its "
            "snapshots and its checkpoint: free some there, or choose another run folder (--out, "
            "RLHF_OUT)"
        )


def bytes_of(item: Any) -> int:
    """The size of an object's state: a model's weights; two numbers per weight of an optimiser."""
    if isinstance(item, nn.Module):
        return sum(tensor.nbytes for tensor in item.state_dict().values())
    parameters = getattr(item, "parameters", ())
    if not isinstance(parameters, list):
        return 0
    return sum(2 * p.nbytes for p in parameters if isinstance(p, torch.Tensor))


def folder_bytes(folder: Path) -> int:
    """The size of all files below a folder; 0 if there is none."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    return next(path for path in (folder, *folder.parents) if path.exists())


def not_saved(folder: Path, error: Exception) -> OSError:
    """An error that says what could not be saved, why, and how much room there is."""
    free = megabytes(shutil.disk_usage(existing(folder)).free)
    lines = (getattr(error, "strerror", None) or str(error)).splitlines()
    reason = lines[0] if lines else type(error).__name__
    return OSError(f"could not save to {folder}: {reason} ({free} free)")


def megabytes(size: float) -> str:
    """A number of bytes in MB, or in GB from 10 GB on."""
    return f"{size / 1e9:,.1f} GB" if size >= 1e10 else f"{size / 1e6:,.0f} MB"
