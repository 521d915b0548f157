"""The state of a training run as files: tensors as safetensors, everything else as JSON, checksums
for both.

A state is what `state_dict` gives: nested dicts, lists and tuples of tensors, numbers, strings and
None. Nothing is pickled. A folder is written beside its final place and moved there, so half a
state never looks like a whole one.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from helpers.engine.files import flush, replaced_folder, restore_folder, sha256

TENSORS, VALUES, CHECKSUMS = "tensors.safetensors", "values.json", "checksums.json"


class DamagedState(RuntimeError):
    """Files of a state that are missing, cut short or changed."""


def flatten(value: Any, tensors: dict[str, Tensor], place: str = "state") -> Any:
    """The value as JSON knows it; its tensors are put into `tensors`, under the place where they
    stood.
    """
    if isinstance(value, Tensor):
        tensors[place] = value.detach().cpu().contiguous()
        return {"tensor": place}
    if isinstance(
        value, dict
    ):  # an optimiser's keys are whole numbers, which JSON would turn into text
        return {
            "items": [
                [key, flatten(item, tensors, f"{place}.{key}")] for key, item in value.items()
            ]
        }
    if isinstance(value, (list, tuple)):
        return [flatten(item, tensors, f"{place}.{i}") for i, item in enumerate(value)]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"{place} is a {type(value).__name__}, which a state can't hold")


def unflatten(value: Any, tensors: dict[str, Tensor]) -> Any:
    """What `flatten` was given (tuples come back as lists)."""
    if isinstance(value, dict):
        if "tensor" in value:
            return tensors[value["tensor"]]
        return {key: unflatten(item, tensors) for key, item in value["items"]}
    return [unflatten(item, tensors) for item in value] if isinstance(value, list) else value


def write_state(folder: Path, state: dict) -> None:
    """Write a state as a folder, as a whole or not at all. Raises OSError (a full disk, say); an
    old one then stays.
    """
    tensors: dict[str, Tensor] = {}
    values = flatten(state, tensors)
    try:
        with replaced_folder(folder) as fresh:
            (fresh / VALUES).write_text(json.dumps(values), encoding="utf-8")
            save_file(tensors, fresh / TENSORS)
            sums = {name: sha256(fresh / name) for name in (TENSORS, VALUES)}
            (fresh / CHECKSUMS).write_text(json.dumps(sums), encoding="utf-8")
            flush(*fresh.iterdir(), fresh)
    except (OSError, SafetensorError) as error:
        raise OSError(f"could not save to {folder}: {error}") from error


def read_state(folder: Path) -> dict:
    """A state from its folder. Raises DamagedState, with the file's name, when it is not what was
    written.
    """
    try:
        restore_folder(folder)
        sums = json.loads((folder / CHECKSUMS).read_text(encoding="utf-8"))
        for name in (TENSORS, VALUES):
            if sha256(folder / name) != sums[name]:
                raise DamagedState(
                    f"{folder / name} has changed since it was saved (checksum mismatch)"
                )
        values = json.loads((folder / VALUES).read_text(encoding="utf-8"))
        return unflatten(values, load_file(folder / TENSORS))
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise DamagedState(f"{folder} is damaged: {error}") from None


def random_state() -> dict:
    """Where torch's random numbers stand: of the CPU, and of this process's CUDA device."""
    state = {"cpu": torch.get_rng_state()}
    return state | ({"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_available() else {})


def set_random_state(state: dict) -> None:
    """Go on with random numbers where `random_state` stood; a CUDA state is left out where there is
    no such device.
    """
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
