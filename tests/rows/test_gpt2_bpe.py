"""GPT-2's tokenizer from local files: the right ids, a PAD of its own, and one clear line for each
way to fail.
"""

import hashlib
import os
import shutil
import time
from pathlib import Path

import pytest
import tiktoken
import tiktoken.load
from transformers import AutoTokenizer

from helpers.rows import gpt2_bpe
from helpers.rows.gpt2_bpe import load_gpt2_tokenizer
from helpers.tokenizer import EOS, PAD, Tokenizer
from tests.support.gpt2_files import small_gpt2, write

REAL = Path(os.environ.get("RLHF_DATA_DIR", "")) / "gpt2-bpe"


@pytest.fixture
def small(tmp_path, monkeypatch) -> Path:
    """A folder in tmp_path with a tokenizer of six merges, which for a test is GPT-2's."""
    return small_gpt2(tmp_path, monkeypatch)


def test_each_kind_of_file_gives_the_same_tokenizer(small, tmp_path):
    ours = load_gpt2_tokenizer(tmp_path)
    assert (ours.eos_id, ours.pad_id, ours.vocab_size, ours.name) == (262, 263, 264, "gpt2")
    assert ours.pieces("them thé") == ["the", "m", " t", "h", "é"]
    write(tmp_path / "hf/gpt2", ("vocab.json", "merges.txt"))
    assert load_gpt2_tokenizer(tmp_path / "hf").fingerprint == ours.fingerprint
    small.rename(tmp_path / "gpt2")
    assert load_gpt2_tokenizer(tmp_path).fingerprint == ours.fingerprint


def test_saved_it_is_read_again_here_and_by_transformers(small, tmp_path):
    ours, folder = load_gpt2_tokenizer(tmp_path), tmp_path / "saved"
    ours.save(folder)
    again, theirs = Tokenizer(folder / "tokenizer.json"), AutoTokenizer.from_pretrained(folder)
    assert again.fingerprint == ours.fingerprint and len(theirs) == ours.vocab_size
    assert (theirs.eos_token_id, theirs.pad_token_id) == (ours.eos_id, ours.pad_id)
    for text in ("them the\n\n  café 🙂", f"a{EOS} {PAD}", "", "don't"):
        assert theirs(text)["input_ids"] == ours.encode(text) == again.encode(text)
        assert ours.decode(ours.encode(text)) == text


@pytest.mark.parametrize(
    "name, content",
    [
        ("encoder.json", b'{"a": 0'),
        ("encoder.json", b'["a"]'),
        ("vocab.bpe", b"#version: 0.2\nh e\n"),
        ("vocab.bpe", b"\xff\xfe h"),
        ("vocab.bpe", b"h e x\n"),
    ],
)
def test_damaged_files_are_one_line(small, tmp_path, name, content):
    (small / name).write_bytes(content)
    line = "tokenizer files in gpt2-bpe/ are not GPT-2's or damaged"
    with pytest.raises(ValueError, match=line) as error:
        load_gpt2_tokenizer(tmp_path)
    assert "\n" not in str(error.value)


def test_another_tokenizer_is_not_gpt2s(tmp_path):
    write(tmp_path / "gpt2")
    with pytest.raises(ValueError, match="GPT-2 has 50,000 merges, here are 6"):
        load_gpt2_tokenizer(tmp_path)


def test_without_files_and_network_the_error_comes_soon(tmp_path, monkeypatch):
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    started = time.perf_counter()
    advice = r"Put vocab\.bpe and encoder\.json into gpt2-bpe/.*RLHF_DATA_DIR"
    with pytest.raises(ConnectionError, match=advice):
        load_gpt2_tokenizer(tmp_path)
    assert time.perf_counter() - started < 10


def test_tiktokens_copy_is_taken_without_asking_the_network(small, tmp_path, monkeypatch):
    expected = load_gpt2_tokenizer(tmp_path)
    for name in ("encoder.json", "vocab.bpe"):
        cached = hashlib.sha1((gpt2_bpe.SITE + name).encode()).hexdigest()
        shutil.move(small / name, tmp_path / cached)
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    assert load_gpt2_tokenizer(tmp_path).fingerprint == expected.fingerprint


@pytest.mark.skipif(not (REAL / "vocab.bpe").is_file(), reason="no gpt2-bpe/ in RLHF_DATA_DIR")
def test_the_real_files_give_gpt2(tmp_path):
    ours = load_gpt2_tokenizer(REAL.parent)
    assert (ours.eos_id, ours.pad_id, ours.vocab_size) == (50256, 50257, 50258)
    assert ours.encode("Hello world") == [15496, 995] and ours.decode([50256]) == EOS
    assert ours.fingerprint.startswith("ec6239bd667c"), "checkpoints and shards name it"
    files = [str(REAL / name) for name in ("vocab.bpe", "encoder.json")]
    theirs = tiktoken.load.data_gym_to_mergeable_bpe_ranks(*files)
    assert theirs == ours.encoding._mergeable_ranks
    ours.save(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    for text in ("TL;DR: it's 2 a.m.\n\n  naïve 🙂👩‍👩‍👧", "日本語 नमस्ते", EOS, " " * 9 + "x\t\n"):
        assert loaded(text)["input_ids"] == ours.encode(text)
        assert ours.decode(ours.encode(text)) == text
