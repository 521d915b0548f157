"""Reddit posts and their summaries (the rows of CarperAI/openai_summarize_tldr and
openai_summarize_comparisons).
"""

import re
from collections.abc import Callable, Sequence

from helpers.records import Comparison, Demonstration, Prompt
from helpers.rows import common
from helpers.rows.common import Limits, Unusable, completion, field

TEMPLATE = "SUBREDDIT: r/{subreddit}\n\nTITLE: {title}\n\nPOST: {post}\n\nTL;DR:"
SUMMARY_CUE = "TL;DR:"
SUBREDDIT = "SUBREDDIT:"
CUES = re.compile(r"(?:\s*TL;DR:)*", re.IGNORECASE)
NEAR = 64  # cuts tried beyond the one that bisection finds: a longer text may have fewer tokens


def read_post(row: dict) -> dict[str, str]:
    """The fields subreddit, title and post of a prompt. Only a "TL;DR:" at the very end asks for
    the summary; one inside the post belongs to the post.
    """
    text = field(row, "prompt").removesuffix(SUMMARY_CUE)
    subreddit, _, text = text.partition("\nTITLE:")
    title, found, post = text.partition("\nPOST:")
    if not (subreddit.startswith(SUBREDDIT) and found):
        raise Unusable("prompt is no Reddit post")
    if not post.strip():
        raise Unusable("empty post")
    name = subreddit.removeprefix(SUBREDDIT).lstrip(" ").removeprefix("r/").strip()
    return {"subreddit": name, "title": title.strip(), "post": post.strip()}


def key(row: dict) -> str:
    """The uncut prompt, so that a post is in the same split whatever file it comes from."""
    return TEMPLATE.format(**read_post(row))


def prompt(row: dict, limits: Limits) -> Prompt:
    """The prompt of a post. One that is too long is cut at line breaks until it fits, or else by
    characters. Raises Unusable if not even the first character of the post fits.
    """
    parts = read_post(row)
    post = parts.pop("post")

    def fits(end: int) -> bool:
        return limits.holds(TEMPLATE.format(post=post[:end], **parts))

    if not fits(len(post)):
        lines = [i for i, character in enumerate(post) if character == "\n"]
        end = longest(lines, fits) or longest(range(1, lines[0] if lines else len(post)), fits)
        if end is None:
            raise Unusable("prompt too long")
        post = post[:end]
    return Prompt(TEMPLATE.format(post=post, **parts))


def longest(ends: Sequence[int], fits: Callable[[int], bool]) -> int | None:
    """The largest of the rising numbers `ends` that fits, or None, by bisection."""
    low, high = 0, len(ends)  # as if all before low fitted, and none from high on
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if fits(ends[middle]) else (low, middle)
    return next((end for end in reversed(ends[max(0, low - 1) : low + NEAR]) if fits(end)), None)


def was_cut(row: dict, record: Prompt | Demonstration | Comparison) -> bool:
    """Whether the record's post is shorter than the row's."""
    return len(record.prompt) < len(key(row))


def summary(row: dict, name: str) -> str:
    """The summary in a column, without the "TL;DR:" that some data sets repeat before it."""
    text = field(row, name)
    return completion(text[CUES.match(text).end() :])


def demonstration(row: dict, limits: Limits) -> Demonstration:
    """A post and its author's summary."""
    return common.demonstration(prompt(row, limits).prompt, summary(row, "label"), limits)


def preference(row: dict, limits: Limits) -> Comparison:
    """A post and two summaries."""
    text = prompt(row, limits).prompt
    return common.comparison(text, summary(row, "chosen"), summary(row, "rejected"), limits)
