"""Annotators who choose between two completions by their gold rewards, with noise."""

import math
from collections.abc import Sequence

from data.draws import Draws


def preference(gold_a: float, gold_b: float) -> float:
    """The probability that an annotator prefers completion a to b: Bradley-Terry over the gold
    rewards.
    """
    return 1.0 / (1.0 + math.exp(gold_b - gold_a))


def compare(draws: Draws, texts: tuple[str, str], golds: Sequence[float]) -> tuple[str, str, float]:
    """The chosen and the rejected one of two completions, and how likely annotators are to agree (4
    digits).
    """
    a, b = texts
    p = preference(*golds)
    chosen, rejected, p = (a, b, p) if draws.flip(p) else (b, a, 1 - p)
    return chosen, rejected, round(p, 4)
