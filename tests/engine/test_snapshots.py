"""Stopped or killed, a run resumes exactly; what it can't resume from is refused in one line."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from helpers.engine import snapshots as resume
from helpers.engine.files import OUT_OF_TIME, ROOT, FolderInUse, discard
from helpers.engine.loop import Loop
from helpers.engine.room import NoRoom
from helpers.engine.snapshots import ResumeError, Signals, Snapshots, Stopped
from helpers.engine.state import STATE, read_state
from helpers.run.setup import setup
from tests.support.runs import RUNS, model, run_pretrain


def snapshots_in(folder, **options) -> Snapshots:
    return Snapshots(folder / "log.jsonl", folder / "snapshots" / "run", {"lr": 0.1}, **options)


class Killed(BaseException):
    """Ends a run where nothing expects it, as kill -9 does."""


def killed_at(monkeypatch, step: int):
    """The process dies in the middle of this step (from 1)."""
    remaining = resume.remaining_steps

    def until(title, steps, snapshots, parts, signals):
        for number in remaining(title, steps, snapshots, parts, signals):
            if number == step - 1:
                raise Killed
            yield number

    monkeypatch.setattr(resume, "remaining_steps", until)


def lines(snapshots: Snapshots) -> list[dict]:
    return [json.loads(line) for line in snapshots.log.read_text(encoding="utf-8").splitlines()]


def same_weights(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    pairs = zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    return all(torch.equal(x, y) for x, y in pairs)


@pytest.mark.parametrize("stage", RUNS)
@pytest.mark.parametrize("moments", [(6,), (2, 7, 9)])
def test_a_killed_run_ends_as_an_undisturbed_one(stage, moments, tmp_path, monkeypatch, capsys):
    expected, weights = RUNS[stage](0.01, None)
    snapshots = snapshots_in(tmp_path, every_steps=3)
    for moment in moments:
        with monkeypatch.context() as patch, pytest.raises(Killed):
            killed_at(patch, moment)
            RUNS[stage](0.01, snapshots)
    torch.manual_seed(99)  # another process has other random numbers
    history, resumed = RUNS[stage](0.01, snapshots)
    assert history == expected and lines(snapshots) == expected
    assert same_weights(weights, resumed)
    assert "going on after step" in capsys.readouterr().out


def test_the_last_two_snapshots_are_kept_and_a_finished_run_is_not_trained_again(tmp_path, capsys):
    snapshots = snapshots_in(tmp_path, every_steps=2)
    expected, weights = RUNS["pretrain"](0.01, snapshots)
    assert snapshots.steps() == [12, 14]
    again, same = RUNS["pretrain"](0.01, snapshots)
    assert again == expected and same_weights(weights, same)
    assert capsys.readouterr().out.count(" 1/14") == 1
    snapshots.clear()
    assert not snapshots.folder.exists()


@pytest.mark.parametrize("stage", RUNS)
def test_what_another_process_has_trained_is_taken_over(stage, tmp_path, capsys):
    """As a notebook does with what the processes on all GPUs have learned; asked again, these have
    nothing to do.
    """
    expected, weights = RUNS[stage](0.01, None)
    snapshots = snapshots_in(tmp_path)
    for _ in range(2):
        with pytest.raises(Stopped, match="all 1[0-9] steps are taken and saved") as stopped:
            RUNS[stage](0.01, replace(snapshots, hand_over=True))
        assert stopped.value.code == 0
    log = snapshots.log.read_text()
    capsys.readouterr()
    history, taken = RUNS[stage](0.01, snapshots)
    assert history == expected and same_weights(weights, taken) and snapshots.log.read_text() == log
    printed = capsys.readouterr().out
    assert "going on after step" in printed and "[" not in printed, "no step is taken"


def test_a_run_killed_while_it_deletes_leaves_whole_snapshots(tmp_path, monkeypatch):
    """Files go one by one: under its name a snapshot is there as a whole, or not at all."""
    snapshots, killed = snapshots_in(tmp_path, every_steps=2), shutil.rmtree

    def halfway(path, ignore_errors=False):
        if re.fullmatch(r"\.step.*\.gone", Path(path).name) and Path(path).exists():
            (Path(path) / STATE).unlink()
            raise Killed
        killed(path, ignore_errors=ignore_errors)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(shutil, "rmtree", halfway)
        RUNS["pretrain"](0.01, snapshots)
    assert snapshots.steps() == [4, 6]
    assert all(read_state(snapshots.path(step))["step"] == step for step in snapshots.steps())
    assert RUNS["pretrain"](0.01, snapshots)[0] == RUNS["pretrain"](0.01, None)[0]
    assert {path.name for path in snapshots.folder.iterdir()} == {"step-00000012", "step-00000014"}


@pytest.mark.parametrize("forget", ["clear", "end of the stage"])
def test_a_run_killed_while_it_forgets_leaves_no_half_snapshot(forget, tmp_path, monkeypatch):
    """At the end all snapshots go at once: the next run finds none of them, whichever file was
    deleted last.
    """
    monkeypatch.setenv("RLHF_OUT", str(tmp_path))
    course = setup("0-Pretrain")
    snapshots = course.snapshots()
    delete = snapshots.clear if forget == "clear" else lambda: discard(course.snapshots_folder)
    for step in (2, 4):
        snapshots.save(step, {"model": model()})
    rmtree = shutil.rmtree

    def killed(path, ignore_errors=False):
        if Path(path).exists():
            raise Killed
        rmtree(path, ignore_errors=ignore_errors)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(shutil, "rmtree", killed)
        delete()
    assert snapshots.steps() == []
    snapshots.save(2, {"model": model()})
    delete()
    delete()  # there is nothing left, and that is no error
    assert not [path for path in (tmp_path / "snapshots").rglob("*") if path.is_file()]


def test_a_damaged_snapshot_falls_back_to_the_one_before(tmp_path, capsys):
    snapshots = snapshots_in(tmp_path, every_steps=5)
    expected, _ = RUNS["pretrain"](0.01, snapshots)
    newest = snapshots.path(14) / STATE
    newest.write_bytes(newest.read_bytes()[:-100])
    history, _ = RUNS["pretrain"](0.01, snapshots)
    printed = capsys.readouterr().out
    assert "since it was saved (checksum mismatch); taking the snapshot before it" in printed
    assert "pretrain: going on after step 10 of 14" in printed and history == expected
    for step in snapshots.steps():
        (snapshots.path(step) / STATE).unlink()
    history, _ = RUNS["pretrain"](0.01, snapshots)
    assert history == expected  # from the start
    assert snapshots.steps() == [10, 14]


def test_damaged_snapshots_do_not_outlive_new_ones(tmp_path, monkeypatch, capsys):
    snapshots = snapshots_in(tmp_path, every_steps=5)
    expected, _ = RUNS["pretrain"](0.01, snapshots)
    for step in snapshots.steps():
        (snapshots.path(step) / STATE).write_bytes(b"damaged")
    with monkeypatch.context() as patch, pytest.raises(Killed):
        killed_at(patch, 9)
        RUNS["pretrain"](0.01, snapshots)
    assert snapshots.steps() == [5]
    assert RUNS["pretrain"](0.01, snapshots)[0] == expected
    assert "going on after step 5" in capsys.readouterr().out


def test_other_settings_and_versions_are_refused_and_named(tmp_path, monkeypatch):
    snapshots = snapshots_in(tmp_path, every_steps=5)
    RUNS["pretrain"](0.01, snapshots)
    log = snapshots.log.read_text()
    message = r"other settings \(lr was 0.1 and is 0.2\): delete .*--no-resume"
    with pytest.raises(ResumeError, match=message):
        RUNS["pretrain"](0.01, replace(snapshots, settings={"lr": 0.2}))
    assert snapshots.log.read_text() == log
    message = r"run was 'pretrain' and is 'toy', steps was 14 and is 1"
    with pytest.raises(ResumeError, match=message):
        with resume.resumable("toy", 1, snapshots, {}) as left:
            list(left)
    monkeypatch.setattr(resume, "VERSION", 3)
    with pytest.raises(ResumeError, match="snapshot version was 2 and is 3"):
        RUNS["pretrain"](0.01, snapshots)


SIGNALS = {signal.SIGINT: KeyboardInterrupt, signal.SIGTERM: SystemExit}
SIGNALS |= {signal.SIGHUP: SystemExit} if hasattr(signal, "SIGHUP") else {}


@pytest.mark.parametrize("number, raised", SIGNALS.items())
def test_a_signal_ends_the_step_and_saves(number, raised, tmp_path, monkeypatch, capsys):
    expected, _ = RUNS["ppo"](0.01, None)
    snapshots, before = snapshots_in(tmp_path), signal.getsignal(number)
    with monkeypatch.context() as patch:
        send = lambda self, step: step == 3 and os.kill(os.getpid(), number) or False  # noqa: E731
        patch.setattr(resume.SaveSchedule, "is_due", send)
        with pytest.raises(raised) as stopped:
            RUNS["ppo"](0.01, snapshots)
    assert signal.getsignal(number) is before
    assert raised is KeyboardInterrupt or stopped.value.code == 128 + number
    assert snapshots.steps() == [4]  # the signal came while step 3 was looked after
    assert "ppo: stopped after step 4 of 10, saved" in capsys.readouterr().out
    assert RUNS["ppo"](0.01, snapshots)[0] == expected


def test_a_second_ctrl_c_interrupts_at_once(capsys):
    with Signals() as signals:
        os.kill(os.getpid(), signal.SIGINT)
        assert signal.SIGINT in signals.received
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert capsys.readouterr().out.count("stopping after this step") == 1


def test_the_session_limit_stops_in_time(tmp_path, monkeypatch, capsys):
    expected, _ = RUNS["pretrain"](0.01, None)
    started = time.perf_counter()
    is_over = resume.SaveSchedule.is_over
    slow_step = lambda self: time.sleep(0.2) or is_over(self)  # noqa: E731
    monkeypatch.setattr(resume.SaveSchedule, "is_over", slow_step)
    snapshots = snapshots_in(tmp_path, deadline=started + 2.5)
    with pytest.raises(Stopped, match=r"pretrain: stopped after step \d+ of 14, saved") as stopped:
        RUNS["pretrain"](0.01, snapshots)
    assert time.perf_counter() < started + 2.5 and stopped.value.code == OUT_OF_TIME
    assert 1 <= snapshots.steps()[-1] < 14
    monkeypatch.undo()
    assert RUNS["pretrain"](0.01, replace(snapshots, deadline=None))[0] == expected


@pytest.mark.parametrize(
    "first, later, saves", [(20, 1, [1, 1]), (1, 1, [20, 1])], ids=["slow step", "slow save"]
)
def test_the_session_leaves_time_for_a_slow_step_and_a_slow_save(
    first, later, saves, tmp_path, monkeypatch
):
    """By a clock that the test moves: steps and saves take so many seconds, and the session 100."""
    now = [0.0]
    monkeypatch.setattr(resume, "time", SimpleNamespace(perf_counter=lambda: now[0]))

    class Slow(Snapshots):
        def save(self, step, objects):
            now[0] += saves[step]

    schedule = resume.SaveSchedule(Slow(tmp_path, tmp_path, deadline=100.0))
    for step, seconds in enumerate([first] + [later] * 99):
        now[0] += seconds
        if schedule.is_over():
            break
        if step < len(saves):
            schedule.save("toy", step, {}, must=False)
    longest = max(first, later) + max(saves)
    assert now[0] + longest < 100, "no time is left for another step and a snapshot"
    assert now[0] + 2 * longest > 90, "the session ends too early"


def test_a_trial_ends_early_and_leaves_no_snapshots(tmp_path):
    expected, _ = RUNS["sft"](0.01, None)
    snapshots = snapshots_in(tmp_path, limit=5, every_steps=2)
    with pytest.raises(Stopped, match="a trial of 5 of 14 steps") as stopped:
        RUNS["sft"](0.01, snapshots)
    assert stopped.value.code == 0 and not snapshots.folder.exists()
    assert lines(snapshots) == expected[:5]


def test_a_full_disk_does_not_end_the_run(tmp_path, monkeypatch, capsys):
    expected, _ = RUNS["pretrain"](0.01, None)
    snapshots = snapshots_in(tmp_path, every_steps=4)
    write_state = resume.write_state

    def sometimes(folder, state):
        if state["step"] == 8:
            raise OSError(f"could not save to {folder}: No space left on device")
        write_state(folder, state)

    monkeypatch.setattr(resume, "write_state", sometimes)
    assert RUNS["pretrain"](0.01, snapshots)[0] == expected
    message = "No space left on device; the run goes on, and older snapshots are kept"
    assert message in capsys.readouterr().out
    assert snapshots.steps() == [12, 14]


def toy_steps(snapshots: Snapshots | None, at: int = -1, do=None, steps: int = 6) -> list[float]:
    """A random number from each step of a run; before step `at` it does something."""
    with resume.resumable("toy", steps, snapshots, {"model": model()}) as left:
        numbers = []
        for step in left:
            if step == at:
                do()
            numbers.append(torch.rand(()).item())
        return numbers


def test_a_run_that_is_about_to_stop_must_save(tmp_path, monkeypatch, capsys):
    """What can't be saved is no reason to stop; but a run that stops unsaved says so."""

    def full(folder, state):
        raise OSError(f"could not save to {folder}: No space left on device")

    monkeypatch.setattr(resume, "write_state", full)
    assert len(toy_steps(snapshots_in(tmp_path, every_steps=2))) == 6
    assert capsys.readouterr().out.count("No space left on device; the run goes on") == 3
    with pytest.raises(OSError, match="could not save to .*step-00000006: No space left"):
        toy_steps(snapshots_in(tmp_path, hand_over=True))
    with pytest.raises(OSError, match="could not save to .*step-00000001: No space left"):
        toy_steps(snapshots_in(tmp_path, deadline=time.perf_counter()))
    interrupt = lambda: os.kill(os.getpid(), signal.SIGINT)  # noqa: E731
    with pytest.raises(OSError, match="could not save to .*step-00000003: No space left"):
        toy_steps(snapshots_in(tmp_path), at=2, do=interrupt)
    assert "the run goes on" not in capsys.readouterr().out


