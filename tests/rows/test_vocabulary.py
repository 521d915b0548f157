"""Which tokenizer a run takes, and that one of real rows is made once."""

import json

import pytest

from helpers.rows.embedded import load_tokenizer
from helpers.rows.tracks import SourceError
from helpers.rows.vocabulary import base_tokenizer, choose_tokenizer
from tests.support.folder_of_rows import write

SENTENCES = [
    f"the film is {word} and the cast is {other}"
    for word in ("fine", "dull", "warm")
    for other in "abcdefg"
]


def test_an_embedded_world_brings_its_own(tmp_path):
    for track in ("tldr", "sentiment"):
        tokenizer = choose_tokenizer(track, "embedded", 4096, tmp_path / "tokenizer.json")
        assert tokenizer.fingerprint == load_tokenizer(track).fingerprint
    assert not list(tmp_path.iterdir())


def test_real_rows_get_a_vocabulary_that_is_made_once(tmp_path):
    rows, path = tmp_path / "rows", tmp_path / "run" / "tokenizer.json"
    write(rows / "sst2/train.jsonl", [{"sentence": text, "label": 1} for text in SENTENCES])
    write(rows / "fineweb-edu/train.jsonl", [{"text": text} for text in SENTENCES])
    made = choose_tokenizer("sentiment", "local", 300, path, rows)
    assert len(made.encode(" film")) == 1 and made.decode(made.encode("é film")) == "é film"
    stamp = path.stat().st_mtime_ns
    choose_tokenizer("sentiment", "local", 300, path, rows)
    others = [{"sentence": text.upper(), "label": 1} for text in SENTENCES]  # as many
    write(rows / "sst2/train.jsonl", others)
    with pytest.raises(SourceError, match=r"other rows \(\w{12}\) than there are now \(\w{12}\): "):
        choose_tokenizer("sentiment", "local", 300, path, rows)
    (rows / "sst2/train.jsonl").unlink()  # no longer needed
    again = choose_tokenizer("sentiment", "local", 300, path, rows)
    assert again.fingerprint == made.fingerprint and path.stat().st_mtime_ns == stamp
    assert {file.name for file in path.parent.iterdir()} == {"tokenizer.json", "tokenizer-rows.txt"}


def test_a_file_that_is_no_tokenizer_is_one_line(tmp_path):
    path = tmp_path / "tokenizer.json"
    bad = ("", "{", "[]", "{}", '{"model": {"vocab": []}}', '{"model": {"vocab": {"a": 1}}}')
    letters = {"<|endoftext|>": 0, "<|pad|>": 1, "\U0001f600": 2}  # no printable form of a byte
    for content in (*bad, json.dumps({"model": {"vocab": letters}})):
        path.write_text(content)
        with pytest.raises(ValueError, match="damaged or no tokenizer of this course") as error:
            choose_tokenizer("sentiment", "local", 300, path, tmp_path)
        assert "\n" not in str(error.value)
    (tmp_path / "stage.json").write_text("{}")
    with pytest.raises(ValueError, match="damaged or no tokenizer of this course"):
        base_tokenizer(str(tmp_path))
