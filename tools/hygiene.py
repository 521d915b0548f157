"""What a committed notebook must look like; `problems` lists, one line each, what is wrong with
one.
"""

import re
import statistics
from pathlib import Path
from typing import Any
from urllib.parse import unquote

MAX_BYTES = 1_000_000
MEDIAN_LINES = 8  # of code cells that are written for the notebook
MAX_SETUP = 16  # lines of the set-up cell
MAX_LINES = 45
MAX_TAUGHT_LINES = 110  # a taught class is as long as it is in helpers/
PLACES = re.compile(
    r"(?:/home/|/Users/|/root/|/tmp/|/var/folders/|/content/|/kaggle/|\b[A-Za-z]:\\\\?Users)"
)
SECRET = re.compile(r"\b(?:hf_|sk-)\w{20,}")  # tokens of the Hugging Face Hub, keys of judges
ADDRESS = re.compile(r"\b0x[0-9a-f]{6,}\b")


def problems(path: Path, setup_cell: str, executed: bool = True) -> list[str]:
    """All that is wrong with the notebook at `path`. setup_cell: the text its set-up cell must
    have.

    executed: also look at execution counts and outputs.
    """
    import nbformat

    notebook = nbformat.read(path, as_version=4)
    found = []
    try:
        nbformat.validate(notebook)
    except nbformat.ValidationError as error:
        found.append(f"not a valid notebook: {str(error).splitlines()[0]}")
    if path.stat().st_size > MAX_BYTES:
        found.append(f"{path.stat().st_size / 1e6:.1f} MB, more than 1")
    if "widgets" in notebook.metadata:
        found.append("metadata.widgets is there: GitHub can't show such a notebook")
    if SECRET.search(path.read_text(encoding="utf-8")):
        found.append("a secret token is in it: take it out, and have it made invalid")
    ids = [cell.get("id") for cell in notebook.cells]
    found += [
        f"cell id {name} is there {ids.count(name)} times"
        for name in sorted(set(ids))
        if ids.count(name) > 1
    ]
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    found += set_up(notebook, code, setup_cell) + contents(notebook) + sizes(code)
    if executed:
        found += counts(code) + outputs(code)
    return [f"{path.name}: {line}" for line in found]


def set_up(notebook: Any, code: list, setup_cell: str) -> list[str]:
    """The notebook opens with prose, then the set-up cell as it is in all."""
    found = []
    if not notebook.cells or notebook.cells[0].cell_type != "markdown":
        found.append("the first cell must be the opening in markdown")
    if not code or code[0].source != setup_cell:
        found.append("the first code cell is not the set-up cell (make notebooks refreshes it)")
    elif len([line for line in setup_cell.splitlines() if line]) > MAX_SETUP:
        found.append(f"the set-up cell has more than {MAX_SETUP} lines")
    return found


def contents(notebook: Any) -> list[str]:
    """The opening's table of contents, where there is one, has the numbered sections, each by its
    heading's words, and its links lead to headings.
    """
    prose = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    opening = prose[0].partition("**Contents")[2] if prose else ""
    links = re.findall(r"\]\(#(.+)\)$", opening, re.MULTILINE)
    opening = re.sub(r"\[(.+)\]\(#.+\)$", r"\1", opening, flags=re.MULTILINE)
    listed = dict(re.findall(r"^(\d+)\.? (.+)", opening, re.MULTILINE)) if opening else {}
    sections = (
        dict(re.findall(r"^## (\d+)\. (.+)", "\n".join(prose), re.MULTILINE)) if opening else {}
    )
    headings = re.findall(r"^#+ (.+)", "\n".join(prose), re.MULTILINE)
    places = {heading.replace(" ", "-") for heading in headings}
    lost = [f"no heading for the link #{link}" for link in links if unquote(link) not in places]
    return lost + [
        f"section {number}: the contents say {listed.get(number)!r}, its heading "
        f"{sections.get(number)!r}"
        for number in sorted({*listed, *sections}, key=int)
        if number not in sections or not listed.get(number, "").startswith(sections[number])
    ]


def lost_files(path: Path, notebook: Any) -> list[str]:
    """Links of the notebook at `path` to files that are not there, seen from its folder."""
    prose = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    prose = re.sub(r"```.*?```|`[^`]*`", "", prose, flags=re.DOTALL)  # code has brackets, too
    files = re.findall(r"\]\((?!https?:|#)([^)#\s]+)", prose)
    return [
        f"{path.name}: no file for the link {file}"
        for file in sorted(set(files))
        if not (path.parent / unquote(file)).exists()
    ]


def sizes(code: list) -> list[str]:
    """One idea a cell: limits on lines. No machine's own paths in the source."""
    found, own = [], []
    for number, cell in enumerate(code, start=1):
        taught = "source" in cell.metadata
        sets_up = "setup" in cell.metadata.get("tags", [])
        lines = len([line for line in cell.source.splitlines() if line.strip()])
        most = MAX_TAUGHT_LINES if taught else MAX_LINES
        if lines > most:
            found.append(f"code cell {number} has {lines} lines, more than {most}")
        if not cell.source.strip():
            found.append(f"code cell {number} is empty")
        if not taught and not sets_up:
            own.append(lines)
            place = PLACES.search(cell.source)
            found += [f"code cell {number} contains the path {place.group()}"] if place else []
    if own and statistics.median(own) > MEDIAN_LINES:
        found.append(
            f"the median code cell has {statistics.median(own):g} lines, more than {MEDIAN_LINES}"
        )
    return found


def counts(code: list) -> list[str]:
    """One run from top to bottom."""
    wrong = [number for number, cell in enumerate(code, start=1) if cell.execution_count != number]
    return (
        [
            f"not run in order from the top: code cell {wrong[0]} has count "
            f"{code[wrong[0] - 1].execution_count}"
        ]
        if wrong
        else []
    )


def outputs(code: list) -> list[str]:
    """No errors, no stderr, nothing that differs from machine to machine, no widget that can't be
    drawn.
    """
    found = []
    for number, cell in enumerate(code, start=1):
        shown = {mime for output in cell.outputs for mime in output.get("data", {})}
        if "widget" in cell.metadata.get("tags", []) and not shown & {"image/png", "text/html"}:
            found.append(f"code cell {number} is a widget without a static view: GitHub shows none")
        for output in cell.outputs:
            kind = "stderr" if output.get("name") == "stderr" else output.output_type
            data = output.get("data", {})
            words = output.get("text", "") + "".join(
                str(data.get(m, "")) for m in data if m.startswith("text/")
            )
            if kind == "stderr":
                found.append(f"code cell {number} wrote to stderr: {words.strip()[:80]!r}")
            if kind == "error":
                found.append(f"code cell {number} raised {output.ename}")
            if any("widget-view" in mime for mime in data):
                found.append(
                    f"code cell {number} keeps a widget's view, which nothing draws without its "
                    "kernel"
                )
            place = PLACES.search(words) or ADDRESS.search(words)
            if place:
                found.append(
                    f"code cell {number} printed {place.group()!r}, which differs between machines"
                )
    return found
