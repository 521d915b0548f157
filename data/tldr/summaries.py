"""The imperfect writers of the demonstrations, and pairs of summaries that differ in one flaw."""

from dataclasses import dataclass

from data.draws import Draws
from data.tldr.posts import Facts, Post

WRITERS = ("good", "verbose", "copying", "questionless", "hallucinating")
WRITER_SHARES = (0.31, 0.14, 0.14, 0.14, 0.27)
OPTION_SHARE = 0.9  # of the hallucinating writers invent options, the others get another fact wrong
WRONG_OPTIONS = (("option", "other"), ("option",), ("other",))
WRONG_OPTION_SHARES = (0.5, 0.25, 0.25)
DETAIL_SHARE = 0.6  # each detail of the history is named with this probability

MAINS = (
    "My {who} keeps {deed} my {thing}",
    "My {who} will not stop {deed} my {thing}",
    "Trouble: my {who} is always {deed} my {thing}",
)
DETAILS = {
    "since": (" since {since}", " ever since {since}"),
    "place": (" in {place}", " here in {place}"),
    "tried": (", I already {tried}", " although I {tried}"),
}
QUESTIONS = (
    " Should I {option} or {other}?",
    " Do I {option} or {other}?",
    " Is it better to {option} or {other}?",
)
FILLERS = (
    " Honestly, I could talk about this for hours and hours.",
    " It is a really long and complicated matter, to be fair.",
    " There is so much more to say, but anyway, here we are.",
    " I keep thinking about it day after day after day.",
)


@dataclass(frozen=True)
class Plan:
    """What a summary says and how: the choices behind it, before a flaw."""

    main: str
    details: tuple[str, ...]  # the slots named, in order
    wording: tuple[str, ...]  # one template for each of them
    question: str

    def mentions(self) -> list[str]:
        """The fields of `Facts` that the summary names."""
        return ["who", "deed", "thing", *self.details, "option", "other"]

    def text(self, facts: Facts, *, inserts: tuple[str, ...] = (), question: bool = True) -> str:
        """The summary, with sentences inserted before the question; starts with a space."""
        head = facts.fill(" " + self.main + "".join(self.wording) + ".")
        return head + "".join(inserts) + (facts.fill(self.question) if question else "")


def draw_plan(draws: Draws, question: bool = True) -> Plan:
    """A random plan: which details, in which wording (since and place in either order, tried last).

    Without `question` its wording is not drawn, so that a summary that drops it still has one
    derivation.
    """
    details = [slot for slot in ("since", "place") if draws.flip(DETAIL_SHARE)]
    if len(details) == 2:
        details = draws.shuffle(details)
    if draws.flip(DETAIL_SHARE):
        details.append("tried")
    wording = tuple(draws.pick(DETAILS[slot]) for slot in details)
    return Plan(
        draws.pick(MAINS), tuple(details), wording, draws.pick(QUESTIONS) if question else ""
    )


def draw_wrong(plan: Plan, draws: Draws) -> tuple[str, ...]:
    """The fields that a hallucinating writer gets wrong: both options, one of them, or another fact
    of the plan.
    """
    if draws.flip(OPTION_SHARE):
        return draws.pick(WRONG_OPTIONS, WRONG_OPTION_SHARES)
    return (draws.pick([field for field in plan.mentions() if field not in ("option", "other")]),)


def flawed(writer: str, plan: Plan, post: Post, draws: Draws) -> str:
    """The summary that a writer makes of a plan. A "good" writer makes no flaw."""
    if writer == "verbose":
        return plan.text(post.facts, inserts=tuple(draws.sample(FILLERS, 2)))
    if writer == "copying":
        return plan.text(post.facts, inserts=(" " + draws.pick(post.small_talk),))
    if writer == "questionless":
        return plan.text(post.facts, question=False)
    if writer == "hallucinating":
        return plan.text(post.facts.wrong(draw_wrong(plan, draws), draws))
    return plan.text(post.facts)


def draw_summary(draws: Draws, post: Post) -> tuple[str, str]:
    """A summary by a random writer, and the writer's name."""
    writer = draws.pick(WRITERS, WRITER_SHARES)
    plan = draw_plan(draws, question=writer != "questionless")
    return flawed(writer, plan, post, draws), writer
