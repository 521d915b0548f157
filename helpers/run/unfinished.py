"""What an unfinished course has done: course.json in the run folder, from its start to its report.

The same command goes on from there. A notebook that is done is run again if it was edited since, or
if its results are gone.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from helpers.engine.files import sha256, write_json
from helpers.engine.parser import SettingsError
from helpers.run.folders import NOTEBOOKS
from helpers.run.report import ReportError, read_json

MAY_CHANGE = ("out", "stop_after", "threads", "device")


class Unfinished:
    """The notebooks of a course that are done, by stage, each with its SHA-256."""

    def __init__(self, out: Path, notebooks: Path, settings: dict[str, Any], resume: bool):
        """settings: those of the course, by name. resume: False forgets what was done. Raises
        SettingsError if something is done, but with other settings or rows.
        """
        self.out, self.notebooks, self.path = out, notebooks, out / "course.json"
        self.settings = {name: v for name, v in settings.items() if name not in MAY_CHANGE}
        if settings.get("data_dir"):
            self.settings["files in data_dir"] = listing(Path(settings["data_dir"]))
        self.done: dict[str, str] = {}
        if resume:
            self.read()

    def read(self) -> None:
        """Read what is done; a file that is missing or damaged says nothing."""
        try:
            saved = json.loads(self.path.read_text(encoding="utf-8"))
            settings, self.done = dict(saved["settings"]), dict(saved["done"])
        except (OSError, ValueError, KeyError, TypeError):
            return
        differences = ", ".join(
            f"{name} was {settings.get(name)!r} and is {self.settings.get(name)!r}"
            for name in {**settings, **self.settings}
            if settings.get(name) != self.settings.get(name)
        )
        if self.done and differences:
            raise SettingsError(
                f"{self.out} holds an unfinished course with other settings ({differences}): "
                "--no-resume starts over, --out names another run folder"
            )

    def left(self, stages: Sequence[str]) -> list[str]:
        """The stages that are still to be run: the first one that is not done, and all after it."""
        done = 0
        while done < len(stages) and self.is_done(stages[done]):
            done += 1
        return list(stages[done:])

    def is_done(self, stage: str) -> bool:
        """Whether a notebook has run as it is now, and its results are there."""
        notebook = self.notebooks / f"{NOTEBOOKS[stage]}.ipynb"
        try:
            read_json(self.out / "metrics" / f"{stage}.json")
        except ReportError:
            return False
        return self.done.get(stage) == sha256(notebook)

    def begin(self, stage: str) -> None:
        """Note that a stage is not done, nor any after it."""
        names = list(NOTEBOOKS)
        for later in names[names.index(stage) :]:
            self.done.pop(later, None)
        self.write()

    def end(self, stage: str) -> None:
        """Note that a stage is done."""
        self.done[stage] = sha256(self.notebooks / f"{NOTEBOOKS[stage]}.ipynb")
        self.write()

    def write(self) -> None:
        write_json(self.path, {"settings": self.settings, "done": self.done})

    def forget(self) -> None:
        """The course is finished: the same command runs all of it again."""
        self.path.unlink(missing_ok=True)


def listing(folder: Path) -> str:
    """A digest of the names, sizes and times of the files in a folder, links to folders followed,
    as the reader of rows follows them.
    """
    digest, seen, files = hashlib.sha256(), {os.path.realpath(folder)}, []
    for here, folders, names in os.walk(folder, followlinks=True):
        files += [Path(here, name) for name in names]
        new = {name: os.path.realpath(Path(here, name)) for name in folders}
        # a link may lead back to where it is
        folders[:] = sorted(name for name in folders if new[name] not in seen)
        seen.update(new.values())
    for path in sorted(path for path in files if path.is_file()):
        state = path.stat()
        digest.update(f"{path.relative_to(folder)} {state.st_size} {state.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:12]
