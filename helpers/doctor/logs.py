"""Reading a training log: .jsonl, .csv, the `trainer_state.json` of transformers, or what TRL and
verl print.
"""

import csv
import io
import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from helpers.doctor.columns import COLUMNS, INSTEAD, JUDGED, canonical, runs
from helpers.doctor.console import printed_rows
from helpers.engine.parser import SettingsError, user_path

FIRST = 1_000  # rows at the start of a long log that are all read
MOST = 20_000  # rows that are read; of a longer log, after the first ones, every n-th
LARGEST = 1e38  # about the largest number of float32


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
    bad: dict[str, int] = field(default_factory=dict)  # column: row of its first NaN, infinity

    def has(self, *names: str) -> bool:
        """Whether the log has these columns, each with a number in it."""
        return all(self.numbers(name) for name in names)

    def numbers(self, name: str) -> list[float]:
        """The finite numbers of a column."""
        return [x for x in self.columns.get(name, ()) if math.isfinite(x)]

    def places(self, *names: str) -> list[int]:
        """The rows, counted from 0, in which all of these columns have a finite number."""
        cells = zip(*(self.columns.get(name, ()) for name in names), strict=False)
        return [i for i, row in enumerate(cells) if all(map(math.isfinite, row))]

    def pairs(self, *names: str) -> list[tuple[float, ...]]:
        """These columns of the rows in which all of them have a finite number."""
        return [tuple(self.columns[name][i] for name in names) for i in self.places(*names)]

    def from_the_start(self) -> bool:
        """Whether its first row is the first step: a resumed run's log may begin later. Episodes
        are counted by rollout, so a run's first row has as many as lie between two rows.
        """
        steps = self.numbers("step")
        if not steps or steps[0] <= 1:
            return True
        by_rollout = "episode" in self.names.get("step", "")
        return by_rollout and (len(steps) == 1 or steps[0] <= steps[1] - steps[0])

    def called(self, name: str) -> str:
        """A column's name in the log, without the name of the run."""
        return printable(self.names.get(name, name).strip().rpartition(" - ")[2])


def read_log(source: str | Path | Sequence[dict]) -> Log:
    """Read a log from a file, or from rows as `Loop.history` has them.

    Raises SettingsError, one line with what is wrong, where and what to do, for a log that can't be
    read.
    """
    try:
        if not isinstance(source, (str, Path)):
            return make_log(list(enumerate(source, 1)), len(source), "the history")
        path = user_path(source)
        return make_log(*rows_of(read_text(path), path), str(path))
    except SettingsError as error:  # it quotes what may be anything
        raise SettingsError(printable(str(error))) from None


def printable(text: str) -> str:
    """A text on one line, with what a terminal would obey or hide as an escape sequence."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def read_text(path: Path) -> str:
    """A file's text; SettingsError where it can't be read."""
    try:
        if path.is_dir():
            raise SettingsError(f"{path} is a folder: name the log in it, such as {log_in(path)}")
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise SettingsError(
            f"{path}: there is no such file; a run writes its log to RUN/logs/ppo.jsonl"
        ) from None
    except UnicodeDecodeError as error:
        if error.object[:2] in (b"\x1f\x8b", b"PK"):
            raise SettingsError(f"{path} is compressed: unpack it first") from None
        raise SettingsError(
            f"{path} is not UTF-8 (byte {error.start}): save it as UTF-8, or export the log again"
        ) from None
    except OSError as error:
        raise SettingsError(f"{path} can't be read ({error.strerror})") from None
    if not text.strip():
        raise SettingsError(f"{path} is empty: the run has not finished an iteration")
    return text


def log_in(folder: Path) -> Path:
    """A log in a folder, no deeper than a run's: a search of everything may take minutes."""
    for pattern in ("logs/ppo.jsonl", "*/logs/ppo.jsonl", "trainer_state.json", "*.jsonl"):
        for log in sorted(folder.glob(pattern)):
            return log
    for log in sorted([*folder.glob("*/trainer_state.json"), *folder.glob("*/*.jsonl")]):
        return log
    return Path("RUN/logs/ppo.jsonl")


