"""What the tests of local rows share: writing rows as a user's files."""

import gzip
import json
import lzma
from pathlib import Path


def write(path: Path, rows: list) -> None:
    """Rows in the format of the path's ending; a text is written as it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    content = "".join(line + "\n" for line in lines).encode()
    packer = {".gz": gzip.compress, ".xz": lzma.compress}.get(path.suffix, bytes)
    path.write_bytes(packer(content))
