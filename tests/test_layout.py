"""Which file may import which: the rooms of helpers/ stand on each other in one direction, and no
two files need each other. Imports inside functions count.
"""

import ast
from functools import cache
from pathlib import Path

import pytest

HELPERS = Path(__file__).resolve().parent.parent / "helpers"
TOP = "helpers"  # the taught files
MAY = {  # room: the rooms that its files import from, beside their own
    TOP: {"engine"},
    "engine": set(),
    "doctor": {"engine"},
    "rows": {"engine", TOP},
    "run": {"engine", TOP, "rows", "doctor"},
    "compare": {"engine", TOP, "rows", "run"},
    "stages": {"engine", TOP, "rows", "run", "compare"},
    "lesson": {"engine", TOP, "rows", "run", "compare", "doctor"},
    "demo": {"engine", TOP, "rows", "run"},
}


def module_of(path: Path) -> str:
    parts = path.relative_to(HELPERS.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def modules() -> dict[str, Path]:
    return {module_of(path): path for path in sorted(HELPERS.rglob("*.py"))}


def imported(path: Path) -> set[str]:
    """The files of helpers/ that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in modules() else node.module for name in inner]
        else:
            continue
        found |= {name for name in names if name.split(".")[0] == "helpers" and name != "helpers"}
    return found


@cache
def imports() -> dict[str, set[str]]:
    return {name: imported(path) for name, path in modules().items()}


def room(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and (HELPERS / parts[1]).is_dir() else TOP


def wrong_way() -> set[tuple[str, str]]:
    """Imports that go from a room to one that it may not know. __main__ may know all."""
    return {
        (name.removeprefix("helpers."), other.removeprefix("helpers."))
        for name, others in imports().items()
        for other in others
        if name != "helpers.__main__" and room(other) not in MAY[room(name)] | {room(name)}
    }


def test_every_import_is_of_a_file_that_is_there():
    missing = {(a, b) for a, others in imports().items() for b in others if b not in modules()}
    assert not missing


def test_every_room_is_known():
    rooms = {path.name for path in HELPERS.iterdir() if path.is_dir() and any(path.glob("*.py"))}
    assert rooms == MAY.keys() - {TOP}


def test_imports_go_one_way():
    assert wrong_way() == set()


def test_no_file_needs_itself():
    """No circle of imports, also none that a function hides."""
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        if name in trail:
            pytest.fail(" -> ".join([*trail[trail.index(name) :], name]))
        if name not in done:
            for other in sorted(imports()[name]):
                visit(other, (*trail, name))
            done.add(name)

    for name in imports():
        visit(name, ())


def test_the_reader_of_imports_sees_them_all(tmp_path):
    path = tmp_path / "file.py"
    path.write_text(
        "import os, helpers.model\n"
        "from helpers import sft\n"
        "from helpers.engine.loop import Loop\n"
        "def f():\n    from helpers.engine import loop, snapshots\n"
    )
    expected = {"model", "sft", "engine.loop", "engine.snapshots"}
    assert imported(path) == {f"helpers.{name}" for name in expected}
    assert [room(f"helpers.{name}") for name in ("sft", "engine.loop")] == [TOP, "engine"]
