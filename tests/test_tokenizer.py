"""The small byte-level BPE: tiktoken and transformers encode alike, and every text comes back."""

import json
import random

import pytest

from helpers.rows.embedded import load_rows, load_tokenizer
from helpers.tokenizer import (
    BLOCK,
    EOS,
    PAD,
    PATTERN,
    Tokenizer,
    byte_characters,
    short_runs,
    train_tokenizer,
)

NASTY = [
    "",
    "a",
    " ",
    "\n",
    "🙂",
    "👩‍👩‍👧 🇩🇪 e\u0301",
    "日本語 中文 한국어",
    "ﷺ नमस्ते",
    "a\r\nb\r\n\r\n",
    "\0\0a\0",
    " " * 500 + "x" + " " * 300,
    "\t\t \n \n x  ",
    "my  sister   said",  # the last blank belongs to the word
    "\x0b\x0c\x1c\x1f\x85\xa0\u1680\u180e\u2028\u3000\ufeff\u200b x",
    "don't I'LL we've 's 'S ſ's",
    "½ ² Ⅷ ٣ 1234567890 3.14",
    "ａｂｃ \U000323b0 \U0001e4d0",
    "�",
    "\ufffe\uffff",
    EOS,
    PAD,
    f"x{PAD}y {EOS} {EOS}{EOS} <|endoftext|",
    "TL;DR:",
    "r/advice\n\nTITLE: ...!?--",
]


@pytest.fixture(scope="module")
def ours() -> Tokenizer:
    return load_tokenizer()


@pytest.fixture(scope="module")
def theirs(ours, tmp_path_factory):
    from transformers import AutoTokenizer

    folder = tmp_path_factory.mktemp("tokenizer")
    ours.save(folder)
    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def world_texts() -> list[str]:
    texts = [row.text for row in load_rows("documents", "heldout", limit=200)]
    for row in load_rows("comparisons", "heldout", limit=200):
        texts += [row.prompt, row.chosen, row.rejected]
    return texts


def test_both_encode_the_world_alike(ours, theirs, world_texts):
    for text in world_texts:
        ids = ours.encode(text)
        assert theirs(text)["input_ids"] == ids
        assert ours.decode(ids) == theirs.decode(ids) == text


@pytest.mark.parametrize("text", NASTY, ids=range(len(NASTY)))
def test_both_encode_nasty_texts_alike(ours, theirs, text):
    ids = ours.encode(text)
    assert theirs(text)["input_ids"] == ids
    assert ours.decode(ids) == theirs.decode(ids) == text
    assert ours.eos_id not in ids and ours.pad_id not in ids  # even where they are spelled out


def test_both_encode_random_characters_alike(ours, theirs):
    generator = random.Random(0)
    blocks = (0x80, 0x800, 0x3100, 0xD800, 0x20000)
    for _ in range(1000):
        text = "".join(chr(generator.randrange(generator.choice(blocks))) for _ in range(12))
        # halves of characters are no text
        text = "".join(c for c in text if not 0xD800 <= ord(c) < 0xE000)
        ids = ours.encode(text)
        assert theirs(text)["input_ids"] == ids, ascii(text)
        assert ours.decode(ids) == text, ascii(text)


def test_half_a_character_does_not_stop_the_encoder(ours):
    assert ours.decode(ours.encode("a\ud83d b")) == "a� b"


def test_special_tokens_are_two_ids_of_their_own(ours, theirs):
    assert ours.eos_id != ours.pad_id
    assert (theirs.eos_token_id, theirs.pad_token_id) == (ours.eos_id, ours.pad_id)
    assert ours.decode([ours.eos_id, ours.pad_id]) == EOS + PAD
    ids = [ours.eos_id, *ours.encode("hi"), ours.pad_id]
    assert theirs.decode(ids, skip_special_tokens=True) == "hi"
    assert ours.vocab_size == len(theirs) == ours.encoding.n_vocab


def test_ids_are_dense_and_those_of_the_file(ours):
    vocabulary = json.loads(ours.path.read_text(encoding="utf-8"))["model"]["vocab"]
    assert sorted(vocabulary.values()) == list(range(ours.vocab_size))
    assert all(ours.decode([id_]) is not None for id_ in vocabulary.values())


