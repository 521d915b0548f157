"""Which tokenizer a run uses: the embedded world's, GPT-2's, or one that is made from the run's own
rows.
"""

import os
from pathlib import Path

from helpers.rows.embedded import load_tokenizer
from helpers.rows.gpt2_bpe import load_gpt2_tokenizer
from helpers.rows.load import load_track
from helpers.tokenizer import Tokenizer, train_tokenizer

TEXTS = 4000  # rows of each kind that an own vocabulary is made from


def choose_tokenizer(track: str, source: str, vocabulary: int, path: Path) -> Tokenizer:
    """The tokenizer of a run on a track.

    source: "embedded", "local" or "hub". vocabulary: tokens of an own tokenizer for real rows,
    which is trained once on their training split and kept at `path`; 0 takes GPT-2's. Raises what
    `load_track` and `load_gpt2_tokenizer` raise.
    """
    if source == "embedded":
        return load_tokenizer(track)
    if vocabulary == 0:
        return load_gpt2_tokenizer()
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(path.name + ".partial")
        train_tokenizer(training_texts(track, source), vocabulary, partial)
        os.replace(partial, path)
    return Tokenizer(path)


def training_texts(track: str, source: str) -> list[str]:
    """Documents and demonstrations, as the stages will read them."""
    documents, _ = load_track(track, "documents", "train", source, limit=TEXTS)
    demonstrations, _ = load_track(track, "demonstrations", "train", source, limit=TEXTS)
    return [row.text for row in documents] + [row.prompt + row.completion for row in demonstrations]
