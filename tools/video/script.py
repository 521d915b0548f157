"""The scripts of the videos: what is said, and what the picture shows meanwhile.

A script is a Markdown file, `docs/video/3-PPO.md`. Its first line repeats the notebook's title, a
heading `## ...` begins a chapter. Paragraphs are spoken. A fenced block that opens with ```show
says what is seen from there on, one thing a line:

    title: words                a card with the notebook's name
    points: one | two           a list
    code: NEEDLE                a cell's code, without docstrings
    output: NEEDLE              the text that the cell printed
    figure: NEEDLE              the picture that it drew
    formula: part | part        a formula of the notebook, in parts that can be marked
    crop: x0 y0 x1 y1           of the figure above, only this part; 0 to 1, from its top left
    lines: A .. B | C           of the code or text above, only the lines from A to B, and C
    mark: A .. B | C            what the words are about: lines from A to B; a point or part of a
                                formula with C; in a figure a box, as for crop
    value: name = NEEDLE ~ REGEX    a number for the text, where it is {name} or {name:.1f}: the
                                first group of REGEX in what the cell printed

A block with nothing but marks keeps the picture. NEEDLE finds one code cell: by the name of a
definition that it teaches, else by a piece of its code that no other cell has. A mark is looked for
in all that is shown; `mark: output ~ A` looks in the output only.
"""

import ast
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

SHOWN = ("title", "points", "code", "output", "figure", "formula")
WIDE = 82  # columns: with more, code is small on a phone
KEYS = (*SHOWN, "crop", "lines", "mark", "value")
NAMES = ("0-Pretrain", "1-SFT", "2-RM-Training", "3-PPO")
Box = tuple[float, float, float, float]


class ScriptError(Exception):
    """Something in a script that its notebook does not have; the message names the line."""


@dataclass
class Item:
    """One thing that is shown. lines: of code and text, with their numbers in the cell; -1 for a
    gap.
    """

    kind: str
    text: str = ""
    lines: list[tuple[int, str]] = field(default_factory=list)
    parts: list[str] = field(default_factory=list)  # of a formula or a list
    image: str = ""  # a figure's PNG, in base64
    crop: Box = (0, 0, 1, 1)  # the part of the figure that is shown


@dataclass
class Beat:
    """A paragraph: its text, what is shown, and the marks as (index of the item, what of it), where
    the second is a line's or part's index or a box.
    """

    text: str
    items: list[Item]
    marks: list[tuple[int, int | Box]]
    line: int


@dataclass
class Chapter:
    title: str
    beats: list[Beat]


@dataclass
class Script:
    name: str
    title: str
    chapters: list[Chapter]


class Notebook:
    """The cells of a saved notebook, found by what is in them."""

    def __init__(self, path: Path):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        self.code = [cell for cell in cells if cell["cell_type"] == "code"]
        self.prose = "\n".join(source(c) for c in cells if c["cell_type"] == "markdown")

    def cell(self, needle: str) -> dict:
        """The code cell that teaches a definition of this name, or has this piece of code."""
        found = [cell for cell in self.code if needle in taught(cell)]
        found = found or [cell for cell in self.code if needle in source(cell)]
        if len(found) != 1:
            count = f"{len(found)} cells have" if found else "no cell has"
            raise LookupError(f"{count} {needle!r}: it takes one")
        return found[0]

    def output(self, needle: str) -> str:
        """All text that a cell printed."""
        texts = []
        for output in self.cell(needle)["outputs"]:
            text = output.get("text") or output.get("data", {}).get("text/plain", "")
            texts.append("".join(text))
        texts = [text for text in texts if not re.match(r"<(Figure|IPython)|Interactive:", text)]
        if not "".join(texts).strip():
            raise LookupError(f"the cell with {needle!r} has printed nothing")
        return "\n".join(text.strip("\n") for text in texts)

    def figure(self, needle: str) -> str:
        """The first picture that a cell drew, as PNG in base64."""
        for output in self.cell(needle)["outputs"]:
            if png := output.get("data", {}).get("image/png"):
                return "".join(png)
        raise LookupError(f"the cell with {needle!r} has drawn nothing")


