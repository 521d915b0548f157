"""Rows from a local folder: jsonl, tsv and csv, plain or compressed (gzip, xz), and parquet."""

import csv
import gzip
import json
import lzma
import zlib
from collections.abc import Iterator
from pathlib import Path

from helpers.rows.common import Unusable
from helpers.rows.tracks import HubData, SourceError

OPENERS = {"": open, ".gz": gzip.open, ".xz": lzma.open}
ENDINGS = (".parquet", *(kind + zip_ for kind in (".jsonl", ".tsv", ".csv") for zip_ in OPENERS))
HELDOUT_NAMES = ("heldout", "validation", "valid", "dev")
LONGEST = 2**27  # characters of a cell; Python's own limit is below the length of some documents
DAMAGE = (OSError, EOFError, lzma.LZMAError, zlib.error, UnicodeError, csv.Error)
Rows = Iterator[dict | Unusable]


def local_split(data: HubData, split: str, folder: Path | None) -> tuple[Rows, bool, str]:
    """The rows in a folder, whether held-out rows have their own files, and the files' name."""
    if folder is None:
        raise data.unavailable("was asked for in a local folder, but RLHF_DATA_DIR is not set")
    place = f"in RLHF_DATA_DIR={folder}"
    if not folder.is_dir():
        raise data.unavailable(f"was asked for {place}, but there is no such folder")
    by_split, stand_in = find_files(folder, data)
    files = by_split[split] or by_split["train"]
    if not files:
        raise data.unavailable(f"has no file for {split} {place}")
    name = files[0].relative_to(folder).as_posix()
    if len(files) > 1:
        name += f" and {len(files) - 1} more"
    if stand_in:
        name += f", a stand-in for {data.repository}"
    return local_rows(files, data), bool(by_split["heldout"]), name


def find_files(folder: Path, data: HubData) -> tuple[dict[str, list[Path]], bool]:
    """The files of a data set by split ("train", "heldout"), and whether they stand in for it.

    Looked for in this order: NAME/SPLIT.jsonl, the Hub's own layout
    NAME/data/SPLIT-00000-of-00001.parquet, NAME.SPLIT; without any of these, other rows with the
    same columns.
    """
    layouts = ("/{split}", "/{split}-*", "/data/{split}-*", ".{split}")
    usual = tuple(data.name + layout for layout in layouts)
    names = {"train": (data.train,), "heldout": tuple(filter(None, (data.heldout, *HELDOUT_NAMES)))}
    for places, stand_in in ((usual, False), (data.stand_ins, True)):
        files = {split: first_match(folder, places, names[split], split) for split in names}
        if any(files.values()):
            return files, stand_in
    return {split: [] for split in names}, False


def first_match(
    folder: Path, places: tuple[str, ...], names: tuple[str, ...], split: str
) -> list[Path]:
    """The sorted files of the first place that has some. One without a split is for training."""
    for name in names:
        for place in places:
            for ending in ENDINGS if split == "train" or "{split}" in place else ():
                files = sorted(folder.glob(place.format(split=name) + ending))
                if files:
                    return files
    return []


def local_rows(paths: list[Path], data: HubData) -> Rows:
    """The rows of files, in turn; a line that is no row comes as Unusable. Raises SourceError with
    the file's name when a file is damaged.
    """
    for path in paths:
        kind = path.name.removesuffix(".gz").removesuffix(".xz").rsplit(".", 1)[-1]
        try:
            if kind == "parquet":
                yield from parquet_rows(path)
            elif kind == "jsonl":
                yield from json_rows(path)
            else:
                yield from table_rows(path, data.columns, "\t" if kind == "tsv" else ",")
        except DAMAGE as error:
            where = f"{path.name} in {path.parent.name}/"
            raise SourceError(f"{where} is damaged ({error}): get it again") from None


def json_rows(path: Path) -> Rows:
    """One JSON object per line."""
    with OPENERS.get(path.suffix, open)(path, "rb") as lines:  # bytes: only a line feed ends a row
        for line in lines:
            try:
                row = json.loads(line.decode("utf-8-sig"))  # some editors put a BOM at the start
            except UnicodeDecodeError:
                row = Unusable("line is not UTF-8")
            except (json.JSONDecodeError, RecursionError):
                row = Unusable("line is not JSON")
            yield row if isinstance(row, dict | Unusable) else Unusable("line is no object")


def table_rows(path: Path, columns: tuple[str, ...], delimiter: str) -> Rows:
    """Lines of cells, in our order unless the first line names all of our columns."""
    csv.field_size_limit(LONGEST)
    quoting = csv.QUOTE_NONE if delimiter == "\t" else csv.QUOTE_MINIMAL
    opener = OPENERS.get(path.suffix, open)
    with opener(path, "rt", encoding="utf-8-sig", newline="") as lines:
        names = columns
        for number, cells in enumerate(csv.reader(lines, delimiter=delimiter, quoting=quoting)):
            if number == 0 and set(columns) <= set(cells):
                names = tuple(cells)
            elif len(cells) == len(names):
                yield dict(zip(names, cells))
            else:
                yield Unusable(f"line has not {len(names)} cells")


def parquet_rows(path: Path) -> Iterator[dict]:
    """Rows of a parquet file, a thousand at a time."""
    import pyarrow
    from pyarrow.parquet import ParquetFile

    try:
        for batch in ParquetFile(path).iter_batches(batch_size=1000):
            yield from batch.to_pylist()
    except pyarrow.ArrowException as error:
        raise OSError(str(error).splitlines()[0]) from None
