"""Cells marked for some rows are passed over on other rows."""

import json

import pytest

from helpers.engine.files import ROOT
from helpers.lesson.only_cells import SAID, about, filter_for, names_of, watch_cells
from helpers.rows.tracks import TRACKS
from helpers.run.folders import NOTEBOOKS


@pytest.mark.parametrize(
    ("first", "names"),
    [
        ("# only: tldr\n", {"tldr"}),
        ("# only: tldr, sentiment\n", {"tldr", "sentiment"}),
        ("#only:embedded\n", {"embedded"}),
        ("# only the last one counts: see above\n", set()),
        ("x = 1  # only: tldr\n", set()),
        ("\n", set()),
    ],
)
def test_the_mark_is_read_from_the_first_line(first, names):
    assert names_of([first, "x = 1\n"]) == names
    assert names_of(["x = 1\n", first]) == set()


# mark: the (track, source) on which the cell runs, of those below
PLACES = [("tldr", "embedded"), ("tldr", "local"), ("sentiment", "embedded"), ("sentiment", "hub")]
RUNS = {
    "tldr": PLACES[:1],
    "sentiment": PLACES[2:3],
    "tldr, sentiment": [PLACES[0], PLACES[2]],
    "embedded": [PLACES[0], PLACES[2]],
    "real": [PLACES[1], PLACES[3]],
    "sentiment, real": PLACES[1:],
    "instruct": [],
}


@pytest.mark.parametrize("mark", RUNS)
@pytest.mark.parametrize("place", PLACES)
def test_a_cell_runs_on_its_own_rows_and_is_passed_over_elsewhere(mark, place):
    cell = [f"# only: {mark}\n", "x = 1\n"]
    kept = filter_for(*place)(cell)
    namespace = {}
    exec("".join(kept), namespace)
    assert ("x" in namespace) == (place in RUNS[mark])
    assert kept == cell if place in RUNS[mark] else len(kept) == 1 and "passed over" in kept[0]


def test_what_is_passed_over_is_named():
    assert about({"tldr"}) == "the embedded world of tldr"
    assert (
        about({"tldr", "real", "sentiment"})
        == "the embedded world of sentiment or tldr or real rows"
    )
    assert about({"embedded", "real"}) == "an embedded world or real rows"


@pytest.mark.parametrize("place", PLACES)
def test_a_cell_without_a_mark_always_runs(place):
    assert filter_for(*place)(["x = 1\n"]) == ["x = 1\n"] and filter_for(*place)([]) == []


@pytest.mark.parametrize("notebook", NOTEBOOKS.values())
def test_the_notebooks_use_no_other_names(notebook):
    cells = json.loads((ROOT / f"{notebook}.ipynb").read_text(encoding="utf-8"))["cells"]
    used = set().union(*(names_of(cell["source"]) for cell in cells if cell["cell_type"] == "code"))
    assert used and used <= {*TRACKS, *SAID}


def test_a_notebook_passes_over_and_a_second_setup_replaces_the_first():
    from IPython.core.interactiveshell import InteractiveShell

    shell = InteractiveShell.instance()
    try:
        watch_cells("tldr", "embedded")
        watch_cells("sentiment", "local")
        shell.run_cell("# only: tldr\nskipped = 1")
        shell.run_cell("# only: real\ndone = 2")
        assert "skipped" not in shell.user_ns and shell.user_ns["done"] == 2
        ours = [
            t
            for t in shell.input_transformers_cleanup
            if t.__module__ == "helpers.lesson.only_cells"
        ]
        assert len(ours) == 1
    finally:
        InteractiveShell.clear_instance()
