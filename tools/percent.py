"""Notebooks as text: the py:percent form, in which they are comfortable to write and to review.

# %% [markdown]                              a markdown cell, each line behind "# "
# # A heading
# %% setup                                   the set-up cell, the same in every notebook
# %%                                         a code cell
print(1)
# %% source="helpers/losses.py::gae"         a taught cell: its text is taken from helpers/
# %% tags=["exercise"]                       any metadata as name=JSON value
"""

import hashlib
import json
import re
from dataclasses import dataclass, field
from typing import Any

MARKER = re.compile(r"^# %%(?=\s|$)(.*)$")
OPTION = re.compile(r'\s*(\w+)=("(?:[^"\\]|\\.)*"|\[[^\]]*\]|true|false|-?\d+)')


@dataclass
class Cell:
    """One cell of the text form."""

    kind: str  # "code" or "markdown"
    source: str
    metadata: dict[str, Any] = field(default_factory=dict)


def parse(text: str) -> list[Cell]:
    """The cells of a py:percent text. Raises ValueError with the line number for a marker we can't
    read.
    """
    cells: list[Cell] = []
    body: list[str] = []
    for place, line in enumerate([*text.splitlines(), "# %%"], start=1):
        marker = MARKER.match(line)
        if not marker:
            body.append(line)
            continue
        if cells:
            cells[-1].source = content(cells[-1].kind, body)
        elif any(part.strip() and not part.startswith("#") for part in body):
            raise ValueError(f"line {place}: there is code before the first '# %%'")
        cells.append(Cell(*read_marker(marker.group(1), place)))
        body = []
    return cells[:-1]  # the last marker was ours, to close the last cell


def read_marker(rest: str, place: int) -> tuple[str, str, dict[str, Any]]:
    """What follows '# %%': (kind, empty source, metadata)."""
    rest = rest.strip()
    kind, metadata = "code", {}
    for word in ("[markdown]", "[md]", "setup"):
        if rest == word or rest.startswith(word + " "):
            rest = rest[len(word) :]
            kind = "code" if word == "setup" else "markdown"
            metadata = {"tags": ["setup"]} if word == "setup" else {}
    while rest.strip():
        option = OPTION.match(rest)
        if not option:
            raise ValueError(
                f"line {place}: can't read {rest.strip()!r} after '# %%' (name=JSON value)"
            )
        metadata[option.group(1)] = json.loads(option.group(2))
        rest = rest[option.end() :]
    return kind, "", metadata


def content(kind: str, body: list[str]) -> str:
    """The source of a cell from its lines."""
    if kind == "markdown":
        body = [re.sub(r"^# ?", "", line) for line in body]
    return "\n".join(body).strip("\n").rstrip()


def to_text(notebook: Any, full: bool = False) -> str:
    """The inverse of `parse` for a notebook. Taught cells and the set-up cell show only their
    marker unless `full`.
    """
    parts = []
    for cell in notebook.cells:
        metadata = dict(cell.metadata)
        fixed = "source" in metadata or "setup" in metadata.get("tags", [])
        words = ["# %%"] + (["[markdown]"] if cell.cell_type == "markdown" else [])
        if metadata.get("tags") == ["setup"]:
            words.append("setup")
            del metadata["tags"]
        words += [
            f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in metadata.items()
        ]
        lines = cell.source.splitlines()
        if cell.cell_type == "markdown":
            lines = [f"# {line}".rstrip() for line in lines]
        parts.append("\n".join([" ".join(words), *([] if fixed and not full else lines)]))
    return "\n\n".join(parts) + "\n"


def build(text: str, stem: str, setup_cell: str) -> Any:
    """A notebook (without outputs) from its text form; setup_cell is the text of its set-up cell.

    Cell ids follow from the cells' text, so that the same text gives the same file.
    """
    import nbformat
    from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

    from helpers.run.notebook import clean

    notebook = new_notebook()
    seen: dict[str, int] = {}
    for cell in parse(text):
        if "setup" in cell.metadata.get("tags", []):
            cell.source = setup_cell
        key = f"{cell.kind}:{cell.metadata.get('source') or cell.source}"
        seen[key] = seen.get(key, 0) + 1
        name = hashlib.sha256(f"{stem}:{key}:{seen[key]}".encode()).hexdigest()[:8]
        make = new_code_cell if cell.kind == "code" else new_markdown_cell
        notebook.cells.append(make(cell.source, id=name, metadata=cell.metadata))
    nbformat.validate(notebook)
    return clean(notebook)
