"""The tools around the notebooks: text form, taught cells, hygiene."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.run.folders import FILES
from helpers.run.notebook import read_notebook, write_notebook
from tools import definitions, hygiene, notebooks
from tools.notebooks import check, from_text, refresh, setup_cell, to_text

LIBRARY = '''"""A module."""

from dataclasses import dataclass

LIMIT = 3


@dataclass
class Pair:
    a: int = 1


def double(x):
    """Twice x."""
    return 2 * x  # why


def _hidden():
    pass
'''
TEXT = """# %% [markdown]
# # Title
#
# Math: $\\pi_\\theta$

# %% tags=["setup"]

# %% source="helpers/lib.py::double"

# %% [markdown] tags=["note"]
# More

# %% tags=["exercise"]
x = 1


print(x)
"""


def output(kind: str, **content):
    """What a cell of a notebook has shown."""
    import nbformat

    return nbformat.v4.new_output(kind, **content)


@pytest.fixture
def project(tmp_path) -> Path:
    """A small repository: helpers/lib.py and a notebook that teaches `double`."""
    (tmp_path / "helpers").mkdir()
    (tmp_path / "helpers" / "lib.py").write_text(LIBRARY)
    (tmp_path / "a.py").write_text(TEXT)
    notebooks.new(tmp_path / "a.py", tmp_path / "0-A.ipynb", root=tmp_path)
    return tmp_path


# --- text form


def test_text_becomes_every_kind_of_cell():
    cells = from_text(TEXT, "0-A").cells
    kinds = [cell.cell_type for cell in cells]
    assert kinds == ["markdown", "code", "code", "markdown", "code"]
    assert cells[0].source == "# Title\n\nMath: $\\pi_\\theta$"
    assert cells[1].metadata == {"tags": ["setup"]} and cells[3].metadata == {"tags": ["note"]}
    assert cells[2].metadata == {"source": "helpers/lib.py::double"}
    assert cells[4].source == "x = 1\n\n\nprint(x)" and cells[4].metadata == {"tags": ["exercise"]}


@pytest.mark.parametrize("marker", ['# %% sorce="helpers/lib.py::double"', "# %% setup"])
def test_unknown_words_after_a_marker_are_named(marker):
    with pytest.raises(ValueError, match="cell 2: .* after '# %%': only source and tags"):
        from_text(f"# %% [markdown]\n# Title\n\n{marker}\n", "0-A")


def test_text_and_notebook_are_inverse(project):
    notebook = read_notebook(project / "0-A.ipynb")
    assert notebook.cells[1].source == setup_cell("0-A")
    assert to_text(notebook) == TEXT
    assert from_text(TEXT, "0-A") == from_text(TEXT, "0-A")
    assert "return 2 * x" in to_text(notebook, full=True)
    ids = [cell.id for cell in notebook.cells]
    assert len(set(ids)) == len(ids)
    # an insertion leaves the other cells' ids alone
    assert [cell.id for cell in from_text("# %%\n0\n\n" + TEXT, "0-A").cells[1:]] == ids


@pytest.mark.parametrize("name", FILES)
def test_the_notebooks_survive_the_way_through_text(root, name):
    notebook = read_notebook(root / FILES[name])
    again = from_text(to_text(notebook, full=True), name)
    before, after = (
        [(cell.cell_type, cell.source, cell.metadata) for cell in one.cells]
        for one in (notebook, again)
    )
    assert before == after


@pytest.mark.parametrize("below", ["", "bonus", "runs/x/notebooks"])
def test_setup_cell_finds_the_repository(tmp_path, below):
    """From the repository itself, from bonus/ and from an executed copy inside runs/."""
    (tmp_path / "helpers/run").mkdir(parents=True)
    (tmp_path / "helpers/run/setup.py").write_text(
        "def setup(notebook): print('found', notebook)\n"
    )
    (tmp_path / below).mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-c", setup_cell("1-SFT")]
    done = subprocess.run(command, cwd=tmp_path / below, capture_output=True, text=True)
    assert done.stdout == "found 1-SFT\n", done.stderr


@pytest.mark.parametrize("says", ["JPY_SESSION_NAME", "PAPERMILL_INPUT_PATH"])
def test_setup_cell_looks_beside_the_notebook_first(tmp_path, says):
    """Run from another checkout, it runs its own code."""
    for name in ("own", "other"):
        (tmp_path / name / "helpers/run").mkdir(parents=True)
        found = f"def setup(notebook): print('found in {name}')\n"
        (tmp_path / name / "helpers/run/setup.py").write_text(found)
    notebook = str(tmp_path / "own" / "1-SFT.ipynb")
    cell, env = setup_cell("1-SFT"), dict(os.environ)
    if says == "JPY_SESSION_NAME":
        env[says] = notebook
    else:  # papermill --inject-input-path puts a cell before it
        cell = f"{says} = {notebook!r}\n{cell}"
    command = {"args": [sys.executable, "-c", cell], "capture_output": True, "text": True}
    done = subprocess.run(cwd=tmp_path / "other", env=env, **command)
    assert done.stdout == "found in own\n", done.stderr


def test_setup_cell_fetches_no_other_code_at_home(tmp_path):
    hosted = ("COLAB_RELEASE_TAG", "KAGGLE_KERNEL_RUN_TYPE")
    env = {name: value for name, value in os.environ.items() if name not in hosted}
    command = [sys.executable, "-c", setup_cell("1-SFT")]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert "no helpers/ beside this notebook: use a clone of https://" in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("half", [True, False], ids=["half a clone", "a file"])
def test_setup_cell_says_where_something_is_in_its_way(tmp_path, half):
    (tmp_path / "working").mkdir()
    left = tmp_path / "working/rlhf-from-scratch"
    if half:
        (left / ".git").mkdir(parents=True)
    else:
        left.write_text("")
    last = hosted(tmp_path, "COLAB_RELEASE_TAG", tmp_path / "input").stderr.strip().splitlines()[-1]
    assert f"can't be fetched into {left}" in last


def hosted(tmp_path, platform, inputs):
    """What the set-up cell does on Colab or Kaggle: its process, run in an empty folder. Git finds
    no network.
    """
    work = tmp_path / "working"
    work.mkdir(exist_ok=True)
    cell = setup_cell("1-SFT").replace("/kaggle/input", inputs.as_posix())
    no_network = {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_VALUE_0": "https://github.com/"}
    no_network["GIT_CONFIG_KEY_0"] = f"url.{(tmp_path / 'nowhere').as_posix()}/.insteadOf"
    env = os.environ | no_network | {platform: "x"}
    command = [sys.executable, "-c", cell]
    return subprocess.run(command, cwd=work, env=env, capture_output=True, text=True)


@pytest.mark.parametrize("platform", ["COLAB_RELEASE_TAG", "KAGGLE_KERNEL_RUN_TYPE"])
def test_setup_cell_says_what_to_do_without_a_network(tmp_path, platform):
    done = hosted(tmp_path, platform, tmp_path / "input")
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("AssertionError: https://github.com/") and "switch Internet on" in last
    assert not list((tmp_path / "working").iterdir())


@pytest.mark.parametrize("below", ["rlhf", "datasets/me/rlhf"])
def test_setup_cell_takes_a_data_set_that_holds_the_repository(tmp_path, below):
    room = tmp_path / "input" / below / "helpers" / "run"
    room.mkdir(parents=True)
    (room / "setup.py").write_text("def setup(notebook): print('found', notebook)\n")
    done = hosted(tmp_path, "KAGGLE_KERNEL_RUN_TYPE", tmp_path / "input")
    assert done.stdout == "found 1-SFT\n", done.stderr


# --- taught cells


def test_definition_is_the_exact_text(project):
    pair = definitions.definition(project, "helpers/lib.py::Pair")
    assert pair == "@dataclass\nclass Pair:\n    a: int = 1"
    both = definitions.definition(project, "helpers/lib.py::LIMIT, double")
    assert both.startswith("LIMIT = 3\n\n\ndef double(x):") and both.endswith("# why")


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("helpers/lib.py::gone", "no top-level gone"),
        ("helpers/no.py::x", "no helpers/no.py"),
        ("helpers/lib.py", "not of the form"),
    ],
)
def test_a_source_that_is_not_there_is_named(project, source, words):
    with pytest.raises(LookupError, match=words):
        definitions.definition(project, source)


def test_refresh_clears_outputs_only_when_code_changed(project):
    notebook = read_notebook(project / "0-A.ipynb")
    taught, library = notebook.cells[2], project / "helpers" / "lib.py"
    taught.execution_count, taught.outputs = 2, [output("stream", text="hi")]
    library.write_text(LIBRARY.replace("# why", "# because"))
    assert refresh(notebook, "0-A", project) == 1
    assert taught.outputs and "return 2 * x  # because" in taught.source
    library.write_text(LIBRARY.replace("2 * x", "x + x"))
    assert refresh(notebook, "0-A", project) == 1
    assert taught.outputs == [] and taught.execution_count is None
    assert refresh(notebook, "0-A", project) == 0


def test_check_sees_a_taught_cell_out_of_step(project):
    for old, new, problems in (
        ("# why", "# why", []),
        ("# why", "# only a comment", []),
        ("2 * x", "x + x", ["differs from helpers/lib.py::double"]),
    ):
        (project / "helpers" / "lib.py").write_text(LIBRARY.replace(old, new))
        found = check([project / "0-A.ipynb"], project, whole=False, executed=False)
        assert len(found) == len(problems) and all(map(str.__contains__, found, problems))


def test_coverage(project, monkeypatch):
    monkeypatch.setattr(definitions, "TAUGHT", {"helpers/lib.py": {"gone"}})
    monkeypatch.setattr(definitions, "ONLY", {})
    first = from_text(TEXT + "\n# %%\ndef draw(): pass\n", "0-A")
    second = from_text('# %% source="helpers/lib.py::double"\n\n# %%\ndef draw(): pass\n', "1-B")
    found = "\n".join(definitions.coverage(project, {"0-A": first, "1-B": second}))
    assert "helpers/lib.py::double is taught 2 times: 0-A, 1-B" in found
    assert "draw is defined in 0-A and 1-B" in found
    assert "helpers/lib.py::Pair is taught in no notebook" in found and "_hidden" not in found
    assert "lists helpers/lib.py::gone, which is not there" in found


def test_new_keeps_outputs_while_the_code_stays(project):
    path = project / "0-A.ipynb"
    notebook = read_notebook(path)
    notebook.cells[-1].execution_count = 3
    write_notebook(path, notebook)
    for old, new, count in (("# More", "# Even more", 3), ("x = 1", "x = 2", None)):
        (project / "a.py").write_text(TEXT.replace(old, new))
        notebooks.new(project / "a.py", path, root=project)
        assert read_notebook(path).cells[-1].execution_count == count


# --- hygiene


def test_hygiene_names_each_fault(project):
    path = project / "0-A.ipynb"
    notebook = read_notebook(path)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for number, cell in enumerate(code, start=1):
        cell.execution_count = number
    write_notebook(path, notebook)
    assert hygiene.problems(path, setup_cell("0-A")) == []
    code[0].source += "\n"
    stderr = output("stream", name="stderr", text="warning")
    code[1].outputs = [stderr, output("stream", text="in /home/me/x")]
    code[1].source += "\nlogin('hf_" + "Ab3" * 11 + "')"
    code[2].execution_count = 7
    code[2].source = "\n".join(["x = 1"] * 46) + "\nopen('/tmp/x')"
    shown = output("display_data", data={"text/plain": "<A at 0x7f12345678>"})
    code[2].outputs = [output("error", ename="ValueError"), shown]
    code[2].metadata["tags"] = ["widget"]
    notebook.metadata["widgets"] = {}
    write_notebook(path, notebook)
    found = "\n".join(hygiene.problems(path, setup_cell("0-A")))
    faults = ["stderr: 'warning'", "'/home/'", "raised ValueError", "'0x7f12345678'", "47 lines"]
    faults += ["metadata.widgets", "has count 7", "the path /tmp/", "not the set-up cell"]
    faults += ["a widget without a static view", "a secret token"]
    assert [words for words in faults if words not in found] == []
    assert "Ab3" not in found


def test_contents_that_differ_from_the_headings_are_named(project):
    import nbformat

    path = project / "0-A.ipynb"
    notebook = read_notebook(path)
    contents = (
        "1. [One: a start](#1.-One)\n2. Two\n3. Three\n- [More](#More-%282%29)\n- [End](#End)"
    )
    notebook.cells[0].source = f"# A\n\n**Contents**\n{contents}"
    headings = ("## 1. One", "## 3. Two processes", "## 4. End", "## More (2)")
    notebook.cells += [nbformat.v4.new_markdown_cell(heading) for heading in headings]
    write_notebook(path, notebook)
    found = hygiene.problems(path, setup_cell("0-A"), executed=False)
    assert found == [
        "0-A.ipynb: no heading for the link #End",
        "0-A.ipynb: section 2: the contents say 'Two', its heading None",
        "0-A.ipynb: section 3: the contents say 'Three', its heading 'Two processes'",
        "0-A.ipynb: section 4: the contents say None, its heading 'End'",
    ]


def test_links_to_files_that_are_not_there_are_named(project):
    (project / "bonus").mkdir()
    path = project / "bonus" / "1-B.ipynb"
    links = "[A](../0-A.ipynb#Title) [B](0-A.ipynb) [C](https://a.b) [D](#Title) `[x](y)`"
    write_notebook(path, from_text(TEXT.replace("# Title", f"# Title {links}"), "1-B"))
    found = hygiene.lost_files(path, read_notebook(path))
    assert found == ["1-B.ipynb: no file for the link 0-A.ipynb"]
