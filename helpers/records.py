"""Record types that every data source is parsed into, and the fingerprint of a list of them."""

import hashlib
from dataclasses import dataclass


@dataclass(frozen=True)
class Document:
    """A pretraining text.

    `logprob` is its exact log-probability in nats, known only for texts of a generated world.
    """

    text: str
    logprob: float | None = None


@dataclass(frozen=True)
class Demonstration:
    """A prompt and the completion that a writer wrote for it.

    `logprob` is log P(completion | prompt) in nats. It and the flaws of the completion are known
    only in a generated world.
    """

    prompt: str
    completion: str
    logprob: float | None = None
    flaws: list[str] | None = None


@dataclass(frozen=True)
class Labelled:
    """A prompt, its completion, and the label of the complete text: 1 positive, 0 negative.

    `probability` is the probability that a reader agrees with the label.
    """

    prompt: str
    completion: str
    label: int
    probability: float | None = None


@dataclass(frozen=True)
class Comparison:
    """Two completions of a prompt, of which annotators preferred `chosen`.

    `probability` is the probability that an annotator agrees with this label.
    """

    prompt: str
    chosen: str
    rejected: str
    kind: str = ""
    probability: float | None = None


@dataclass(frozen=True)
class Prompt:
    """A prompt to continue; `facts` and `world` are what the gold reward is computed from.

    `facts` is None where they are unknown, as on real rows.
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
    """SHA-256 of a list of records, such as those a stage was trained on."""
    digest = hashlib.sha256()
    for record in records:
        digest.update(repr(record).encode())
    return digest.hexdigest()
