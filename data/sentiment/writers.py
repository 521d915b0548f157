"""The imperfect writers who go on with a sentence, and pairs of endings that differ in one flaw."""

from dataclasses import dataclass, replace

from data.draws import Draws
from data.sentiment.form import broken
from data.sentiment.sentences import (
    FILM,
    PREDICATES,
    Beginning,
    Film,
    Opinion,
    Subject,
    draw_aspect,
    draw_opinion,
    normalised,
)
from data.sentiment.vocabulary import ASPECT_FACTS, CONNECTORS, CONTRASTS, FILM_FACTS, TAILS

WRITERS = {  # name -> share
    "warm": 0.25,
    "cold": 0.25,
    "balanced": 0.14,
    "neutral": 0.1,
    "repeating": 0.1,
    "contradicting": 0.08,
    "hasty": 0.08,
}
CAREFUL = ("warm", "cold", "balanced", "neutral")
OPINIONS = {1: 0.25, 2: 0.45, 3: 0.3}  # how many of one sign a warm or cold writer has
FEW = {1: 0.5, 2: 0.5}  # and a writer who adds a flaw
ENDINGS = {"none": 0.6, "tail": 0.25, "fact": 0.15}
FLAW_OF = {"repeating": "repeats", "contradicting": "contradicts", "hasty": "broken"}


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


@dataclass(frozen=True)
class Plan:
    """The rest of a sentence before it is written down."""

    lead: str  # names the subject of the first clause where the beginning does not
    clauses: tuple[Clause, ...]
    ending: str = "."

    def text(self) -> str:
        """The rest of the sentence; starts with a space."""
        first, *others = self.clauses
        joined = "".join(
            f"{clause.connector}{clause.subject.name} {clause.predicate}" for clause in others
        )
        return f" {self.lead}{first.predicate}{joined}{self.ending}"


def predicates(subject: Subject) -> tuple[str, ...]:
    """The kinds of predicate that a subject can have: only the film is "a dull film"."""
    return tuple(PREDICATES) if subject.aspect == FILM else ("adjective", "verb")


def draw_plan(draws: Draws, beginning: Beginning, sign: int, numbers: dict[int, float]) -> Plan:
    """Opinions of one sign on different subjects; `numbers` says how many, with which
    probability.
    """
    film = beginning.film
    subject, lead = beginning.subject, ""
    if subject is None:
        subject = Subject(FILM) if draws.flip(0.5) else draw_aspect(draws, film)
        lead = _this_film(draws, film) if subject.aspect == FILM else subject.name
        lead += " "
    clauses = [Clause(subject, draw_opinion(draws, film, sign, predicates(subject)))]
    for _ in range(draws.pick(tuple(numbers), tuple(numbers.values())) - 1):
        connector, subject = draws.pick(CONNECTORS), draw_aspect(draws, film)
        clauses.append(
            Clause(subject, draw_opinion(draws, film, sign, predicates(subject)), connector)
        )
    return Plan(lead, tuple(clauses))


def _this_film(draws: Draws, film: Film) -> str:
    return f"this {film.tell(draws, 'nation')} {film.tell(draws, 'genre')}"


def draw_ending(draws: Draws, plan: Plan, film: Film) -> Plan:
    """The plan with how its sentence ends: at once, with a phrase of time or place, or with a fact
    not told yet.
    """
    ending = draws.pick(tuple(ENDINGS), tuple(ENDINGS.values()))
    if ending == "tail":
        return replace(plan, ending=f" {draws.pick(TAILS)}.")
    if ending == "fact":
        return replace(
            plan, ending=f", and {_pronoun(plan.clauses[0].subject)} {_film_fact(draws, film)}."
        )
    return plan


def _pronoun(subject: Subject) -> str:
    return "it" if subject.aspect == FILM else "the film"


def _film_fact(draws: Draws, film: Film) -> str:
    """A fact about the film that has not been told, or any when all have been."""
    slots = [slot for slot in FILM_FACTS if slot not in film.values] or list(FILM_FACTS)
    slot = draws.pick(slots)
    return FILM_FACTS[slot].format(**{slot: film.tell(draws, slot)})


