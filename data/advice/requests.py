"""The grammar of requests. Every text has exactly one sequence of choices behind it."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

from data.advice.kinds import KINDS, Kind
from data.advice.vocabulary import ITEMS, NUMBERS, TWINS, VALUES
from data.draws import Draws, draw_until

FRAMES = ("I am {name}. {ask}", "Hello, {name} here. {ask}", "{ask} Thank you, {name}.")


@dataclass(frozen=True)
class Facts:
    """What a request is about: kind, who asks, how many things, and the three slots of its kind."""

    kind: str
    name: str
    number: str  # in words
    who: str = ""
    hobby: str = ""
    event: str = ""
    food: str = ""
    city: str = ""
    day: str = ""

    @property
    def form(self) -> Kind:
        """The texts of its kind."""
        return KINDS[self.kind]

    @property
    def values(self) -> dict[str, str]:
        """slot -> key word, of the facts that an answer should name."""
        return {slot: getattr(self, slot) for slot in self.form.slots}

    @property
    def count(self) -> int:
        """How many things are asked for."""
        return NUMBERS[self.number]

    @property
    def things(self) -> tuple[str, ...]:
        """What an answer may list."""
        return ITEMS[self.kind]

    def in_a_row(self, first: str, count: int) -> tuple[str, ...]:
        """So many things, from this one on. After the last comes the first again."""
        start = self.things.index(first)
        return (self.things * 2)[start : start + count]

    def row(self) -> dict[str, str]:
        """The facts as a row holds them, without the slots of other kinds; `Facts(**row)` reads
        them.
        """
        return {field: value for field, value in vars(self).items() if value}

    def fill(self, template: str, **more: str) -> str:
        """The template with its {slots} filled in."""
        return template.format(**{**vars(self), **more})

    def confusable(self) -> tuple[str, ...]:
        """The slots whose value writers mix up with its twin."""
        return tuple(slot for slot, value in self.values.items() if value in TWINS)

    def misread(self, slots: Sequence[str]) -> "Facts":
        """A copy with the twins of these slots' values."""
        return replace(self, **{slot: TWINS[getattr(self, slot)] for slot in slots})

    def held_out(self) -> bool:
        """True for the tenth of all (kind, three facts) that no training text is about."""
        about = " ".join((self.kind, *(getattr(self, slot) for slot in self.form.slots[1:])))
        return hashlib.sha256(about.encode()).digest()[0] % 10 == 0


@dataclass(frozen=True)
class Request:
    """A request with what is behind it. The tracks write their templates around `text`."""

    facts: Facts
    text: str
    logprob: float  # nats


def draw_facts(draws: Draws) -> Facts:
    """Facts with independent uniform slots."""
    kind = draws.pick(tuple(KINDS))
    values = {slot: draws.pick(VALUES[slot]) for slot in KINDS[kind].slots}
    return Facts(kind=kind, number=draws.pick(tuple(NUMBERS)), **values)


def draw_request(draws: Draws, facts: Facts) -> Request:
    """A request about the facts."""
    ask = facts.fill(draws.pick(facts.form.asks))
    text = facts.fill(draws.pick(FRAMES), ask=ask)
    return Request(facts, text, draws.logprob)


def draw_split_request(name: str, held_out: bool) -> tuple[Draws, Request]:
    """The request called `name`, from the held-out facts or from the training facts, and the draws
    to go on with.
    """
    draws, facts = draw_until(
        f"advice/{name}", draw_facts, lambda facts: facts.held_out() == held_out
    )
    return draws, draw_request(draws, facts)


def listed(items: Sequence[str]) -> str:
    """The items as an enumeration: "soup, stew and curry"."""
    return " and ".join(filter(None, (", ".join(items[:-1]), items[-1])))
