"""Which tokenizer a run uses: the embedded world's, GPT-2's, or one made from the run's rows."""

import os
from pathlib import Path

from helpers.rows.embedded import load_tokenizer
from helpers.rows.gpt2_bpe import load_gpt2_tokenizer
from helpers.rows.load import load_track
from helpers.tokenizer import Tokenizer, train_tokenizer

TEXTS = 4000  # rows of each kind that a run's vocabulary is made from


def choose_tokenizer(
    track: str, source: str, vocabulary: int, path: Path, data_dir: Path | None = None
) -> Tokenizer:
    """The tokenizer of a run on a track.

    source: "embedded", "local" or "hub". vocabulary: tokens of a tokenizer for real rows, which is
    trained once on their training split and saved at `path`; 0 takes GPT-2's. data_dir: the folder
    with rows of source local. Raises what `load_track` and `load_gpt2_tokenizer` raise.
    """
    if source == "embedded":
        return load_tokenizer(track)
    if vocabulary == 0:
        return load_gpt2_tokenizer(data_dir)
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(path.name + ".partial")
        train_tokenizer(training_texts(track, source, data_dir), vocabulary, partial)
        os.replace(partial, path)
    return Tokenizer(path)


def base_tokenizer(init: str, data_dir: Path | None = None) -> Tokenizer:
    """The tokenizer of weights from elsewhere: that of a course checkpoint, or GPT-2's."""
    folder = Path(init).expanduser()
    if (folder / "stage.json").is_file():
        return Tokenizer(folder / "tokenizer.json")
    return load_gpt2_tokenizer(data_dir)


def training_texts(track: str, source: str, data_dir: Path | None) -> list[str]:
    """Documents and demonstrations, as the stages will read them."""
    where = {"source": source, "limit": TEXTS, "data_dir": data_dir}
    documents, _ = load_track(track, "documents", "train", **where)
    demonstrations, _ = load_track(track, "demonstrations", "train", **where)
    return [row.text for row in documents] + [row.prompt + row.completion for row in demonstrations]
