"""Which tokenizer a run takes, and that an own one is made once."""

import json

from helpers.rows.embedded import load_tokenizer
from helpers.rows.vocabulary import choose_tokenizer
from helpers.run.settings import data_folder, read_settings

SENTENCES = [
    f"the film is {word} and the cast is {other}"
    for word in ("fine", "dull", "warm")
    for other in "abcdefg"
]


def make_folder(folder):
    (folder / "sst2").mkdir(parents=True)
    rows = [{"sentence": sentence, "label": 1} for sentence in SENTENCES]
    (folder / "sst2" / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "fineweb-edu").mkdir()
    (folder / "fineweb-edu" / "train.jsonl").write_text(
        "\n".join(json.dumps({"text": text}) for text in SENTENCES)
    )


def test_an_embedded_world_brings_its_own(tmp_path):
    for track in ("tldr", "sentiment"):
        found = choose_tokenizer(track, "embedded", 4096, tmp_path / "tokenizer.json")
        assert found.fingerprint == load_tokenizer(track).fingerprint
    assert not list(tmp_path.iterdir())


def test_real_rows_get_a_vocabulary_that_is_made_once(tmp_path, monkeypatch):
    make_folder(tmp_path / "rows")
    monkeypatch.setenv("RLHF_DATA_DIR", str(tmp_path / "rows"))
    path = tmp_path / "run" / "tokenizer.json"
    made = choose_tokenizer("sentiment", "local", 300, path, data_folder(read_settings()))
    assert len(made.encode(" film")) == 1 and made.decode(made.encode("é film")) == "é film"
    stamp = path.stat().st_mtime_ns
    (tmp_path / "rows" / "sst2" / "train.jsonl").unlink()  # no longer needed
    again = choose_tokenizer("sentiment", "local", 300, path, data_folder(read_settings()))
    assert again.fingerprint == made.fingerprint and path.stat().st_mtime_ns == stamp
    assert [file.name for file in path.parent.iterdir()] == ["tokenizer.json"]
