"""The settings as options of a command line."""

import argparse
from collections.abc import Iterable
from dataclasses import fields

from helpers.run.settings import Settings


def add_settings(parser: argparse.ArgumentParser, names: Iterable[str] | None = None) -> None:
    """Add an option for each setting, or for those named: --stop-after for stop_after."""
    for field in fields(Settings):
        if not field.metadata or (names is not None and field.name not in names):
            continue
        option, text = field.name.replace("_", "-"), field.metadata["help"]
        if field.metadata["variable"]:
            text += f" (also RLHF_{field.name.upper()})"
        if isinstance(field.default, bool):
            kind = {"action": argparse.BooleanOptionalAction}
        else:
            kind = {"metavar": "VALUE"}
        parser.add_argument(f"--{option}", default=None, help=text, **kind)


def as_options(settings: dict) -> list[str]:
    """Settings as the words of a command line: ["--stop-after", "90s", "--hand-over"]."""
    words: list[str] = []
    for name, value in settings.items():
        option = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{option}" if value else f"--no-{option}")
        elif value is not None:
            words += [f"--{option}", str(value)]
    return words
