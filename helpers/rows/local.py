"""Rows from a local folder: jsonl, tsv and csv, plain or compressed (gzip, xz), and parquet.

A row that can't be read comes as Unusable, so that it is counted; only a file of which nothing can
be read is refused.
"""

import csv
import gzip
import hashlib
import json
import lzma
import re
import zlib
from collections import deque
from collections.abc import Iterator
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

from helpers.engine.files import sha256
from helpers.rows.common import Unusable
from helpers.rows.tracks import HubData, SourceError, plain_name

OPENERS = {"": open, ".gz": gzip.open, ".xz": lzma.open}
ENDINGS = (".parquet", *(kind + zip_ for kind in (".jsonl", ".tsv", ".csv") for zip_ in OPENERS))
HELDOUT_NAMES = ("heldout", "validation", "valid", "dev")
LONGEST = 2**27  # characters of a cell; Python's own limit is below the length of some documents
DAMAGE = (OSError, EOFError, lzma.LZMAError, zlib.error)
PART = re.compile(r"-(\d+)-of-(\d+)")  # its number and that of all parts, in a file's name
# A cell that may be a column's name: a few plain words, which may have bytes that are not UTF-8.
NAME = re.compile(r"(?=\D)[\w\udc80-\udcff]+(?:[ ./-][\w\udc80-\udcff]+){0,3}")
SEPARATOR = re.compile(r'"?sep=([,;|\t])"?\s*', re.IGNORECASE)
QUOTED = re.compile(r'"[^"]*(?:""[^"]*)*"')
SAMPLE = 100  # lines of a tsv file that show whether it has quoted cells
Rows = Iterator[dict | Unusable]
Files = tuple[list[Path], list[Path]]  # those of a split that are read, and those that are ignored


def local_split(data: HubData, split: str, folder: Path | None) -> tuple[Rows, bool, str]:
    """The rows in a folder, whether held-out rows have their own files, and the files' name."""
    (files, ignored), separate, stand_in = split_files(data, split, folder)
    name = listed(files, folder)
    if stand_in:
        name += f", a stand-in for {data.repository}"
    if ignored:
        name += f", ignoring {listed(ignored, folder)}"
    return local_rows(files, data), separate, name


def local_origin(data: HubData, folder: Path | None) -> dict[str, str]:
    """The name of the files to train on, and a digest of these and of the held-out ones."""
    (train, _), _, _ = split_files(data, "train", folder)
    (heldout, _), _, _ = split_files(data, "heldout", folder)
    content = "; ".join(" ".join(map(sha256, files)) for files in (train, heldout))
    return {"data": listed(train, folder), "rows": hashlib.sha256(content.encode()).hexdigest()}


def split_files(data: HubData, split: str, folder: Path | None) -> tuple[Files, bool, bool]:
    """The files of a split, whether held-out rows have their own, and whether they are stand-ins.
    Raises SourceError when there are none, or not all of their parts.
    """
    if folder is None:
        raise data.unavailable("was asked for in a local folder, but RLHF_DATA_DIR is not set")
    place = f"in RLHF_DATA_DIR={folder}"
    if not folder.is_dir():
        raise data.unavailable(f"was asked for {place}, but there is no such folder")
    by_split, stand_in = find_files(folder, data)
    for parts, _ in by_split.values():
        check_parts(parts, data, place)
    found = by_split[split] if any(by_split[split]) else by_split["train"]
    if not any(found):
        raise data.unavailable(f"has no file for {split} {place}")
    return found, any(by_split["heldout"]), stand_in


def check_parts(files: list[Path], data: HubData, place: str) -> None:
    """Raise SourceError when the names say that there are more parts than these."""
    numbers = [match.groups() for file in files if (match := PART.search(file.name))]
    for total in {of for _, of in numbers}:
        there = len({number for number, of in numbers if of == total})
        if there < int(total):
            raise data.unavailable(
                f"has only {there} of the {int(total)} files *-of-{total} {place}: get the others, "
                "or rename these to use them alone"
            )


def listed(files: list[Path], folder: Path) -> str:
    """The first file's name, and how many more there are."""
    more = f" and {len(files) - 1} more" if len(files) > 1 else ""
    return files[0].relative_to(folder).as_posix() + more


def find_files(folder: Path, data: HubData) -> tuple[dict[str, Files], bool]:
    """The files of a data set by split ("train", "heldout"), and whether they stand in for it.

    Looked for in this order: NAME/SPLIT.jsonl, the Hub's own layout
    NAME/data/SPLIT-00000-of-00001.parquet, NAME.SPLIT; without any of these, other rows with the
    same columns.
    """
    layouts = ("/{split}", "/{split}-*", "/data/{split}-*", ".{split}")
    usual = tuple(data.name + layout for layout in layouts)
    names = {"train": (data.train,), "heldout": tuple(filter(None, (data.heldout, *HELDOUT_NAMES)))}
    for places, stand_in in ((usual, False), (data.stand_ins, True)):
        files = {split: matches(folder, places, names[split], split) for split in names}
        if any(map(any, files.values())):
            return files, stand_in
    return files, False


