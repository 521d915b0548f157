"""Which tokenizer a run uses: the embedded world's, GPT-2's, or one made from the run's rows."""

import os
from pathlib import Path

from helpers.engine.files import write_text
from helpers.records import fingerprint
from helpers.rows.embedded import load_tokenizer
from helpers.rows.gpt2_bpe import load_gpt2_tokenizer
from helpers.rows.load import load_track
from helpers.rows.tracks import SourceError
from helpers.tokenizer import Tokenizer, train_tokenizer

TEXTS = 4000  # rows of each kind that a run's vocabulary is made from


def choose_tokenizer(
    track: str, source: str, vocabulary: int, path: Path, data_dir: Path | None = None
) -> Tokenizer:
    """The tokenizer of a run on a track.

    source: "embedded", "local" or "hub". vocabulary: tokens of a tokenizer for real rows, which is
    trained once on their training split and saved at `path`; 0 takes GPT-2's. data_dir: the folder
    with rows of source local. Raises SourceError when the one at `path` was made from other rows,
    and what `load_track` and `load_gpt2_tokenizer` raise.
    """
    if source == "embedded":
        return load_tokenizer(track)
    if vocabulary == 0:
        return load_gpt2_tokenizer(data_dir)
    note = path.with_name("tokenizer-rows.txt")  # the fingerprint of the rows that it is made from
    if not path.is_file():
        texts = training_texts(track, source, data_dir)
        partial = path.with_name(path.name + ".partial")
        write_text(note, fingerprint(texts))
        train_tokenizer(texts, vocabulary, partial)
        os.replace(partial, path)
    elif note.is_file():
        check_rows(path, note.read_text(encoding="utf-8"), (track, source, data_dir))
    return read_tokenizer(path)


def read_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer in a tokenizer.json. Raises FileNotFoundError, or ValueError when it is damaged
    or not of this course's kind.
    """
    try:
        return Tokenizer(path)
    except FileNotFoundError:
        raise
    except Exception as error:  # of JSON, of its contents, or of tiktoken
        kind = type(error).__name__
        raise ValueError(f"{path} is damaged or no tokenizer of this course ({kind})") from None


def check_rows(path: Path, theirs: str, where: tuple) -> None:
    """Raise SourceError when a tokenizer was made from other rows than there are now. Where there
    are none, nothing is checked.
    """
    try:
        ours = fingerprint(training_texts(*where))
    except SourceError:
        return
    if theirs != ours:
        raise SourceError(
            f"{path} was made from other rows ({theirs[:12]}) than there are now ({ours[:12]}): "
            "delete that folder to start over, or choose another run folder (RLHF_OUT)"
        )


def base_tokenizer(init: str, data_dir: Path | None = None) -> Tokenizer:
    """The tokenizer of weights from elsewhere: that of a course checkpoint, or GPT-2's."""
    folder = Path(init).expanduser()
    if (folder / "stage.json").is_file():
        return read_tokenizer(folder / "tokenizer.json")
    return load_gpt2_tokenizer(data_dir)


def training_texts(track: str, source: str, data_dir: Path | None) -> list[str]:
    """Documents and demonstrations, as the stages will read them."""
    where = {"source": source, "limit": TEXTS, "data_dir": data_dir}
    documents, _ = load_track(track, "documents", "train", **where)
    demonstrations, _ = load_track(track, "demonstrations", "train", **where)
    return [row.text for row in documents] + [row.prompt + row.completion for row in demonstrations]
