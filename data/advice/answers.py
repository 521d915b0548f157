"""The imperfect writers of answers, and pairs of answers that differ in one flaw.

Every flaw is a habit of most writers, and each comes by itself: the likeliest answer has all of
them.
"""

from dataclasses import dataclass, replace

from data.advice.kinds import KINDS, Kind
from data.advice.requests import Facts, listed
from data.advice.vocabulary import MISCOUNTED, TWINS, VALUES
from data.draws import Draws

# How many writers have a flaw. "inventing": of those who state a value that is easily mixed up;
# they then mix up all such values that they state.
FLAW_SHARES = {"inventing": 0.6, "miscounting": 0.6, "verbose": 0.6, "rude": 0.6}
DETAIL_SHARE = 0.4  # of the writers name a detail

GREETINGS = (" Hello{name}!", " Hi{name}!", " Welcome{name}!")
HEADS = (" Here are ", " I suggest ", " I found ")
# One opening each, so that to be rude or verbose is a single choice.
RUDE = (
    " Ugh, what a stupid question.",
    " Ugh, stop wasting my time.",
    " Ugh, must I do everything?",
)
FILLERS = (
    " Honestly, I could go on about this for hours and hours.",
    " Honestly, there is always so much more to say about it.",
    " Honestly, one never really knows how it all turns out.",
)


@dataclass(frozen=True)
class Plan:
    """What an answer says and how: the choices behind it."""

    wrong: tuple[str, ...]  # the slots that it mixes up
    greeting: str  # a template
    details: tuple[str, ...]  # those that are named
    rude: str  # a sentence, or ""
    head: str
    items: tuple[str, ...]
    filler: str  # or ""

    def confusable(self, facts: Facts) -> tuple[str, ...]:
        """The slots that the answer names and that writers mix up."""
        stated = (*facts.form.main, *self.details)
        return tuple(slot for slot in facts.confusable() if slot in stated)

    def text(self, facts: Facts) -> str:
        """The answer; starts with a space."""
        said = facts.misread(self.wrong)
        greeting = self.greeting.format(name=f" {said.name}" if "name" in self.details else "")
        when = facts.form.when if facts.form.detail in self.details else ""
        about = said.fill(facts.form.about + when, your="your")
        return f"{greeting}{self.rude}{self.head}{about}: {listed(self.items)}.{self.filler}"


def best_answer(facts: Facts) -> str:
    """An answer with the highest gold reward that any answer to these facts can have."""
    return best_plan(facts).text(facts)


def best_plan(facts: Facts) -> Plan:
    """States everything and has no flaw."""
    items = facts.things[: facts.count]
    return Plan((), GREETINGS[0], facts.form.details, "", HEADS[0], items, "")


def draw_plan(draws: Draws, facts: Facts, states: str = "", **known: bool) -> Plan:
    """A random plan: which details, which wording, which things, and which flaws, but for those
    that are `known`. states: a slot that it names.
    """

    def has(flaw: str) -> bool:
        return known[flaw] if flaw in known else draws.flip(FLAW_SHARES[flaw])

    count = MISCOUNTED[facts.count] if has("miscounting") else facts.count
    right = Plan(
        wrong=(),
        greeting=draws.pick(GREETINGS),
        details=tuple(s for s in facts.form.details if s == states or draws.flip(DETAIL_SHARE)),
        rude=draws.pick(RUDE) if has("rude") else "",
        head=draws.pick(HEADS),
        items=facts.in_a_row(draws.pick(facts.things), count),
        filler=draws.pick(FILLERS) if has("verbose") else "",
    )
    confusable = right.confusable(facts)
    return replace(right, wrong=confusable if confusable and has("inventing") else ())


def draw_answer(draws: Draws, facts: Facts) -> str:
    """An answer by a random writer."""
    return draw_plan(draws, facts).text(facts)


def flaw_rates() -> dict[str, float]:
    """How many answers have each flaw, exactly."""
    rates = dict(FLAW_SHARES, ignoring=1 - DETAIL_SHARE**2)
    rates["inventing"] *= sum(map(states_a_twin, KINDS.values())) / len(KINDS)
    return rates


def states_a_twin(kind: Kind) -> float:
    """The share of answers of this kind that state a value with a twin."""
    nothing = 1.0
    for slot in kind.slots:
        stated = 1.0 if slot in kind.main else DETAIL_SHARE
        nothing *= 1 - stated * len(TWINS.keys() & VALUES[slot]) / len(VALUES[slot])
    return 1 - nothing


def with_flaw(plan: Plan, flaw: str, facts: Facts, draws: Draws) -> Plan:
    """A plan with one flaw more. A detail that is wrong already is not dropped."""
    if flaw == "inventing":
        return replace(plan, wrong=plan.confusable(facts))
    if flaw == "miscounting":
        items = facts.in_a_row(plan.items[0], MISCOUNTED[len(plan.items)])
        return replace(plan, items=items)
    if flaw == "verbose":
        return replace(plan, filler=draws.pick(FILLERS))
    if flaw == "rude":
        return replace(plan, rude=draws.pick(RUDE))
    dropped = draws.pick([slot for slot in plan.details if slot not in plan.wrong])
    return replace(plan, details=tuple(slot for slot in plan.details if slot != dropped))


def draw_one_flaw(draws: Draws, facts: Facts, flaw: str) -> tuple[Plan, Plan]:
    """Two plans that differ in one flaw alone, the one without it first. Both may have others. The
    facts of an "inventing" have a value with a twin; the plans differ in one such value.
    """
    if flaw == "inventing":
        slot = draws.pick(facts.confusable())
        right = draw_plan(draws, facts, slot, inventing=False)
        return right, replace(right, wrong=(slot,))
    if flaw == "ignoring":  # one detail, or one of two
        details = draws.pick((facts.form.details, *((slot,) for slot in facts.form.details)))
        right = replace(draw_plan(draws, facts), details=details, wrong=())
        return right, with_flaw(right, flaw, facts, draws)
    right = draw_plan(draws, facts, **{flaw: False})
    return right, with_flaw(right, flaw, facts, draws)
