"""Stages of the course as commands, each once: what a run folder holds is not run again."""

import subprocess
import sys
import time
from collections.abc import Callable

from benchmarks.rounds import ROOT


def seed_range(text: str) -> list[int]:
    """The seeds from the first to the last, such as "0-9"; "3" is a single one, "0-2,5" four."""
    seeds = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        seeds += range(int(first), int(last or first) + 1)
    return seeds


def run_stage(stage: str, options: dict, say: Callable = print) -> None:
    """Run `python -m helpers STAGE` with options, "out" among them, unless that folder has the
    stage's metrics already. say: takes a line when it has run.
    """
    out = options["out"]
    if (out / "metrics" / f"{stage}.json").exists():
        return
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    start = time.monotonic()
    command = [sys.executable, "-m", "helpers", stage, *flags]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    say(f"{out.name} {stage}: {time.monotonic() - start:.0f} s")
