"""What the tests of every world share: all texts of a small grammar, and how often they are
drawn.
"""

import math
from collections import Counter

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
