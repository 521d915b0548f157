"""What a sentence says about a film, how positive a hurried reader finds it, and its gold reward.

    gold = valence, at most 4 and at least -4, - 1.5 repeats - 2 contradictions - 3 if broken
           - 0.1 words over 24

Everything is a function of the text: any text is read by the phrases that it contains (see
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
    CONCEDERS,
    INTENSIFIERS,
    NEGATORS,
    PLURAL,
    SINGULAR,
    SOFTENERS,
    VERBS,
)

CAP, REPEAT, CONTRADICTION, BROKEN, PER_WORD, FREE_WORDS = 4.0, -1.5, -2.0, -3.0, -0.1, 24
STRONGER, WEAKER, CONCEDED = 1.5, 0.5, 0.5
READER = 1.0  # log-odds of "positive" per unit of valence
ASPECTS = frozenset((*SINGULAR, *PLURAL))
CLAUSES = re.compile(r"[^a-z0-9 ]+|\b(?:and|but)\b")


@dataclass(frozen=True)
class Said:
    """An opinion found in a text."""

    aspect: str  # what it is about: an aspect, or "film"
    phrase: str  # in the singular
    value: float  # its valence with its modifier
    conceded: bool  # in a clause with although, though or despite: it weighs half

    @property
    def weight(self) -> float:
        """What it adds to the valence of the text."""
        return self.value * (CONCEDED if self.conceded else 1.0)


@dataclass(frozen=True)
class Gold:
    """The gold reward of one completion and what it is made of (counts)."""

    reward: float
    valence: float  # of the whole sentence, what is said again not counted again
    repeats: int  # opinions in a phrase, or on an aspect, that had been used before
    # opinions against an earlier one on the same aspect, concessions without a contrast
    contradictions: int
    broken: bool  # not a sentence of the grammar
    words: int  # of the completion

    @property
    def flaws(self) -> dict[str, bool]:
        """The three flaws that are reported one by one."""
        return {
            "repeats": self.repeats > 0,
            "contradicts": self.contradictions > 0,
            "broken": self.broken,
        }


@cache
def _phrases() -> dict[tuple[str, ...], tuple[str, int]]:
    """Words of a phrase, singular or plural -> the phrase in the singular and its valence."""
    found = {(word,): (word, valence) for valence, words in ADJECTIVES.items() for word in words}
    for valence, phrases in VERBS.items():
        for phrase in phrases:
            found |= {
                tuple(form.split()): (phrase, valence) for form in (phrase, plural_verb(phrase))
            }
    return found


@cache
def _longest() -> int:
    """Words of the longest phrase."""
    return max(map(len, _phrases()))


@cache
def _factors() -> dict[str, float]:
    """Modifier -> what it multiplies a valence by; negators are not among them."""
    stronger = {word: STRONGER for words in INTENSIFIERS.values() for word in words}
    return stronger | {word: WEAKER for words in SOFTENERS.values() for word in words}


def modified(valence: float, modifier: str) -> float:
    """A valence behind the word before its phrase, which may be any word: "never" turns it into 1
    of the other sign.
    """
    if any(modifier in words for words in NEGATORS.values()):
        return -math.copysign(1.0, valence)
    return valence * _factors().get(modifier, 1.0)


def opinions(text: str) -> list[Said]:
    """The opinions that a text contains, in order; it may be any text."""
    found = []
    for clause in CLAUSES.split(text.lower()):
        words = clause.split()
        start = 0
        while start < len(words):
            for length in range(_longest(), 0, -1):
                known = _phrases().get(tuple(words[start : start + length]))
                if known:
                    phrase, valence = known
                    value = modified(valence, words[start - 1] if start else "")
                    aspect = _aspect(words, start, start + length)
                    found.append(Said(aspect, phrase, value, words[0] in CONCEDERS))
                    break
            else:
                length = 1
            start += length
    return found


def _aspect(words: list[str], start: int, end: int) -> str:
    """What an opinion at words[start:end] is about: the nearest aspect before it, else behind it,
    else the film.
    """
    near = (*reversed(words[:start]), *words[end:])
    return next((word for word in near if word in ASPECTS), FILM)


def valence(found: list[Said]) -> float:
    """The sum of what opinions weigh."""
    return sum(said.weight for said in found)


def positive_probability(text: str) -> float:
    """How likely a reader calls a text positive. In a hurry, readers count what is said again once
    more.
    """
    return 1.0 / (1.0 + math.exp(-READER * valence(opinions(text))))


def sort_out(found: list[Said]) -> tuple[list[Said], int, int]:
    """The opinions without those said again, the number of repeats, and the number of
    contradictions.
    """
    kept: list[Said] = []
    repeats = contradictions = 0
    for said in found:
        same = [earlier for earlier in kept if earlier.aspect == said.aspect]
        if any(earlier.value * said.value < 0 for earlier in same):
            contradictions += 1
        elif same or any(earlier.phrase == said.phrase for earlier in kept):
            repeats += 1
            continue
        kept.append(said)
    plain = [said.value for said in kept if not said.conceded]
    for said in kept:
        if said.conceded and plain and all(value * said.value > 0 for value in plain):
            contradictions += 1
    return kept, repeats, contradictions


def gold(facts: Facts, text: str) -> Gold:
    """Judge a completion of a prompt: the whole sentence is read, and the completion's words are
    counted.
    """
    sentence = facts.beginning + text
    kept, repeats, contradictions = sort_out(opinions(sentence))
    words, wrong, said = len(text.split()), broken(sentence), valence(kept)
    reward = (
        max(-CAP, min(CAP, said))
        + REPEAT * repeats
        + CONTRADICTION * contradictions
        + BROKEN * wrong
    )
    reward += PER_WORD * max(0, words - FREE_WORDS)
    return Gold(reward, said, repeats, contradictions, wrong, words)
