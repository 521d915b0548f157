"""What the tracks share: text fields, completions, limits in tokens, the split by hash.

A row is a dict with the columns that its data set has on the Hub. The functions of this folder turn
it into a record or raise Unusable with the reason, so that unusable rows can be counted.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from helpers.records import Comparison, Demonstration, Document, Prompt
from helpers.tokenizer import EOS

SPLIT_OF_TENTH = {0: "heldout", 1: "reserve"}  # the other eight tenths of all prompts: "train"


class Unusable(Exception):
    """A row that makes no record. The message is the reason, the same for all such rows."""


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
        """Raise Unusable when the prompt is too long, alone or with one of the completions."""
        if self.encode is None:
            return
        length = len(self.encode(prompt))
        if length > self.prompt:
            raise Unusable("prompt too long")
        if any(length + len(self.encode(text)) + 1 > self.context for text in completions):
            raise Unusable("too long for the context")


def usable(
    rows: Iterable[dict | Unusable], make: Callable[[dict], Any], left_out: Counter
) -> Iterator[Any]:
    """make(row) of each row; the rows that raise Unusable are counted by their reason."""
    for row in rows:
        try:
            if isinstance(row, Unusable):
                raise row
            record = make(row)
        except Unusable as reason:
            left_out[str(reason)] += 1
        else:
            yield record


# ---------------------------------------------------------------- splits


def digest(text: str) -> int:
    """A number below 2**64 that depends on the text alone, on every machine."""
    return int.from_bytes(sha256(text.encode()).digest()[:8], "big")


def prompt_hash(key: str) -> int:
    """The digest of a prompt; white space and capitals make no difference."""
    return digest(" ".join(key.split()).casefold())


def split_of(key: str) -> str:
    """The split of a prompt by its hash: "train", "reserve" or "heldout"."""
    return SPLIT_OF_TENTH.get(prompt_hash(key) % 10, "train")


# ---------------------------------------------------------------- parts of a row


def field(row: dict, name: str, may_be_empty: bool = False) -> str:
    """The text in a column, stripped, as valid Unicode: half a surrogate pair becomes �. Raises
    Unusable if it is missing, no text, or empty.
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
    """A completion as the model writes it: one leading space, none behind, no end of text."""
    text = text.strip().removesuffix(EOS).strip()
    if not text:
        raise Unusable("empty completion")
    return " " + text


# ---------------------------------------------------------------- records; each raises Unusable


def prompt(text: str, limits: Limits) -> Prompt:
    """A prompt that leaves room for a response."""
    limits.check(text)
    return Prompt(text)


def demonstration(text: str, answer: str, limits: Limits) -> Demonstration:
    """A prompt and its completion, which fit the context together."""
    limits.check(text, answer)
    return Demonstration(text, answer)


def comparison(text: str, chosen: str, rejected: str, limits: Limits) -> Comparison:
    """A prompt and two different completions, each of which fits the context with it."""
    if chosen == rejected:
        raise Unusable("chosen equals rejected")
    limits.check(text, chosen, rejected)
    return Comparison(text, chosen, rejected)


def document_key(row: dict) -> str:
    """The text that decides on a document's split."""
    return field(row, "text")


def document(row: dict, limits: Limits) -> Document:
    """A text to pretrain on. It may be longer than the context."""
    return Document(document_key(row))