def matches(folder: Path, places: tuple[str, ...], names: tuple[str, ...], split: str) -> Files:
    """The sorted files of the first place that has some, and those of the places after it. One
    without a split is for training.
    """
    files, ignored = [], []
    for name in dict.fromkeys(names):
        for place in places:
            for ending in ENDINGS if split == "train" or "{split}" in place else ():
                found = sorted(folder.glob(place.format(split=name) + ending))
                files, ignored = (files, ignored + found) if files else (found, ignored)
    return files, ignored


def local_rows(paths: list[Path], data: HubData) -> Rows:
    """The rows of files, in turn; one that can't be read comes as Unusable. Raises SourceError with
    the file's name when it can't be read at all, or is a table whose columns have other names.
    """
    for path in paths:
        kind = path.name.removesuffix(".gz").removesuffix(".xz").rsplit(".", 1)[-1]
        where = f"{path.name} in {path.parent.name}/"
        try:
            if kind == "parquet":
                rows = parquet_rows(path, data, where)
            elif kind == "jsonl":
                rows = map(json_row, text_lines(path, "\n"))
            else:
                rows = table_rows(text_lines(path, ""), data, kind == "tsv", where)
            for row in rows:
                if isinstance(row, Unusable):
                    row.place = f"{row.place or 'a row'} of {where}"
                yield row
        except UnicodeError as error:
            raise SourceError(f"{where} {error}") from None
        except DAMAGE as error:
            raise SourceError(f"{where} is damaged ({error}): get it again") from None


def text_lines(path: Path, newline: str) -> Iterator[tuple[int, str]]:
    """The lines of a file with their numbers from 1. A byte that is not UTF-8 is half a surrogate
    pair in them. newline: "\\n" if only a line feed ends a line, "" if a carriage return does too.
    Raises UnicodeError when the file is UTF-16, by its first bytes.
    """
    opener = OPENERS.get(path.suffix, open)
    with opener(path, "rb") as file:
        start = file.read(100)
    if start.startswith((b"\xff\xfe", b"\xfe\xff")) or 4 * start.count(0) > len(start):
        raise UnicodeError("is UTF-16: save it as UTF-8")
    with opener(path, "rt", encoding="utf-8", errors="surrogateescape", newline=newline) as file:
        for number, line in enumerate(file, start=1):
            yield number, line.removeprefix("\ufeff")  # some editors put a BOM at the start


def known_columns(names: list[str], data: HubData, where: str) -> dict[str, str]:
    """Our columns among a file's: {ours: the file's}. Raises SourceError when one that we need is
    missing or there twice.
    """
    try:
        found = data.find_columns(names)
    except Unusable as reason:
        raise SourceError(f"{where} has {reason}: name each of them once") from None
    missing = [name for name in data.needed if name not in found]
    if missing:
        raise data.lacks(missing, names, f" in {where}")
    return found


def is_utf8(line: str) -> bool:
    """Whether a line of `text_lines` was UTF-8."""
    try:
        line.encode()
    except UnicodeEncodeError:
        return False
    return True


# ---------------------------------------------------------------- JSON lines


def json_row(numbered: tuple[int, str]) -> dict | Unusable:
    """The object in a line."""
    number, line = numbered
    try:
        if not is_utf8(line):
            raise Unusable("line is not UTF-8")
        row = json.loads(line, object_pairs_hook=unique)
        if not isinstance(row, dict):
            raise Unusable("line is no object")
        return row
    except Unusable as error:
        reason = str(error)
    except json.JSONDecodeError:
        reason = "line is not JSON"
    except RecursionError:
        reason = "line is nested too deeply"
    except ValueError:  # Python reads numbers of up to 4,300 digits
        reason = "line has too long a number"
    return Unusable(reason, f"line {number:,}")


def unique(pairs: list[tuple]) -> dict:
    """A JSON object. Raises Unusable when it gives two values for one name."""
    row = dict(pairs)
    if len(row) < len(pairs):
        raise Unusable("line has a name twice")
    return row


# ---------------------------------------------------------------- tables


