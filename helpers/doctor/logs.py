"""Reading a training log: .jsonl, .csv, or the `trainer_state.json` of transformers."""

import csv
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from helpers.doctor.columns import COLUMNS, INSTEAD, JUDGED, canonical
from helpers.engine.parser import SettingsError, user_path

FIRST = 1_000  # rows at the start of a long log that are all read
MOST = 20_000  # rows that are read; of a longer log, after the first ones, every n-th


@dataclass(frozen=True)
class Log:
    """A log, with our names of the columns.

    columns: {our name: a number for each row}, NaN where there is none. names: {our name: name in
    the log}. rows: how many rows it has, before some were left out. notes: what the reader should
    know about the reading.
    """

    columns: dict[str, list[float]]
    names: dict[str, str]
    rows: int
    notes: tuple[str, ...] = ()
    bad: dict[str, float] = field(default_factory=dict)  # column: step of its first NaN, infinity

    def has(self, *names: str) -> bool:
        """Whether the log has these columns, each with a number in it."""
        return all(self.numbers(name) for name in names)

    def numbers(self, name: str) -> list[float]:
        """The finite numbers of a column."""
        return [x for x in self.columns.get(name, ()) if math.isfinite(x)]

    def pairs(self, *names: str) -> list[tuple[float, ...]]:
        """These columns of the rows in which all of them have a finite number."""
        rows = zip(*(self.columns.get(name, ()) for name in names), strict=False)
        return [row for row in rows if all(map(math.isfinite, row))]

    def from_the_start(self) -> bool:
        """Whether its first row is the first step: a resumed run's log may begin later."""
        steps = self.columns.get("step", [1.0])
        return not steps[0] > 1 or "episode" in self.names.get("step", "")

    def called(self, name: str) -> str:
        """A column's name in the log."""
        return self.names.get(name, name)


def read_log(source: str | Path | Sequence[dict]) -> Log:
    """Read a log from a file, or from rows as `Loop.history` has them.

    Raises SettingsError, one line with what is wrong, where and what to do, for a log that can't be
    read.
    """
    if not isinstance(source, (str, Path)):
        return make_log(list(source), len(source), "the history")
    path = user_path(source)
    text = read_text(path)
    if path.suffix == ".csv":
        rows, count = csv_rows(text, path)
    elif path.suffix == ".json":
        rows = state_rows(text, path)
        rows, count = thinned(rows), len(rows)
    else:
        lines = [line for line in text.split("\n") if line.strip()]
        rows, count = list(json_rows(thinned(list(enumerate(lines, 1))), path)), len(lines)
    return make_log(rows, count, str(path))


def read_text(path: Path) -> str:
    """A file's text; SettingsError where it can't be read."""
    if path.is_dir():
        logs = sorted([*path.rglob("*.jsonl"), *path.rglob("trainer_state.json")])[:3]
        hint = f"such as {logs[0]}" if logs else "such as RUN/logs/ppo.jsonl"
        raise SettingsError(f"{path} is a folder: name the log in it, {hint}")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise SettingsError(
            f"{path}: there is no such file; a run writes its log to RUN/logs/ppo.jsonl"
        ) from None
    except UnicodeDecodeError as error:
        raise SettingsError(
            f"{path} is not UTF-8 (byte {error.start}): save it as UTF-8, or export the log again"
        ) from None
    except OSError as error:
        raise SettingsError(f"{path} can't be read ({error.strerror})") from None
    if not text.strip():
        raise SettingsError(f"{path} is empty: the run has not finished an iteration")
    return text


