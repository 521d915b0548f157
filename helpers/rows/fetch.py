"""Copy a track's rows from the Hub into a folder, for a machine without a network.

The folder serves as RLHF_DATA_DIR. Only the columns that the course reads are copied.
"""

import gzip
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

from helpers.engine.parser import Parser, output_folder, user_path
from helpers.rows.hub import hub_rows
from helpers.rows.load import checked
from helpers.rows.tracks import TRACKS, SourceError

DOCUMENTS = 20_000  # texts to pretrain on, of the millions that there are


def fetch(track: str, out: Path, documents: int = DOCUMENTS) -> Iterator[str]:
    """Write NAME/SPLIT.jsonl.gz for each data set of a track, unless it exists; yields a line for
    each file. Raises SourceError when a data set can't be had.
    """
    roles = TRACKS[track].roles.items()
    limits = {role.data: documents if kind == "documents" else None for kind, role in roles}
    for data, limit in limits.items():
        for split in filter(None, (data.train, data.heldout)):
            path = out / data.name / f"{split}.jsonl.gz"
            if path.exists():
                yield f"{path}: is there"
                continue
            rows = islice(checked(hub_rows(data, split == data.heldout), data), limit)
            number = write_rows(
                path, ({name: row.get(name) for name in data.columns} for row in rows)
            )
            yield f"{path}: {number:,} rows of {data.repository}"


def write_rows(path: Path, rows: Iterable[dict]) -> int:
    """Write rows as compressed JSON lines, the whole file or none; returns their number."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial, number = path.with_name(path.name + ".partial"), 0
    with gzip.open(partial, "wt", encoding="utf-8", newline="\n") as file:
        for row in rows:
            file.write(json.dumps(row) + "\n")
            number += 1
    os.replace(partial, path)
    return number


def main(argv: Sequence[str] | None = None) -> None:
    """`python -m helpers fetch`."""
    parser = Parser(prog="python -m helpers fetch", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--track", choices=TRACKS, required=True)
    add("--out", type=user_path, required=True, help="the folder, later RLHF_DATA_DIR")
    add("--documents", type=int, default=DOCUMENTS, help="texts to pretrain on (%(default)s)")
    options = parser.parse_args(argv)
    output_folder(options.out, "the folder", "--out")
    try:
        for line in fetch(options.track, options.out, options.documents):
            print(line, flush=True)
    except (SourceError, OSError) as error:
        sys.exit(f"fetch: {error}")
