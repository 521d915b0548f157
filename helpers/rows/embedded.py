"""The rows of a track: documents, demonstrations, labels, comparisons and prompts, from its folder
under data/.
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
# Tracks that share a world: its folder under data/, and what is written around the requests that
# its rows hold. Every other track has a folder of its own name, whose rows hold whole prompts.
SHARED_WORLDS = {"assistant": ("advice", ASSISTANT), "instruct": ("advice", INSTRUCT)}


# Fields that a row may leave out: what they must be if they are there
OPTIONAL = {
    "writer": (str, "a text"),
    "kind": (str, "a text"),
    "facts": (dict, "an object"),
    "world": (str, "a text"),
    "logprob": ((int, float), "a number"),
    "probability": ((int, float), "a number"),
}


def load_rows(
    kind: str, split: str, track: str = "tldr", limit: int | None = None, folder: Path | None = None
) -> list:
    """The first `limit` records of a file, checked; `kind` is a key of RECORDS. Not every track has
    every kind.

    Raises ValueError for an unknown kind or split, a damaged file or a bad row (file, line and
    reason), and FileNotFoundError when the track has no such file.
    """
    if kind not in RECORDS or split not in SPLITS:
        raise ValueError(
            f"No rows called {kind}/{split}: choose from {', '.join(RECORDS)} and "
            f"{', '.join(SPLITS)}."
        )
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
    """One JSON line as a record. Raises ValueError: where, and which field is missing, empty or of
    a wrong type.
    """
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"{place}: not JSON ({error.msg})") from None
    if not isinstance(row, dict):
        raise ValueError(f"{place}: a row must be an object with fields, not {type(row).__name__}")
    known = [field.name for field in fields(record)]
    for name in known:
        if name in OPTIONAL:
            types, said = OPTIONAL[name]
            if row.get(name) is not None and not isinstance(row[name], types):
                raise ValueError(f"{place}: the field {name!r} must be {said}")
            continue
        if name not in row:
            raise ValueError(
                f"{place}: the field {name!r} is missing (found: {', '.join(row) or 'none'})"
            )
        if name == "label":
            if type(row[name]) is not int or row[name] not in (0, 1):
                raise ValueError(f"{place}: the field 'label' must be 0 or 1")
        elif not isinstance(row[name], str) or not row[name].strip():
            raise ValueError(f"{place}: the field {name!r} must be a text that is not empty")
    return record(**{name: value for name, value in row.items() if name in known})


def load_tokenizer(track: str = "tldr") -> Tokenizer:
    """The tokenizer of a track's embedded world."""
    world, _ = SHARED_WORLDS.get(track, (track, None))
    return Tokenizer(DATA / world / "tokenizer.json")
