"""The files of a small tokenizer, which for a test is GPT-2's."""

import json
from pathlib import Path

from helpers.rows import gpt2_bpe
from helpers.tokenizer import EOS, byte_characters

MERGES = [
    (b" ", b"t"),
    (b"h", b"e"),
    (b" t", b"he"),
    (b"\xc3", b"\xa9"),
    (b"t", b"he"),
    (b" the", b"m"),
]


def small_gpt2(folder: Path, monkeypatch) -> Path:
    """Write gpt2-bpe/ of six merges in a folder with rows, which RLHF_DATA_DIR names: 262 tokens,
    EOS 262, PAD 263.
    """
    monkeypatch.setattr(gpt2_bpe, "MERGES", len(MERGES))
    monkeypatch.setenv("RLHF_DATA_DIR", str(folder))
    write(folder / "gpt2-bpe")
    return folder / "gpt2-bpe"


def write(folder: Path, names=("encoder.json", "vocab.bpe")) -> None:
    """The vocabulary and the merges, under OpenAI's names or transformers'."""
    folder.mkdir(parents=True, exist_ok=True)
    characters = byte_characters()
    pairs = [["".join(characters[byte] for byte in part) for part in pair] for pair in MERGES]
    tokens = [*characters.values(), *("".join(pair) for pair in pairs), EOS]
    (folder / names[0]).write_text(
        json.dumps({token: id_ for id_, token in enumerate(tokens)}), encoding="utf-8"
    )
    lines = "#version: 0.2\n" + "".join(" ".join(pair) + "\n" for pair in pairs)
    (folder / names[1]).write_text(lines, encoding="utf-8")