def table_rows(lines: Iterator[tuple[int, str]], data: HubData, tsv: bool, where: str) -> Rows:
    """Rows of cells, which the first line names, or else in our order; blank lines before it, and
    one that names the delimiter (Excel's "sep=;"), don't count. Raises SourceError when the first
    line has other names, or a later one has ours in another order.
    """
    csv.field_size_limit(LONGEST)
    delimiter = "\t" if tsv else ","
    for first in lines:
        if separator := SEPARATOR.fullmatch(first[1]):
            delimiter = separator[1]
        elif first[1].strip():
            break
    else:
        return
    start = [first, *islice(lines, SAMPLE)]
    quoted = not tsv or has_quoted_cells([line for _, line in start])
    form = {"delimiter": delimiter, "skipinitialspace": not tsv}
    form["quoting"] = csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE
    names = column_names(first[1], data, delimiter, where)
    lines = chain(start[names is not None :], lines)
    names = names or list(data.columns)
    for number, cells in table_cells(lines, form, len(names)):
        if isinstance(cells, str):
            yield Unusable(cells, f"line {number:,}")
        elif len(cells) != len(names):
            yield Unusable(f"line has not {len(names)} cells", f"line {number:,}")
        elif cells == names:
            yield Unusable("line names the columns again", f"line {number:,}")
        elif len(data.needed) > 1 and set(data.needed) <= set(map(plain_name, cells)):
            raise SourceError(f"{where} names columns in line {number:,}: only the first can")
        else:
            yield dict(zip(names, cells))


def has_quoted_cells(lines: list[str]) -> bool:
    """Whether the marks in lines of a tsv file quote cells: each cell with a mark is all in marks,
    with those inside doubled, and that some are doubled or most lines have such a cell shows it.
    """
    cells = [cell for line in lines for cell in line.rstrip("\r\n").split("\t") if '"' in cell]
    shown = 2 * len(cells) > len(lines) or any('""' in cell[1:-1] for cell in cells)
    return shown and all(map(QUOTED.fullmatch, cells))


def column_names(line: str, data: HubData, delimiter: str, where: str) -> list[str] | None:
    """The columns that the first line of a table names; None if it is certainly a row. Raises
    SourceError when it names others than ours, or one of them twice.
    """
    cells = next(csv.reader([line], delimiter=delimiter, skipinitialspace=True), [])
    if not any(map(data.is_column, cells)):  # quotation marks may be wrong in this line too
        cells = [cell.strip() for cell in line.replace('"', "").split(delimiter)]
    if not any(map(data.is_column, cells)) and not all(map(NAME.fullmatch, cells)):
        return None
    known_columns(cells, data, f"the first line of {where}")
    return cells


def table_cells(
    lines: Iterator[tuple[int, str]], form: dict, width: int
) -> Iterator[tuple[int, list[str] | str]]:
    """The number of each row's first line with its cells, or with the reason why there are none.

    A quoted cell may have several lines. Where its quotation marks don't match, or such a row has
    not `width` cells, only the first of these lines is lost: the next is read afresh, as a row.
    """
    parse = partial(csv.reader, strict=True, **form)
    waiting: deque[tuple[int, str]] = deque()
    while waiting or (line := next(lines, None)):
        taken = [waiting.popleft() if waiting else line]
        try:
            cells = next(parse(take(taken, waiting, lines, width)))
            closed = len(taken) == 1 or len(cells) == width
        except csv.Error:
            closed = False
        if not closed:
            waiting.extendleft(reversed(taken[1:]))
            cells = "quotation mark is not closed, or not doubled"
        elif not all(is_utf8(line) for _, line in taken):
            cells = "line is not UTF-8"
        yield taken[0][0], cells


def take(taken: list, waiting: deque, lines: Iterator, width: int) -> Iterator[str]:
    """The texts of numbered lines, first of the one in `taken`; all are noted there.

    Inside a quoted cell, a mark that is not doubled ends the cell: after more of such lines than a
    row has cells, nothing is left to read. So the time is linear, whatever is not closed.
    """
    yield taken[0][1]
    ends = 0  # lines that end a cell
    while ends < width and (waiting or (line := next(lines, None))):
        taken.append(waiting.popleft() if waiting else line)
        yield taken[-1][1]
        ends += '"' in taken[-1][1].replace('""', "")


# ---------------------------------------------------------------- parquet


def parquet_rows(path: Path, data: HubData, where: str) -> Rows:
    """Rows of a parquet file, a thousand at a time, with our columns alone."""
    import pyarrow
    from pyarrow.parquet import ParquetFile

    number = 0
    try:
        file = ParquetFile(path)
        columns = known_columns(file.schema_arrow.names, data, where)
        for batch in file.iter_batches(batch_size=1000, columns=list(columns.values())):
            try:
                yield from batch.to_pylist()
            except UnicodeDecodeError:  # in one of them: each for itself
                yield from (parquet_row(batch, i, number + i + 1) for i in range(batch.num_rows))
            number += batch.num_rows
    except pyarrow.ArrowException as error:
        raise OSError(str(error).splitlines()[0]) from None


def parquet_row(batch: Any, i: int, number: int) -> dict | Unusable:
    """Row i of a batch, the file's row `number`."""
    try:
        return batch.slice(i, 1).to_pylist()[0]
    except UnicodeDecodeError:
        return Unusable("text is not UTF-8", f"row {number:,}")
