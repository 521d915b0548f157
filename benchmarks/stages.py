"""A stage of the course as a command, once: what its run folder holds is not run again."""

import subprocess
import sys
import time
from collections.abc import Callable

from benchmarks.rounds import ROOT


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
