"""What the tracks share: text fields, completions, limits in tokens, the split by hash.

A row is a dict with the columns that its data set has on the Hub. The functions of this folder turn
it into a record or raise Unusable with the reason, so that unusable rows can be counted.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field as attribute
from hashlib import sha256
from typing import Any

from helpers.records import Comparison, Demonstration, Document, Prompt
from helpers.tokenizer import EOS

SPLIT_OF_TENTH = {0: "heldout", 1: "reserve"}  # the other eight tenths of all prompts: "train"


class Unusable(Exception):
    """A row that makes no record. The message is the reason, the same for all such rows.

    place: where it was found ("train.csv, line 7"), known for a row that can't even be read.
    """

    def __init__(self, reason: str, place: str = ""):
        super().__init__(reason)
        self.place = place


@dataclass
class Report:
    """What became of the rows that were read: read = used + elsewhere + left_out.total(). str() is
    one line.
    """

    what: str  # "tldr demonstrations/train"
    place: str  # "local: openai_summarize_tldr/train.jsonl": what a model card should name
    records: int = 0
    cut: int = 0  # records whose prompt was shortened to fit
    left_out: Counter = attribute(default_factory=Counter)  # reason: rows
    read: int = 0  # rows; reading ends when there are as many records as were asked for
    used: int = 0  # rows in the records: two make a pair of `sentiment`
    elsewhere: int = 0  # rows of the track's other splits
    first: str = ""  # where the first row is that can't even be read

    def leave_out(self, reason: Unusable, rows: int = 1) -> None:
        """Count rows that make no record."""
        self.left_out[str(reason)] += rows
        self.first = self.first or reason.place

    def __str__(self) -> str:
        parts = [f"{self.what} ({self.place}): {self.records:,} records"]
        if self.read > self.records:
            parts[0] += f" of {self.read:,} rows"
        if self.cut:
            parts.append(f"{self.cut:,} prompts cut to fit")
        if self.elsewhere:
            parts.append(f"{self.elsewhere:,} rows of other splits")
        if self.left_out:
            reasons = ", ".join(f"{reason}: {n:,}" for reason, n in self.left_out.most_common())
            parts.append(f"{self.left_out.total():,} rows left out ({reasons})")
        if self.first:
            parts.append(f"the first that can't be read is {self.first}")
        return "; ".join(parts)


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
    rows: Iterable[dict | Unusable], make: Callable[[dict], Any], report: Report
) -> Iterator[Any]:
    """make(row) of each row; the report counts the rows, and those that raise Unusable by their
    reason.
    """
    for row in rows:
        report.read += 1
        try:
            if isinstance(row, Unusable):
                raise row
            record = make(row)
        except Unusable as reason:
            report.leave_out(reason)
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
