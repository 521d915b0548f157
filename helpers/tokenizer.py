"""Byte-level BPE, encoded by tiktoken from a tokenizer.json that transformers can load too."""

import hashlib
import json
import re
import unicodedata
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import tiktoken

EOS, PAD = "<|endoftext|>", "<|pad|>"
# GPT-2's splitting pattern: contractions; words, numbers and punctuation, each with its leading
# space; white space.
PATTERN = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""
BLOCK = 1000  # characters
# Only white space, only letters and numbers, or only others (as above, also \x1c to \x1f).
ALIKE = re.compile(r"\s+|[^\W_]+|(?:[^\w\s]|[_\x1c-\x1f])+")
NO_BLANK = re.compile(r"\S+")


def byte_characters() -> dict[int, str]:
    """The printable character for each byte in a tokenizer.json: GPT-2's `bytes_to_unicode`."""
    printable = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    characters = {byte: chr(byte) for byte in printable}
    # All other bytes get the characters from 256 on, in order.
    others = (byte for byte in range(256) if byte not in characters)
    return characters | {byte: chr(256 + shift) for shift, byte in enumerate(others)}


def short_runs(text: str) -> Iterator[str]:
    """A text in parts, in which no word and no run of blanks is longer than 2 * BLOCK characters.

    A million blanks in a row crash tiktoken, and training takes time quadratic in a run's length.
    A text is cut only inside a run that fills a whole block, so ordinary text stays in one part.
    Takes time linear in the text's length.
    """
    start = 0
    for block in range(0, len(text) - BLOCK + 1, BLOCK):
        if is_run(text[block : block + BLOCK]):
            cut = block + BLOCK // 2
            yield text[start:cut]
            start = cut
    yield text[start:]


def is_run(block: str) -> bool:
    """Whether a block may be part of one run. Characters that Python does not know yet may be of
    any kind: the tokenizers know newer ones.
    """
    if not block.isprintable() and NO_BLANK.fullmatch(block) and not ALIKE.fullmatch(block):
        block = "".join(c for c in block if unicodedata.category(c) != "Cn")
    return bool(ALIKE.fullmatch(block))


class Tokenizer:
    """A byte-level BPE tokenizer, read from a tokenizer.json.

    Token ids are those of the tokenizer.json. In ours EOS is 0 and PAD is 1 (never the same token),
    followed by the bytes and the merges. In GPT-2's the bytes and merges come first, EOS is 50256,
    and PAD, which GPT-2 itself lacks, is 50257.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        if not self.path.is_file():
            raise FileNotFoundError(
                f"No tokenizer at {self.path}: `make data` writes the one of a track."
            )
        self._read(self.path.read_bytes(), self.path.parent.name)

    @classmethod
    def from_json(cls, content: bytes, name: str) -> "Tokenizer":
        """A tokenizer from the content of a tokenizer.json; its `path` is None."""
        tokenizer = cls.__new__(cls)
        tokenizer.path = None
        tokenizer._read(content, name)
        return tokenizer

    def _read(self, content: bytes, name: str) -> None:
        self._json, self.name = content, name
        self.vocabulary = json.loads(content)["model"]["vocab"]  # {token in printable form: id}
        self.eos_id, self.pad_id = self.vocabulary[EOS], self.vocabulary[PAD]
        byte_of = {character: byte for byte, character in byte_characters().items()}
        # tiktoken wants byte strings, and merges the pair with the lowest id first.
        ranks = {
            bytes(byte_of[character] for character in token): id_
            for token, id_ in self.vocabulary.items()
            if token not in (EOS, PAD)
        }
        self.encoding = tiktoken.Encoding(
            self.name,
            pat_str=PATTERN,
            mergeable_ranks=ranks,
            special_tokens={EOS: self.eos_id, PAD: self.pad_id},
        )
        self.vocab_size = self.encoding.n_vocab

    def encode(self, text: str) -> list[int]:
        """Token ids of a text; special tokens in the text are encoded as ordinary characters."""
        encode = self.encoding.encode_ordinary
        return [id_ for part in short_runs(text) for id_ in encode(part)]

    def decode(self, ids: list[int]) -> str:
        """The text of token ids."""
        return self.encoding.decode(list(ids))

    def pieces(self, text: str) -> list[str]:
        """The text of each token of a text."""
        return [self.encoding.decode([id_]) for id_ in self.encode(text)]

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the tokenizer.json."""
        return hashlib.sha256(self._json).hexdigest()

    def save(self, folder: str | Path) -> None:
        """Write tokenizer.json and tokenizer_config.json, for `AutoTokenizer.from_pretrained`."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "tokenizer.json").write_bytes(self._json)
        config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": EOS,
            "bos_token": EOS,
            "pad_token": PAD,
            "clean_up_tokenization_spaces": False,
            # As in `encode`: a text that contains "<|endoftext|>" does not end there.
            "split_special_tokens": True,
        }
        (folder / "tokenizer_config.json").write_text(
            json.dumps(config, indent=2), encoding="utf-8", newline="\n"
        )


def train_tokenizer(texts: list[str], vocab_size: int, path: str | Path) -> None:
    """Train a byte-level BPE on texts (Hugging Face tokenizers) and write its tokenizer.json."""
    from tokenizers import Regex, Tokenizer as Trainable, decoders, models, pre_tokenizers, trainers

    trainable = Trainable(models.BPE())
    split = pre_tokenizers.Split(Regex(PATTERN), behavior="isolated")
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    trainable.pre_tokenizer = pre_tokenizers.Sequence([split, to_bytes])
    trainable.decoder = decoders.ByteLevel()
    alphabet = sorted(byte_characters().values())
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[EOS, PAD],
        initial_alphabet=alphabet,
        show_progress=False,
    )
    trainable.train_from_iterator((part for text in texts for part in short_runs(text)), trainer)
    Path(path).write_text(trainable.to_str(pretty=True), encoding="utf-8", newline="\n")
