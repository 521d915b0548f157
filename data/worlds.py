"""The embedded worlds by name: how each one judges a completion by the facts behind its prompt."""

from collections.abc import Callable
from typing import Protocol

from data.advice import gold as advice
from data.sentiment import gold as sentiment
from data.tldr import gold as tldr


class Judged(Protocol):
    """What every world says of a completion; each world's own class says more."""

    reward: float  # the gold reward

    @property
    def flaws(self) -> dict[str, bool]:
        """Each flaw, and whether the completion has it."""


JUDGES: dict[str, tuple[type, Callable, float]] = {  # the last: the highest gold reward of any
    "tldr": (tldr.Facts, tldr.gold, tldr.HIGHEST),
    "sentiment": (sentiment.Facts, sentiment.gold, sentiment.HIGHEST),
    "advice": (advice.Facts, advice.gold, advice.HIGHEST),
}


def gold(world: str, facts: dict, text: str) -> Judged:
    """The gold reward of a text in a world. Raises ValueError for a world that does not exist."""
    if world not in JUDGES:
        raise ValueError(f"no world {world!r}: choose from {', '.join(JUDGES)}")
    kind, judge, _ = JUDGES[world]
    return judge(kind(**facts), text)


def highest_gold(world: str) -> float:
    """The highest gold reward that any text in a world can have."""
    return JUDGES[world][2]
