"""Random choices whose probability is kept: the engine under the embedded worlds.

A *program* is a function that takes a source of choices and returns a text. Run it with `Draws` and
it returns a random text while `logprob` adds up to the exact log-probability of the choices made.
Run it with `enumerate_program` and it returns every text that it can write, each with its
probability.
"""

import math
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any


class Draws:
    """Makes random choices and adds up their log-probability (natural logarithm, `logprob`)."""

    def __init__(self, seed: int | str):
        self.random = random.Random(seed)
        self.logprob = 0.0

    def _index(self, probabilities: Sequence[float] | None, n: int) -> int:
        # only random() is promised to give the same numbers in every Python version
        u = self.random.random()
        if probabilities is None:
            return min(int(u * n), n - 1)
        for index, p in enumerate(probabilities):
            u -= p
            if u < 0:
                return index
        return n - 1

    def pick(self, options: Sequence[Any], probabilities: Sequence[float] | None = None) -> Any:
        """One of `options`, uniformly or with the given `probabilities` (they sum to 1)."""
        index = self._index(probabilities, len(options))
        self.logprob += math.log(probabilities[index]) if probabilities else -math.log(len(options))
        return options[index]

    def flip(self, p: float) -> bool:
        """True with probability `p`."""
        return self.pick((True, False), (p, 1.0 - p))

    def shuffle(self, items: Sequence[Any]) -> list[Any]:
        """The items in a uniformly random order."""
        rest, order = list(items), []
        while rest:
            order.append(rest.pop(self.pick(range(len(rest)))))
        return order

    def sample(self, items: Sequence[Any], k: int) -> list[Any]:
        """`k` different items in random order."""
        rest = list(items)
        return [rest.pop(self.pick(range(len(rest)))) for _ in range(k)]


def draw_until(
    name: str, draw: Callable[[Draws], Any], fits: Callable[[Any], bool]
) -> tuple[Draws, Any]:
    """The first outcome of `draw` that fits, and the draws to go on with. Each try has a stream of
    its own.

    The log-probability is under the whole program: which outcomes are held out is a hash that
    nobody can learn.
    """
    attempt = 0
    while True:
        draws = Draws(f"{name}/{attempt}")
        outcome = draw(draws)
        if fits(outcome):
            return draws, outcome
        attempt += 1


class _Script(Draws):
    """Replays a list of choices, then takes the first option at each new choice and remembers the
    others.
    """

    def __init__(self, script: list[int]):
        super().__init__(0)
        self.script, self.widths = script, []

    def _index(self, probabilities: Sequence[float] | None, n: int) -> int:
        step = len(self.widths)
        self.widths.append(n)
        if step == len(self.script):
            self.script.append(0)
        return self.script[step]


def enumerate_program(program: Callable[[Draws], Any]) -> Iterator[tuple[Any, float]]:
    """Every outcome of `program` with its probability, one item per sequence of choices (a
    derivation).
    """
    script: list[int] = []
    while True:
        draws = _Script(script)
        outcome = program(draws)
        yield outcome, math.exp(draws.logprob)
        while script and script[-1] + 1 == draws.widths[len(script) - 1]:
            script.pop()
        if not script:
            return
        script[-1] += 1