def test_a_resumed_run_draws_the_random_numbers_of_an_undisturbed_one(tmp_path):
    """Every run begins with the same seed, as in a new process; this one goes on after step 4."""

    def kill():
        raise Killed

    expected, snapshots = toy_steps(None), snapshots_in(tmp_path, every_steps=2)
    with pytest.raises(Killed):
        toy_steps(snapshots, at=5, do=kill)
    assert toy_steps(snapshots) == expected[4:] != expected[:2]


def test_a_full_disk_takes_the_place_of_the_older_snapshot(tmp_path, monkeypatch, capsys):
    snapshots = snapshots_in(tmp_path, every_steps=2)
    write_state, written = resume.write_state, []

    def when_there_is_room(folder, state):
        if len(list(folder.parent.glob("step-*"))) > 1:
            raise OSError(f"could not save to {folder}: No space left on device")
        write_state(folder, state)
        written.append(state["step"])

    monkeypatch.setattr(resume, "write_state", when_there_is_room)
    RUNS["pretrain"](0.01, snapshots)
    assert written == [2, 4, 6, 8, 10, 12, 14] and snapshots.steps() == [12, 14]
    assert "the run goes on" not in capsys.readouterr().out


def test_a_log_that_can_not_be_written_ends_no_run(tmp_path, capsys):
    snapshots = replace(snapshots_in(tmp_path), log=tmp_path / "logs" / "log.jsonl")
    (tmp_path / "logs").write_text("a file where the log's folder belongs")
    expected, _ = RUNS["pretrain"](0.01, None)
    assert RUNS["pretrain"](0.01, snapshots)[0] == expected
    assert capsys.readouterr().out.count(f"can't write to {snapshots.log}") == 1


