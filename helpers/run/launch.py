"""One stage in several processes, from a notebook's cell or from a shell.

    launch("ppo", course, processes=2, steps=6)                 # in a cell
    python -m helpers.run.launch ppo --processes 2 --steps 6        # in a shell

Both start torch.distributed.run, which starts `python -m helpers.ppo --steps 6` so often, tells
each copy its rank in the environment, and ends all when one fails. It is called here rather than
typed, for four reasons: a failure becomes one line; threads are divided among the processes; Ctrl-C
reaches the processes once, and they save; and several machines (`--nnodes 2 --rdzv-endpoint
host:port`) are told how to reach each other.
"""

import argparse
import json
import logging
import math
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from helpers.engine.distributed import end_with_parent
from helpers.engine.files import OUT_OF_TIME, ROOT
from helpers.engine.hardware import choose_device, choose_threads
from helpers.engine.snapshots import Stopped
from helpers.run.folders import NOTEBOOKS, default_out
from helpers.run.machines import meet
from helpers.run.options import as_options
from helpers.run.presets import choose_preset
from helpers.run.settings import read_settings
from helpers.run.setup import Course

LAST_LINES = 12  # of what failing processes printed, in the error
DIED = re.compile(r"process (\d+) of ")


# ---------------------------------------------------------------- from a cell


def launch(
    stage: str, course: Course | None = None, processes: int = 2, **options: Any
) -> list[dict[str, float]]:
    """Train a stage with several processes on this machine; returns the metrics of every step from
    its log.

    stage: "pretrain", "sft", "reward" or "ppo". course: its preset, track, seed, source and run
    folder are used; without it those of RLHF_PRESET and so on. options: of the stage's command
    line; `steps=6` becomes `--steps 6`. What the processes print appears as it comes. With exactly
    one GPU a sentence says that nothing is done, and the list is empty. Raises ValueError for a
    stage or a number of processes that can't be, RuntimeError with the last lines if a process
    fails, and after the processes have saved and ended KeyboardInterrupt, or Stopped when the
    session's time is over.
    """
    settings = settings_of(stage, course)
    check_processes(processes)
    device = choose_device()
    if processes > 1 and device.type != "cpu" and gpus(device) == 1:
        print(f"skipped: one GPU; {processes} processes would share it and gain nothing")
        return []
    name = f"{stage}-trial" if "steps" in options else stage
    log = Path(settings["out"]) / "logs" / f"{name}.jsonl"
    if "steps" in options:
        log.unlink(missing_ok=True)  # a trial starts afresh: what it leaves must be its own
    command = [
        sys.executable,
        "-u",
        "-m",
        "helpers",
        "launch",
        stage,
        "--processes",
        str(processes),
        "--with-parent",
    ]
    stream([*command, *as_options(settings | options)], what=f"{stage} in {processes} processes")
    return [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]


def on_all_gpus(course: Course) -> None:
    """With real rows and several GPUs: train the stage in a process on each, for the training cell
    below to take over.

    What they learned is in a snapshot, from which that cell goes on with no step left to take.
    Elsewhere nothing happens; the small models of the embedded worlds are learned on one GPU before
    the processes have started.
    """
    processes = gpus(course.device) if course.source != "embedded" else 1
    if processes > 1 and course.stage == "ppo":  # its batches are shared out evenly
        processes = math.gcd(processes, course.config.rollout_size, course.config.minibatch_size)
    if processes > 1:
        torch.cuda.empty_cache()  # for the process that shares this notebook's GPU
        launch(course.stage, course, processes, hand_over=True)  # 0-Pretrain reads documents


def settings_of(stage: str, course: Course | None) -> dict[str, Any]:
    """The settings of a course, or of the environment, as options of a stage's command."""
    if stage not in NOTEBOOKS:
        raise ValueError(f"no stage {stage!r}: choose from {', '.join(NOTEBOOKS)}")
    if course is None:
        settings = read_settings()
        preset, _ = choose_preset(settings.preset, settings.source, choose_device(settings.device))
        where = preset, settings.track, settings.seed, settings.source
        return {"preset": preset, "out": settings.out or str(ROOT / default_out(*where))}
    left = None if course.deadline is None else max(course.deadline - time.perf_counter(), 1)
    chosen = course.settings
    return {
        "preset": course.preset,
        "track": course.track,
        "seed": course.seed,
        "source": course.source,
        "data_dir": chosen.data_dir,
        "out": str(course.out),
        "init": course.init if course.source != "embedded" else None,
        "adapter": chosen.adapter,
        "dtype": chosen.dtype,
        "device": chosen.device,
        "stop_after": None if left is None else f"{left:.0f}s",  # of the notebook's time
    }


def stream(command: Sequence[str], what: str) -> None:
    """Run a command in a process of its own (never a fork of this one) and print its lines as they
    come.

    Raises RuntimeError with the last lines if it fails, and Stopped if it ended as its time was
    over. Ctrl-C goes to the command once; it may print until it ends.
    """
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        text=True,
        encoding="utf-8",
        errors="replace",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        # or Jupyter and the terminal would interrupt it as well, a second time
        start_new_session=True,
    )
    lines: list[str] = []
    try:
        try:
            echo(process, lines)
        except KeyboardInterrupt:
            process.send_signal(signal.SIGINT)
            echo(process, lines)
            raise
    finally:
        if process.poll() is None:  # interrupted a second time, or the output was closed
            process.kill()
            process.wait()
    if process.returncode == OUT_OF_TIME:
        raise Stopped(lines[-1].strip() if lines else what, OUT_OF_TIME)
    if process.returncode:
        raise RuntimeError(f"{what} failed:\n{''.join(last_words(lines)).rstrip()}")


