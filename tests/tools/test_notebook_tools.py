"""The tools around the notebooks: text form, taught cells, hygiene, the headless runner and the
whole course.
"""

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from helpers.rows.tracks import TRACKS
from helpers.run import headless as course, progress
from helpers.run.folders import NOTEBOOKS
from helpers.run.notebook import CellFailure, read_notebook, run_notebook, write_notebook
from helpers.run.report import IDENTITY
from helpers.run.settings import Settings
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


@pytest.mark.parametrize("name", NOTEBOOKS.values())
def test_the_notebooks_survive_the_way_through_text(root, name):
    notebook = read_notebook(root / f"{name}.ipynb")
    again = from_text(to_text(notebook, full=True), name)
    before, after = (
        [(cell.cell_type, cell.source, cell.metadata) for cell in one.cells]
        for one in (notebook, again)
    )
    assert before == after


@pytest.mark.parametrize("below", ["", "runs/x/notebooks"])
def test_setup_cell_finds_the_repository(tmp_path, below):
    """From the repository itself and from an executed copy inside runs/."""
    (tmp_path / "helpers/run").mkdir(parents=True)
    (tmp_path / "helpers/run/setup.py").write_text(
        "def setup(notebook): print('found', notebook)\n"
    )
    (tmp_path / below).mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-c", setup_cell("1-SFT")]
    done = subprocess.run(command, cwd=tmp_path / below, capture_output=True, text=True)
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
    notebook.metadata["widgets"] = {}
    write_notebook(path, notebook)
    found = "\n".join(hygiene.problems(path, setup_cell("0-A")))
    faults = ["stderr: 'warning'", "'/home/'", "raised ValueError", "'0x7f12345678'", "47 lines"]
    faults += ["metadata.widgets", "has count 7", "the path /tmp/", "not the set-up cell"]
    assert [words for words in (*faults, "a secret token") if words not in found] == []
    assert "Ab3" not in found


def test_contents_that_differ_from_the_headings_are_named(project):
    import nbformat

    path = project / "0-A.ipynb"
    notebook = read_notebook(path)
    notebook.cells[0].source = "# A\n\n**Contents**\n1. One: a start\n2. Two\n3. Three"
    headings = ("## 1. One", "## 3. Two processes", "## 4. End")
    notebook.cells += [nbformat.v4.new_markdown_cell(heading) for heading in headings]
    write_notebook(path, notebook)
    found = hygiene.problems(path, setup_cell("0-A"), executed=False)
    assert found == [
        "0-A.ipynb: section 2: the contents say 'Two', its heading None",
        "0-A.ipynb: section 3: the contents say 'Three', its heading 'Two processes'",
        "0-A.ipynb: section 4: the contents say None, its heading 'End'",
    ]


# --- the headless runner


def toy(folder: Path, stem: str, *cells: str) -> Path:
    """A notebook with these code cells, not run."""
    path = folder / f"{stem}.ipynb"
    write_notebook(path, from_text("\n\n".join(f"# %%\n{cell}" for cell in cells), stem))
    return path


def test_run_notebook_gives_a_clean_executed_copy(tmp_path):
    greet = "import os, sys\nprint(os.environ['GREETING'], sys.executable)"
    widget = "import ipywidgets as w\n@w.interact(x=(0, 3))\ndef f(x=1): print('x', x)"
    path = toy(tmp_path, "toy", greet, widget, "1 + 1")
    before, seen = path.read_bytes(), []
    env = {**course.kernel_env(Settings(preset="smoke"), tmp_path), "GREETING": "hello"}
    made = run_notebook(path, tmp_path, env, tick=lambda progress: seen.append(progress.number))
    # the kernel is this very Python
    assert made.cells[0].outputs[0].text == f"hello {sys.executable}\n"
    says = "Interactive: run this cell in Jupyter, Colab or Kaggle to use the controls."
    assert made.cells[1].outputs[0].data == {"text/plain": says}
    assert [cell.execution_count for cell in made.cells] == [1, 2, 3]
    assert "widgets" not in made.metadata and made.metadata.language_info == {"name": "python"}
    assert path.read_bytes() == before and seen and max(seen) <= 3