def test_the_log_is_whole_again_once_there_is_room(tmp_path, monkeypatch):
    resource = pytest.importorskip("resource", reason="not on Windows")
    snapshots, limits = snapshots_in(tmp_path), resource.getrlimit(resource.RLIMIT_FSIZE)
    step = resume.SaveSchedule.is_due

    def full_for_a_while(self, done):
        full = 4 <= done <= 8  # a file can't grow
        resource.setrlimit(resource.RLIMIT_FSIZE, (300 if full else limits[0], limits[1]))
        return step(self, done)

    monkeypatch.setattr(resume.SaveSchedule, "is_due", full_for_a_while)
    try:
        history, _ = RUNS["pretrain"](0.01, snapshots)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert lines(snapshots) == history and len(history) == 14


def test_a_run_needs_its_room_before_it_begins(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=20e6))
    snapshots = snapshots_in(tmp_path)
    RUNS["pretrain"](0.01, snapshots)  # three snapshots of 60 kB and a checkpoint
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=16e6))
    with pytest.raises(NoRoom, match="has 16 MB free, but this run needs 17 MB .*: free some"):
        RUNS["pretrain"](0.01, snapshots_in(tmp_path / "other"))


def test_a_run_folder_has_one_writer(tmp_path):
    snapshots = snapshots_in(tmp_path, run_folder=tmp_path)
    code = "import sys; from pathlib import Path; from helpers.engine.files import only_writer\n"
    code += "with only_writer(Path(sys.argv[1])): print('writing', flush=True); sys.stdin.read()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, **pipes) as other:
        assert other.stdout.readline() == "writing\n"
        with pytest.raises(FolderInUse, match="another process is writing to .*: wait until"):
            RUNS["pretrain"](0.01, snapshots)
        assert not snapshots.log.exists()
        other.kill()
    RUNS["pretrain"](0.01, snapshots)
    assert snapshots.log.exists()


def test_a_resumed_run_has_its_threads_again_unless_they_were_chosen(tmp_path):
    snapshots, before = snapshots_in(tmp_path), torch.get_num_threads()
    objects, chosen = {"model": model()}, replace(snapshots, own_threads=True)
    try:
        torch.set_num_threads(2)
        snapshots.save(3, objects)
        torch.set_num_threads(1)
        assert chosen.load(objects) == 3 and torch.get_num_threads() == 1
        assert snapshots.load(objects) == 3 and torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_a_run_goes_on_in_another_number_format_and_says_so(tmp_path, capsys):
    """As on a machine without the first one's GPU; into float16 too, which begins with a scale."""
    snapshots = snapshots_in(tmp_path, deadline=0.0)
    for dtype in (torch.float32, torch.float16, torch.float16, torch.bfloat16):
        loop = Loop("pretrain", dtype, snapshots)
        with pytest.raises(Stopped):
            run_pretrain(loop, 0.01)
    assert len(loop.history) == 4 and loop.dtypes == ["float32", "float16", "bfloat16"]
    printed = capsys.readouterr().out
    assert "pretrain: the number format was float32 and is float16 from here on\n" in printed
    assert printed.count("the number format was") == 2