def test_words_of_the_world_are_few_tokens(ours, world_texts):
    tokens = sum(len(ours.encode(text)) for text in world_texts)
    words = sum(len(text.split()) for text in world_texts)
    assert tokens < 1.6 * words  # word-like, as a small model needs it


def test_pieces_are_the_text_cut_into_tokens(ours):
    text = " My sister keeps hiding my piano."
    assert "".join(ours.pieces(text)) == text and len(ours.pieces(text)) == len(ours.encode(text))


def test_byte_characters_are_a_bijection_as_in_gpt2():
    characters = byte_characters()
    assert sorted(characters) == list(range(256)) and len(set(characters.values())) == 256
    assert (characters[ord("A")], characters[ord(" ")], characters[ord("\n")]) == ("A", "Ġ", "Ċ")


def test_saved_and_read_again_it_is_the_same(ours, tmp_path):
    ours.save(tmp_path / "new" / "folder")
    again = Tokenizer(tmp_path / "new" / "folder" / "tokenizer.json")
    assert again.fingerprint == ours.fingerprint and again.name == "folder"
    assert again.encode("My sister, again") == ours.encode("My sister, again")


def test_training_is_deterministic_and_merges_what_is_frequent(tmp_path):
    texts = ["the cat sat on the mat"] * 50 + ["a zebra"]
    train_tokenizer(texts, 270, tmp_path / "a.json")
    train_tokenizer(texts, 270, tmp_path / "b.json")
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    tokenizer = Tokenizer(tmp_path / "a.json")
    assert tokenizer.vocab_size == 270 and (tokenizer.eos_id, tokenizer.pad_id) == (0, 1)
    assert tokenizer.pieces("the zebra")[0] == "the" and len(tokenizer.encode(" zebra")) == 6


# The last four have letters that Python 3.11 does not know, and the tokenizers do.
RUNS = [" ", "\xa0", " \n\t", "a", "中文", "1", "1²", "-", ".\x1c", "_", "e\u0301", "🙂"]
RUNS += ["a\U000323af", "1\U000323af", "\U000323af", "中\U0001e4d0\U000323af"]


@pytest.mark.parametrize("run", RUNS, ids=ascii)
def test_no_run_is_longer_than_two_blocks(ours, run):
    """tiktoken crashes on a million blanks; training is quadratic in the length of any run."""
    from tokenizers import Regex, pre_tokenizers

    regex = pytest.importorskip("regex")
    split = pre_tokenizers.Split(Regex(PATTERN), behavior="isolated")
    for before in ("", "x ", "x" * 700 + " "):
        text = before + run * (50_000 // len(run)) + " y"
        parts = list(short_runs(text))
        assert "".join(parts) == text
        for part in parts:
            words = [word for word, _ in split.pre_tokenize_str(part)]
            assert max(map(len, regex.findall(PATTERN, part) + words)) <= 2 * BLOCK
        assert ours.decode(ours.encode(text)) == text


def test_ordinary_texts_are_not_cut(world_texts):
    long = "\n\n".join(world_texts)
    texts = [
        long,
        long.replace(" ", " " * 400),
        "-" * 999 + "\n" + "é" * 999,
        "| - " * 9_000,
        "中\U000323af，" * 900,
    ]
    assert [list(short_runs(text)) for text in texts] == [[text] for text in texts]


def test_a_million_blanks_are_encoded_and_trained_on(ours, tmp_path):
    text = "a" + " " * 1_200_000 + "b"
    ids = ours.encode(text)
    assert ours.decode(ids) == text and "".join(ours.pieces("a" + " " * 2_500)) == "a" + " " * 2_500
    train_tokenizer([text], 270, tmp_path / "tokenizer.json")
    trained = Tokenizer(tmp_path / "tokenizer.json")
    assert trained.decode(trained.encode(text)) == text


def test_a_missing_tokenizer_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"tokenizer\.json.*make data"):
        Tokenizer(tmp_path / "tokenizer.json")
