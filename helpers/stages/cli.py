"""What every stage's command line does: read the options, set the course up, run the stage."""

import argparse
import os
import sys
from collections.abc import Callable
from dataclasses import asdict

from helpers.config import PRESETS, TRACKS
from helpers.engine.distributed import barrier, is_main, process_group
from helpers.engine.snapshots import ResumeError, Stopped
from helpers.rows.shards import ShardError
from helpers.rows.tracks import SourceError
from helpers.run.checkpoints import CheckpointError
from helpers.run.import_weights import WeightsError
from helpers.run.setup import Course, setup

ERRORS = (
    CheckpointError,
    ResumeError,
    ShardError,
    SourceError,
    WeightsError,
    OSError,
    ValueError,
    ArithmeticError,
)
OPTIONS = {
    "preset": ", ".join(PRESETS),
    "track": ", ".join(TRACKS),
    "seed": "a whole number",
    "out": "the run folder",
    "init": "what 1-SFT starts from: pretrain, gpt2, a folder, a .pt file",
    "adapter": "full, lora or qlora: what SFT and PPO train",
    "stop-after": "a time such as 11h30m: stop by then, with the state saved",
    "steps": "a trial of so many steps",
    "save-every": "the time between snapshots, such as 10m",
    "save-steps": "the steps between them",
    "shards": "a folder made by `python -m helpers.rows.build_shards`: 0-Pretrain reads it "
    "instead of documents",
    "hand-over": "1: end once it has trained, for the notebook to go on",
    "resume": "0: start over, without what an unfinished run has saved",
}


def settings(course: Course) -> dict:
    """What a checkpoint keeps of what made it: the settings, the base model, the rows that were
    read.
    """
    run = {
        "preset": course.preset,
        "source": course.source,
        "init": course.init_name,
        "rows": list(course.reports),
    }
    return asdict(course.config) | run


def stage_main(notebook: str, run: Callable[[Course], None]) -> None:
    """Run one stage without its notebook: its options win over RLHF_PRESET and so on.

    Also in each of the processes that `python -m torch.distributed.run` starts; then the first one
    speaks for all.
    """
    parser = argparse.ArgumentParser(
        description=f"The stage of {notebook}.ipynb, without the notebook."
    )
    for name, meaning in OPTIONS.items():
        parser.add_argument(f"--{name}", help=f"{meaning} (default: {variable(name)})")
    for name, value in vars(parser.parse_args()).items():
        if value is not None:
            os.environ[variable(name)] = value
    if os.environ.get("RANK", "0") != "0":
        sys.stdout = open(os.devnull, "w", encoding="utf-8")
    try:
        course = setup(notebook)
        with process_group(course.device):
            if is_main():
                _ = (
                    course.tokenizer
                )  # made now, if it is not there yet, so that the others only read it
            barrier()
            run(course)
    except Stopped as stop:
        print(stop)
        sys.exit(stop.code)
    except KeyboardInterrupt:
        sys.exit(130)  # saved, and said so
    except ERRORS as error:
        sys.exit(f"{notebook}: {error}")


def variable(option: str) -> str:
    """The environment variable behind an option: RLHF_STOP_AFTER of stop-after."""
    return f"RLHF_{option.upper().replace('-', '_')}"
