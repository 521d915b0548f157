"""A course as `setup` would make it, for tests: on a CPU, with results in a folder of the test."""

import os
from collections.abc import Callable
from pathlib import Path

import torch

from helpers.__main__ import main
from helpers.run.course import Course
from helpers.run.folders import STAGES
from helpers.run.presets import load_config
from helpers.run.settings import Settings

OF = {stage: notebook for notebook, stage in STAGES.items()}


def course_in(out: Path, stage: str = "ppo", **changes) -> Course:
    """The course of a stage. changes: fields of Course, or settings by name."""
    names = Settings.__dataclass_fields__.keys() - Course.__dataclass_fields__.keys()
    chosen = {name: changes.pop(name) for name in names & changes.keys()}
    fields = {
        "settings": Settings(**chosen),
        "preset": "smoke",
        "track": "tldr",
        "seed": 0,
        "source": "embedded",
        "init": "pretrain",
        "out": out,
        "device": torch.device("cpu"),
        "dtype": torch.float32,
        "threads": 1,
        "platform": "local",
    } | changes
    chosen_by = fields["preset"], fields["track"], fields["seed"], fields["source"]
    fields.setdefault("config", load_config(stage, *chosen_by))
    return Course(OF[stage], stage, **fields)


def stage_commands(out: Path, monkeypatch, **settings) -> Callable:
    """`command("1-SFT", *options)` runs a stage by its command, preset smoke, into one folder; no
    variable plays a part.
    """
    for name in list(os.environ):
        if name.startswith("RLHF_"):
            monkeypatch.delenv(name)
    chosen = {"preset": "smoke", "threads": 1, "out": out} | settings

    def command(notebook: str, *options: str) -> int | None:
        given = [f"--{name.replace('_', '-')}={value}" for name, value in chosen.items()]
        return main([STAGES[notebook], *given, *options])

    return command
