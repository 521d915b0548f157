"""Sentences of film reviews with a label (the rows of stanfordnlp/sst2): the first words of a
sentence are the prompt, the rest is the completion.
"""

from collections import Counter
from collections.abc import Sequence

from helpers.records import Comparison, Demonstration, Labelled, Prompt
from helpers.rows.common import Limits, Unusable, comparison, completion, digest, field

TEMPLATE = "{request}"
LEAST, MOST = 2, 7  # words of a prompt
WORDS = MOST + 2  # words of the shortest usable sentence: something must be left to complete


def key(row: dict) -> str:
    """The whole sentence."""
    return field(row, "sentence")


def parts(row: dict, limits: Limits) -> tuple[str, str]:
    """The first 2 to 7 words of a sentence, as many as its hash says, and the rest."""
    sentence = key(row)
    words = sentence.split()
    if len(words) < WORDS:
        raise Unusable("sentence too short")
    first = LEAST + digest(sentence) % (MOST - LEAST + 1)
    beginning = TEMPLATE.format(request=" ".join(words[:first]))
    rest = completion(" ".join(words[first:]))
    limits.check(beginning, rest)
    return beginning, rest


def demonstration(row: dict, limits: Limits) -> Demonstration:
    """The beginning of a sentence and the rest of it."""
    return Demonstration(*parts(row, limits))


def prompt(row: dict, limits: Limits) -> Prompt:
    """The beginning of a sentence."""
    return Prompt(parts(row, limits)[0])


def labelled(row: dict, limits: Limits) -> Labelled:
    """A sentence with its label, for a reward model that learns from one text at a time."""
    label = row.get("label")
    if label is None:
        raise Unusable("no label")
    if type(label) not in (int, str) or str(label).strip() not in ("0", "1"):
        raise Unusable("label is not 0 or 1")
    return Labelled(*parts(row, limits), int(label))


def pairs(sentences: Sequence[Labelled], limits: Limits) -> tuple[list[Comparison], Counter]:
    """Pairs of a positive completion (chosen) and a negative one, and the reasons for the rest.

    Both share the prompt of one of them, of the positive one in half of the pairs, so how well a
    completion fits its prompt does not reveal the choice. The order of the sentences plays no part.
    """
    ordered = sorted(
        sentences, key=lambda item: (digest(item.prompt + item.completion), item.label)
    )
    good, bad = ([item for item in ordered if item.label == label] for label in (1, 0))
    comparisons, left_out = [], Counter()
    for positive, negative in zip(good, bad):
        owner = (negative, positive)[digest(positive.completion + negative.completion) % 2]
        texts = owner.prompt, positive.completion, negative.completion
        try:
            comparisons.append(comparison(*texts, limits))
        except Unusable as reason:
            left_out[str(reason)] += 2
    if len(good) != len(bad):
        left_out["no partner with the other label"] = abs(len(good) - len(bad))
    return comparisons, left_out
