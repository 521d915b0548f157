"""Command lines whose errors are one line."""

import argparse
import difflib
import tempfile
from collections.abc import Sequence
from pathlib import Path


class SettingsError(Exception):
    """A setting that does not exist or has a value that can't be."""


def user_path(text: str | Path) -> Path:
    """The absolute path that a user means: "~" is the home folder, a relative path starts from the
    current folder. Raises SettingsError for a text that is no path.
    """
    if not str(text).strip() or "\0" in str(text):
        raise SettingsError(f"{str(text)!r} is no path")
    try:
        return Path(text).expanduser().absolute()
    except RuntimeError:  # "~name" without such a user
        raise SettingsError(f"{text}: there is no such home folder") from None


def output_folder(folder: Path, what: str, option: str) -> None:
    """Create a folder to write to. Raises SettingsError, in one line, where nothing can be written.

    what, option: what the folder is, and how to name another one.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        reason = error.strerror or error
        raise SettingsError(
            f"nothing can be written to {what} {folder} ({reason}): name another with {option}"
        ) from None


class Parser(argparse.ArgumentParser):
    """A parser whose error is one line, with the nearest valid option."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, allow_abbrev=False, **kwargs)

    def error(self, message: str) -> None:
        self.exit(2, f"{self.prog}: {message}\n")

    def parse_args(self, args: Sequence[str] | None = None, namespace=None):
        options, unknown = self.parse_known_args(args, namespace)
        if unknown:
            self.error(f"no option {unknown[0]}{self.nearest(unknown[0])}; --help lists them")
        return options

    def nearest(self, option: str) -> str:
        valid = [name for action in self._actions for name in action.option_strings]
        close = difflib.get_close_matches(option.partition("=")[0], valid, n=1)
        return f", did you mean {close[0]}?" if close else ""
