"""The grammar of the pretraining documents: a request, and under it replies, tips and diaries.

All of them say the facts of the request again and list what was asked for, so a model that predicts
them well has learned to copy and to count.
"""

from data.advice.requests import Facts, Request, listed
from data.draws import Draws

NUMBERS_OF_FOLLOWERS = (1, 2, 3)
# what follows a request: whose the facts are, and ways to write it
FOLLOWERS = (
    ("your", "REPLY: So you need {said}, {name}? Take {list}."),
    ("your", "REPLY: {name}, for {said} I would take {list}."),
    ("your", "TIPS: Here, {name}, are {said}: {list}."),
    ("your", "TIPS: You asked us for {said}, {name}. We like {list}."),
    ("my", "DIARY OF {name}: I looked for {said}. I chose {list}."),
    ("my", "DIARY OF {name}: They told me about {said}: {list}."),
)


def draw_document(draws: Draws, request: Request) -> str:
    """A request with what follows it. `draws.logprob` then is that of the whole document.

    All documents begin alike: a model that is given the first token and guesses the others is told
    nothing by it.
    """
    number = draws.pick(NUMBERS_OF_FOLLOWERS)
    return "\n\n".join(
        [f"REQUEST: {request.text}", *(_follower(draws, request.facts) for _ in range(number))]
    )


def _follower(draws: Draws, facts: Facts) -> str:
    """A reader, a magazine or the asking person says again what was asked, and lists things."""
    your, template = draws.pick(FOLLOWERS)
    said = facts.fill(facts.form.about + facts.form.when, your=your)
    items = facts.in_a_row(draws.pick(facts.things), facts.count)
    return facts.fill(template, said=said, list=listed(items))
