"""The headless course: notebooks run one after the other, stopped, gone on with, reported."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from helpers.engine.files import ROOT, only_writer
from helpers.engine.parser import SettingsError
from helpers.rows.tracks import TRACKS
from helpers.run import headless as course, progress
from helpers.run.folders import NOTEBOOKS
from helpers.run.notebook import WIDGET_NOTE, CellFailure, run_notebook, write_notebook
from helpers.run.report import IDENTITY
from helpers.run.settings import Settings
from helpers.run.unfinished import listing
from tools.notebooks import from_text


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


def test_a_saved_explorer_keeps_its_picture_and_a_table_its_last_state(tmp_path):
    explorer = "from helpers.lesson.widgets.ppo import explore_clip\nexplore_clip()"
    training = """
import time
from torch import nn
from helpers.engine.loop import Loop
loop = Loop("toy")
with loop.run(3, model=nn.Linear(1, 1)) as steps:
    for step in steps:
        loop.log(loss=1.0)
        time.sleep(0.5)"""
    path, lines = toy(tmp_path, "toy", explorer, training), []
    env = {**course.kernel_env(Settings(preset="smoke"), tmp_path), "PYTHONPATH": str(ROOT)}
    made = run_notebook(path, tmp_path, env, tick=lambda progress: lines.append(progress.line))
    picture, note = made.cells[0].outputs
    assert list(picture.data) == ["image/png"] and picture.data["image/png"].startswith("iVBOR")
    assert note.data == {"text/plain": WIDGET_NOTE}
    (table,) = made.cells[1].outputs
    assert table.output_type == "display_data" and table.data["text/html"].count("<tr>") == 4
    assert len(table.data["text/plain"].splitlines()) == 3
    assert any(re.fullmatch(r"toy +\d/3  loss 1  \[\d+s, \d+s left\]", line) for line in lines)


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


def test_an_unfinished_course_goes_on_and_a_finished_one_begins_again(toys, capsys, monkeypatch):
    """So that sessions that are shorter than the course get to its end."""
    works = (toys / "1-SFT.ipynb").read_text()
    toy(toys, "1-SFT", "raise RuntimeError('on purpose')")
    assert run_course(toys) == 1
    (toys / "1-SFT.ipynb").write_text(works)
    assert "done, " in capsys.readouterr().out
    assert run_course(toys) == 0
    printed = capsys.readouterr().out
    assert "done already: 0-Pretrain (--no-resume starts over)\n[1/3] 1-SFT" in printed
    assert run_course(toys) == 0
    assert "done already" not in capsys.readouterr().out, "the course was finished"


@pytest.mark.slow
def test_what_an_unfinished_course_did_is_not_taken_for_something_else(toys, capsys):
    toy(toys, "2-RM-Training", "raise RuntimeError('on purpose')")
    assert run_course(toys) == 1
    with pytest.raises(
        SettingsError, match="other settings .track was 'tldr' and is 'sentiment'.: "
    ):
        run_course(toys, "--track", "sentiment")
    capsys.readouterr()
    (toys / "out" / "metrics" / "sft.json").write_text("damaged")
    assert run_course(toys) == 1 and "[1/3] 1-SFT" in capsys.readouterr().out
    (toys / "1-SFT.ipynb").write_text((toys / "1-SFT.ipynb").read_text() + "\n")  # edited
    assert run_course(toys) == 1 and "[1/3] 1-SFT" in capsys.readouterr().out
    assert run_course(toys, "--no-resume") == 1 and "[1/4]" in capsys.readouterr().out
    assert run_course(toys, "--stages", "pretrain") == 0
    assert run_course(toys) == 1 and "[1/3] 1-SFT" in capsys.readouterr().out


def test_rows_behind_a_link_are_rows_of_the_course(tmp_path):
    rows, elsewhere = tmp_path / "rows", tmp_path / "elsewhere"
    (rows / "tldr").mkdir(parents=True)
    (elsewhere / "sst2").mkdir(parents=True)
    (rows / "sst2").symlink_to(elsewhere / "sst2", target_is_directory=True)
    for link in (rows / "tldr/round", elsewhere / "sst2/round"):
        link.symlink_to(rows, target_is_directory=True)
    before = listing(rows)
    (elsewhere / "sst2/train.jsonl").write_text("{}")
    assert before != listing(rows) == listing(rows)


def test_a_second_course_in_the_same_folder_is_refused(toys, capsys):
    with only_writer(toys / "out", "course"):
        assert run_course(toys) == 1
    error = capsys.readouterr().err
    assert "another process is writing to" in error and error.strip().count("\n") == 0


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
    assert display.left(70, line, age=60) == 930 + others, "the line is a minute old"


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


TRAINS = """
import os, pathlib, time
from helpers import pretrain
from helpers.engine.snapshots import Snapshots
from tests.support.runs import RUNS
pathlib.Path("PID").write_text(str(os.getpid()))
step = pretrain.schedule
pretrain.schedule = lambda *args: time.sleep(0.5) or step(*args)
RUNS["pretrain"](0.01, Snapshots(pathlib.Path("LOG"), pathlib.Path("SAVED")))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT for one process there")
@pytest.mark.parametrize(
    "number, to, cell",
    [
        pytest.param(
            *(signal.SIGINT, "course", "import os, pathlib, time\nPIDFILE\ntime.sleep(60)"),
            marks=pytest.mark.slow,
        ),
        (signal.SIGTERM, "course", TRAINS),
        pytest.param(signal.SIGTERM, "kernel", TRAINS, marks=pytest.mark.slow),
    ],
)
def test_a_signal_stops_the_course_and_saves(tmp_path, root, number, to, cell):
    """To the command or to its kernel, which ends; what was training is saved."""
    pid, saved = tmp_path / "pid", tmp_path / "saved"
    cell = cell.replace("PIDFILE", 'pathlib.Path("PID").write_text(str(os.getpid()))')
    for name, path in {"PID": pid, "LOG": tmp_path / "log", "SAVED": saved}.items():
        cell = cell.replace(f'"{name}"', repr(path.as_posix()))
    for notebook in NOTEBOOKS.values():
        toy(tmp_path, notebook, cell)
    command = [sys.executable, "-m", "helpers", "course", "--preset", "smoke"]
    command += ["--out", str(tmp_path / "out"), "--notebooks", str(tmp_path)]
    interrupts = lambda: signal.signal(signal.SIGINT, signal.default_int_handler)  # noqa: E731
    process = subprocess.Popen(
        command, cwd=root, stderr=subprocess.PIPE, text=True, preexec_fn=interrupts
    )
    wait_for(lambda: pid.exists() and pid.read_text())
    kernel = int(pid.read_text())
    wait_for(lambda: cell.count("sleep(60)") or (tmp_path / "log").exists())
    os.kill(process.pid if to == "course" else kernel, number)
    said = process.communicate(timeout=120)[1]
    assert process.returncode == 128 + number
    assert said.strip().startswith("Stopped. The same command goes on") and "Traceback" not in said
    assert cell.count("sleep(60)") or len(list(saved.glob("step-*"))) == 1
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
