"""The state of a training run on disk: torch.save with a checksum, in an atomic folder.

A state is nested dicts, lists and tuples of tensors, numbers, strings and None. It is read with
weights_only=True, which refuses everything that could execute code.
"""

import pickle
from pathlib import Path

import torch
from torch.serialization import get_unsafe_globals_in_checkpoint

from helpers.engine.files import replaced_folder, restore_folder, sha256
from helpers.engine.room import not_saved

STATE, CHECKSUM = "state.pt", "state.sha256"


class DamagedState(RuntimeError):
    """A state whose files are missing, truncated or changed."""


def write_state(folder: Path, state: dict) -> None:
    """Write a state as a folder, atomically: if it fails, an old one stays.

    Raises OSError (disk full, say), and TypeError for objects that `read_state` would refuse.
    """
    try:
        with replaced_folder(folder) as fresh:
            torch.save(state, fresh / STATE)
            if refused := get_unsafe_globals_in_checkpoint(fresh / STATE):
                raise TypeError(f"a state can't hold {', '.join(refused)}")
            (fresh / CHECKSUM).write_text(sha256(fresh / STATE), encoding="ascii")
    except (OSError, RuntimeError) as error:  # torch's own writer raises RuntimeError
        raise not_saved(folder, error) from error


def read_state(folder: Path) -> dict:
    """A state from its folder, on the CPU. Raises DamagedState if it is not what was written."""
    try:
        restore_folder(folder)
        if sha256(folder / STATE) == (folder / CHECKSUM).read_text(encoding="ascii"):
            return torch.load(folder / STATE, map_location="cpu", weights_only=True)
    except (OSError, ValueError, RuntimeError, pickle.UnpicklingError) as error:
        raise DamagedState(f"{folder} is damaged: {error}") from None
    raise DamagedState(f"{folder} has changed since it was saved (checksum mismatch)")


def random_state() -> dict:
    """The state of torch's random generators: the CPU's and this process's CUDA device's."""
    state = {"cpu": torch.get_rng_state()}
    return state | ({"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_available() else {})


def set_random_state(state: dict) -> None:
    """Restore what `random_state` returned; a CUDA state is ignored without such a device."""
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
