"""A stage's command line: options win over the environment, and every failure is one line."""

import os
import signal

import pytest
import torch

from helpers.engine.parser import SettingsError
from helpers.engine.snapshots import ResumeError, Stopped
from helpers.rows.shards import ShardError
from helpers.rows.tracks import SourceError
from helpers.run.checkpoints import CheckpointError
from helpers.run.import_weights import WeightsError
from helpers.stages.cli import loss_curve, stage_main


@pytest.fixture
def typed(monkeypatch, tmp_path):
    """Runs a function as the stage of 3-PPO, as if these options were typed."""
    for name in list(os.environ):
        if name.startswith("RLHF_"):
            monkeypatch.delenv(name)
    threads = torch.get_num_threads()

    def run(stage, *options: str) -> None:
        stage_main("3-PPO", stage, ["--out", str(tmp_path / "run"), "--threads", "1", *options])

    yield run
    torch.set_num_threads(threads)


def test_options_win_over_the_environment(typed, monkeypatch):
    monkeypatch.setenv("RLHF_SEED", "1")
    monkeypatch.setenv("RLHF_TRACK", "sentiment")
    seen = []
    typed(seen.append, "--preset", "smoke", "--seed", "5", "--adapter", "lora", "--no-resume")
    (course,) = seen
    assert (course.preset, course.config.seed, course.stage) == ("smoke", 5, "ppo")
    assert course.config.adapter == "lora" and course.track == "sentiment"
    assert not course.settings.resume
    assert os.environ["RLHF_SEED"] == "1"  # nothing is handed down through the environment


ERRORS = [CheckpointError, WeightsError, ResumeError, ShardError, SourceError]
ERRORS += [FileNotFoundError, FloatingPointError, ValueError]


@pytest.mark.parametrize("error", ERRORS)
def test_a_failure_is_one_line_without_a_traceback(typed, error):
    def fails(course):
        raise error("what went wrong, and what to do")

    with pytest.raises(SystemExit) as stopped:
        typed(fails, "--preset", "smoke")
    assert stopped.value.code == "3-PPO: what went wrong, and what to do"


@pytest.mark.parametrize(
    "ends, code",
    [(Stopped("stopped", 75), 75), (Stopped("done", 0), 0), (KeyboardInterrupt(), 130)],
)
def test_a_run_that_was_stopped_says_so_by_its_code(typed, ends, code):
    def stops(course):
        raise ends

    with pytest.raises(SystemExit) as stopped:
        typed(stops, "--preset", "smoke")
    assert stopped.value.code == code
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_preset_that_does_not_exist_is_named(typed):
    with pytest.raises(SettingsError, match="huge.*smoke"):
        typed(lambda course: None, "--preset", "huge")


def test_a_curve_is_means_of_a_window():
    history = [{"loss": float(i)} for i in range(6)]
    curve = loss_curve(history, window=2, ceiling=1.0)
    assert curve["y"] == [0.5, 1.5, 2.5, 3.5, 4.5] and curve["x"] == [2, 3, 4, 5, 6]
    assert (curve["ceiling"], curve["label"], curve["xlabel"]) == (1.0, "entropy floor", "step")
    long = loss_curve([{"kl": 0.0}] * 1000, "kl", xlabel="iteration")
    assert len(long["x"]) == len(long["y"]) == 200 and "ceiling" not in long
