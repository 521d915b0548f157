"""What a row becomes, whatever file or data set it came from, and the fingerprint of many."""

import hashlib
from dataclasses import dataclass


@dataclass(frozen=True)
class Document:
    """A pretraining text; `logprob` is its exact log-probability in nats where the world that wrote
    it is known.
    """

    text: str
    logprob: float | None = None


@dataclass(frozen=True)
class Demonstration:
    """A prompt and the completion that a writer gave; `logprob` is the completion's, given the
    prompt, in nats.
    """

    prompt: str
    completion: str
    writer: str = ""
    logprob: float | None = None


@dataclass(frozen=True)
class Labelled:
    """A prompt, its completion, and what the whole text is labelled as: 1 is positive, 0 is
    negative.

    `probability` is how likely readers are to agree with the label.
    """

    prompt: str
    completion: str
    label: int
    probability: float | None = None


@dataclass(frozen=True)
class Comparison:
    """Two completions of a prompt; `probability` is how likely annotators are to agree with the
    label.
    """

    prompt: str
    chosen: str
    rejected: str
    kind: str = ""
    probability: float | None = None


@dataclass(frozen=True)
class Prompt:
    """A prompt to continue, with the facts behind it and the world that judges by them, for the
    gold reward.
    """

    prompt: str
    facts: dict | None = None
    world: str = "tldr"


RECORDS = {
    "documents": Document,
    "demonstrations": Demonstration,
    "labels": Labelled,
    "comparisons": Comparison,
    "prompts": Prompt,
}


def fingerprint(records: list) -> str:
    """sha256 of the records that a stage was trained on."""
    digest = hashlib.sha256()
    for record in records:
        digest.update(repr(record).encode())
    return digest.hexdigest()
