"""How a review sentence begins, and its clauses: who or what is judged, and the opinion on it."""

import hashlib
from dataclasses import dataclass, field

from data.draws import Draws, draw_until
from data.sentiment.vocabulary import (
    ADJECTIVES,
    INTENSIFIERS,
    NEGATORS,
    PLURAL,
    SINGULAR,
    SOFTENERS,
    VALUES,
    VERBS,
)

FILM = "film"
VERB_SHARE = 0.4  # of the opinions are a verb ("drags"), the others an adjective ("is dull")
MODIFIERS = {"": 0.6, "intensifier": 0.12, "softener": 0.08, "negator": 0.2}
# template -> share. An aspect in it is what the sentence goes on about, else the film is.
BEGINNINGS = {
    "this {nation} {genre}": 0.1,
    "this {nation} {genre} by {director}": 0.2,
    "starring {actor}, this {nation} {genre}": 0.2,
    "shot in {place}, this {nation} {genre}": 0.2,
    "the {aspect} of this {nation} {genre}": 0.3,
}


@dataclass(frozen=True)
class Subject:
    """What a clause is about: an aspect, or the film."""

    aspect: str

    @property
    def plural(self) -> bool:
        """Whether its verb is in the plural."""
        return self.aspect in PLURAL

    @property
    def name(self) -> str:
        """How a further clause names it."""
        return "it" if self.aspect == FILM else f"the {self.aspect}"


@dataclass(frozen=True)
class Opinion:
    """A word of the vocabulary with at most one modifier."""

    word: str
    modifier: str = ""

    def predicate(self, plural: bool) -> str:
        """What the clause says behind its subject."""
        if any(self.word in words for words in VERBS.values()):
            return f"{self.modifier} {plural_verb(self.word) if plural else self.word}".lstrip()
        return f"{'are' if plural else 'is'} {self.modifier} {self.word}".replace("  ", " ")


@dataclass
class Film:
    """What has been said about a film so far. A fact is drawn when it is first told, so an untold
    one costs nothing.
    """

    values: dict[str, str] = field(default_factory=dict)
    aspects: set[str] = field(default_factory=set)  # judged already
    words: set[str] = field(default_factory=set)  # used already

    def tell(self, draws: Draws, slot: str) -> str:
        """The value of a slot."""
        if slot not in self.values:
            self.values[slot] = draws.pick(VALUES[slot])
        return self.values[slot]

    def copy(self) -> "Film":
        """The same film, to write about it in another way."""
        return Film(dict(self.values), set(self.aspects), set(self.words))


@dataclass(frozen=True)
class Facts:
    """What a prompt fixes: how the sentence begins."""

    beginning: str

    def held_out(self) -> bool:
        """True for the tenth of all beginnings that no training text has."""
        return hashlib.sha256(self.beginning.encode()).digest()[0] % 10 == 0


@dataclass(frozen=True)
class Beginning:
    """How a sentence begins, and what it is about."""

    facts: Facts
    film: Film
    subject: Subject


def plural_verb(verb: str) -> str:
    """The verb in the plural: "drags" -> "drag"."""
    return verb[:-1]


def draw_aspect(draws: Draws, film: Film) -> Subject:
    """An aspect that has not been judged."""
    aspect = draws.pick([aspect for aspect in (*SINGULAR, *PLURAL) if aspect not in film.aspects])
    film.aspects.add(aspect)
    return Subject(aspect)


def draw_opinion(draws: Draws, film: Film, sign: int) -> Opinion:
    """An opinion of this sign (1 or -1) in a word not used before."""
    table = VERBS if draws.flip(VERB_SHARE) else ADJECTIVES
    kind = draws.pick(tuple(MODIFIERS), tuple(MODIFIERS.values()))
    choice = {"intensifier": INTENSIFIERS, "softener": SOFTENERS, "negator": NEGATORS}
    modifier = draws.pick(choice[kind]) if kind else ""
    wanted = -sign if kind == "negator" else sign
    words = [word for size in (1, 2) for word in table[wanted * size] if word not in film.words]
    opinion = Opinion(draws.pick(words), modifier)
    film.words.add(opinion.word)
    return opinion


def draw_beginning(draws: Draws, film: Film) -> Beginning:
    """The first words of a sentence about a film, up to where the sentiment opens. The film itself
    is judged but once.
    """
    templates = [text for text in BEGINNINGS if "{aspect}" in text or FILM not in film.aspects]
    shares = [BEGINNINGS[text] for text in templates]
    template = draws.pick(templates, [share / sum(shares) for share in shares])
    subject = draw_aspect(draws, film) if "{aspect}" in template else Subject(FILM)
    film.aspects.add(subject.aspect)
    slots = {slot: film.tell(draws, slot) for slot in VALUES if f"{{{slot}}}" in template}
    return Beginning(Facts(template.format(aspect=subject.aspect, **slots)), film, subject)


def draw_split_beginning(name: str, held_out: bool) -> tuple[Draws, Beginning]:
    """The beginning called `name`, from the held-out ones or from those for training, and the draws
    to go on with.
    """
    return draw_until(
        name,
        lambda draws: draw_beginning(draws, Film()),
        lambda it: it.facts.held_out() == held_out,
    )
