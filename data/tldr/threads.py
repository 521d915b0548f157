"""The grammar of what stands under a post in the pretraining documents: comments, replies, updates, stories.

They restate the facts of the post, rightly or wrongly, and the author of the post confirms or corrects them. So a model
that predicts these texts well has learned to copy facts and to notice false ones.
"""

from dataclasses import replace

from data.draws import Draws
from data.tldr.posts import Facts, Post
from data.tldr.vocabulary import OPTION, SLOTS, TRIED

RESTATEMENTS = (
    "So your {who} keeps {deed} your {thing}",
    "Your {who} is still {deed} your {thing}",
    "Let me see: your {who} will not stop {deed} your {thing}",
)
COUNSEL = ("I would {option}.", "Better {option}.", "Please do not {option}.")
CONFIRMATIONS = ("Yes, exactly.", "That is right.", "Correct, sadly.")
CORRECTIONS = {
    "who": "No, it is my {true}.",
    "deed": "No, it is about {true}.",
    "thing": "No, I mean my {true}.",
    "since": "No, since {true}.",
    "place": "No, in {true}.",
    "tried": "No, I {true}.",
    "option": "No, that is not an option.",
}
QUESTIONS = {
    "who": "Is it your {said}?",
    "deed": "Is it about {said}?",
    "thing": "Do you mean your {said}?",
    "since": "Since {said}?",
    "place": "In {said}?",
    "tried": "So you {said}?",
    "option": "Could you {said}?",
}
UPDATES = (
    "My {who} finally stopped {deed} my {thing}.",
    "My {who} is not {deed} my {thing} anymore.",
    "My {who} still keeps {deed} my {thing}.",
)
ENDINGS = ("In the end I decided to {option}.", "I chose to {option}.", "I did not {option} after all.")
STORIES = (
    "Once in {place}, somebody kept {deed} a {thing}. It was the {who}.",
    "This is the story of the {who} from {place} who kept {deed} the {thing}.",
)


def draw_document(draws: Draws, post: Post) -> str:
    """A post with what follows it. `draws.logprob` then is that of the whole document."""
    kind = draws.pick(tuple(KINDS), tuple(share for _, share, _ in KINDS.values()))
    write, _, numbers = KINDS[kind]
    return "\n\n".join([post.body, *(write(draws, post.facts) for _ in range(draws.pick(numbers)))])


def _details(draws: Draws) -> list[str]:
    """Which of the details of the history are named (each with probability 3/4)."""
    return [slot for slot in ("since", "place", "tried") if draws.flip(0.75)]


def _comment(draws: Draws, facts: Facts) -> str:
    """A reader restates the problem; with probability one half, one of the facts named is false. The author replies."""
    details = _details(draws)
    slot = draws.pick(["who", "deed", "thing", *details, "option"]) if draws.flip(0.5) else None
    said = facts.wrong(slot, draws) if slot else facts
    if slot != "option":
        said = replace(said, option=draws.pick((facts.option, facts.other)))
    tails = {"since": " since {since}", "place": " in {place}", "tried": ", and you already {tried}"}
    text = said.fill(draws.pick(RESTATEMENTS) + "".join(tails[slot] for slot in details) + ". " + draws.pick(COUNSEL))
    reply = _correction(slot, facts) if slot else draws.pick(CONFIRMATIONS)
    return f"COMMENT: {text}\n\nREPLY: {reply}"


def _question(draws: Draws, facts: Facts) -> str:
    """A reader asks for one fact, rightly or wrongly with equal probability. The author answers."""
    slot = draws.pick(SLOTS)
    right = draws.flip(0.5)
    said = facts if right else facts.wrong(slot, draws)
    if right and slot == "option":
        said = replace(said, option=draws.pick((facts.option, facts.other)))
    reply = "Yes." if right else _correction(slot, facts)
    return f"COMMENT: {QUESTIONS[slot].format(said=_phrase(slot, said))}\n\nREPLY: {reply}"


def _correction(slot: str, facts: Facts) -> str:
    return CORRECTIONS[slot].format(true=_phrase(slot, facts))


def _phrase(slot: str, facts: Facts) -> str:
    value = getattr(facts, slot)
    return {"tried": TRIED, "option": OPTION}.get(slot, {}).get(value, value)


def _update(draws: Draws, facts: Facts) -> str:
    option = draws.pick((facts.option, facts.other))
    ending = draws.pick(ENDINGS).format(option=OPTION[option])
    return f"UPDATE: {facts.fill(draws.pick(UPDATES))} {ending}"


def _story(draws: Draws, facts: Facts) -> str:
    details = _details(draws)
    tails = {
        "since": " It began in {since}." if facts.since[0].isupper() else " It began in the {since}.",
        "place": " All of {place} talked about it.",
        "tried": " The poor owner {tried}.",
    }
    return "STORY: " + facts.fill(draws.pick(STORIES) + "".join(tails[slot] for slot in details))


# kind of what follows a post -> (how one is written, share of the documents, how many may follow)
KINDS = {
    "nothing": (_update, 0.05, (0,)),
    "comments": (_comment, 0.3, (1, 2)),
    "questions": (_question, 0.45, (2, 3, 4, 5)),
    "update": (_update, 0.1, (1,)),
    "story": (_story, 0.1, (1,)),
}
