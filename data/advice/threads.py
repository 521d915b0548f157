"""The grammar of the pretraining documents: a request, and under it replies, letters, tips and
diaries.

All of them say the facts of the request again and list what was asked for, so a model that predicts
them well has learned to copy and to count.
"""

from data.advice.requests import Facts, Request, listed
from data.advice.vocabulary import VALUES
from data.draws import Draws

NUMBERS_OF_FOLLOWERS = (1, 2, 3)
# what follows a request -> (share, whose the facts are, ways to write it); all have {name},
# {number}, {said}, {list}
FOLLOWERS = {
    "reply": (
        0.5,
        "your",
        (
            "REPLY: You need {number} {noun}{said}, {name}? I would pick {list}.",
            "REPLY: So, {name}, you need {number} {noun}{said}. My choice is {list}.",
            "REPLY: {name}, for {number} {noun}{said} people often choose {list}.",
        ),
    ),
    "letter": (
        0.2,
        "your",
        (
            "LETTER: Dear {name}, you asked me for {number} {noun}{said}. I like {list}. Yours, "
            "{friend}",
            "LETTER: Dear {name}, about the {number} {noun}{said}: my advice is {list}. Love, "
            "{friend}",
        ),
    ),
    "tips": (
        0.15,
        "your",
        (
            "TIPS: Today, {name}, we have {number} {noun}{said}: {list}.",
            "TIPS: Our {number} {noun}{said}, {name}, are {list}.",
        ),
    ),
    "diary": (
        0.15,
        "my",
        (
            "DIARY OF {name}: I was looking for {number} {noun}{said}. I chose {list}.",
            "DIARY OF {name}: People told me {number} {noun}{said}. They said {list}.",
        ),
    ),
}


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
    """A reader, a friend, a magazine or the asking person says again what was asked, and lists
    things.
    """
    shares = [share for share, _, _ in FOLLOWERS.values()]
    _, your, templates = draws.pick(tuple(FOLLOWERS.values()), shares)
    template = draws.pick(templates)
    more = {
        "said": facts.said(your),
        "list": listed(draws.sample(facts.items, facts.count), facts.form),
    }
    if "{friend}" in template:
        more["friend"] = draws.pick([name for name in VALUES["name"] if name != facts.name])
    return facts.fill(template, **more)
