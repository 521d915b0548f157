"""The settings as options of a command line, with one clear line for a mistake."""

import argparse
import difflib
import sys
from collections.abc import Iterable, Sequence
from dataclasses import fields

from helpers.run.settings import Settings, kind_of


class Parser(argparse.ArgumentParser):
    """A parser whose complaint is one line, with the nearest valid option."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, allow_abbrev=False, **kwargs)

    def error(self, message: str) -> None:
        self.exit(2, f"{self.prog}: {message}\n")

    def parse_args(self, args: Sequence[str] | None = None, namespace=None):
        found, unknown = self.parse_known_args(args, namespace)
        if unknown:
            self.error(f"no option {unknown[0]}{self.nearest(unknown[0])}; --help lists them")
        return found

    def nearest(self, option: str) -> str:
        valid = [name for action in self._actions for name in action.option_strings]
        close = difflib.get_close_matches(option.partition("=")[0], valid, n=1)
        return f", did you mean {close[0]}?" if close else ""


def add_settings(parser: argparse.ArgumentParser, names: Iterable[str] | None = None) -> None:
    """Add an option for each setting, or for those named: --stop-after for stop_after."""
    for field in fields(Settings):
        if not field.metadata or (names is not None and field.name not in names):
            continue
        option, text = field.name.replace("_", "-"), field.metadata["help"]
        if field.metadata["variable"]:
            text += f" (also RLHF_{field.name.upper()})"
        if kind_of(field) != "bool":
            parser.add_argument(f"--{option}", metavar="VALUE", help=text)
        elif field.default:  # on unless it is switched off
            parser.add_argument(
                f"--no-{option}", dest=field.name, action="store_const", const=False, help=text
            )
        else:
            parser.add_argument(f"--{option}", action="store_const", const=True, help=text)


def as_options(settings: dict) -> list[str]:
    """Settings as the words of a command line: ["--stop-after", "90s", "--hand-over"]."""
    words: list[str] = []
    for name, value in settings.items():
        option = name.replace("_", "-")
        if value is True:
            words.append(f"--{option}")
        elif value is False:
            words.append(f"--no-{option}")
        elif value is not None:
            words += [f"--{option}", str(value)]
    return words


def fail(program: str, error: BaseException) -> None:
    """End the program with one line."""
    sys.exit(f"{program}: {error}")
