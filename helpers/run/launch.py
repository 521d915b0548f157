"""One stage in several processes on this machine, from a notebook's cell or from a shell.

    launch("ppo", course, processes=2, steps=6)               # in a cell
    python -m helpers launch ppo --processes 2 --steps 6      # in a shell

Both are torchrun (torch.distributed.run), which starts `python -m helpers ppo --steps 6` in each
process and stops all when one fails. This wrapper divides the threads among the processes and
reports a failure in one line. For several machines call torchrun directly.
"""

import argparse
import json
import logging
import math
import os
import shlex
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from helpers.engine.distributed import end_with_parent
from helpers.engine.files import OUT_OF_TIME, ROOT, tell
from helpers.engine.hardware import choose_device, choose_threads
from helpers.engine.parser import Parser
from helpers.engine.snapshots import Stopped
from helpers.run.course import Course
from helpers.run.folders import NOTEBOOKS
from helpers.run.options import add_settings, as_options
from helpers.run.settings import as_environment, read_settings

LAST_LINES = 12  # lines of output that an error quotes


def launch(stage: str, course: Course, processes: int = 2, **options: Any) -> list[dict]:
    """Train a stage in several processes; prints their output and returns the metrics of each step.

    The stage has the settings and the run folder of `course`. options: those of the stage's command
    line; `steps=6` becomes `--steps 6`. With a single GPU it prints a notice and returns []. Raises
    RuntimeError with the last lines if a process fails, and, once all have saved, KeyboardInterrupt
    after Ctrl-C or Stopped when the session is over.
    """
    if processes > 1 and gpus(course.device) == 1:
        print(f"skipped: one GPU; {processes} processes would share it and gain nothing")
        return []
    log = course.out / "logs" / f"{stage}.jsonl"
    if "steps" in options:
        log = log.with_name(f"{stage}-trial.jsonl")
        log.unlink(missing_ok=True)  # not to be mistaken for the log of an earlier trial
    command = [sys.executable, "-u", "-m", "helpers", "launch", stage, "--with-parent"]
    command += ["--processes", str(processes), *as_options(options)]
    stream(command, environment_of(course), f"{stage} in {processes} processes")
    return [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]


def on_all_gpus(course: Course) -> None:
    """With real rows and several GPUs: train the stage in one process per GPU; else do nothing.

    The processes leave a snapshot of the trained model, from which the training cell below resumes
    with no step left to take. The small models of the embedded worlds train on one GPU in less time
    than the processes take to start.
    """
    processes = gpus(course.device) if course.source != "embedded" else 1
    if processes > 1 and course.stage == "ppo":  # its batches must divide evenly
        processes = math.gcd(processes, course.config.rollout_size, course.config.minibatch_size)
    if processes > 1 and course.own_functions:
        tell("training on one GPU: other processes do not have your functions")
    elif processes > 1:
        torch.cuda.empty_cache()  # for the process that shares this notebook's GPU
        launch(course.stage, course, processes, hand_over=True)


def environment_of(course: Course) -> dict[str, str]:
    """The environment variables that give other processes the settings of a course."""
    left = course.deadline
    if left is not None:  # of the notebook's session
        left = max(left - time.perf_counter(), 1.0)
    chosen = replace(course.settings, preset=course.preset, out=course.out, stop_after=left)
    return as_environment(
        replace(chosen, track=course.track, seed=course.seed, source=course.source)
    )


def stream(command: Sequence[str], environment: dict[str, str], title: str) -> None:
    """Run a command and print its output line by line; Ctrl-C is passed on, for it to save and end.

    Raises RuntimeError with the last lines if it fails, Stopped if its time was over.
    """
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, **environment, "PYTHONUNBUFFERED": "1"},
        encoding="utf-8",
        errors="replace",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # or Jupyter would interrupt it as well, a second time
    )
    lines: deque[str] = deque(maxlen=LAST_LINES)

    def echo() -> None:
        for line in process.stdout:
            lines.append(line)
            print(line, end="", flush=True)
        process.wait()

    try:
        echo()
    except KeyboardInterrupt:
        process.send_signal(signal.SIGINT)
        echo()
        raise
    finally:
        process.kill()  # does nothing unless a second Ctrl-C came first
        process.wait()
    if process.returncode == OUT_OF_TIME:
        raise Stopped(lines[-1].strip() if lines else title, OUT_OF_TIME)
    if process.returncode:
        raise RuntimeError(f"{title} failed:\n{''.join(lines).rstrip()}")


def main(arguments: Sequence[str] | None = None) -> None:
    """`python -m helpers launch ppo --processes 2 ...`: other options are the stage's."""
    parser = Parser(
        prog="python -m helpers launch",
        description="Train one stage in several processes on this machine.",
        epilog="All other options are the stage's: python -m helpers ppo --help",
    )
    add = parser.add_argument
    add("stage", choices=NOTEBOOKS)
    add("--processes", type=int, default=2, help="default: %(default)s")
    add("--max-restarts", type=int, default=0, help="restarts from the last snapshot (default: 0)")
    add("--with-parent", action="store_true", help=argparse.SUPPRESS)
    args, stage_options = parser.parse_known_args(arguments)
    try:
        torchrun(args, stage_options)
    except (ValueError, RuntimeError) as error:
        sys.exit(f"launch: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


def torchrun(args: argparse.Namespace, stage_options: list[str]) -> None:
    """Run a stage in several processes. Raises ValueError for an impossible number of them,
    RuntimeError if one fails with no restart left.
    """
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    stage = Parser(prog=f"python -m helpers {args.stage}")
    add_settings(stage)  # refused here, in one line, and not by every process
    settings = read_settings(vars(stage.parse_args(stage_options)))
    device = choose_device(settings.device)
    if args.processes < 1:
        raise ValueError(f"--processes {args.processes}: must be 1 or more")
    if args.max_restarts < 0:
        raise ValueError(f"--max-restarts {args.max_restarts}: must be 0 or more")
    if device.type == "cuda" and 1 < gpus(device) < args.processes:
        raise ValueError(f"--processes {args.processes}: this machine has {gpus(device)} GPUs")
    if args.max_restarts and settings.stop_after:
        raise ValueError("--stop-after with --max-restarts: a restart would reset the time")
    if args.with_parent:
        end_with_parent()
    sizes = [f"--nproc-per-node={args.processes}", f"--max-restarts={args.max_restarts}"]
    command = ["--standalone", *sizes, "-m", "helpers", args.stage, *stage_options]
    print(f"python -m torch.distributed.run {shlex.join(command)}", flush=True)
    threads = str(max(1, choose_threads(settings.threads, device) // args.processes))
    os.environ |= {"OMP_NUM_THREADS": threads, "RLHF_THREADS": threads}
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # no warnings about host names
    if not args.max_restarts:  # the one failure is reported below
        logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    try:
        run.run(run.parse_args(command))
    except SignalException as error:
        sys.exit(128 + error.sigval)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode == OUT_OF_TIME:  # the stage has saved and said so
            sys.exit(OUT_OF_TIME)
        how = f"ended with exit code {failure.exitcode}: see its last lines above"
        if failure.exitcode < 0:
            name = signal.Signals(-failure.exitcode).name
            how = f"was killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")
        raise RuntimeError(f"process {rank} of {args.stage} {how}") from None


def gpus(device: torch.device) -> int:
    """The number of GPUs."""
    return torch.cuda.device_count() if device.type == "cuda" else int(device.type != "cpu")