def test_a_failing_cell_is_described(tmp_path):
    path = toy(tmp_path, "toy", "1", "a = 0\n1 / a", "3")
    with pytest.raises(CellFailure) as error:
        run_notebook(path, tmp_path, course.kernel_env(Settings(preset="smoke"), tmp_path))
    text = str(error.value)
    assert text.startswith(
        "toy.ipynb failed in code cell 2 of 3:\n    a = 0\n    1 / a\nline 2: 1 / a\nZeroDivision"
    )
    assert error.value.executed.cells[0].execution_count == 1


def test_a_dying_kernel_is_described(tmp_path):
    path = toy(tmp_path, "toy", "import os\nos._exit(1)")
    with pytest.raises(CellFailure, match="code cell 1 of 1:(.|\n)*the kernel died"):
        run_notebook(path, tmp_path, course.kernel_env(Settings(preset="smoke"), tmp_path))


# --- the whole course, on toy notebooks that record fixed numbers

RECORD = """import json, os, pathlib
folder = pathlib.Path(os.environ["RLHF_OUT"]) / "metrics"
folder.mkdir(parents=True, exist_ok=True)
identity = {name: os.environ["RLHF_" + name.upper()] for name in ("preset", "track", "source")}
identity["seed"] = int(os.environ["RLHF_SEED"])
(folder / "STAGE.json").write_text(json.dumps(dict(identity, **METRICS)))"""


@pytest.fixture
def toys(tmp_path, monkeypatch, toy_metrics) -> Path:
    """A folder with the four notebooks, and no settings from outside."""
    for stage, notebook in NOTEBOOKS.items():
        cell = RECORD.replace("STAGE", stage).replace("METRICS", repr(toy_metrics[stage]))
        toy(tmp_path, notebook, cell)
    for name in ("PRESET", "TRACK", "SEED", "OUT", "SOURCE", "DATA_DIR"):
        monkeypatch.delenv(f"RLHF_{name}", raising=False)
    return tmp_path


def run_course(toys: Path, *options: str) -> int:
    """The exit code of the course on the toy notebooks, in toys/out."""
    folders = ["--out", str(toys / "out"), "--notebooks", str(toys)]
    return course.main(["--preset", "smoke", *folders, *options])


def test_course_from_end_to_end(toys, capsys):
    out = toys / "out"
    assert run_course(toys, "--seed", "2") == 0
    printed = capsys.readouterr().out
    assert re.search(r"\[1/4\] 0-Pretrain +done, 1 cells in 0:\d\d +ETA", printed)
    assert "[4/4] 3-PPO" in printed
    assert "policy" in printed and "+0.400 [+0.300, +0.500] over SFT" in printed
    made = json.loads((out / "report.json").read_text())
    assert tuple(made[name] for name in IDENTITY) == ("smoke", "tldr", "embedded", 2)
    assert all(seconds > 0 for seconds in made["seconds"].values())
    assert (out / "report.html").exists()
    copies = sorted(path.name for path in (out / "notebooks").iterdir())
    assert copies == sorted(f"{notebook}.ipynb" for notebook in NOTEBOOKS.values())

    # one stage again, failing this time: no stale report stays behind
    toy(toys, "1-SFT", "raise RuntimeError('on purpose')")
    assert run_course(toys, "--seed", "2", "--stages", "sft") == 1
    assert "1-SFT.ipynb failed in code cell 1 of 1" in capsys.readouterr().err
    assert not (out / "report.json").exists()


def test_a_stage_that_lacks_an_earlier_one_is_refused_at_once(tmp_path, capsys):
    for stages, says in (
        ("ppo", "3-PPO needs the checkpoint of 1-SFT, which .* lacks: name sft among"),
        ("sft,ppo", "1-SFT needs the checkpoint of 0-Pretrain"),
    ):
        with pytest.raises(SystemExit) as end:
            course.main(["--preset", "smoke", "--out", str(tmp_path), "--stages", stages])
        assert end.value.code == 2
        error = capsys.readouterr().err
        assert re.search(says, error) and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("place", ["file", "file/inside"])
def test_a_run_folder_that_cannot_be_written_is_one_line(place, toys, capsys):
    (toys / "file").write_text("")
    with pytest.raises(SystemExit) as end:
        course.main(["--out", str(toys / place), "--notebooks", str(toys)])
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert "nothing can be written to the run folder" in error and error.count("\n") == 1


