"""What the tracks share: text fields, completions, limits in tokens, the split by hash.

A row is a dict with the columns that its data set has on the Hub. The functions of this folder make
a record of it, or raise Unusable with the reason, so that whoever reads the rows can count what was
left out.
"""

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256

from helpers.records import Comparison, Document
from helpers.tokenizer import EOS

TENTHS = {
    "heldout": (0,),
    "reserve": (1,),
}  # which tenth of all prompts a split is; "train" is the rest


class Unusable(Exception):
    """A row that makes no record; the message is the reason, worded alike for all rows that share
    it.
    """


@dataclass(frozen=True)
class Limits:
    """How many tokens fit: `encode` turns a text into ids; without it everything fits."""

    encode: Callable[[str], list[int]] | None = None
    prompt: int = 512  # tokens of a prompt
    context: int = 1024  # tokens of prompt, completion and end of text

    def holds(self, prompt: str) -> bool:
        """Whether a prompt alone is short enough."""
        return self.encode is None or len(self.encode(prompt)) <= self.prompt

    def check(self, prompt: str, *completions: str) -> None:
        """Raises Unusable when the prompt, or the prompt with one of the completions, is too
        long.
        """
        if self.encode is None:
            return
        length = len(self.encode(prompt))
        if length > self.prompt:
            raise Unusable("prompt too long")
        if any(length + len(self.encode(text)) + 1 > self.context for text in completions):
            raise Unusable("too long for the context")


def digest(text: str) -> int:
    """A number below 2**64 that depends on the text alone: the same on every machine and in every
    order of rows.
    """
    return int.from_bytes(sha256(text.encode()).digest()[:8], "big")


def mark(key: str) -> int:
    """A number that stands for a prompt, whatever its white space and capitals."""
    return digest(" ".join(key.split()).casefold())


def split_of(key: str) -> str:
    """ "train", "reserve" or "heldout": a tenth each for the last two. White space and capitals
    make no difference.
    """
    tenth = mark(key) % 10
    return next((name for name, tenths in TENTHS.items() if tenth in tenths), "train")


def field(row: dict, name: str, may_be_empty: bool = False) -> str:
    """The text in a column, without white space around it, as Unicode that can be written: half a
    character becomes �.

    Raises Unusable if it is missing, no text, or empty.
    """
    value = row.get(name)
    if value is None:
        raise Unusable(f"no {name}")
    if not isinstance(value, str):
        raise Unusable(f"{name} is no text")
    value = value.encode("utf-16", "surrogatepass").decode("utf-16", "replace").strip()
    if not value and not may_be_empty:
        raise Unusable(f"empty {name}")
    return value


def completion(text: str) -> str:
    """A completion as the model writes it: one leading space, none behind; the encoder adds the end
    of text.
    """
    text = text.strip().removesuffix(EOS).strip()
    if not text:
        raise Unusable("empty completion")
    return " " + text


def comparison(prompt: str, chosen: str, rejected: str, limits: Limits) -> Comparison:
    """A comparison of two completions. Raises Unusable when they are the same text, or too long."""
    if chosen == rejected:
        raise Unusable("chosen equals rejected")
    limits.check(prompt, chosen, rejected)
    return Comparison(prompt, chosen, rejected)


def document(row: dict, limits: Limits) -> Document:
    """A text to pretrain on. It may be longer than the context."""
    return Document(field(row, "text"))


def document_key(row: dict) -> str:
    """What the split of a document depends on."""
    return field(row, "text")
