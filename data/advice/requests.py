"""The grammar of requests. Every text has exactly one sequence of choices behind it."""

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from data.advice.kinds import KINDS
from data.advice.vocabulary import FORMS, ITEMS, NUMBERS, VALUES
from data.draws import Draws, draw_until

FRAMES = (
    "Hello, I am {name}. {ask}",
    "Hi, {name} here. {ask}",
    "This is {name}. {ask}",
    "Good morning, I am called {name}. {ask}",
    "{ask} Thank you, {name}.",
    "{ask} Regards, {name}.",
)
CONTEXTS = ("", " I am in a hurry.", " I have no idea.")
FORM_WISHES = {
    "plain": (" In one sentence, please.", " Please write one sentence."),
    "numbered": (" Please number them.", " Write a numbered list."),
}


@dataclass(frozen=True)
class Facts:
    """What a request is about: kind, who asks, how many things, in which form, and the three slots
    of its kind.
    """

    kind: str
    name: str
    number: str  # in words
    form: str  # "plain": one sentence; "numbered": "1. ... 2. ..."
    who: str = ""
    hobby: str = ""
    event: str = ""
    food: str = ""
    day: str = ""
    trait: str = ""
    color: str = ""
    animal: str = ""
    stain: str = ""
    thing: str = ""
    room: str = ""
    city: str = ""
    month: str = ""
    sport: str = ""
    country: str = ""

    @property
    def slots(self) -> tuple[str, ...]:
        """The four slots that an answer should name."""
        return ("name", *KINDS[self.kind].slots)

    @property
    def values(self) -> dict[str, str]:
        """slot -> key word, of the facts that an answer should name."""
        return {slot: getattr(self, slot) for slot in self.slots}

    @property
    def count(self) -> int:
        """How many things are asked for."""
        return NUMBERS[self.number]

    @property
    def items(self) -> tuple[str, ...]:
        """What an answer may list."""
        return ITEMS[self.kind]

    def row(self) -> dict[str, str]:
        """The facts as a row holds them, without the slots of other kinds; `Facts(**row)` reads
        them.
        """
        return {field: value for field, value in vars(self).items() if value}

    def fill(self, template: str, **more: str) -> str:
        """The template with its {slots} filled in."""
        return template.format(**{**vars(self), "noun": KINDS[self.kind].noun, **more})

    def said(self, your: str = "your", without: Collection[str] = ()) -> str:
        """The three facts as they stand behind the noun: " for your uncle at the wedding that go
        with chess".
        """
        parts = KINDS[self.kind].said.items()
        return self.fill(
            "".join(vague if slot in without else named for slot, (named, vague) in parts),
            your=your,
        )

    def wrong(self, slot: str, draws: Draws) -> "Facts":
        """A copy with a false value in this slot."""
        return replace(
            self,
            **{slot: draws.pick([value for value in VALUES[slot] if value != getattr(self, slot)])},
        )

    def held_out(self) -> bool:
        """True for the tenth of all (kind, three facts) that no training text is about."""
        about = " ".join((self.kind, *(getattr(self, slot) for slot in KINDS[self.kind].slots)))
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
    slots = {slot: draws.pick(VALUES[slot]) for slot in ("name", *KINDS[kind].slots)}
    return Facts(kind=kind, number=draws.pick(tuple(NUMBERS)), form=draws.pick(FORMS), **slots)


def draw_request(draws: Draws, facts: Facts) -> Request:
    """A request about the facts."""
    ask = (
        draws.pick(KINDS[facts.kind].asks)
        + draws.pick(CONTEXTS)
        + draws.pick(FORM_WISHES[facts.form])
    )
    text = facts.fill(draws.pick(FRAMES), ask=facts.fill(ask))
    return Request(facts, text, draws.logprob)


def draw_split_request(name: str, held_out: bool) -> tuple[Draws, Request]:
    """The request called `name`, from the held-out facts or from the training facts, and the draws
    to go on with.
    """
    draws, facts = draw_until(
        f"advice/{name}", draw_facts, lambda facts: facts.held_out() == held_out
    )
    return draws, draw_request(draws, facts)


def listed(items: Sequence[str], form: str) -> str:
    """The items in one of the two forms: "a hat, a kite and a vase" or "1. a hat 2. a kite 3. a
    vase".
    """
    if form == "numbered":
        return " ".join(f"{i}. {item}" for i, item in enumerate(items, start=1))
    return " and ".join(filter(None, (", ".join(items[:-1]), items[-1])))
