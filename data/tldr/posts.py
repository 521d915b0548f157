"""The grammar of posts and of the threads under them. Every text has exactly one sequence of
choices behind it.
"""

import hashlib
import re
from dataclasses import dataclass, replace

from data.draws import Draws, draw_until
from data.tldr.vocabulary import AGE, EXCUSE, FEELING, OPTION, SMALL_TALK, TRIED, VALUES, WHO

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
# A sentence about the author's cousin names a false value of a fact, and has nothing to do with the
# problem. Those about the two options differ, so that a reader can tell which of the two a hasty
# writer takes it for.
MENTIONS = {
    "who": ("My cousin met a nice {who}.", "My cousin has a funny {who}."),
    "deed": (
        "My cousin had a dream about {deed} a giant statue.",
        "My cousin wrote a song about {deed} a giant statue.",
    ),
    "thing": ("My cousin got a new {thing}.", "My cousin saw a beautiful {thing}."),
    "since": ("My cousin looks forward to {since}.", "My cousin likes nothing more than {since}."),
    "place": ("My cousin comes from {place}.", "My cousin dreams of {place}."),
    "tried": ("My cousin once {tried}.", "My cousin recently {tried}."),
    "option": ("My cousin's first wish is to {option}.", "My cousin first had to {option}."),
    "other": ("My cousin's second wish is to {other}.", "My cousin then had to {other}."),
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

    def misread(self, mention: "Mention") -> "Facts":
        """A copy in which what is mentioned in passing takes the place of a fact."""
        return replace(self, **{mention.field: mention.value})


@dataclass(frozen=True)
class Mention:
    """A false value of a fact that a post names in passing."""

    field: str  # of `Facts`
    value: str  # a key word
    sentence: str


@dataclass(frozen=True)
class Post:
    """A post as a prompt, with what is behind it. A summary should leave out `small_talk`, and not
    take the `mention` for a fact.
    """

    facts: Facts
    prompt: str  # ends with "TL;DR:"
    small_talk: tuple[str, ...]
    mention: Mention
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


def mention_of(facts: Facts, field: str, value: str, template: str) -> Mention:
    """The mention of a false value in these words."""
    named = Mention(field, value, "")
    return replace(named, sentence=facts.misread(named).fill(template))


def draw_mention(draws: Draws, facts: Facts) -> Mention:
    """One of the eight facts, and another value of it than the post's."""
    field = draws.pick(tuple(MENTIONS))
    slot = slot_of(field)
    value = draws.pick([value for value in VALUES[slot] if value not in facts.values(slot)])
    return mention_of(facts, field, value, draws.pick(MENTIONS[field]))


def find_mention(facts: Facts, prompt: str) -> Mention:
    """What a post about these facts mentions in passing, read from its text."""
    words = set(re.findall(r"[A-Za-z]+", prompt))
    for field, templates in MENTIONS.items():
        for value in words.intersection(VALUES[slot_of(field)]):
            for template in templates:
                mention = mention_of(facts, field, value, template)
                if mention.sentence in prompt:
                    return mention
    raise ValueError("this post mentions nothing in passing")


def draw_post(draws: Draws, facts: Facts) -> Post:
    """A post about the facts: title, problem, the rest in random order, the two options."""
    (subject, _), subreddits = WHO[facts.who]
    small_talk = draw_small_talk(draws)
    mention = draw_mention(draws, facts)
    history = [facts.fill(draws.pick(templates)) for templates in HISTORY.values()]
    middle = [*history, *small_talk, mention.sentence]
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
    return Post(facts, prompt, tuple(small_talk), mention, draws.logprob)


def draw_split_post(name: str, held_out: bool) -> tuple[Draws, Post]:
    """The post called `name`, from the held-out facts or from the training facts, and the draws to
    go on with.
    """
    draws, facts = draw_until(name, draw_facts, lambda facts: facts.held_out() == held_out)
    return draws, draw_post(draws, facts)
