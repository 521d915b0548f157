"""What every stage's command does: read the settings, prepare the run, run the stage."""

import os
import sys
from collections.abc import Callable, Sequence

from helpers.compare.endpoint_judge import JudgeError
from helpers.engine.distributed import barrier, is_main, process_group
from helpers.engine.files import FolderInUse
from helpers.engine.parser import Parser
from helpers.engine.snapshots import ResumeError, Stopped
from helpers.rows.shards import ShardError
from helpers.rows.tracks import SourceError
from helpers.run.checkpoints import CheckpointError
from helpers.run.course import Course
from helpers.run.folders import STAGES
from helpers.run.import_weights import WeightsError
from helpers.run.options import add_settings
from helpers.run.setup import setup

ERRORS = (CheckpointError, FolderInUse, JudgeError, ResumeError, ShardError, SourceError)
ERRORS += (WeightsError, OSError, ValueError, ArithmeticError)
POINTS = 200  # of a curve in the report


def stage_main(
    notebook: str, run: Callable[[Course], None], argv: Sequence[str] | None = None
) -> None:
    """Run one stage without its notebook; of torchrun's processes only the first prints."""
    parser = Parser(
        prog=f"python -m helpers {STAGES[notebook]}",
        description=f"The stage of {notebook}.ipynb, without the notebook.",
    )
    add_settings(parser)
    options = vars(parser.parse_args(argv))
    if os.environ.get("RANK", "0") != "0":
        sys.stdout = open(os.devnull, "w", encoding="utf-8")
    try:
        course = setup(notebook, **options)
        with process_group(course.device):
            if is_main():
                _ = course.tokenizer  # made now, if it is not there yet; the others only read it
            barrier()
            run(course)
    except Stopped as stop:
        print(stop)
        sys.exit(stop.code)
    except KeyboardInterrupt:
        sys.exit(130)  # saved, and said so
    except ERRORS as error:
        sys.exit(f"{notebook}: {error}")


def loss_curve(
    history: list[dict],
    name: str = "loss",
    window: int = 1,
    ceiling: float | None = None,
    label: str = "entropy floor",
    xlabel: str = "step",
) -> dict:
    """A metric of a run as a curve of the report: at most 200 points, each the mean of `window`
    steps. ceiling: what it is compared with, under that label.
    """
    values = [row[name] for row in history]
    means = [sum(values[i : i + window]) / window for i in range(len(values) - window + 1)]
    every = max(1, len(means) // POINTS)
    curve = {"x": list(range(window, len(values) + 1, every)), "y": means[::every]}
    if ceiling is not None:
        curve |= {"ceiling": ceiling, "label": label}
    return curve | {"xlabel": xlabel}
