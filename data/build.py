"""Writes the committed files of a world: compressed rows, a tokenizer, and a manifest with their
checksums.
"""

import argparse
import hashlib
import json
import lzma
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

TOKENIZER_ROWS = 8000  # of documents, and of demonstrations: what the tokenizer is trained on


@dataclass(frozen=True)
class World:
    """What makes the files of a world."""

    folder: Path  # where they are committed
    sizes: dict[str, dict[str, int]]  # kind of rows -> split -> how many
    # kind, split, number -> the row, which depends on nothing else
    row: Callable[[str, str, int], dict]
    vocab_size: int
    # a document or demonstration, its number -> what the tokenizer learns from it
    learned: Callable[[dict, int], str]


def content(world: World, kind: str, split: str, number: int) -> bytes:
    """The first `number` rows of a file, one JSON object a line."""
    lines = (
        json.dumps(world.row(kind, split, i), ensure_ascii=False) + "\n" for i in range(number)
    )
    return "".join(lines).encode()


def build(world: World, folder: Path, sizes: dict[str, dict[str, int]]) -> dict[str, dict]:
    """Write all files into `folder`; returns the manifest: rows and sha256 of each file's
    uncompressed bytes.
    """
    from helpers.tokenizer import train_tokenizer

    manifest, texts = {}, []
    for kind, splits in sizes.items():
        for split, number in splits.items():
            written = content(world, kind, split, number)
            name = f"{kind}.{split}.jsonl.xz"
            (folder / name).write_bytes(lzma.compress(written, preset=9))
            manifest[name] = {"rows": number, "sha256": hashlib.sha256(written).hexdigest()}
            if split == "train" and kind in ("documents", "demonstrations"):
                lines = written.decode().split("\n")[:number][:TOKENIZER_ROWS]
                texts += [world.learned(json.loads(line), i) for i, line in enumerate(lines)]
    train_tokenizer(texts, world.vocab_size, folder / "tokenizer.json")
    manifest["tokenizer.json"] = {
        "sha256": hashlib.sha256((folder / "tokenizer.json").read_bytes()).hexdigest()
    }
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n", newline="\n")
    return manifest


def main(world: World, description: str) -> None:
    """Command line: rebuild the files in place, or into another folder to compare."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        "--out", type=Path, default=world.folder, help="folder to write into (default: the world's)"
    )
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name, entry in build(world, arguments.out, world.sizes).items():
        print(f"{name:32} {entry.get('rows', ''):>6} {entry['sha256'][:16]}")
