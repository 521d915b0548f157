"""The imperfect writers of the demonstrations, and pairs of summaries that differ in one flaw.

Every flaw is a habit of most writers, and each comes by itself: the likeliest summary has all of
them.
"""

from dataclasses import dataclass, replace
from itertools import chain, combinations

from data.draws import Draws
from data.tldr.posts import Facts, Post
from data.tldr.vocabulary import TWINS, VALUES

# How many writers have a flaw. "hallucination": of those who state a value that is easily mixed up;
# they then mix up all such values that they state.
FLAW_SHARES = {"hallucination": 0.6, "copying": 0.6, "padding": 0.6, "missing_question": 0.6}
DETAIL_SHARE = 0.3  # of the writers name a detail of the history

MAINS = (
    "My {who} keeps {deed} my {thing}",
    "My {who} is always {deed} my {thing}",
    "My {who} never stops {deed} my {thing}",
)
DETAILS = {"since": " since {since}", "place": " in {place}", "tried": ", so I {tried}"}
# Every choice of one detail or more.
NAMED = tuple(chain.from_iterable(combinations(DETAILS, n) for n in range(1, len(DETAILS) + 1)))
# One opening, so that to ask is a single choice.
QUESTIONS = (" Should I {option} or {other}?", " Should I {option}, or {other}?")
FILLERS = (
    " Honestly, I could go on about this for hours and hours.",
    " Honestly, there is so much more to say about it.",
    " Honestly, it is a really long and complicated matter.",
    " Honestly, one never really knows where it will lead.",
)
OPTIONS = ("option", "other")


@dataclass(frozen=True)
class Plan:
    """What a summary says and how: the choices behind it."""

    wrong: tuple[str, ...]  # the fields of `Facts` that it mixes up
    main: str  # a template, or "": nothing but the question
    details: tuple[str, ...]  # the slots of the history that are named, in order
    copied: str  # a sentence of small talk, or ""
    filler: str  # or ""
    question: str  # a template, or ""

    def stated(self) -> list[str]:
        """The fields of `Facts` that the summary names."""
        problem = ("who", "deed", "thing", *self.details) if self.main else ()
        return [*problem, *(OPTIONS if self.question else ())]

    def confusable(self, facts: Facts) -> tuple[str, ...]:
        """The fields that the summary names and that writers mix up."""
        stated = self.stated()
        return tuple(field for field in facts.confusable() if field in stated)

    def text(self, post: Post) -> str:
        """The summary of a post; starts with a space."""
        return self.fill(post.facts.misread(self.wrong))

    def fill(self, facts: Facts) -> str:
        """The summary with these facts in its templates."""
        details = "".join(DETAILS[slot] for slot in self.details)
        problem = f" {self.main}{details}." if self.main else ""
        return facts.fill(problem) + self.copied + self.filler + facts.fill(self.question)


# States everything and has no flaw, in the fewest words.
BEST = Plan((), MAINS[0], tuple(DETAILS), "", "", QUESTIONS[0])


def best_summary(facts: Facts) -> str:
    """A summary with the highest gold reward that any summary of these facts can have."""
    return BEST.fill(facts)


def draw_plan(draws: Draws, post: Post, states: str = "", **known: bool) -> Plan:
    """A random plan: which details, which wording, and which flaws, but for those that are `known`.
    states: a field of `Facts` that it names.
    """

    def has(flaw: str) -> bool:
        return known[flaw] if flaw in known else draws.flip(FLAW_SHARES[flaw])

    right = Plan(
        wrong=(),
        main=draws.pick(MAINS),
        details=tuple(slot for slot in DETAILS if slot == states or draws.flip(DETAIL_SHARE)),
        copied=" " + post.small_talk if has("copying") else "",
        filler=draws.pick(FILLERS) if has("padding") else "",
        question="" if states not in OPTIONS and has("missing_question") else draws.pick(QUESTIONS),
    )
    confusable = right.confusable(post.facts)
    return replace(right, wrong=confusable if confusable and has("hallucination") else ())


def draw_summary(draws: Draws, post: Post) -> str:
    """A summary by a random writer."""
    return draw_plan(draws, post).text(post)


def flaw_rates() -> dict[str, float]:
    """How many summaries have each flaw, exactly."""
    rates = dict(FLAW_SHARES, dropped_details=1 - DETAIL_SHARE**3)
    rates["hallucination"] *= 1 - nothing_to_mix_up()
    return rates


def nothing_to_mix_up() -> float:
    """The share of summaries that state no value that has a twin."""
    total = {slot: len(values) for slot, values in VALUES.items()}
    twins = {slot: len(TWINS.keys() & values) for slot, values in VALUES.items()}
    share = 1.0
    for slot in ("who", "deed", "thing"):
        share *= 1 - twins[slot] / total[slot]
    for slot in DETAILS:
        share *= 1 - DETAIL_SHARE * twins[slot] / total[slot]
    n, k = total["option"], twins["option"]  # two of n: neither has a twin, or they are twins
    neither = ((n - k) * (n - k - 1) + k) / (n * (n - 1))
    asks = 1 - FLAW_SHARES["missing_question"]
    return share * (1 - asks + asks * neither)


def with_flaw(plan: Plan, flaw: str, post: Post, draws: Draws) -> Plan:
    """A plan with one flaw more. For "hallucination" it states a value that has a twin; a detail
    that is wrong already is not dropped.
    """
    if flaw == "hallucination":
        return replace(plan, wrong=plan.confusable(post.facts))
    if flaw == "copying":
        return replace(plan, copied=" " + post.small_talk)
    if flaw == "padding":
        return replace(plan, filler=draws.pick(FILLERS))
    if flaw == "missing_question":
        return replace(plan, question="")
    if flaw == "missing_problem":
        return replace(plan, main="", details=(), wrong=(), copied="", filler="")
    dropped = draws.pick([slot for slot in plan.details if slot not in plan.wrong])
    return replace(plan, details=tuple(slot for slot in plan.details if slot != dropped))


def draw_one_flaw(draws: Draws, post: Post, flaw: str) -> tuple[Plan, Plan]:
    """Two plans that differ in one flaw alone, the one without it first. Both may have others. The
    post of a "hallucination" has a value with a twin; the plans differ in one such value.
    """
    if flaw == "hallucination":
        field = draws.pick(post.facts.confusable())
        right = draw_plan(draws, post, field, hallucination=False)
        return right, replace(right, wrong=(field,))
    if flaw == "dropped_details":  # of as many as there may be: writers seldom name them all
        right = replace(draw_plan(draws, post), details=draws.pick(NAMED), wrong=())
        return right, with_flaw(right, flaw, post, draws)
    if flaw == "missing_problem":  # a good summary, and its question alone
        known = dict.fromkeys(("hallucination", "copying", "padding", "missing_question"), False)
        right = draw_plan(draws, post, **known)
        return right, with_flaw(right, flaw, post, draws)
    while True:
        plan = draw_plan(draws, post, **{flaw: False})
        if flaw == "missing_question" and set(plan.wrong) & set(OPTIONS):
            continue  # a wrong option would go with the question
        return plan, with_flaw(plan, flaw, post, draws)
