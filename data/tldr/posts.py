"""The grammar of posts and of the threads under them. Every text has exactly one sequence of
choices behind it.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

from data.draws import Draws, draw_until
from data.tldr.vocabulary import AGE, EXCUSE, FEELING, OPTION, SMALL_TALK, TRIED, TWINS, VALUES, WHO

TITLES = (
    "My {who} keeps {deed} my {thing}",
    "My {who} is always {deed} my {thing} in {place}",
    "My {who} keeps {deed} my {thing} since {since}",
    "My {who} keeps {deed} my {thing}, so I {tried}",
    "Problem with my {who} in {place}",
    "Trouble with my {thing} since {since}",
    "Problem in {place} since {since}: my {who} and my {thing}",
    "Should I {option} or {other}?",
)
PROBLEMS = (
    "My {who} keeps {deed} my {thing}.",
    "My {who} will not stop {deed} my {thing}.",
    "I have a problem: my {who} is always {deed} my {thing}.",
)
HISTORY = {
    "since": ("This has been going on since {since}.", "It has been like this since {since}."),
    "place": ("All of this happens in {place}.", "We live in {place}."),
    "tried": ("I already {tried}, but nothing changed.", "Last week I {tried}."),
}
MOODS = ("I am {age} and I feel {feeling}.", "At {age}, I feel {feeling} about it.")
CHOICES = (
    "Now I could {option} or {other}.",
    "I do not know whether to {option} or {other}.",
    "Should I {option}, or should I {other}?",
)
THANKS = ("", " Thanks for reading.", " Please help.", " Any advice is welcome.")
ONE_SENTENCE = 0.7  # of the posts have one sentence of small talk, the others two


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
    """A post as a prompt, with what is behind it. `small_talk` are the sentences that a summary
    should leave out.
    """

    facts: Facts
    prompt: str  # ends with "TL;DR:"
    small_talk: tuple[str, ...]
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


def draw_small_talk(draws: Draws) -> list[str]:
    """One or two sentences of different kinds that have nothing to do with the problem."""
    sentences = []
    for kind in (
        sorted(draws.sample(tuple(SMALL_TALK), 1))
        if draws.flip(ONE_SENTENCE)
        else _two_kinds(draws)
    ):
        words, templates = SMALL_TALK[kind]
        sentences.append(draws.pick(templates).format(draws.pick(words)))
    return sentences


def _two_kinds(draws: Draws) -> tuple[str, str]:
    # an unordered pair, so that the later shuffle is the only source of order
    kinds = tuple(SMALL_TALK)
    return draws.pick([(a, b) for i, a in enumerate(kinds) for b in kinds[i + 1 :]])


def slot_of(field: str) -> str:
    """The slot of a field of `Facts`: both options have the same values."""
    return "option" if field == "other" else field


def draw_post(draws: Draws, facts: Facts) -> Post:
    """A post about the facts: title, problem, the rest in random order, the two options."""
    (subject, _), subreddits = WHO[facts.who]
    small_talk = draw_small_talk(draws)
    history = [facts.fill(draws.pick(templates)) for templates in HISTORY.values()]
    middle = [*history, *small_talk]
    if draws.flip(0.3):
        middle.append(draws.pick(MOODS).format(age=draws.pick(AGE), feeling=draws.pick(FEELING)))
    if draws.flip(0.3):
        middle.append(draws.pick(EXCUSE).format(subject.capitalize()))
    problem = facts.fill(draws.pick(PROBLEMS))
    order = draws.shuffle(middle)
    choice = facts.fill(draws.pick(CHOICES))
    header = f"SUBREDDIT: r/{draws.pick(subreddits)}\n\nTITLE: {facts.fill(draws.pick(TITLES))}"
    sentences = " ".join([problem, *order, choice])
    prompt = f"{header}\n\nPOST: {sentences}{draws.pick(THANKS)}\n\nTL;DR:"
    return Post(facts, prompt, tuple(small_talk), draws.logprob)


def draw_split_post(name: str, held_out: bool) -> tuple[Draws, Post]:
    """The post called `name`, from the held-out facts or from the training facts, and the draws to
    go on with.
    """
    draws, facts = draw_until(name, draw_facts, lambda facts: facts.held_out() == held_out)
    return draws, draw_post(draws, facts)
