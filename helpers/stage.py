"""What every stage's command line does: read the options, set the course up, run the stage."""

import argparse
import os
import sys
from collections.abc import Callable
from dataclasses import asdict

from helpers.checkpoints import CheckpointError
from helpers.config import PRESETS, TRACKS
from helpers.environment import Course, setup
from helpers.foreign import WeightsError
from helpers.tracks import SourceError

OPTIONS = {
    "preset": ", ".join(PRESETS), "track": ", ".join(TRACKS), "seed": "a whole number", "out": "the run folder",
    "init": "what 1-SFT starts from: pretrain, gpt2, a folder, a .pt file",
    "adapter": "full, lora or qlora: what SFT and PPO train",
}  # fmt: skip


def settings(course: Course) -> dict:
    """What a checkpoint keeps of what made it: the settings, the base model, the rows that were read."""
    run = {"preset": course.preset, "source": course.source, "init": course.init_name, "rows": list(course.reports)}
    return asdict(course.config) | run


def stage_main(notebook: str, run: Callable[[Course], None]) -> None:
    """Run one stage without its notebook: its options win over RLHF_PRESET and so on."""
    parser = argparse.ArgumentParser(description=f"The stage of {notebook}.ipynb, without the notebook.")
    for name, meaning in OPTIONS.items():
        parser.add_argument(f"--{name}", help=f"{meaning} (default: RLHF_{name.upper()})")
    for name, value in vars(parser.parse_args()).items():
        if value is not None:
            os.environ[f"RLHF_{name.upper()}"] = value
    try:
        run(setup(notebook))
    except (CheckpointError, SourceError, WeightsError, OSError, FloatingPointError, ValueError) as error:
        sys.exit(f"{notebook}: {error}")
