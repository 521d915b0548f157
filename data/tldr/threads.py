"""The grammar of what stands under a post in the pretraining documents: comments, updates, stories.

Nearly all of them restate facts or sentences of the post, so a model that predicts them well has
learned to copy.
"""

from data.draws import Draws
from data.tldr.posts import Facts, Post
from data.tldr.vocabulary import OPTION

RESTATEMENTS = (
    "So your {who} keeps {deed} your {thing}",
    "Your {who} is still {deed} your {thing}",
    "Really, your {who} will not stop {deed} your {thing}",
)
TAILS = {"since": " since {since}", "place": " in {place}", "tried": ", and you already {tried}"}
COUNSEL = ("I would {option}.", "Better {option}.", "Please do not {option}.")
UPDATES = (
    "My {who} finally stopped {deed} my {thing}.",
    "My {who} is not {deed} my {thing} anymore.",
    "My {who} still keeps {deed} my {thing}.",
)
ENDINGS = (
    "In the end I decided to {option}.",
    "I chose to {option}.",
    "I did not {option} after all.",
)
OBJECTIONS = ("What has that to do with it?", "Why do you tell us this?", "Who cares?")
STORIES = (
    "Once in {place}, somebody kept {deed} the {thing}. It was the {who}.",
    "This is the story of the {who} from {place} who kept {deed} the {thing}.",
)
STORY_TAILS = {
    "since": " It began around {since}.",
    "place": " All of {place} knew.",
    "tried": " The owner {tried}.",
}


def draw_document(draws: Draws, post: Post) -> str:
    """A post with what follows it. `draws.logprob` then is that of the whole document."""
    write, numbers = draws.pick(tuple(FOLLOWERS.values()), SHARES)
    return "\n\n".join([post.body, *(write(draws, post) for _ in range(draws.pick(numbers)))])


def _details(draws: Draws) -> list[str]:
    """Which of the details of the history are named (each with probability 0.9)."""
    return [slot for slot in ("since", "place", "tried") if draws.flip(0.9)]


def _counsel(draws: Draws, facts: Facts, templates: tuple[str, ...]) -> str:
    """A sentence about one of the two options."""
    return draws.pick(templates).format(option=OPTION[draws.pick((facts.option, facts.other))])


def _comment(draws: Draws, post: Post) -> str:
    """A reader restates the problem and gives advice."""
    text = draws.pick(RESTATEMENTS) + "".join(TAILS[slot] for slot in _details(draws))
    return f"COMMENT: {post.facts.fill(text)}. {_counsel(draws, post.facts, COUNSEL)}"


def _update(draws: Draws, post: Post) -> str:
    """The author tells how it went on."""
    return f"UPDATE: {post.facts.fill(draws.pick(UPDATES))} {_counsel(draws, post.facts, ENDINGS)}"


def _story(draws: Draws, post: Post) -> str:
    """Somebody else tells it."""
    return "STORY: " + post.facts.fill(
        draws.pick(STORIES) + "".join(STORY_TAILS[slot] for slot in _details(draws))
    )


def _objection(draws: Draws, post: Post) -> str:
    """A reader quotes a sentence that has nothing to do with the problem."""
    return f'COMMENT: "{post.small_talk}" {draws.pick(OBJECTIONS)}'


# what follows a post -> (how one is written, how many there may be)
FOLLOWERS = {
    "nothing": (_update, (0,)),
    "comments": (_comment, (1, 2, 3)),
    "objections": (_objection, (1, 2)),
    "update": (_update, (1,)),
    "story": (_story, (1,)),
}
SHARES = (0.02, 0.74, 0.10, 0.05, 0.09)
