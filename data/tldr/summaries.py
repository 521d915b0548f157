"""The imperfect writers of the demonstrations, and pairs of summaries that differ in one flaw.

Every flaw is a habit of most writers, and each comes by itself: the likeliest summary has all of
them.
"""

from dataclasses import dataclass, replace

from data.draws import Draws
from data.tldr.posts import Facts, Post

# How many writers have a flaw. One who gets a fact wrong writes what the post mentions in passing
# in its place, and always states it: nobody leaves out a question whose option is wrong.
FLAW_SHARES = {"hallucination": 0.6, "copying": 0.6, "padding": 0.6, "missing_question": 0.65}
DETAIL_SHARE = 0.32  # of the writers name a detail of the history

MAINS = (
    "My {who} keeps {deed} my {thing}",
    "My {who} is always {deed} my {thing}",
    "My {who} never stops {deed} my {thing}",
)
DETAILS = {"since": " since {since}", "place": " in {place}", "tried": ", so I {tried}"}
# One opening, so that to ask is a single choice.
QUESTIONS = (" Should I {option} or {other}?", " Should I {option}, or {other}?")
FILLERS = (
    " Honestly, I could go on about this for hours and hours, but you know how it is with these"
    " things.",
    " Honestly, there is so much more to say about it, and I do not even know where I should"
    " begin.",
    " Honestly, it is a really long and complicated matter, and I keep thinking about it day after"
    " day after day.",
    " Honestly, all in all it simply is what it is, but then again one never really knows where it"
    " will lead.",
)
OPTIONS = ("option", "other")


@dataclass(frozen=True)
class Plan:
    """What a summary says and how: the choices behind it."""

    wrong: bool  # takes what the post mentions in passing for a fact
    main: str
    details: tuple[str, ...]  # the slots of the history that are named, in order
    copied: str  # a sentence of small talk, or ""
    filler: str  # or ""
    question: str  # a template, or ""

    def stated(self) -> list[str]:
        """The fields of `Facts` that the summary names."""
        return ["who", "deed", "thing", *self.details, *(OPTIONS if self.question else ())]

    def text(self, post: Post) -> str:
        """The summary of a post; starts with a space."""
        return self.fill(post.facts.misread(post.mention) if self.wrong else post.facts)

    def fill(self, facts: Facts) -> str:
        """The summary with these facts in its templates."""
        head = facts.fill(f" {self.main}{''.join(DETAILS[slot] for slot in self.details)}.")
        return head + self.copied + self.filler + facts.fill(self.question)


# States everything and has no flaw, in the fewest words.
BEST = Plan(False, MAINS[0], tuple(DETAILS), "", "", QUESTIONS[0])


def best_summary(facts: Facts) -> str:
    """A summary with the highest gold reward that any summary of these facts can have."""
    return BEST.fill(facts)


def draw_plan(draws: Draws, post: Post, **known: bool) -> Plan:
    """A random plan: which details (since and place in either order, tried last), which wording,
    and which flaws, but for those that are `known`.
    """

    def has(flaw: str) -> bool:
        return known[flaw] if flaw in known else draws.flip(FLAW_SHARES[flaw])

    wrong = has("hallucination")
    certain = post.mention.field if wrong else ""  # what is stated anyhow
    slots = [slot for slot in ("since", "place") if slot == certain or draws.flip(DETAIL_SHARE)]
    if len(slots) == 2:
        slots = draws.shuffle(slots)
    if certain == "tried" or draws.flip(DETAIL_SHARE):
        slots.append("tried")
    return Plan(
        wrong=wrong,
        main=draws.pick(MAINS),
        details=tuple(slots),
        copied=" " + draws.pick(post.small_talk) if has("copying") else "",
        filler=draws.pick(FILLERS) if has("padding") else "",
        question=""
        if certain not in OPTIONS and has("missing_question")
        else draws.pick(QUESTIONS),
    )


def draw_summary(draws: Draws, post: Post) -> str:
    """A summary by a random writer."""
    return draw_plan(draws, post).text(post)


def flaw_rates() -> dict[str, float]:
    """How many summaries have each flaw, exactly: one who gets a fact wrong always states it."""
    wrong, detail = FLAW_SHARES["hallucination"], DETAIL_SHARE
    about = {"option": 2 / 8, "detail": 3 / 8}  # what posts mention in passing
    certain = wrong + (1 - wrong) * detail  # such a detail is named
    named = (1 - about["detail"]) * detail**3 + about["detail"] * certain * detail**2
    rates = dict(FLAW_SHARES, dropped_details=1 - named)
    rates["missing_question"] *= 1 - about["option"] * wrong
    return rates


def with_flaw(plan: Plan, flaw: str, post: Post, draws: Draws) -> Plan:
    """A plan with one flaw more. The plan states the fact that "hallucination" gets wrong; a detail
    that is wrong already is not dropped.
    """
    if flaw == "hallucination":
        return replace(plan, wrong=True)
    if flaw == "copying":
        return replace(plan, copied=" " + draws.pick(post.small_talk))
    if flaw == "padding":
        return replace(plan, filler=draws.pick(FILLERS))
    if flaw == "missing_question":
        return replace(plan, question="")
    dropped = draws.pick(droppable(plan, post))
    return replace(plan, details=tuple(slot for slot in plan.details if slot != dropped))


def droppable(plan: Plan, post: Post) -> list[str]:
    """The details of a plan that are not wrong."""
    return [slot for slot in plan.details if not (plan.wrong and slot == post.mention.field)]


def draw_one_flaw(draws: Draws, post: Post, flaw: str) -> tuple[Plan, Plan]:
    """Two plans that differ in one flaw alone, the one without it first. Both may have others."""
    if flaw == "hallucination":  # drawn with the flaw, so that the fact is stated
        wrong = draw_plan(draws, post, hallucination=True)
        return replace(wrong, wrong=False), wrong
    known = {flaw: False}
    if flaw == "missing_question" and post.mention.field in OPTIONS:
        known["hallucination"] = False  # the wrong option would go with the question
    while True:
        plan = draw_plan(draws, post, **known)
        if flaw != "dropped_details" or droppable(plan, post):
            return plan, with_flaw(plan, flaw, post, draws)
