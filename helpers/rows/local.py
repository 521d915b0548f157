"""Rows from a local folder: jsonl, tsv and csv, plain or compressed with gzip or xz, and
parquet.
"""

import csv
import gzip
import json
import lzma
import zlib
from collections.abc import Iterator
from pathlib import Path

from helpers.rows.common import Unusable
from helpers.rows.tracks import HubData, SourceError

PACKED = ("", ".gz", ".xz")
ENDINGS = (".parquet", *(kind + packed for kind in (".jsonl", ".tsv", ".csv") for packed in PACKED))
HELDOUT_NAMES = ("heldout", "validation", "valid", "dev")
LONGEST = 2**27  # characters of a cell; Python's own limit is below the length of some documents
DAMAGE = (OSError, EOFError, lzma.LZMAError, zlib.error, UnicodeError, csv.Error)


def find_files(folder: Path, data: HubData) -> tuple[dict[str, list[Path]], bool]:
    """The files of a data set by split ("train", "heldout"), and whether they stand in for it.
    Empty lists: none.

    Looked for in this order: NAME/SPLIT.jsonl, the Hub's own layout
    NAME/data/SPLIT-00000-of-00001.parquet, NAME.SPLIT; where there is nothing of these, other rows
    with the same columns.
    """
    usual = (
        f"{data.name}/{{split}}",
        f"{data.name}/{{split}}-*",
        f"{data.name}/data/{{split}}-*",
        f"{data.name}.{{split}}",
    )
    names = {"train": (data.train,), "heldout": tuple(filter(None, (data.heldout, *HELDOUT_NAMES)))}
    for places, stand_in in ((usual, False), (data.stand_ins, True)):
        files = {
            split: first_match(folder, places, names[split], split == "train") for split in names
        }
        if any(files.values()):
            return files, stand_in
    return {split: [] for split in names}, False


def first_match(
    folder: Path, places: tuple[str, ...], splits: tuple[str, ...], train: bool
) -> list[Path]:
    """The files of the first place that has some, sorted. A place without a split holds rows to
    learn from.
    """
    for split in splits:
        for place in places:
            for ending in ENDINGS if train or "{split}" in place else ():
                found = sorted(folder.glob(place.format(split=split) + ending))
                if found:
                    return found
    return []


def local_rows(paths: list[Path], data: HubData) -> Iterator[dict | Unusable]:
    """The rows of files one after the other; a line that is no row comes as Unusable.

    Raises SourceError with the file's name when a file is damaged.
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
            raise SourceError(
                f"{path.name} in {path.parent.name}/ is damaged ({error}): get it again"
            ) from None


def opener(path: Path):
    """The function that opens a file by its ending."""
    return {".gz": gzip.open, ".xz": lzma.open}.get(path.suffix, open)


def json_rows(path: Path) -> Iterator[dict | Unusable]:
    """One JSON object a line."""
    with opener(path)(path, "rb") as lines:  # bytes: only a line feed ends a row
        for line in lines:
            try:
                row = json.loads(
                    line.decode("utf-8-sig")
                )  # some editors put a mark before the first line
            except UnicodeDecodeError:
                row = Unusable("line is not UTF-8")
            except (json.JSONDecodeError, RecursionError):
                row = Unusable("line is not JSON")
            yield row if isinstance(row, dict | Unusable) else Unusable("line is no object")


def table_rows(path: Path, columns: tuple[str, ...], delimiter: str) -> Iterator[dict | Unusable]:
    """Lines of cells. The first line names the columns if it holds all of ours; else the cells come
    in our order.
    """
    csv.field_size_limit(LONGEST)
    quoting = csv.QUOTE_NONE if delimiter == "\t" else csv.QUOTE_MINIMAL
    with opener(path)(path, "rt", encoding="utf-8-sig", newline="") as lines:
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
