"""What every stage's command line does: read the options, set the course up, run the stage."""

import argparse
import os
import sys
from collections.abc import Callable
from dataclasses import asdict

from helpers.checkpoints import CheckpointError
from helpers.environment import Course, setup

OPTIONS = {
    "preset": "smoke or cpu", "track": "which data", "seed": "a whole number", "out": "the run folder",
    "adapter": "full, lora or qlora: what SFT and PPO train",
}  # fmt: skip


def settings(course: Course) -> dict:
    """What a checkpoint keeps of the settings that made it."""
    return {"preset": course.preset, **asdict(course.config)}


def stage_main(notebook: str, run: Callable[[Course], None]) -> None:
    """Run one stage without its notebook: `--preset`, `--track`, `--seed`, `--out` win over RLHF_PRESET and so on."""
    parser = argparse.ArgumentParser(description=f"The stage of {notebook}.ipynb, without the notebook.")
    for name, meaning in OPTIONS.items():
        parser.add_argument(f"--{name}", help=f"{meaning} (default: RLHF_{name.upper()})")
    for name, value in vars(parser.parse_args()).items():
        if value is not None:
            os.environ[f"RLHF_{name.upper()}"] = value
    try:
        run(setup(notebook))
    except (CheckpointError, FileNotFoundError, FloatingPointError, ValueError) as error:
        sys.exit(f"{notebook}: {error}")
