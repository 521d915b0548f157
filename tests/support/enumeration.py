"""What the tests of every world share: all texts of a small grammar, how often they are drawn,
whether their English is clean.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable

import pytest

from data.draws import Draws, enumerate_program


def exact_texts(program) -> dict[str, float]:
    """Every text of a program with its probability; fails unless each has one derivation and they
    sum to 1.
    """
    found: dict[str, float] = {}
    for text, p in enumerate_program(program):
        assert text not in found, f"two derivations of {text!r}"
        found[text] = p
    assert math.fsum(found.values()) == pytest.approx(1.0, abs=1e-9)
    return found


def likeliest(texts: dict[str, float]) -> str:
    """The text at temperature 0: where texts part, it goes on with the word that most of the
    probability goes on with.
    """
    rest, text = {f"{text}\n": p for text, p in texts.items()}, ""
    while not text.endswith("\n"):
        following: Counter = Counter()
        for candidate, p in rest.items():
            following[re.match(r" ?\w+|\W", candidate[len(text) :])[0]] += p
        text += following.most_common(1)[0][0]
        rest = {candidate: p for candidate, p in rest.items() if candidate.startswith(text)}
    return text.removesuffix("\n")


def check_frequencies(program, found: dict[str, float], samples: int) -> None:
    """Drawn texts come as often as their exact probability says (chi-square), and carry it as their
    logprob.
    """
    seen: Counter = Counter()
    for seed in range(samples):
        draws = Draws(seed)
        text = program(draws)
        assert math.exp(draws.logprob) == pytest.approx(found[text])
        seen[text] += 1
    often = {text: p * samples for text, p in found.items() if p * samples >= 5}
    expected = [*often.values(), samples - sum(often.values())]
    counts = [*(seen[text] for text in often), samples - sum(seen[text] for text in often)]
    cells = [(count, e) for count, e in zip(counts, expected) if e >= 5]
    assert len(cells) > 5
    chi2, df = sum((count - e) ** 2 / e for count, e in cells), len(cells)
    assert chi2 < df + 4 * math.sqrt(2 * df)


def articles_that_do_not_fit(texts: Iterable[str]) -> list[str]:
    """`a` before a vowel's sound and `an` before a consonant's, with the noun."""
    a_before_a_vowel = r"a (?:[aeio]\w*|u(?!ni|s[eu])\w*|hour\w*|honest\w*)"
    an_before_a_consonant = r"an (?:(?!hour|honest|[aeiou])\w+|uni\w*|us[eu]\w*)"
    slip = re.compile(rf"(?i)\b(?:{a_before_a_vowel}|{an_before_a_consonant})")
    return [found for text in texts for found in slip.findall(text)]


def words_in(value) -> set[str]:
    """All words of texts in nested dicts, tuples and lists, without the {slots} of templates."""
    if isinstance(value, str):
        return set(re.findall(r"[A-Za-z]+", re.sub(r"\{\w*\}", " ", value)))
    if isinstance(value, dict):
        value = [*value.values()]
    items = value if isinstance(value, (list, tuple)) else []
    return {word for item in items for word in words_in(item)}
