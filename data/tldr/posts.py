"""The grammar of posts and of the threads under them. Every text has exactly one sequence of
choices behind it.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

from data.draws import Draws, draw_until
from data.tldr.vocabulary import OPTION, SMALL_TALK, TRIED, TWINS, VALUES, WHO

TITLES = (
    "My {who} keeps {deed} my {thing}",
    "Problem with my {who} in {place}",
    "Trouble with my {thing} since {since}",
    "My {who} and my {thing}",
    "Should I {option} or {other}?",
)
PROBLEMS = (
    "My {who} keeps {deed} my {thing}.",
    "My {who} will not stop {deed} my {thing}.",
    "My {who} is always {deed} my {thing}.",
)
HISTORY = {
    "since": ("It has been so since {since}.", "This began around {since}."),
    "place": ("It happens in {place}.", "We live in {place}."),
    "tried": ("I already {tried}.", "Last week I {tried}."),
}
CHOICES = (
    "Now I could {option} or {other}.",
    "Should I {option}, or {other}?",
    "I might {option}, or {other}.",
)


@dataclass(frozen=True)
class Facts:
    """What a post is about: one value a slot, the two options in the order in which the post names
    them.
    """

    who: str
    deed: str
    thing: str
    since: str
    place: str
    tried: str
    option: str
    other: str

    def fill(self, template: str) -> str:
        """The template with its {slots} filled in; tried and options as phrases."""
        phrases = {
            "tried": TRIED[self.tried],
            "option": OPTION[self.option],
            "other": OPTION[self.other],
        }
        return template.format(**{**vars(self), **phrases})

    def values(self, slot: str) -> set[str]:
        """The key words that are true of a slot."""
        return {self.option, self.other} if slot == "option" else {getattr(self, slot)}

    def held_out(self) -> bool:
        """True for the tenth of all (who, deed, thing) triples that no training text is about."""
        return hashlib.sha256(f"{self.who} {self.deed} {self.thing}".encode()).digest()[0] % 10 == 0

    def confusable(self) -> tuple[str, ...]:
        """The fields whose value writers mix up with its twin. Not an option whose twin is the
        other one.
        """
        values = set(vars(self).values())
        return tuple(
            name for name, value in vars(self).items() if TWINS.get(value, value) not in values
        )

    def misread(self, fields: Sequence[str]) -> "Facts":
        """A copy with the twins of these fields' values."""
        return replace(self, **{name: TWINS[getattr(self, name)] for name in fields})


@dataclass(frozen=True)
class Post:
    """A post as a prompt, with what is behind it. `small_talk` is what a summary leaves out."""

    facts: Facts
    prompt: str  # ends with "TL;DR:"
    small_talk: str
    logprob: float  # of everything before "TL;DR:", in nats

    @property
    def body(self) -> str:
        """The post without the request for a summary."""
        return self.prompt.removesuffix("TL;DR:").rstrip("\n")


def draw_facts(draws: Draws) -> Facts:
    """Facts with independent uniform slots; the two options differ."""
    single = {
        slot: draws.pick(VALUES[slot])
        for slot in ("who", "deed", "thing", "since", "place", "tried")
    }
    option, other = draws.sample(VALUES["option"], 2)
    return Facts(**single, option=option, other=other)


def draw_small_talk(draws: Draws) -> str:
    """A sentence that has nothing to do with the problem."""
    words, templates = draws.pick(tuple(SMALL_TALK.values()))
    return draws.pick(templates).format(draws.pick(words))


def slot_of(field: str) -> str:
    """The slot of a field of `Facts`: both options have the same values."""
    return "option" if field == "other" else field


def draw_post(draws: Draws, facts: Facts) -> Post:
    """A post about the facts: title, problem, the rest in random order, the two options."""
    small_talk = draw_small_talk(draws)
    history = [facts.fill(draws.pick(templates)) for templates in HISTORY.values()]
    problem = facts.fill(draws.pick(PROBLEMS))
    middle = draws.shuffle([*history, small_talk])
    choice = facts.fill(draws.pick(CHOICES))
    header = f"SUBREDDIT: r/{draws.pick(WHO[facts.who])}\n\nTITLE: {facts.fill(draws.pick(TITLES))}"
    prompt = f"{header}\n\nPOST: {' '.join([problem, *middle, choice])}\n\nTL;DR:"
    return Post(facts, prompt, small_talk, draws.logprob)


def draw_split_post(name: str, held_out: bool) -> tuple[Draws, Post]:
    """The post called `name`, from the held-out facts or from the training facts, and the draws to
    go on with.
    """
    draws, facts = draw_until(name, draw_facts, lambda facts: facts.held_out() == held_out)
    return draws, draw_post(draws, facts)