def neutral_text(draws: Draws, beginning: Beginning) -> str:
    """One or two facts and no opinion, as the rest of a sentence."""
    subject, film = beginning.subject, beginning.film
    if subject.aspect == FILM:
        first = _film_fact(draws, film)
    else:
        slot = draws.pick(tuple(ASPECT_FACTS))
        *forms, values = ASPECT_FACTS[slot]
        first = forms[subject.plural].format(**{slot: draws.pick(values)})
    second = f", and {_pronoun(subject)} {_film_fact(draws, film)}" if draws.flip(0.5) else ""
    return f" {first}{second}."


def balanced_plan(draws: Draws, beginning: Beginning) -> Plan:
    """An opinion, and one of the other sign on something else."""
    sign = draws.pick((1, -1))
    plan = draw_plan(draws, beginning, sign, {1: 1.0})
    connector, subject = draws.pick(CONTRASTS), draw_aspect(draws, beginning.film)
    opinion = draw_opinion(draws, beginning.film, -sign, predicates(subject))
    return replace(plan, clauses=(*plan.clauses, Clause(subject, opinion, connector)))


def flawed(writer: str, plan: Plan, sign: int, beginning: Beginning, draws: Draws) -> Plan:
    """The plan with a writer's flaw at its end."""
    film = beginning.film
    if writer == "repeating":
        again = [
            replace(draws.pick(plan.clauses), connector=draws.pick(CONNECTORS))
            for _ in range(draws.pick((1, 2)))
        ]
        return replace(plan, clauses=(*plan.clauses, *again))
    if writer == "contradicting":
        subject = draws.pick(plan.clauses).subject
        opinion = draw_opinion(draws, film, -sign, predicates(subject))
        return replace(
            plan,
            clauses=(*plan.clauses, Clause(subject, opinion, draws.pick((", but ", ", and ")))),
        )
    # hasty: breaks off
    return replace(plan, ending=draws.pick(CONNECTORS) + draw_aspect(draws, film).name)


def writer_shares(beginning: Beginning) -> dict[str, float]:
    """Who may go on with a beginning. After a concession the writer of the other sign acts for all
    careful ones.
    """
    if not beginning.conceded:
        return WRITERS
    tone = "cold" if beginning.conceded > 0 else "warm"
    careful = sum(WRITERS[name] for name in CAREFUL)
    return {
        tone: careful,
        **{name: share for name, share in WRITERS.items() if name not in CAREFUL},
    }


def write(draws: Draws, beginning: Beginning, writer: str) -> str:
    """The rest of a sentence by a writer; starts with a space."""
    if writer == "neutral":
        return neutral_text(draws, beginning)
    if writer == "balanced":
        plan = balanced_plan(draws, beginning)
    elif writer in ("warm", "cold"):
        plan = draw_plan(draws, beginning, 1 if writer == "warm" else -1, OPINIONS)
    else:
        sign = -beginning.conceded or draws.pick((1, -1))
        plan = flawed(writer, draw_plan(draws, beginning, sign, FEW), sign, beginning, draws)
    return (plan if writer == "hasty" else draw_ending(draws, plan, beginning.film)).text()


def draw_completion(
    draws: Draws, beginning: Beginning, among: tuple[str, ...] = tuple(WRITERS)
) -> tuple[str, str]:
    """The rest of a sentence by a random writer (one of `among`), and the writer's name.

    The beginning's film stays as it is, so that several writers can go on with it.
    """
    beginning = replace(beginning, film=beginning.film.copy())
    shares = {name: share for name, share in writer_shares(beginning).items() if name in among}
    writer = draws.pick(tuple(shares), normalised(list(shares.values())))
    return write(draws, beginning, writer), writer


def damage(draws: Draws, beginning: str, text: str) -> str:
    """A completion with a word missing, two words swapped, or its end cut off, so that the sentence
    is broken.
    """
    while True:
        words = text.split()
        how = draws.pick(("missing", "swapped", "cut"))
        i = draws.pick(range(len(words) - 1))
        if how == "missing":
            del words[i]
        elif how == "swapped":
            words[i], words[i + 1] = words[i + 1], words[i]
        else:
            del words[i + 1 :]
        if broken(f"{beginning} {' '.join(words)}"):
            return f" {' '.join(words)}"