def thinned(rows: list) -> list:
    """All rows, or of a long log the first ones and then every n-th."""
    if len(rows) <= MOST:
        return rows
    return rows[:FIRST] + rows[FIRST :: -(-(len(rows) - FIRST) // (MOST - FIRST))]


def json_rows(lines: Iterable[tuple[int, str]], path: Path) -> Iterator[dict]:
    """The objects of a JSON Lines file, from (number, line)."""
    for number, line in lines:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            raise SettingsError(
                f"{path}, line {number}: not JSON ({line.strip()[:40]!r}); a .jsonl log has one "
                "object a line, and a .csv log has the ending .csv"
            ) from None
        if not isinstance(row, dict):
            raise SettingsError(
                f"{path}, line {number}: {line.strip()[:40]!r} is no object with names and numbers"
            )
        yield row


def state_rows(text: str, path: Path) -> list[dict]:
    """The rows of a `trainer_state.json`, or of a list of objects."""
    try:
        state = json.loads(text)
    except (ValueError, RecursionError):
        raise SettingsError(
            f"{path} is not JSON: give a trainer_state.json, or a log that ends in .jsonl or .csv"
        ) from None
    rows = state.get("log_history") if isinstance(state, dict) else state
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise SettingsError(f"{path} has no list `log_history`: give a trainer_state.json of TRL")
    return rows


def csv_rows(text: str, path: Path) -> tuple[list[dict], int]:
    """The rows of a CSV file with a header, and how many there are."""
    header, *lines = text.splitlines()
    delimiter = max(",;\t", key=header.count)
    names = [name.strip() for name in next(csv.reader([header], delimiter=delimiter))]
    twice = sorted({name for name in names if name and names.count(name) > 1})
    if twice:
        raise SettingsError(
            f"{path}, line 1: the column {twice[0]!r} is there twice; rename or remove one of them"
        )
    try:
        cells = csv.reader(thinned(lines), delimiter=delimiter)
        rows = [dict(zip(names, row, strict=False)) for row in cells if row]
    except csv.Error as error:
        raise SettingsError(f"{path}: not a CSV file ({error})") from None
    return rows, len(lines)


def number(cell: Any, where: str) -> float:
    """A cell as a number; NaN for an empty one. Raises SettingsError for a text."""
    if isinstance(cell, (int, float)):
        return float(cell)
    if cell is None or (isinstance(cell, str) and not cell.strip()):
        return math.nan
    try:
        return float(cell)
    except (TypeError, ValueError):
        shown = repr(cell)[:40]
        raise SettingsError(f"{where}: {shown} is no number; leave the cell empty") from None


def make_log(rows: list[dict], count: int, where: str) -> Log:
    """The log of some rows. where: for messages."""
    if not rows:
        raise SettingsError(f"{where} has no rows: the run has not finished an iteration")
    every = list(dict.fromkeys(str(name) for row in rows for name in row))
    names = canonical(every)
    if not names.keys() & set(JUDGED):
        shown = ", ".join(every[:6]) + (", ..." if len(every) > 6 else "")
        raise SettingsError(
            f"{where} has no column that the doctor knows (it has {shown or 'none'}); it needs "
            "some of score, kl, entropy, clip_fraction, or their names in TRL, OpenRLHF, verl or "
            "open-instruct"
        )
    # A trainer's log also has rows of evaluations, without any of the columns.
    judged = [name for ours, name in names.items() if ours != "step"]
    kept = [(i, row) for i, row in enumerate(rows, 1) if any(name in row for name in judged)]
    columns = {
        ours: [number(row.get(name), f"{where}, row {i}, column {name!r}") for i, row in kept]
        for ours, name in names.items()
    }
    notes = []
    if len(rows) < count:
        notes.append(f"{count:,} rows: the first {FIRST:,} and every n-th of the others were read")
    bad = not_finite([row for _, row in kept], columns, names)
    return Log(derived(columns), names, count, tuple(notes), bad)


def derived(columns: dict[str, list[float]]) -> dict[str, list[float]]:
    """The columns, with those that follow from others."""
    columns = dict(columns)
    if "truncated" in columns and "stop_rate" not in columns:
        columns["stop_rate"] = [1 - x for x in columns["truncated"]]
    for name in ("kl", "kl_k3"):
        if name not in columns and f"{name}_token" in columns and "length" in columns:
            pairs = zip(columns[f"{name}_token"], columns["length"], strict=True)
            columns[name] = [per_token * length for per_token, length in pairs]
    return columns


def not_finite(rows: list[dict], columns: dict[str, list[float]], names: dict) -> dict[str, float]:
    """{column: step of its first NaN or infinity}. An empty cell is neither: trackers write the
    metrics of one step in several rows. The explained variance of equal returns is rightly NaN.
    """
    bad: dict[str, float] = {}
    for ours, values in columns.items():
        steps = columns.get("step", range(1, len(values) + 1))
        for i, x in enumerate(values if ours != "explained_variance" else ()):
            if not math.isfinite(x) and rows[i].get(names[ours]) not in (None, ""):
                bad.setdefault(ours, steps[i])
    return bad


def mean_of(values: Sequence[float]) -> float:
    """The mean; NaN of none."""
    return fmean(values) if values else math.nan


def missing(log: Log) -> list[str]:
    """The columns that the doctor reads and this log lacks, with their meaning."""
    absent = [name for name in JUDGED if name not in log.columns and name not in INSTEAD]
    return [f"{name} ({COLUMNS[name].meaning})" for name in absent]
