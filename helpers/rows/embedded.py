"""The rows of a track's embedded world, from its folder under data/: documents, demonstrations,
labels, comparisons and prompts.
"""

import json
import lzma
from dataclasses import fields, replace
from itertools import islice
from pathlib import Path

from data.advice.templates import ASSISTANT, INSTRUCT
from helpers.records import RECORDS
from helpers.tokenizer import Tokenizer

DATA = Path(__file__).resolve().parent.parent.parent / "data"
SPLITS = ("train", "heldout")
# Tracks that share a world: its folder under data/, and the template of the requests in its rows.
# Every other track has a folder of its own name, whose rows hold whole prompts.
SHARED_WORLDS = {"assistant": ("advice", ASSISTANT), "instruct": ("advice", INSTRUCT)}
# Fields that a row may leave out: what they must be if they are there
OPTIONAL = {
    "flaws": (list, "a list"),
    "kind": (str, "a text"),
    "facts": (dict, "an object"),
    "world": (str, "a text"),
    "logprob": ((int, float), "a number"),
    "probability": ((int, float), "a number"),
}


def load_rows(
    kind: str, split: str, track: str = "tldr", limit: int | None = None, folder: Path | None = None
) -> list:
    """The first `limit` records of a file, checked; `kind` is a key of RECORDS.

    Raises ValueError for an unknown kind or split, a damaged file or a bad row (file, line and
    reason), and FileNotFoundError when the track has no such file.
    """
    if kind not in RECORDS or split not in SPLITS:
        valid = f"{', '.join(RECORDS)} and {', '.join(SPLITS)}"
        raise ValueError(f"No rows called {kind}/{split}: choose from {valid}.")
    world, template = SHARED_WORLDS.get(track, (track, None))
    path = (folder or DATA / world) / f"{kind}.{split}.jsonl.xz"
    if not path.is_file():
        raise FileNotFoundError(
            f"{path.name} is missing in {path.parent.name}/: `make data` writes it."
        )
    records = []
    try:
        with lzma.open(path, "rt", encoding="utf-8", newline="\n") as lines:
            for number, line in enumerate(islice(lines, limit), start=1):
                record = parse_row(RECORDS[kind], line, f"{path.name}, line {number}")
                if template and hasattr(record, "prompt"):
                    record = replace(record, prompt=template.format(request=record.prompt))
                records.append(replace(record, world=world) if kind == "prompts" else record)
    except (lzma.LZMAError, EOFError, UnicodeDecodeError) as error:
        raise ValueError(f"{path.name} is damaged ({error}): `make data` writes it again") from None
    return records


def parse_row(record: type, line: str, place: str):
    """One JSON line as a record. Raises ValueError: the place, and which field is wrong."""
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"{place}: not JSON ({error.msg})") from None
    if not isinstance(row, dict):
        raise ValueError(f"{place}: a row must be an object with fields, not {type(row).__name__}")
    known = [field.name for field in fields(record)]
    for name in known:
        if fault := field_fault(row, name):
            raise ValueError(f"{place}: the field {name!r} {fault}")
    return record(**{name: value for name, value in row.items() if name in known})


def field_fault(row: dict, name: str) -> str | None:
    """What is wrong with a field of a row: missing, empty or of a wrong type. None: nothing."""
    value = row.get(name)
    if name in OPTIONAL:
        types, meaning = OPTIONAL[name]
        return None if value is None or isinstance(value, types) else f"must be {meaning}"
    if name not in row:
        return f"is missing (found: {', '.join(row) or 'none'})"
    if name == "label":
        return None if type(value) is int and value in (0, 1) else "must be 0 or 1"
    filled = isinstance(value, str) and value.strip()
    return None if filled else "must be a text that is not empty"


def load_tokenizer(track: str = "tldr") -> Tokenizer:
    """The tokenizer of a track's embedded world."""
    world, _ = SHARED_WORLDS.get(track, (track, None))
    return Tokenizer(DATA / world / "tokenizer.json")
