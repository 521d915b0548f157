"""A stage's command line: options win over the environment, and every failure is one line."""

import os
import sys

import pytest

from helpers.rows.tracks import SourceError
from helpers.run.checkpoints import CheckpointError
from helpers.stages.cli import stage_main


@pytest.fixture
def command(monkeypatch, tmp_path):
    """Pretend that these were typed behind `python -m helpers.ppo`; variables set on the way are
    undone.
    """
    for name in ("RLHF_PRESET", "RLHF_SEED", "RLHF_OUT", "RLHF_TRACK", "RLHF_ADAPTER"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)

    def typed(*arguments: str) -> None:
        monkeypatch.setattr(sys, "argv", ["ppo", "--out", str(tmp_path / "run"), *arguments])

    return typed


def test_options_win_over_the_environment(command, monkeypatch):
    monkeypatch.setenv("RLHF_SEED", "1")
    command("--preset", "smoke", "--seed", "5", "--adapter", "lora")
    seen = []
    stage_main("3-PPO", seen.append)
    assert (seen[0].preset, seen[0].config.seed, seen[0].stage) == ("smoke", 5, "ppo")
    assert seen[0].config.adapter == "lora"
    assert os.environ["RLHF_SEED"] == "5"


@pytest.mark.parametrize(
    "error", [CheckpointError, FileNotFoundError, FloatingPointError, SourceError, ValueError]
)
def test_a_failure_is_one_line_without_a_traceback(command, error):
    def fails(course):
        raise error("what went wrong, and what to do")

    command("--preset", "smoke")
    with pytest.raises(SystemExit) as stopped:
        stage_main("3-PPO", fails)
    assert stopped.value.code == "3-PPO: what went wrong, and what to do"


def test_a_preset_that_does_not_exist_is_one_line(command):
    command("--preset", "huge")
    with pytest.raises(SystemExit, match="3-PPO: .*huge.*smoke"):
        stage_main("3-PPO", lambda course: None)
