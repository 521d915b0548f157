"""Stop every stage's training, and a course, at random moments, again and again, and see that it
ends as if nobody had.

    python -m benchmarks.soak --each 10            (with --course FOLDER: a run folder that
    has all checkpoints)

Each stage runs as its command (`python -m helpers sft --preset smoke --steps N`), gets a SIGINT,
SIGTERM or SIGKILL somewhere between its start and a few steps on, alone or with its process group,
and is started again, until it comes to its end. `course` is a course whose one notebook trains; the
signal may go to its kernel too. Every signal goes to every target `--each` times, in random order.
Then the log must equal, to the last digit, that of a run that was left alone. After every kill the
newest snapshot must be readable, or the one before.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import nbformat
import psutil

from helpers.engine.files import OUT_OF_TIME, ROOT
from helpers.engine.state import DamagedState, read_state
from helpers.run.folders import STAGES

STEPS = {"pretrain": 40, "sft": 40, "reward": 30, "ppo": 5, "course": 40}
SAVE_STEPS = {"pretrain": 3, "sft": 3, "reward": 2, "ppo": 1, "course": 3}
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)
TARGETS = ("process", "group", "kernel")
NOTEBOOK = """from helpers.run.setup import setup
from helpers.stages import pretrain
pretrain.run(setup("0-Pretrain", steps={steps}, save_steps={save_steps}))"""


def start(stage: str, out: Path) -> subprocess.Popen:
    """A stage's trial, or a course with one, as a process that prints nothing."""
    options = {"preset": "smoke", "out": out}
    sizes = {"steps": STEPS[stage], "save_steps": SAVE_STEPS[stage]}
    if stage == "course":
        cell = nbformat.v4.new_code_cell(NOTEBOOK.format(**sizes))
        nbformat.write(nbformat.v4.new_notebook(cells=[cell]), out / "0-Pretrain.ipynb")
        options |= {"notebooks": out, "stages": "pretrain"}
    else:
        options |= sizes
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    return subprocess.Popen(
        [sys.executable, "-m", "helpers", stage, *flags],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def stop(process: subprocess.Popen, number: signal.Signals, to: str) -> bool:
    """Send a signal to a process, its group or its notebook's kernel, and wait for the end of all
    of them. False if the kernel has ended already.
    """
    kernels = psutil.Process(process.pid).children(recursive=True)
    if to == "kernel" and not kernels:
        return False
    if to == "group":
        os.killpg(process.pid, number)
    else:
        os.kill(process.pid if to == "process" else kernels[0].pid, number)
    process.wait()
    psutil.wait_procs(kernels)
    return True


def log_of(stage: str, out: Path) -> Path:
    return out / "logs" / f"{stage.replace('course', 'pretrain')}-trial.jsonl"


def readable(stage: str, out: Path, found: Counter) -> None:
    """Count the whole and the damaged snapshots that are there. Raises DamagedState if none of some
    is whole.
    """
    folders = sorted((out / "snapshots").glob("*/*-trial/step-*"))
    whole = 0
    for folder in folders:
        try:
            read_state(folder)
            whole += 1
        except DamagedState:
            found["damaged snapshots"] += 1
    found["whole snapshots"] += whole
    if folders and not whole:
        raise DamagedState(f"none of {len(folders)} snapshots in {folders[0].parent} can be read")


def until_killed(
    stage: str, out: Path, seconds: float, kill: tuple[signal.Signals, str] | None
) -> bool:
    """Run a stage and stop it by a signal to a target at a random moment, up to `seconds` after its
    first step, or never; False if it ended.
    """
    process, log = start(stage, out), log_of(stage, out)
    before = log.stat().st_mtime_ns if log.exists() else 0
    begun = None
    wait = random.uniform(0, seconds) if kill else float("inf")
    while process.poll() is None:
        if begun is None and log.exists() and log.stat().st_mtime_ns != before:
            begun = time.perf_counter()
        if begun is not None and time.perf_counter() - begun > wait:
            if stop(process, *kill):
                return True
        time.sleep(0.005)
    if process.returncode != (OUT_OF_TIME if stage == "course" else 0):  # a trial is no course
        raise RuntimeError(
            f"{stage} ended with {process.returncode}: {process.stderr.read()[-2000:]}"
        )
    return False


def soak(stage: str, course: Path | None, each: int) -> Counter:
    """Send a stage every signal so many times, over as many runs as that takes; each log must be
    that of an undisturbed run.
    """
    found: Counter = Counter()
    targets = TARGETS if stage == "course" else TARGETS[:2]
    kills = [(number, to) for number in SIGNALS for to in targets] * each
    random.shuffle(kills)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        if stage != "course":
            (out / "checkpoints").symlink_to((course / "checkpoints").resolve())
        begun = time.perf_counter()
        until_killed(stage, out, 0, None)
        expected, seconds = log_of(stage, out).read_bytes(), time.perf_counter() - begun
        while kills or log_of(stage, out).exists():
            kill = kills[-1] if kills else None
            if until_killed(stage, out, seconds / 3, kill):
                number, to = kills.pop()
                found[f"{number.name} to the {to}"] += 1
                readable(stage, out, found)
                continue
            found["runs"] += 1
            if log_of(stage, out).read_bytes() != expected:
                raise AssertionError(
                    f"{stage}: the log of a run that was killed differs from an undisturbed one's"
                )
            log_of(stage, out).unlink()
    return found


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="Kill training runs and see that they go on exactly."
    )
    parser.add_argument("--each", type=int, default=10, help="of each signal to each target")
    parser.add_argument(
        "--course", type=Path, help="a run folder with the checkpoints of a smoke run"
    )
    parser.add_argument("--stages", default=",".join([*STAGES.values(), "course"]))
    args = parser.parse_args()
    os.environ.setdefault("RLHF_THREADS", "1")
    course = args.course
    if course is None and args.stages not in ("pretrain", "course"):
        course = ROOT / "runs" / "soak"
        command = [sys.executable, "-m", "helpers", "course", "--preset=smoke", f"--out={course}"]
        subprocess.run(command, check=True, cwd=ROOT)
    for stage in args.stages.split(","):
        begun = time.perf_counter()
        found = soak(stage, course, args.each)
        numbers = ", ".join(f"{count} {name}" for name, count in sorted(found.items()))
        seconds = time.perf_counter() - begun
        print(
            f"{stage:9} every log equal to the last digit: {numbers} [{seconds:.0f}s]", flush=True
        )


if __name__ == "__main__":
    main()
