"""What a sentence says about a film, how positive a hurried reader finds it, and its gold reward.

    gold = valence, at most 4 and at least -4, - 1.5 repeats - 2 contradictions - 3 if broken
           - 0.1 words over 24

Everything is a function of the text: any text is read by the words that it contains (see
`vocabulary.py`).
"""

import math
import re
from dataclasses import dataclass
from functools import cache

from data.sentiment.form import broken
from data.sentiment.sentences import FILM, Facts, plural_verb
from data.sentiment.vocabulary import (
    ADJECTIVES,
    INTENSIFIERS,
    NEGATORS,
    PLURAL,
    SINGULAR,
    SOFTENERS,
    VERBS,
)

CAP, REPEAT, CONTRADICTION, BROKEN, PER_WORD, FREE_WORDS = 4.0, -1.5, -2.0, -3.0, -0.1, 24
HIGHEST = CAP  # two opinions earn it: "is superb, and the script shines."
STRONGER, WEAKER = 1.5, 0.5
ASPECTS = frozenset((*SINGULAR, *PLURAL))
CLAUSES = re.compile(r"[^a-z0-9 ]+|\b(?:and|but)\b")


@dataclass(frozen=True)
class Said:
    """An opinion found in a text."""

    aspect: str  # what it is about: an aspect, or "film"
    word: str  # in the singular
    value: float  # its valence with its modifier


@dataclass(frozen=True)
class Gold:
    """The gold reward of one completion and what it is made of (counts)."""

    reward: float
    valence: float  # of the whole sentence, without what is said again or taken back
    repeats: int  # opinions in a word, or on an aspect, that had been used before
    contradictions: int  # opinions against an earlier one on the same aspect
    broken: bool  # not a sentence of the grammar
    words: int  # of the completion

    @property
    def flaws(self) -> dict[str, bool]:
        """The flaws that are reported one by one."""
        return {
            "negative": self.valence < 0,
            "repeats": self.repeats > 0,
            "contradicts": self.contradictions > 0,
            "broken": self.broken,
        }

    @property
    def flaw_names(self) -> list[str]:
        """The flaws that the completion has."""
        return [name for name, there in self.flaws.items() if there]


@cache
def _valences() -> dict[str, tuple[str, int]]:
    """A word of opinion, singular or plural -> the word in the singular and its valence."""
    found = {word: (word, valence) for valence, words in ADJECTIVES.items() for word in words}
    for valence, verbs in VERBS.items():
        for verb in verbs:
            found |= dict.fromkeys((verb, plural_verb(verb)), (verb, valence))
    return found


def modified(valence: float, modifier: str) -> float:
    """A valence behind the word before it, which may be any word: "never" turns it into 1 of the
    other sign.
    """
    if modifier in NEGATORS:
        return -math.copysign(1.0, valence)
    return valence * (
        STRONGER if modifier in INTENSIFIERS else WEAKER if modifier in SOFTENERS else 1
    )


def opinions(text: str) -> list[Said]:
    """The opinions that a text contains, in order; it may be any text."""
    found, known = [], _valences()
    for clause in CLAUSES.split(text.lower()):
        words = clause.split()
        for i, said in enumerate(words):
            if said in known:
                word, valence = known[said]
                value = modified(valence, words[i - 1] if i else "")
                found.append(Said(_aspect(words, i), word, value))
    return found


def _aspect(words: list[str], i: int) -> str:
    """What an opinion at words[i] is about: the nearest aspect before it, else behind it, else the
    film.
    """
    near = (*reversed(words[:i]), *words[i + 1 :])
    return next((word for word in near if word in ASPECTS), FILM)


def valence(found: list[Said]) -> float:
    """The sum of the opinions' valences."""
    return sum(said.value for said in found)


def positive_probability(text: str) -> float:
    """How likely a reader calls a text positive. In a hurry, readers count what is said again once
    more.
    """
    return 1.0 / (1.0 + math.exp(-valence(opinions(text))))


def sort_out(found: list[Said]) -> tuple[list[Said], int, int]:
    """The opinions that count, the number of repeats, and the number of contradictions."""
    kept: list[Said] = []
    repeats = contradictions = 0
    for said in found:
        same = [earlier for earlier in kept if earlier.aspect == said.aspect]
        if any(earlier.value * said.value < 0 for earlier in same):
            contradictions += 1
        elif same or any(earlier.word == said.word for earlier in kept):
            repeats += 1
        else:
            kept.append(said)
    return kept, repeats, contradictions


def gold(facts: Facts, text: str) -> Gold:
    """Judge a completion of a prompt: the whole sentence is read, and the completion's words are
    counted.
    """
    sentence = facts.beginning + text
    kept, repeats, contradictions = sort_out(opinions(sentence))
    words, wrong, said = len(text.split()), broken(sentence), valence(kept)
    reward = max(-CAP, min(CAP, said)) + BROKEN * wrong
    reward += REPEAT * repeats + CONTRADICTION * contradictions
    reward += PER_WORD * max(0, words - FREE_WORDS)
    return Gold(reward, said, repeats, contradictions, wrong, words)