def source(cell: dict) -> str:
    return "".join(cell["source"])


def taught(cell: dict) -> list[str]:
    """The names of the definitions that a cell teaches."""
    return cell["metadata"].get("source", "").partition("::")[2].split(",")


def joined(text: str) -> list[str]:
    """The lines of an output, in which prose that was wrapped for the notebook is whole again."""
    lines, last = [], ""
    for line in text.splitlines():
        first = line.partition(" ")[0]
        if first and " " in last and len(last) + 1 + len(first) > 100 and not is_table(last + line):
            lines[-1] += " " + line
        else:
            lines.append(line)
        last = line
    return lines


def is_table(line: str) -> bool:
    """Columns are apart by more than one space, at more than one place."""
    return len(re.findall(r"\S {2,}\S", line)) > 1


def code_lines(text: str) -> list[tuple[int, str]]:
    """A cell's lines with their numbers from 0: without docstrings, and long ones without the
    comment at their end.
    """
    hidden: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and ast.get_docstring(node):
            first, last = node.body[0].lineno - 1, node.body[0].end_lineno
            hidden |= set(range(first, last))
            if len(node.body) > 1 and not text.splitlines()[last].strip():
                hidden.add(last)
    lines = [line.partition("  # ")[0] if len(line) > WIDE else line for line in text.splitlines()]
    return [(i, line) for i, line in enumerate(lines) if i not in hidden]


def find(what: str, lines: list[str]) -> list[int]:
    """Indices of the line A, or the first with A in it, or all from A to B for `A .. B`."""
    first, *last = [part.strip() for part in what.split(" .. ")]
    if first in lines and not last:
        return [lines.index(first)]
    start = next((i for i, line in enumerate(lines) if first in line), None)
    if start is None:
        raise LookupError(f"nothing shown has {first!r}")
    if not last:
        return [start]
    end = next((i for i, line in enumerate(lines) if i >= start and last[0] in line), None)
    if end is None:
        raise LookupError(f"nothing after {first!r} has {last[0]!r}")
    return list(range(start, end + 1))


def choose(item: Item, what: str) -> None:
    """Keep only the chosen lines of an item; a gap between two choices becomes a line with dots."""
    if not item.lines:
        raise LookupError(f"a {item.kind} has no lines to choose from")
    chosen: list[tuple[int, str]] = []
    for part in what.split(" | "):
        found = [item.lines[i] for i in find(part, [line for _, line in item.lines])]
        if chosen and found[0][0] > chosen[-1][0] + 1:
            indent = re.match(r" *", found[0][1]).group()
            chosen.append((-1, f"{indent}..." if item.kind == "code" else ""))
        chosen += found
    item.lines = chosen


def show(kind: str, what: str, notebook: Notebook) -> Item:
    """The item for a line such as `code: gae`. LookupError if the notebook does not have it."""
    item = Item(kind, what)
    if kind == "code":
        item.text = source(notebook.cell(what))
        item.lines = code_lines(item.text)
    elif kind == "output":
        item.lines = list(enumerate(joined(notebook.output(what))))
    elif kind == "figure":
        item.image = notebook.figure(what)
    else:
        item.parts = [part.strip() for part in what.split(" | ")]
    if kind == "formula":
        plain = re.sub(r"\s", "", "".join(item.parts))
        if plain not in re.sub(r"\s", "", notebook.prose):
            raise LookupError("this formula is not in the notebook")
    return item


def marked(what: str, items: list[Item]) -> list[tuple[int, int | Box]]:
    """The marks for one part of a line `mark: ...`."""
    kind, _, rest = what.partition(" ~ ")
    kind, what = (kind, rest) if rest and kind in SHOWN else ("", what)
    if found := box(what):
        figures = [i for i, item in enumerate(items) if item.kind == "figure"]
        if len(figures) != 1:
            raise LookupError("a box needs one figure in the picture")
        return [(figures[0], found)]
    texts = {
        i: item.parts or [text for _, text in item.lines]
        for i, item in enumerate(items)
        if kind in ("", item.kind)
    }
    shown = [i for i, lines in texts.items() if what in lines]  # exactly, before in part
    shown += [i for i, lines in texts.items() if what.partition(" .. ")[0] in "\n".join(lines)]
    if not shown:
        raise LookupError(f"nothing shown has {what!r}")
    return [(shown[0], i) for i in find(what, texts[shown[0]])]


