"""Cells that only make sense on some rows: their first line is a mark such as `# only: tldr`.

    tldr, sentiment, assistant, instruct   the embedded world of this track embedded
    any embedded world: probabilities, writers and the gold reward are known real
    rows that people wrote: from the source `local` or `hub`

Several names may be given, with commas; the cell then runs where one of them fits. Elsewhere it
says that it was passed over and does nothing else. So one notebook serves every track and source,
and the lesson on the default track stays as it is.
"""

import re
import sys
from collections.abc import Callable

MARK = re.compile(r"#\s*only:\s*(\w+(?:\s*,\s*\w+)*)\s*$")
SAID = {
    "embedded": "an embedded world",
    "real": "real rows",
}  # any other name is a track's, for its embedded world


def names_of(lines: list[str]) -> set[str]:
    """The names in the mark on a cell's first line; empty without a mark."""
    found = MARK.match(lines[0].strip()) if lines else None
    return set(re.split(r"\s*,\s*", found[1])) if found else set()


def filter_for(track: str, source: str) -> Callable[[list[str]], list[str]]:
    """A filter of cells, given as lines: a cell that is not for this track and source becomes one
    line of print.
    """
    here = {track, "embedded"} if source == "embedded" else {"real"}

    def only(lines: list[str]) -> list[str]:
        names = names_of(lines)
        if not names or here & names:
            return lines
        return [f'print("passed over: this cell is about {about(names)}")\n']

    return only


def about(names: set[str]) -> str:
    """The names of a mark in words: "the embedded world of sentiment or real rows"."""
    tracks = " or ".join(sorted(names - SAID.keys()))
    worlds = [f"the embedded world of {tracks}"] if tracks else []
    return " or ".join(worlds + [said for name, said in SAID.items() if name in names])


def watch_cells(track: str, source: str) -> None:
    """Let the running notebook pass over cells that are for other rows; does nothing outside a
    notebook.
    """
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    if shell is None:
        return
    transformers = shell.input_transformers_cleanup
    transformers[:] = [
        old for old in transformers if old.__module__ != __name__
    ]  # setup() may run again
    transformers.append(filter_for(track, source))