def test_the_time_left_follows_a_slow_notebook_and_its_training_line():
    display = progress.Display("cpu", "tldr", "embedded", tuple(NOTEBOOKS))
    display.start("pretrain")
    expected = progress.EXPECTED["cpu"]
    others = sum(expected.values()) - expected["pretrain"]
    assert display.left(2 * expected["pretrain"]) == 2 * others
    line = "pretrain  10/1000  loss 7.1  [10s, 990s left]"
    assert display.left(10, line) == 990 + others


def test_the_time_left_depends_on_track_and_source():
    stages = tuple(NOTEBOOKS)

    def begun(track: str, source: str) -> progress.Display:
        display = progress.Display("cpu", track, source, stages)
        display.start("pretrain")
        return display

    left = {track: begun(track, "embedded").left(0) for track in TRACKS}
    assert left["sentiment"] < left["assistant"] == left["instruct"] < left["tldr"]
    assert left["tldr"] == sum(progress.EXPECTED["cpu"].values())
    real = begun("tldr", "local")
    assert real.left(0) is None, "nobody knows how many rows there are"
    real.done["pretrain"] = 90.0
    real.start("sft")
    assert real.left(10) == 80 + 2 * 90, (
        "the rest of this one, and as long for each that is to come"
    )


def test_course_in_parts(toys, capsys):
    assert run_course(toys, "--stages", "sft") == 0
    assert "No report yet: pretrain, reward, ppo still to be run" in capsys.readouterr().out


def test_the_session_limit_is_that_of_all_notebooks_together(toys, monkeypatch, capsys):
    """The second notebook is told what the first has left, and what it raises is no failure."""
    toy(toys, "0-Pretrain", "import time; time.sleep(2)")
    stop = "import os\nfrom helpers.engine.snapshots import Stopped\n"
    left = "'sft: stopped, with ' + os.environ['RLHF_STOP_AFTER'] + ' left, saved'"
    toy(toys, "1-SFT", f"{stop}raise Stopped({left}, 75)")
    monkeypatch.setenv("RLHF_STOP_AFTER", "1h")
    assert run_course(toys) == course.OUT_OF_TIME
    printed = capsys.readouterr()
    seconds = int(re.search(r"with (\d+)s left, saved", printed.out)[1])
    assert printed.err == "" and 3000 < seconds <= 3598
    monkeypatch.setenv("RLHF_STOP_AFTER", "soon")
    with pytest.raises(SystemExit):
        run_course(toys)
    assert "RLHF_STOP_AFTER 'soon': must be a time above 0" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--preset", "huge"], "no preset 'huge'"),
        (["--track", "x"], "track 'x'"),
        (["--seed", "-1"], "seed '-1': must be a whole number, 0 or more"),
        (["--stages", "dpo"], "no stage dpo: choose from pretrain, sft, reward, ppo"),
        (["--notebooks", "nowhere"], "no 0-Pretrain.ipynb"),
        (["--bogus"], "no option --bogus"),
    ],
)
def test_course_refuses_in_one_line(toys, capsys, argv, words):
    with pytest.raises(SystemExit) as error:
        run_course(toys, *argv)
    said = capsys.readouterr().err
    assert error.value.code == 2 and words in said and said.count("\n") == 1


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT for one process there")
def test_ctrl_c_stops_the_kernel(tmp_path, root):
    notebook = (
        "import os, pathlib, time\npathlib.Path('PID').write_text(str(os.getpid()))\ntime.sleep(60)"
    )
    path = toy(tmp_path, "toy", notebook.replace("PID", (tmp_path / "pid").as_posix()))
    script = (
        "import sys; from pathlib import Path; from types import SimpleNamespace\n"
        "from helpers.run import headless as course\nfrom helpers.run.settings import Settings\n"
        f"args = SimpleNamespace(stages=['sft'], notebooks=Path({str(tmp_path)!r}))\n"
        f"settings = Settings(preset='smoke', out={str(tmp_path / 'o')!r})\n"
        "course.parse = lambda argv: (args, settings)\n"
        f"course.NOTEBOOKS = {{'sft': {path.stem!r}}}\nsys.exit(course.main())"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=root,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    wait_for(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=120)[1]
    assert process.returncode == 130 and said.startswith("\nStopped") and "Traceback" not in said
    kernel = int((tmp_path / "pid").read_text())
    wait_for(lambda: not alive(kernel))


def wait_for(condition, seconds: float = 120) -> None:
    """Wait until the condition holds; fail if it doesn't in time."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.1)


def alive(pid: int) -> bool:
    """Is there such a process, other than as a zombie waiting to be reaped?"""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
