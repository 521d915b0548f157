"""Run the cells of a notebook in this process: a test can first make the settings tiny, and a
failing cell raises.
"""

import hashlib
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch

from helpers.run.notebook import read_notebook

MOST = 20  # items of a list that are compared: lists of rows are long
# times and what holds them: no two are the same
TIMES = ("course", "began", "seconds", "rates", "speed", "timed")


@contextmanager
def shell():
    """IPython without a kernel; figures are closed afterwards."""
    from IPython.core.interactiveshell import InteractiveShell

    plt.switch_backend("agg")
    try:
        yield InteractiveShell.instance()
    finally:
        plt.close("all")
        InteractiveShell.clear_instance()


def run_cells(path: Path, twice: bool = False) -> dict:
    """Run all code cells of a notebook; return its names. Raises what a cell raises, with the
    cell's number noted.

    twice: run each cell a second time, with the same random numbers, and raise AssertionError if a
    name then has another value.
    """
    cells = [cell for cell in read_notebook(path).cells if cell.cell_type == "code"]
    changed: list[str] = []
    with shell() as ipython:
        for number, cell in enumerate(cells, start=1):
            place = f"{path.name}, code cell {number}:\n{cell.source}"
            random = random_states(ipython.user_ns)
            run(ipython, cell.source, place)
            if twice:
                once = values(ipython.user_ns)
                for generator, state in random.items():
                    generator.set_state(state)
                run(ipython, cell.source, f"the second time, {place}")
                again = values(ipython.user_ns)
                names = [name for name in once if again.get(name) != once[name]]
                changed += [f"{', '.join(names)} changed the second time, {place}"] if names else []
        assert not changed, "\n\n".join(changed)
        return dict(ipython.user_ns)


def random_states(names: dict) -> dict[torch.Generator, torch.Tensor]:
    """The states of torch's own generator and of those that have a name."""
    named = [value for value in names.values() if isinstance(value, torch.Generator)]
    return {one: one.get_state() for one in (torch.default_generator, *named)}


def run(ipython: Any, source: str, place: str) -> None:
    """Run a cell; raise what it raises, from an error that names the place."""
    try:
        ipython.run_cell(source).raise_error()
    except BaseException as error:
        raise RuntimeError(place) from error
    finally:
        plt.close("all")


def values(names: dict) -> dict[str, Any]:
    """The values that can be compared, by name: numbers, texts, tensors, models, lists of them."""
    public = {name: value for name, value in names.items() if not name.startswith("_")}
    known = {name: value_of(value) for name, value in public.items() if name not in TIMES}
    return {name: value for name, value in known.items() if value is not None}


def value_of(value: Any, depth: int = 0) -> Any:
    """A value that `==` compares; None for what has none."""
    if isinstance(value, torch.Tensor):
        plain = value.detach().to_dense().cpu()
        plain = plain.float() if plain.dtype == torch.bfloat16 else plain
        return hashlib.sha256(plain.numpy().tobytes()).hexdigest()
    if isinstance(value, torch.nn.Module):
        return [value_of(weight) for weight in value.state_dict().values()]
    if isinstance(value, (bool, int, float, str)):
        return repr(value)
    if depth < 3 and isinstance(value, (list, tuple)):
        return [len(value), *(value_of(item, depth + 1) for item in value[:MOST])]
    if depth < 3 and isinstance(value, dict):
        return {str(key): value_of(value[key], depth + 1) for key in list(value)[:MOST]}
    if depth < 3 and hasattr(value, "__dataclass_fields__"):
        return {name: value_of(getattr(value, name), depth + 1) for name in vars(value)}
    return None