Rows = list[tuple[int, dict]]  # each with its number in the file, or its line


def rows_of(text: str, path: Path) -> tuple[Rows, int]:
    """The rows of a file that are read, and how many it has."""
    if path.suffix.lower() in (".csv", ".tsv"):
        return csv_rows(text, path)
    rows = state_rows(text, path)
    if rows is not None:
        return thinned(list(enumerate(rows, 1))), len(rows)
    lines = text.split("\n")
    filled = [i for i, line in enumerate(lines) if line.strip()]
    if not is_json(lines[filled[0]]) and (printed := printed_rows(lines)):
        return thinned(printed), len(printed)
    if len(filled) > 1 and not text.endswith("\n") and not is_json(lines[filled[-1]]):
        filled.pop()  # a run is writing it just now
    return list(json_rows(((i + 1, lines[i]) for i in thinned(filled)), path)), len(filled)


def is_json(line: str) -> bool:
    """Whether a line is JSON."""
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def thinned(rows: list) -> list:
    """All rows, or of a long log the first ones and then every n-th."""
    if len(rows) <= MOST:
        return rows
    return rows[:FIRST] + rows[FIRST :: -(-(len(rows) - FIRST) // (MOST - FIRST))]


def json_rows(lines: Iterable[tuple[int, str]], path: Path) -> Iterator[tuple[int, dict]]:
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
        if isinstance(row.get("data"), dict):  # the file logger of verl
            row |= row["data"]
        yield number, row


def state_rows(text: str, path: Path) -> list[dict] | None:
    """The rows of a `trainer_state.json`, or of a list of objects; None for one object a line."""
    named_json = path.suffix.lower() == ".json"
    try:
        state = json.loads(text)
    except (ValueError, RecursionError) as error:
        if not named_json or "Extra data" in str(error):
            return None
        raise SettingsError(
            f"{path} is not JSON: give a trainer_state.json, or a log that ends in .jsonl or .csv"
        ) from None
    rows = state.get("log_history") if isinstance(state, dict) else state
    if isinstance(rows, list) and all(isinstance(row, dict) for row in rows):
        return rows
    if named_json:
        raise SettingsError(f"{path} has no list `log_history`: give a trainer_state.json of TRL")
    return None


def csv_rows(text: str, path: Path) -> tuple[Rows, int]:
    """The rows of a CSV file with a header, and how many there are."""
    text = text.lstrip("\n")
    if text.startswith("sep="):  # a line that Excel writes
        text = text.partition("\n")[2].lstrip("\n")
    header = text.partition("\n")[0]
    delimiter = max(",;\t", key=header.count)
    try:
        # Twice, as a long log's rows need much more memory than its text.
        count = sum(1 for row in csv.reader(io.StringIO(text), delimiter=delimiter) if row) - 1
        filled = (row for row in csv.reader(io.StringIO(text), delimiter=delimiter) if row)
        names = [name.strip() for name in next(filled, [])]
        wanted = set(thinned(list(range(1, count + 1))))
        rows = [(i, row) for i, row in enumerate(filled, 1) if i in wanted]
    except csv.Error as error:
        raise SettingsError(f"{path}: not a CSV file ({error})") from None
    twice = [name for name, times in Counter(names).items() if name and times > 1]
    if twice:
        raise SettingsError(
            f"{path}, line 1: the column {twice[0]!r} is there twice; rename or remove one of them"
        )
    for i, row in rows:
        if any(cell.strip() for cell in row[len(names) :]):
            raise SettingsError(
                f"{path}, row {i}: {len(row)} cells, but the header names {len(names)} columns; "
                "write numbers with a decimal point, and quote texts with a comma"
            )
    return [(i, dict(zip(names, row, strict=False))) for i, row in rows], count


def number(cell: Any, where: str) -> float:
    """A cell as a number; NaN for an empty one, infinity for one that float32 can't hold. Raises
    SettingsError for a text.
    """
    if cell is None or (isinstance(cell, str) and not cell.strip()):
        return math.nan
    try:
        x = float(cell)
    except OverflowError:  # an int of hundreds of digits
        return math.inf
    except (TypeError, ValueError):
        comma = isinstance(cell, str) and cell.count(",") == 1
        hint = "write it with a decimal point" if comma else "leave the cell empty"
        raise SettingsError(f"{where}: {repr(cell)[:40]} is no number; {hint}") from None
    return math.copysign(math.inf, x) if abs(x) > LARGEST else x


def make_log(rows: Rows, count: int, where: str) -> Log:
    """The log of some rows. where: for messages."""
    if not rows:
        raise SettingsError(f"{where} has no rows: the run has not finished an iteration")
    every = list(dict.fromkeys(str(name) for _, row in rows for name in row))
    names = known_columns(every, where)
    # A trainer's log also has rows of evaluations, without any of the columns.
    judged = [name for ours, name in names.items() if ours != "step"]
    kept = [(i, row) for i, row in rows if any(name in row for name in judged)]
    columns = {
        ours: [number(row.get(name), f"{where}, row {i}, column {name!r}") for i, row in kept]
        for ours, name in names.items()
    }
    notes = []
    if len(rows) < count:
        notes.append(f"{count:,} rows: the first {FIRST:,} and every n-th of the others were read")
    steps = columns.get("step", [])
    back = [i for (i, _), x, last in zip(kept[1:], steps[1:], steps, strict=False) if x < last]
    if back:
        notes.append(f"the steps go back in row {back[0]}: one run after another, or resumed")
    bad = not_finite([row for _, row in kept], columns, names)
    return Log(derived(columns), names, count, tuple(notes), bad)


def known_columns(every: list[str], where: str) -> dict[str, str]:
    """{our name: name in the log} of a log's columns. Raises SettingsError if there are none, or
    those of several runs.
    """
    names = canonical(every)
    if not names.keys() & set(JUDGED):
        shown = ", ".join(name[:40] for name in every[:6]) + (", ..." if len(every) > 6 else "")
        if {"Wall time", "Value"} <= set(every):
            raise SettingsError(
                f"{where} is one metric of TensorBoard without its name: call its column Value by "
                "that name, such as kl, or export several metrics together"
            )
        raise SettingsError(
            f"{where} has no column that the doctor knows (it has {shown or 'none'}); it needs "
            "some of score, kl, entropy, clip_fraction, or their names in TRL, OpenRLHF, verl or "
            "open-instruct"
        )
    if len(several := runs(every)) > 1:
        shown = ", ".join(name[:40] for name in several[:3]) + (", ..." if several[3:] else "")
        raise SettingsError(f"{where} has columns of {len(several)} runs ({shown}): export one run")
    return names


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


def not_finite(rows: list[dict], columns: dict[str, list[float]], names: dict) -> dict[str, int]:
    """{column: row of its first NaN or infinity}. An empty cell is neither: trackers write the
    metrics of one step in several rows. The explained variance of equal returns is rightly NaN.
    """
    bad: dict[str, int] = {}
    for ours, values in columns.items():
        for i, x in enumerate(values if ours not in ("step", "explained_variance") else ()):
            if not math.isfinite(x) and rows[i].get(names[ours]) not in (None, ""):
                bad.setdefault(ours, i)
    return bad


def mean_of(values: Sequence[float]) -> float:
    """The mean; NaN of none."""
    return fmean(values) if values else math.nan


def missing(log: Log) -> list[str]:
    """The columns that the doctor reads and this log lacks, with their meaning."""
    absent = [name for name in JUDGED if name not in log.columns and name not in INSTEAD]
    return [f"{name} ({COLUMNS[name].meaning})" for name in absent]