def echo(process: subprocess.Popen, lines: list[str]) -> None:
    """Print what a process says, and keep it, until it ends."""
    for line in process.stdout:
        lines.append(line)
        print(line, end="", flush=True)
    process.wait()


def last_words(lines: list[str]) -> list[str]:
    """The last lines, without the tracebacks of processes that only lost their partner."""
    died = DIED.search(lines[-1]) if lines else None
    if died:
        lines = [
            line
            for line in lines
            if not line.startswith("[rank") or line.startswith(f"[rank{died[1]}]")
        ]
    return lines[-LAST_LINES:]


# ---------------------------------------------------------------- from a shell


def main(arguments: Sequence[str] | None = None) -> None:
    """`python -m helpers.run.launch ppo --processes 2 ...`: options that are not known here are the
    stage's.
    """
    parser = argparse.ArgumentParser(
        prog="python -m helpers launch",
        allow_abbrev=False,
        description="Train one stage with several processes.",
        epilog="All other options are the stage's: python -m helpers ppo --help",
    )
    parser.add_argument("stage", choices=NOTEBOOKS)
    parser.add_argument("--processes", type=int, default=2, help="on this machine (default: 2)")
    parser.add_argument(
        "--nnodes", default="1", help="machines, or least:most of them (default: 1)"
    )
    parser.add_argument(
        "--rdzv-endpoint", help="host:port of the machine where all meet, the same for all"
    )
    parser.add_argument(
        "--max-restarts",
        type=int,
        default=0,
        help="times that all start again from their last snapshot if one dies (default: 0)",
    )
    parser.add_argument(
        "--with-parent",
        action="store_true",
        help="end with the process that started this one (Linux)",
    )
    own, for_stage = parser.parse_known_args(arguments)
    try:
        check_processes(own.processes)
        if own.max_restarts and ("--stop-after" in for_stage or read_settings().stop_after):
            raise ValueError(
                "--stop-after with --max-restarts: a restart would begin the time anew; take one "
                "of them"
            )
        run(own, ["helpers", own.stage, *for_stage])
    except (ValueError, ConnectionError, RuntimeError) as error:
        sys.exit(f"launch: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


def run(own: argparse.Namespace, module: list[str]) -> None:
    """Let torch.distributed.run start a module's processes on this machine, and wait for them.

    Raises RuntimeError, in one line, if one fails with no restart left or if the machines don't
    meet.
    """
    from torch.distributed import run as torch_run
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous.api import RendezvousClosedError, RendezvousError

    if own.with_parent:
        end_with_parent()
    place = (
        ["--standalone"]
        if own.nnodes == "1"
        else [f"--nnodes={own.nnodes}", *meet(own.rdzv_endpoint or "")]
    )
    command = [
        *place,
        f"--nproc-per-node={own.processes}",
        f"--max-restarts={own.max_restarts}",
        "-m",
        *module,
    ]
    print(f"python -m torch.distributed.run {shlex.join(command)}", flush=True)
    divide_threads(own.processes)
    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = (
        "1"  # or a restart may find the dead processes' addresses
    )
    os.environ.setdefault(
        "TORCH_CPP_LOG_LEVEL", "ERROR"
    )  # host names that nobody needs can't be looked up
    # The end is told below, in one line; a death that is followed by a restart, by torch.
    logging.getLogger("torch.distributed.elastic").setLevel(
        logging.ERROR if own.max_restarts else logging.CRITICAL
    )
    try:
        torch_run.run(torch_run.parse_args(command))
    except ChildFailedError as error:
        if error.get_first_failure()[1].exitcode == OUT_OF_TIME:
            sys.exit(OUT_OF_TIME)  # as it was asked to, and said so
        raise RuntimeError(death(error)) from None
    except RendezvousClosedError:
        raise RuntimeError("another machine has given up; its own last words say why") from None
    except RendezvousError as error:
        raise RuntimeError(
            f"the machines did not meet at {own.rdzv_endpoint}: {error.__cause__ or error}"
        ) from None
    except SignalException as error:
        sys.exit(128 + error.sigval)


def death(error: Any) -> str:
    """Which process failed first, and how: from a ChildFailedError of torch.distributed.run."""
    rank, failure = error.get_first_failure()
    how = f"ended with exit code {failure.exitcode}: its last lines stand above"
    if failure.exitcode < 0:
        name = signal.Signals(-failure.exitcode).name
        how = f"was killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")
    return f"process {rank} of {error.name} {how}"


def check_processes(processes: int) -> None:
    """Raise ValueError for a number of processes that can't run here."""
    if isinstance(processes, bool) or not isinstance(processes, int) or processes < 1:
        raise ValueError(f"processes={processes!r}: must be a whole number, 1 or more")
    device = choose_device()
    if device.type == "cuda" and 1 < gpus(device) < processes:
        raise ValueError(
            f"processes={processes}: this machine has {gpus(device)} GPUs, and each process needs "
            "its own"
        )


def gpus(device: torch.device) -> int:
    """How many GPUs there are."""
    return torch.cuda.device_count() if device.type == "cuda" else int(device.type != "cpu")


def divide_threads(processes: int) -> None:
    """Give each process its share of the cores, or all would run on all."""
    share = str(max(1, choose_threads() // processes))
    os.environ |= {"OMP_NUM_THREADS": share, "RLHF_THREADS": share}


if __name__ == "__main__":
    main()
