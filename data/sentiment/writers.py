"""The imperfect writers who go on with a sentence, and pairs of endings that differ in one flaw.

Every flaw is a habit of most writers, and each comes by itself: the likeliest ending has all of
them.
"""

from dataclasses import dataclass, replace

from data.draws import Draws
from data.sentiment.form import broken
from data.sentiment.sentences import Beginning, Opinion, Subject, draw_aspect, draw_opinion
from data.sentiment.vocabulary import CONNECTORS, OPPOSING, REPEATING

# How many writers have a flaw. "negative": have opinions of that sign, else of the other.
FLAW_SHARES = {"negative": 0.6, "repeats": 0.6, "contradicts": 0.6, "broken": 0.6}
CAREFUL = {"repeats": False, "contradicts": False, "broken": False}
SECOND_SHARE = 0.4  # of the writers have a second opinion


@dataclass(frozen=True)
class Clause:
    """An opinion on a subject, and what joins it to the clause before."""

    subject: Subject
    opinion: Opinion
    connector: str = ""

    @property
    def predicate(self) -> str:
        """What it says behind its subject."""
        return self.opinion.predicate(self.subject.plural)

    @property
    def text(self) -> str:
        """The whole clause, as one that is not the first."""
        return f"{self.connector}{self.subject.name} {self.predicate}"


@dataclass(frozen=True)
class Plan:
    """What the rest of a sentence says: the choices behind it. What is None is not there."""

    clauses: tuple[Clause, ...]  # one or two opinions of one sign
    again: Clause | None  # one of them, repeated
    against: Clause | None  # the opposite of one of them
    unfinished: Subject | None  # of a clause that breaks off

    def text(self) -> str:
        """The rest of the sentence; starts with a space."""
        first, *others = self.clauses
        others += [clause for clause in (self.again, self.against) if clause]
        end = f"{CONNECTORS[0]}{self.unfinished.name}" if self.unfinished else "."
        return f" {first.predicate}{''.join(clause.text for clause in others)}{end}"


def draw_plan(draws: Draws, beginning: Beginning, **known: bool) -> Plan:
    """A random plan: what is judged, in which words, and which flaws, but for those that are
    `known`. It takes note of what it says in the beginning's film.
    """

    def has(flaw: str) -> bool:
        return known[flaw] if flaw in known else draws.flip(FLAW_SHARES[flaw])

    film, sign = beginning.film, -1 if has("negative") else 1
    clauses = [Clause(beginning.subject, draw_opinion(draws, film, sign))]
    if draws.flip(SECOND_SHARE):
        connector, subject = draws.pick(CONNECTORS), draw_aspect(draws, film)
        clauses.append(Clause(subject, draw_opinion(draws, film, sign), connector))
    again = replace(draws.pick(clauses), connector=REPEATING) if has("repeats") else None
    against = None
    if has("contradicts"):
        subject = draws.pick(clauses).subject
        against = Clause(subject, draw_opinion(draws, film, -sign), OPPOSING)
    unfinished = draw_aspect(draws, film) if has("broken") else None
    return Plan(tuple(clauses), again, against, unfinished)


def draw_alternative(draws: Draws, beginning: Beginning, **known: bool) -> Plan:
    """A random plan that leaves the beginning's film as it is: several can go on with it."""
    return draw_plan(draws, replace(beginning, film=beginning.film.copy()), **known)


def draw_completion(draws: Draws, beginning: Beginning) -> str:
    """The rest of a sentence by a random writer; starts with a space."""
    return draw_alternative(draws, beginning).text()


def draw_one_flaw(draws: Draws, beginning: Beginning, flaw: str) -> tuple[Plan, Plan]:
    """Two plans that differ in one flaw alone (one of `CAREFUL`), the one without it first. Both
    may have others.
    """
    part = {"repeats": "again", "contradicts": "against", "broken": "unfinished"}[flaw]
    flawed = draw_alternative(draws, beginning, **{flaw: True})
    return replace(flawed, **{part: None}), flawed


def damage(draws: Draws, beginning: str, text: str) -> str:
    """A completion with a word missing, two words swapped, or its end cut off, so that the sentence
    is broken.
    """
    while True:
        words = text.removesuffix(".").split()
        i = draws.pick(range(len(words)))
        how = draws.pick(("missing", "swapped", "cut"))
        if how == "cut":
            return f" {' '.join(words[: i + 1])}"
        words[i : i + 2] = words[i + 1 : i + 2] if how == "missing" else words[i : i + 2][::-1]
        damaged = f" {' '.join(words)}."
        if broken(beginning + damaged):
            return damaged
