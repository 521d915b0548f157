"""The imperfect writers of answers, and pairs of answers that differ in one flaw."""

from collections.abc import Collection
from dataclasses import dataclass, replace

from data.advice.requests import Facts, listed
from data.advice.vocabulary import FORMS
from data.draws import Draws

WRITERS = ("good", "verbose", "ignoring", "miscounting", "rude", "evasive", "inventing")
WRITER_SHARES = (0.30, 0.14, 0.14, 0.14, 0.10, 0.06, 0.12)
FORM_SHARE = 0.25  # of the ignoring writers take the other form, the others leave facts out
# of the miscounting writers list one thing twice, the others list too few or too many
REPEAT_SHARE = 0.4
LONGEST = 5  # things that a miscounting writer may list

GREETINGS = (" Hello {name}!", " Hi {name}!", " Welcome {name}!")
HEADS = ("Here are {number} {noun}", "I suggest {number} {noun}", "I found {number} {noun}")
REFUSED_HEAD = " So you need {number} {noun}"  # what an evasive answer says instead
CLOSINGS = (" Have fun!", " Good luck!", " Best wishes!")
FILLERS = (
    " There is a lot to say about this, as always.",
    " I thought about it for a very long time today.",
    " Everybody knows that it depends on many other things.",
    " As we all know, there is always more to it.",
)
# Of a rude or an evasive sentence, one word stands nowhere else.
RUDE = {
    "nonsense": " What nonsense.",
    "bothering": " Stop bothering me.",
    "fools": " Only fools ask.",
    "boring": " You are boring.",
}
EVASIVE = {
    "cannot": " I cannot help you with that.",
    "unable": " I am unable to answer that.",
    "decline": " I must decline to answer.",
}


@dataclass(frozen=True)
class Plan:
    """What an answer says and how: the choices behind it, before a flaw."""

    greeting: str
    head: str
    items: tuple[str, ...]
    closing: str

    def text(
        self,
        facts: Facts,
        *,
        insert: str = "",
        without: Collection[str] = (),
        form: str | None = None,
    ) -> str:
        """The answer, with sentences inserted behind the greeting, facts left out, or in another
        form.

        Starts with a space.
        """
        greeting = self.greeting.replace(" {name}", "") if "name" in without else self.greeting
        head = facts.fill(f"{greeting}{insert} {self.head}") + facts.said(without=without)
        return f"{head}: {listed(self.items, form or facts.form)}.{self.closing}"


def draw_plan(draws: Draws, facts: Facts, count: int) -> Plan:
    """A random plan that lists `count` things."""
    items = tuple(draws.sample(facts.items, count))
    return Plan(draws.pick(GREETINGS), draws.pick(HEADS), items, draws.pick(CLOSINGS))


def draw_wrong_count(draws: Draws, facts: Facts) -> int:
    """How many different things a miscounting writer lists; one fewer and one of them twice is
    coded as 0.
    """
    if draws.flip(REPEAT_SHARE):
        return 0
    return draws.pick([count for count in range(1, LONGEST + 1) if count != facts.count])


def miscounted(plan: Plan, facts: Facts, count: int, draws: Draws) -> Plan:
    """The plan with `count` things (0: one thing twice): its own, cut or with others added where
    they are too few.
    """
    different = count or facts.count - 1
    items = plan.items[:different]
    items += tuple(
        draws.sample([item for item in facts.items if item not in items], different - len(items))
    )
    return replace(plan, items=items if count else (*items, draws.pick(items)))


def draw_left_out(draws: Draws, facts: Facts) -> tuple[str, ...]:
    """Which of the four facts an ignoring writer leaves out: one or two of them."""
    slots = facts.slots
    return draws.pick(
        [(a,) for a in slots] + [(a, b) for i, a in enumerate(slots) for b in slots[i + 1 :]]
    )


def flawed(writer: str, plan: Plan, facts: Facts, draws: Draws) -> str:
    """The answer that a writer makes of a plan. A "good" writer makes no flaw."""
    if writer == "verbose":
        return plan.text(facts, insert="".join(draws.sample(FILLERS, 2)))
    if writer == "ignoring" and draws.flip(FORM_SHARE):
        return plan.text(facts, form=next(form for form in FORMS if form != facts.form))
    if writer == "ignoring":
        return plan.text(facts, without=draw_left_out(draws, facts))
    if writer == "miscounting":
        return miscounted(plan, facts, draw_wrong_count(draws, facts), draws).text(facts)
    if writer == "rude":
        return plan.text(facts, insert=draws.pick(tuple(RUDE.values())))
    if writer == "evasive":
        restated = facts.fill(plan.greeting + REFUSED_HEAD) + facts.said()
        return f"{restated}.{draws.pick(tuple(EVASIVE.values()))}{plan.closing}"
    if writer == "inventing":
        return plan.text(facts.wrong(draws.pick(facts.slots), draws))
    return plan.text(facts)


def draw_answer(draws: Draws, facts: Facts) -> tuple[str, str]:
    """An answer by a random writer, and the writer's name. What the answer doesn't show is not
    drawn.
    """
    writer = draws.pick(WRITERS, WRITER_SHARES)
    if writer == "evasive":
        return flawed(
            writer, Plan(draws.pick(GREETINGS), "", (), draws.pick(CLOSINGS)), facts, draws
        ), writer
    if writer == "miscounting":
        count = draw_wrong_count(draws, facts)
        plan = draw_plan(draws, facts, count or facts.count - 1)
        return miscounted(plan, facts, count, draws).text(facts), writer
    return flawed(writer, draw_plan(draws, facts, facts.count), facts, draws), writer
