"""How a review sentence begins, and its clauses: who or what is judged, and the opinion on it."""

import hashlib
from dataclasses import dataclass, field

from data.draws import Draws, draw_until
from data.sentiment.vocabulary import (
    ADJECTIVES,
    INTENSIFIERS,
    NEGATORS,
    NOUNS,
    PLURAL,
    SINGULAR,
    SOFTENERS,
    VALUES,
    VERBS,
    article,
)

FILM = "film"
# "is dull", "drags on", "is a dull film"
PREDICATES = {"adjective": 0.55, "verb": 0.25, "noun": 0.2}
MODIFIERS = {"none": 0.5, "intensifier": 0.15, "softener": 0.1, "negator": 0.25}
# template -> share. An aspect in it is what the sentence goes on about, else the film is.
BEGINNINGS = {
    "this {genre}": 0.05,
    "the {aspect}": 0.05,
    "this {nation} {genre}": 0.16,
    "the new {genre} by {director}": 0.14,
    "shot in {place}, this {genre}": 0.1,
    "starring {actor}, this {genre}": 0.1,
    "at {minutes} minutes, this {genre}": 0.08,
    "this {genre} about {topic}": 0.1,
    "the {aspect} of this {nation} {genre}": 0.1,
    # conceded: the sentence goes on to say the opposite of something else
    "although {opinion},": 0.07,
    "despite its {opinion},": 0.05,
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
    """A phrase of the vocabulary with at most one modifier; a `noun` makes it "is a dull film"."""

    phrase: str
    modifier: str = ""
    noun: str = ""

    @property
    def words(self) -> str:
        """Modifier and phrase, in the singular."""
        return f"{self.modifier} {self.phrase}".lstrip()

    def predicate(self, plural: bool) -> str:
        """What the clause says behind its subject."""
        if self.noun:
            return f"is {article(self.words)} {self.noun}"
        if any(self.phrase in phrases for phrases in VERBS.values()):
            return f"{self.modifier} {plural_verb(self.phrase) if plural else self.phrase}".lstrip()
        return f"{'are' if plural else 'is'} {self.words}"


@dataclass
class Film:
    """What has been said about a film so far. A fact is drawn when it is first told, so an untold
    one costs nothing.
    """

    values: dict[str, str] = field(default_factory=dict)
    aspects: set[str] = field(default_factory=set)  # judged already
    phrases: set[str] = field(default_factory=set)  # used already

    def tell(self, draws: Draws, slot: str) -> str:
        """The value of a slot."""
        if slot not in self.values:
            self.values[slot] = draws.pick(VALUES[slot])
        return self.values[slot]

    def copy(self) -> "Film":
        """The same film, to write about it in another way."""
        return Film(dict(self.values), set(self.aspects), set(self.phrases))


@dataclass(frozen=True)
class Facts:
    """What a prompt fixes: how the sentence begins."""

    beginning: str

    def held_out(self) -> bool:
        """True for the tenth of all beginnings that no training text has."""
        return hashlib.sha256(self.beginning.encode()).digest()[0] % 10 == 0


@dataclass(frozen=True)
class Beginning:
    """How a sentence begins. After a concession, of an opinion with the sign `conceded`, the
    subject is open.
    """

    facts: Facts
    film: Film
    subject: Subject | None
    conceded: int = 0


def plural_verb(phrase: str) -> str:
    """The phrase of a verb in the plural: "drags on" -> "drag on"."""
    verb, _, rest = phrase.partition(" ")
    return f"{verb[:-1]} {rest}"


def draw_aspect(draws: Draws, film: Film) -> Subject:
    """An aspect that has not been judged."""
    aspect = draws.pick([aspect for aspect in (*SINGULAR, *PLURAL) if aspect not in film.aspects])
    film.aspects.add(aspect)
    return Subject(aspect)


def draw_opinion(
    draws: Draws, film: Film, sign: int, kinds: tuple[str, ...], negators: bool = True
) -> Opinion:
    """An opinion of this sign (1 or -1) in a phrase not used before; `kinds` are keys of
    PREDICATES.
    """
    kind = (
        kinds[0]
        if len(kinds) == 1
        else draws.pick(kinds, normalised([PREDICATES[kind] for kind in kinds]))
    )
    plain = [
        modifier for modifier in MODIFIERS if negators and kind != "noun" or modifier != "negator"
    ]
    modified = draws.pick(plain, normalised([MODIFIERS[modifier] for modifier in plain]))
    form = "verb" if kind == "verb" else "adjective"
    modifier = ""
    if modified != "none":
        words = {"intensifier": INTENSIFIERS, "softener": SOFTENERS, "negator": NEGATORS}[modified]
        modifier = draws.pick(words[form])
    wanted = -sign if modified == "negator" else sign
    table = VERBS if kind == "verb" else ADJECTIVES
    phrases = [
        phrase
        for valence in (1, 2)
        for phrase in table[wanted * valence]
        if phrase not in film.phrases
    ]
    opinion = Opinion(draws.pick(phrases), modifier, draws.pick(NOUNS) if kind == "noun" else "")
    film.phrases.add(opinion.phrase)
    return opinion


def normalised(shares: list[float]) -> list[float]:
    """The shares as probabilities."""
    return [share / sum(shares) for share in shares]


def draw_beginning(draws: Draws, film: Film, conceded: tuple[int, ...] = (1, -1)) -> Beginning:
    """The first words of a sentence about a film, up to where the sentiment opens.

    `conceded` are the signs that a concession may have; without any there is no concession.
    """
    templates = [template for template in BEGINNINGS if conceded or "{opinion}" not in template]
    template = draws.pick(templates, normalised([BEGINNINGS[template] for template in templates]))
    if "{opinion}" in template:
        return _concession(draws, film, template, draws.pick(conceded))
    subject = draw_aspect(draws, film) if "{aspect}" in template else Subject(FILM)
    slots = {slot: film.tell(draws, slot) for slot in VALUES if f"{{{slot}}}" in template}
    return Beginning(Facts(template.format(aspect=subject.aspect, **slots)), film, subject)


def _concession(draws: Draws, film: Film, template: str, sign: int) -> Beginning:
    subject = draw_aspect(draws, film)
    whole = template.startswith("although")  # else the adjective stands before its noun
    opinion = draw_opinion(draws, film, sign, ("adjective",), negators=whole)
    clause = (
        f"{subject.name} {opinion.predicate(subject.plural)}"
        if whole
        else f"{opinion.words} {subject.aspect}"
    )
    return Beginning(Facts(template.format(opinion=clause)), film, None, sign)


def draw_split_beginning(name: str, held_out: bool) -> tuple[Draws, Beginning]:
    """The beginning called `name`, from the held-out ones or from those for training, and the draws
    to go on with.
    """
    return draw_until(
        name,
        lambda draws: draw_beginning(draws, Film()),
        lambda it: it.facts.held_out() == held_out,
    )
