"""The notebooks' code without running it: their cells, what they define, their solutions."""

import ast
import json
import re
from functools import cache

from helpers.engine.files import ROOT
from helpers.run.folders import BONUS, FILES, NOTEBOOKS

# The notebooks by stage, and the bonus notebooks by name
LESSONS = {stage: FILES[name] for stage, name in NOTEBOOKS.items()} | {
    name: FILES[name] for name in BONUS
}


def cells_of(lesson: str, kind: str = "") -> list[str]:
    """The cells of a notebook: of one kind ("code", "markdown"), or all."""
    notebook = json.loads((ROOT / LESSONS[lesson]).read_text(encoding="utf-8"))
    cells = (cell for cell in notebook["cells"] if not kind or cell["cell_type"] == kind)
    return ["".join(cell["source"]) for cell in cells]


def defines_only(code: str) -> bool:
    """Whether a cell defines functions and classes, and does nothing else."""
    kinds = (ast.FunctionDef, ast.ClassDef)
    return all(isinstance(node, kinds) for node in ast.parse(code).body)


def namespace_of(lesson: str) -> dict:
    """What a notebook imports and defines."""
    names: dict = {}
    for code in cells_of(lesson, "code"):
        for node in ast.parse(code).body:
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                exec(ast.unparse(node), names)
    for code in filter(defines_only, cells_of(lesson, "code")):
        exec(code, names)
    return names


def exercises_of(lesson: str) -> dict[str, tuple[str, str, str]]:
    """{exercise: (task, stub, hint and solution)}: three cells that follow each other."""
    cells = cells_of(lesson)
    calls = [re.search(r"^check_(\w+)\(my_\1\);$", cell, re.MULTILINE) for cell in cells]
    return {call[1]: tuple(cells[i - 1 : i + 2]) for i, call in enumerate(calls) if call}


EXERCISES = {lesson: exercises_of(lesson) for lesson in LESSONS}
namespace_once = cache(namespace_of)


def solution_of(name: str, names: dict | None = None):
    """What the notebook's solution of an exercise defines, among the names that it may use (by
    default what the notebook defines).
    """
    (lesson,) = (lesson for lesson, exercises in EXERCISES.items() if name in exercises)
    code = re.search(r"```python\n(.*)\n```", EXERCISES[lesson][name][2], re.DOTALL)[1]
    names = dict(namespace_once(lesson)) if names is None else names
    exec(code, names)
    return names[f"my_{name}"]