def box(text: str) -> Box | None:
    """Four numbers, if the text is that."""
    if re.fullmatch(r"([\d.]+ ){3}[\d.]+", text):
        return tuple(float(number) for number in text.split())
    return None


class Reader:
    """Takes in a script, block by block, against its notebook."""

    def __init__(self, name: str, notebook: Notebook):
        self.notebook, self.script = notebook, Script(name, "", [])
        self.values: dict[str, str] = {}
        self.items: list[Item] = []
        self.marks: list[tuple[int, int | Box]] = []
        self.line = 0  # being read

    def block(self, lines: list[tuple[int, str]]) -> None:
        """A heading, a fenced block or a paragraph."""
        self.line, first = lines[0]
        if first.startswith("# "):
            self.script.title = first.removeprefix("# ")
        elif first.startswith("## "):
            self.script.chapters.append(Chapter(first.removeprefix("## "), []))
            self.items = []
        elif first == "```show":
            self.show(lines[1:])
        elif not self.script.chapters or not self.items:
            raise LookupError("words before there are a chapter and a picture")
        else:
            text = fill(" ".join(line for _, line in lines), self.values)
            beat = Beat(text, self.items, self.marks, self.line)
            self.script.chapters[-1].beats.append(beat)

    def show(self, lines: list[tuple[int, str]]) -> None:
        """The lines of a fenced block, up to its end."""
        items, self.marks = [], []
        for self.line, line in lines:
            key, _, value = line.partition(": ")
            if line == "```":
                return
            if key in SHOWN:
                items.append(show(key, value, self.notebook))
                self.items = items
            elif key == "crop":
                self.items[-1].crop = box(value) or (0, 0, 1, 1)
            elif key == "lines":
                choose(self.items[-1], value)
            elif key == "mark":
                for part in value.split(" | "):
                    self.marks += marked(part, self.items)
            elif key == "value":
                self.value(value)
            else:
                raise LookupError(f"{line!r} does not begin with {', '.join(KEYS)}")
        raise LookupError("the block has no end")

    def value(self, line: str) -> None:
        """`name = NEEDLE ~ REGEX`"""
        name, _, rest = line.partition(" = ")
        needle, _, regex = rest.partition(" ~ ")
        found = re.search(regex, self.notebook.output(needle), re.MULTILINE)
        if not (regex and found and found.groups()):
            raise LookupError(f"the output of {needle!r} has nothing like {regex!r}")
        self.values[name] = found.group(1)


def fill(text: str, values: dict[str, str]) -> str:
    """Put values in the place of {name} and {name:.1f}."""

    def value(match: re.Match) -> str:
        name, _, form = match.group(1).partition(":")
        if name not in values:
            raise LookupError(f"no value has the name {name!r}")
        return format(float(values[name]), form) if form else values[name]

    return re.sub(r"\{([^}]*)\}", value, text)


def blocks(text: str) -> Iterator[list[tuple[int, str]]]:
    """The numbered lines of each block: between empty lines, or between fences."""
    block: list[tuple[int, str]] = []
    for number, line in enumerate([*text.splitlines(), ""], start=1):
        fenced = bool(block) and block[0][1].startswith("```")
        if line.strip() or fenced:
            block.append((number, line.strip()))
        if block and (line.strip() == "```" if fenced else not line.strip()):
            yield block
            block = []
    if block:
        yield block


def read_script(path: Path, notebook: Path) -> Script:
    """The script at `path` with everything that it takes from the notebook. ScriptError if the
    notebook lacks something; its message names file and line.
    """
    reader = Reader(path.stem, Notebook(notebook))
    for block in blocks(path.read_text(encoding="utf-8")):
        try:
            reader.block(block)
        except (LookupError, ValueError, re.error) as error:
            raise ScriptError(f"{path.name}, line {reader.line}: {error}") from None
    return reader.script
