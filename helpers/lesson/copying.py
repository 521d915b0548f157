"""Has a language model learned to copy? Its loss where a text names a fact again, against the first
mention.

In the embedded world of posts the facts are marked, and the least possible loss of each part is
known. On other rows any rare token counts as a fact.
"""

import math
import re
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from data.tldr.posts import Post, draw_split_post
from data.tldr.threads import draw_document
from data.tldr.vocabulary import VALUES
from helpers.lesson.track_words import in_the_lesson
from helpers.run.course import Course
from helpers.tokenizer import Tokenizer

SLOTS = ("who", "deed", "thing", "since", "place")  # the facts that documents name again
DOCUMENTS = 100  # that are written, or read, for one measurement

Losses = Callable[[list[int]], list[float]]  # a row of tokens to the loss of each, in nats
Fresh = list[tuple[Post, str, float]]  # (post, document that begins with it, log-probability)


def fresh_documents(seed: int) -> Fresh:
    """New documents of the world of posts, about facts that no training document combines."""
    fresh = []
    for i in range(DOCUMENTS):
        draws, post = draw_split_post(f"{seed}/fresh/{i}", held_out=True)
        text = draw_document(draws, post)  # goes on from the post, and so does draws.logprob
        fresh.append((post, text, draws.logprob))
    return fresh


def loss_and_floor(fresh: Fresh, losses: Losses, tokenizer: Tokenizer) -> dict[str, dict]:
    """Nats per token in the post and in what follows it: the model's, and the least possible."""
    parts = ("the post", "what follows it")
    model, least, tokens = (dict.fromkeys(parts, 0.0) for _ in range(3))
    for post, text, logprob in fresh:
        row = tokenizer.encode(text) + [tokenizer.eos_id]
        cost = losses(row)
        end = len(tokenizer.encode(post.body)) + 1  # with the line break that ends the post
        floors = -post.logprob, post.logprob - logprob
        for part, costs, floor in zip(parts, (cost[:end], cost[end:]), floors, strict=True):
            model[part] += sum(costs)
            least[part] += floor
            tokens[part] += len(costs) - (part == "the post")  # the first token is given
    model, least = ({p: x[p] / tokens[p] for p in parts} for x in (model, least))
    return {"model": model, "least possible": least}


def fact_losses(fresh: Fresh, losses: Losses, tokenizer: Tokenizer) -> dict[str, dict]:
    """By fact, in nats: ln n of its n values, the loss of its word the first time, and later."""
    chance, first, later = {}, {}, {}
    rows = [tokenizer.encode(text) + [tokenizer.eos_id] for _, text, _ in fresh]
    costs = [losses(row) for row in rows]
    for slot in SLOTS:
        mentions = [
            word_losses(row, cost, text, getattr(post.facts, slot), tokenizer)
            for row, cost, (post, text, _) in zip(rows, costs, fresh, strict=True)
        ]
        chance[slot] = math.log(len(VALUES[slot]))
        first[slot] = sum(each[0] for each in mentions) / len(mentions)
        again = [loss for each in mentions for loss in each[1:]]
        later[slot] = sum(again) / max(1, len(again))
    return {"ln n": chance, "first mention": first, "later mentions": later}


def word_losses(
    row: list[int], cost: Sequence[float], text: str, word: str, tokenizer: Tokenizer
) -> list[float]:
    """The loss of each mention of a word in a text, the first one first."""
    ends = torch.tensor([len(tokenizer.decode([id_])) for id_ in row]).cumsum(dim=0).tolist()
    places = list(zip(cost, [0, *ends], ends, strict=False))  # loss, start and end of each token
    return [
        sum(loss for loss, start, end in places if end > match.start() and start < match.end())
        for match in re.finditer(rf"\b{word}\b", text)
    ]


def rare_token_losses(
    heldout: list[list[int]], losses: Losses, rows: list[list[int]], vocab_size: int
) -> dict[str, dict]:
    """The mean loss of tokens outside the commonest tenth of the vocabulary: first and later."""
    seen: Tensor = torch.bincount(torch.cat([torch.tensor(row) for row in rows]))
    common = set(seen.topk(min(vocab_size // 10, len(seen))).indices.tolist())
    costs: dict[str, list[float]] = {"first mention": [], "later mentions": []}
    for row in heldout:
        above = set(row[:1])
        for id_, cost in zip(row[1:], losses(row)[1:], strict=True):
            if id_ not in common:
                costs["later mentions" if id_ in above else "first mention"].append(cost)
            above.add(id_)
    return {name: {"rare tokens": sum(c) / max(1, len(c))} for name, c in costs.items()}


def mentions(
    course: Course, losses: Losses, rows: list[list[int]], heldout: list[list[int]]
) -> dict[str, dict]:
    """`fact_losses` in the world of posts, `rare_token_losses` on any other rows; printed too."""
    if in_the_lesson(course):
        series = fact_losses(fresh_documents(course.seed), losses, course.tokenizer)
    else:
        size = course.tokenizer.vocab_size
        series = rare_token_losses(heldout[:DOCUMENTS], losses, rows, size)
    for name in next(iter(series.values())):
        print(f"{name:12}", ", ".join(f"{kind} {series[kind][name]:.2f}" for kind in series))
    return series


def parts(course: Course, losses: Losses) -> dict[str, dict]:
    """`loss_and_floor` in the world of posts, else nothing; printed too."""
    if not in_the_lesson(course):
        print("only in the world of posts do we know what each part of a document must cost")
        return {}
    series = loss_and_floor(fresh_documents(course.seed), losses, course.tokenizer)
    for part, loss in series["model"].items():
        print(f"{part}: {loss - series['least possible'][part]:.3f} nats per token above the floor")
    return series
