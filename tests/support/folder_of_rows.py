"""What the tests of local rows share: rows in the columns of public data sets,
and writing them as a user's files."""

import gzip
import json
import lzma
from pathlib import Path

from helpers.rows.embedded import load_rows

PAIRS = [{"prompt": f"Why {i}?", "chosen": f"Because {i}.", "rejected": "No."} for i in range(200)]
SST2 = [
    {"sentence": f"film {i} is a long and {('dull', 'fine')[i % 2]} one to see", "label": i % 2}
    for i in range(30)
]


def write(path: Path, rows: list) -> None:
    """Rows in the format of the path's ending; a text is written as it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    content = "".join(line + "\n" for line in lines).encode()
    packer = {".gz": gzip.compress, ".xz": lzma.compress}.get(path.suffix, bytes)
    path.write_bytes(packer(content))


def public_rows(track: str, kind: str, split: str, limit: int) -> list[dict]:
    """The first rows of an embedded world in the columns of a public data set: of fineweb-edu, of
    openai_summarize_tldr and openai_summarize_comparisons, or of sst2.
    """
    rows = load_rows(kind, split, track, limit)
    if kind == "documents":
        return [{"text": row.text} for row in rows]
    if kind == "labels":
        return [{"sentence": row.prompt + row.completion, "label": row.label} for row in rows]
    if kind == "demonstrations":
        return [{"prompt": row.prompt, "label": row.completion} for row in rows]
    return [{"prompt": r.prompt, "chosen": r.chosen, "rejected": r.rejected} for r in rows]


def write_all(folder: Path, files: dict[str, list[dict]]) -> None:
    """Write FOLDER/NAME.jsonl for each name."""
    for name, rows in files.items():
        write(folder / f"{name}.jsonl", rows)
