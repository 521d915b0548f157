"""Several processes from a cell or a shell: streamed output, failures in one line, no orphans."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from types import SimpleNamespace

import psutil
import pytest
import torch

from helpers.config import PPOConfig, RewardConfig, SFTConfig
from helpers.engine.files import OUT_OF_TIME, ROOT
from helpers.engine.snapshots import Stopped
from helpers.rows.embedded import load_rows
from helpers.run import launch as launching
from helpers.run.launch import environment_of, launch, on_all_gpus, stream
from helpers.run.settings import Settings, seconds_of
from helpers.run.setup import setup
from helpers.stages import pretrain
from tests.support.folder_of_rows import write
from tests.support.worker_pids import pid_of_rank, wait_for_lines


@pytest.fixture
def run_folder(monkeypatch, tmp_path):
    """The settings of a short run, and its folder."""
    for name in [name for name in os.environ if name.startswith("RLHF_")]:
        monkeypatch.delenv(name)
    settings = {"PRESET": "smoke", "OUT": str(tmp_path), "DTYPE": "float32", "THREADS": "1"}
    for name, value in settings.items():
        monkeypatch.setenv(f"RLHF_{name}", value)
    return tmp_path


def python(code: str) -> list[str]:
    return [sys.executable, "-u", "-c", textwrap.dedent(code)]


# ---------------------------------------------------------------- a command in a cell


def test_lines_appear_while_the_command_runs(monkeypatch, tmp_path):
    """The second line is printed only once the first has been seen here."""
    code = f"""
        import pathlib, sys, time
        print("first", flush=True)
        while not pathlib.Path({str(tmp_path)!r}, "seen").exists(): time.sleep(0.01)
        print("second", file=sys.stderr, flush=True)
    """
    lines = []

    def see(line, **_):
        lines.append(line)
        (tmp_path / "seen").touch()

    monkeypatch.setattr(launching, "print", see, raising=False)
    stream(python(code), {}, "a test")
    assert lines == ["first\n", "second\n"]


def test_a_failure_is_raised_with_the_last_lines(capsys):
    code = "[print(f'line {n}') for n in range(40)]; raise SystemExit('no checkpoint: run 1-SFT')"
    message = r"(?s)^ppo failed:\n.*line 39\nno checkpoint: run 1-SFT$"
    with pytest.raises(RuntimeError, match=message) as failed:
        stream(python(code), {}, "ppo")
    assert "line 5\n" not in str(failed.value) and "line 5\n" in capsys.readouterr().out


def test_the_end_of_the_session_is_no_failure():
    code = f"print('sft: stopped after step 3 of 9, saved'); raise SystemExit({OUT_OF_TIME})"
    with pytest.raises(Stopped, match="^sft: stopped after step 3 of 9, saved$") as stopped:
        stream(python(code), {}, "sft")
    assert stopped.value.code == OUT_OF_TIME


def test_settings_reach_the_command_and_nothing_else_changes(capsys, monkeypatch):
    monkeypatch.setenv("RLHF_TRACK", "instruct")
    code = "import os; print(os.environ['RLHF_SEED'], os.environ['RLHF_TRACK'])"
    stream(python(code), {"RLHF_SEED": "3"}, "x")
    assert capsys.readouterr().out == "3 instruct\n" and "RLHF_SEED" not in os.environ


def test_an_interrupt_reaches_the_command_once_and_waits_for_it(monkeypatch):
    code = """
        import signal, time
        got = []
        signal.signal(signal.SIGINT, lambda *_: got.append(1))
        print("ready", flush=True)
        while not got: time.sleep(0.01)
        time.sleep(0.5)
        print("saved after", len(got), "signal", flush=True)
    """
    interrupt = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
    lines = []

    def see(line, **_):
        lines.append(line)
        if line == "ready\n":
            interrupt.start()

    monkeypatch.setattr(launching, "print", see, raising=False)
    with pytest.raises(KeyboardInterrupt):
        stream(python(code), {}, "ppo")
    assert lines == ["ready\n", "saved after 1 signal\n"]


@pytest.mark.skipif(
    sys.platform != "linux", reason="only Linux tells a process of its parent's death"
)
def test_a_killed_parent_takes_the_command_along():
    child = "import time, helpers.engine.distributed as d; d.end_with_parent(); print('ready'); "
    child += "time.sleep(60)"
    parent = f"""
        import subprocess, sys, time
        child = subprocess.Popen([sys.executable, "-u", "-c", {child!r}], stdout=subprocess.PIPE)
        assert child.stdout.readline()
        print(child.pid, flush=True)
        time.sleep(60)
    """
    with subprocess.Popen(python(parent), cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        child = psutil.Process(int(process.stdout.readline()))
        process.kill()
    child.wait(20)  # raises if it lives on


# ---------------------------------------------------------------- settings


def course_of(stage: str = "ppo", **changes) -> SimpleNamespace:
    """The fields of a course that launching reads."""
    names = ("preset", "track", "seed", "source", "out")
    fields = dict.fromkeys(names, "x") | {"device": torch.device("cuda"), "deadline": None}
    fields |= {"settings": Settings(), "own_functions": []}
    return SimpleNamespace(stage=stage, **fields | changes)


def test_processes_get_the_settings_of_the_course_and_the_time_that_is_left():
    settings = environment_of(course_of(seed=3))
    assert settings["RLHF_SEED"] == "3" and "RLHF_STOP_AFTER" not in settings
    settings = environment_of(course_of(deadline=time.perf_counter() + 3600))
    assert 3590 < seconds_of(settings["RLHF_STOP_AFTER"], "") <= 3600
    over = course_of(deadline=time.perf_counter() - 5)
    assert environment_of(over)["RLHF_STOP_AFTER"] == "1s"


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["ppo", "--processes", "0"], "--processes 0: must be 1 or more"),
        (["ppo", "--processes", "3"], "--processes 3: this machine has 2 GPUs"),
        (["ppo", "--max-restarts", "1", "--stop-after", "2h"], "a restart would reset the time"),
        (["ppo", "--max-restarts", "1", "--stop-after=2h"], "a restart would reset the time"),
        (["ppo", "--max-restarts", "-1"], "--max-restarts -1: must be 0 or more"),
    ],
)
def test_impossible_options_are_one_line(cuda, arguments, message):
    cuda(2)
    with pytest.raises(SystemExit, match=f"^launch: .*{message}"):
        launching.main(arguments)


@pytest.fixture
def cuda(monkeypatch):
    """Pretend that there are so many GPUs."""

    def have(count):
        monkeypatch.delenv("RLHF_DEVICE", raising=False)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)

    return have


def test_one_gpu_gets_a_notice(capsys, cuda):
    cuda(1)
    assert launch("ppo", course_of(), steps=2) == []
    assert capsys.readouterr().out.startswith("skipped: one GPU")


@pytest.mark.parametrize(
    "gpus, stage, config, started",
    [
        (1, "sft", SFTConfig(), 0),
        (2, "sft", SFTConfig(), 2),
        (3, "reward", RewardConfig(), 3),
        (4, "ppo", PPOConfig(rollout_size=32, minibatch_size=8), 4),
        (6, "ppo", PPOConfig(rollout_size=32, minibatch_size=8), 2),
        (3, "ppo", PPOConfig(), 0),
    ],
)
def test_the_cell_starts_a_process_on_each_gpu(
    monkeypatch, capsys, cuda, gpus, stage, config, started
):
    cuda(gpus)
    seen = []
    monkeypatch.setattr(launching, "launch", lambda *args, **options: seen.append((args, options)))
    course = course_of(stage, config=config, source="hub")
    on_all_gpus(course)
    assert seen == ([((stage, course, started), {"hand_over": True})] if started else [])
    for change in ({"device": torch.device("cpu")}, {"source": "embedded"}):
        on_all_gpus(SimpleNamespace(**vars(course) | change))
    assert len(seen) == bool(started), "a CPU is no GPU; small models take one"
    on_all_gpus(SimpleNamespace(**vars(course) | {"own_functions": ["gae"]}))
    assert len(seen) == bool(started), "other processes do not have a learner's functions"
    assert ("your functions" in capsys.readouterr().out) == bool(started)


# ---------------------------------------------------------------- real runs


@pytest.mark.slow
def test_one_process_takes_over_what_two_have_trained(run_folder, monkeypatch, capsys):
    """The stage's command in two processes, then the stage in this one: it measures and saves, and
    trains nothing.
    """
    documents = load_rows("documents", "train", "tldr", limit=150)
    write(run_folder / "rows/fineweb-edu/train.jsonl", [{"text": row.text} for row in documents])
    posts = load_rows("demonstrations", "train", "tldr", limit=40)
    posts = [{"prompt": row.prompt, "label": row.completion} for row in posts]
    write(run_folder / "rows/openai_summarize_tldr/train.jsonl", posts)
    monkeypatch.setenv("RLHF_SOURCE", "local")
    monkeypatch.setenv("RLHF_DATA_DIR", str(run_folder / "rows"))
    monkeypatch.chdir(ROOT)
    course = setup("0-Pretrain")
    together = launch("pretrain", course, processes=2, hand_over=True)
    assert not (run_folder / "checkpoints/pretrain").exists()
    log = (run_folder / "logs/pretrain.jsonl").read_text()
    capsys.readouterr()
    pretrain.run(course)
    printed = capsys.readouterr().out
    assert f"pretrain: going on after step {len(together)} of {len(together)} " in printed
    assert "[" not in printed
    assert (run_folder / "logs/pretrain.jsonl").read_text() == log
    assert course.metrics()["first_loss"] == together[0]["loss"] and course.folder().exists()


@pytest.mark.slow  # 0-Pretrain does the same in the notebooks' chain
def test_a_cell_gets_the_history_of_two_processes(run_folder, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    course = setup("0-Pretrain")
    capsys.readouterr()
    history = launch("pretrain", course, processes=2, steps=3)
    printed = capsys.readouterr().out
    assert printed.startswith("python -m torch.distributed.run --standalone --nproc-per-node=2")
    assert printed.count("machine ") == 1, "one process speaks for both"
    assert str(run_folder) not in printed, "cells are committed: no path of this machine"
    assert [row["step"] for row in history] == [1, 2, 3] and history[2]["loss"] < history[0]["loss"]


def interrupted(run_folder, act) -> tuple[int, str]:
    """Exit code and output of a launch on which `act(process)` is done after its second step."""
    command = [sys.executable, "-m", "helpers", "launch", "pretrain", "--processes", "2"]
    output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with subprocess.Popen(command, cwd=ROOT, text=True, **output) as process:
        try:
            wait_for_lines(2, run_folder / "logs" / "pretrain.jsonl")
            act(process)
            printed, _ = process.communicate(timeout=240)
        finally:
            process.kill()
    return process.returncode, printed


@pytest.mark.slow
def test_a_process_that_dies_ends_all_with_a_line(run_folder):
    def kill(process):
        os.kill(pid_of_rank(process.pid, 1), signal.SIGKILL)

    code, printed = interrupted(run_folder, kill)
    last = printed.splitlines()[-1]
    assert code == 1 and last.startswith("launch: process 1 of pretrain was killed by SIGKILL")


@pytest.mark.slow
def test_ctrl_c_saves_and_the_next_launch_goes_on(run_folder):
    code, printed = interrupted(run_folder, lambda process: process.send_signal(signal.SIGINT))
    assert code == 130 and "saved; the same run goes on from there" in printed
    assert "Traceback" not in printed
    assert list((run_folder / "snapshots" / "pretrain" / "pretrain").glob("step-*"))
    log = run_folder / "logs" / "pretrain.jsonl"
    assert json.loads(log.read_text().splitlines()[-1])["step"] >= 2
