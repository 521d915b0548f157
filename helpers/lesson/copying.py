"""Has a language model learned to copy? Its loss where a text names a fact again, against the first
mention.

In the embedded world of posts the facts are marked, and the least possible loss of each part is
known. On other rows any rare token counts as a fact.
"""

import math
import re
from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from data.tldr.posts import Post, draw_split_post
from data.tldr.threads import draw_document
from data.tldr.vocabulary import VALUES
from helpers.lesson.track_words import in_the_lesson
from helpers.model import GPT
from helpers.run.course import Course
from helpers.tokenizer import Tokenizer

SLOTS = ("who", "deed", "thing", "since", "place")  # the facts that documents name again
DOCUMENTS = 100  # that are written, or read, for one measurement
FEW = 20  # for one of many
COUNTED = 2000  # rows in which tokens are counted

Losses = Callable[[list[int]], list[float]]  # a row of tokens to the loss of each, in nats
Fresh = list[tuple[Post, str, float]]  # (post, document that begins with it, log-probability)


def fresh_documents(seed: int, documents: int = DOCUMENTS) -> Fresh:
    """New documents of the world of posts, about facts that no training document combines."""
    fresh = []
    for i in range(documents):
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
    places = [token_places(row, losses(row), tokenizer) for row in rows]
    for slot in SLOTS:
        mentions = [
            word_losses(tokens, text, getattr(post.facts, slot))
            for tokens, (post, text, _) in zip(places, fresh, strict=True)
        ]
        chance[slot] = math.log(len(VALUES[slot]))
        first[slot] = sum(each[0] for each in mentions) / len(mentions)
        again = [loss for each in mentions for loss in each[1:]]
        later[slot] = sum(again) / max(1, len(again))
    return {"ln n": chance, "first mention": first, "later mentions": later}


def token_places(
    row: list[int], cost: Sequence[float], tokenizer: Tokenizer
) -> list[tuple[float, int, int]]:
    """Loss, start and end in the text of each token."""
    ends = torch.tensor([len(tokenizer.decode([id_])) for id_ in row]).cumsum(dim=0).tolist()
    return list(zip(cost, [0, *ends], ends, strict=False))


def word_losses(places: list[tuple[float, int, int]], text: str, word: str) -> list[float]:
    """The loss of each mention of a word in a text, the first one first."""
    return [
        sum(loss for loss, start, end in places if end > match.start() and start < match.end())
        for match in re.finditer(rf"\b{word}\b", text)
    ]


def rare_token_losses(
    heldout: list[list[int]], losses: Losses, rows: list[list[int]]
) -> dict[str, dict]:
    """The mean loss of tokens outside the commonest tenth of those that occur: first and later."""
    seen: Tensor = torch.bincount(torch.cat([torch.tensor(row) for row in rows[:COUNTED]]))
    common = set(seen.topk(int(seen.count_nonzero()) // 10).indices.tolist())
    costs: dict[str, list[float]] = {"first mention": [], "later mentions": []}
    for row in heldout:
        above = set(row[:1])
        for id_, cost in zip(row[1:], losses(row)[1:], strict=True):
            if id_ not in common:
                costs["later mentions" if id_ in above else "first mention"].append(cost)
            above.add(id_)
    return {name: {"rare tokens": sum(c) / max(1, len(c))} for name, c in costs.items()}


def mention_losses(
    course: Course,
    losses: Losses,
    rows: list[list[int]],
    heldout: list[list[int]],
    documents: int = DOCUMENTS,
) -> dict[str, dict]:
    """`fact_losses` in the world of posts, `rare_token_losses` on any other rows."""
    if in_the_lesson(course):
        return fact_losses(fresh_documents(course.seed, documents), losses, course.tokenizer)
    return rare_token_losses(heldout[:documents], losses, rows)


def mentions(
    course: Course, losses: Losses, rows: list[list[int]], heldout: list[list[int]]
) -> dict[str, dict]:
    """`mention_losses`; printed too."""
    series = mention_losses(course, losses, rows, heldout)
    for name in next(iter(series.values())):
        print(f"{name:12}", ", ".join(f"{kind} {series[kind][name]:.2f}" for kind in series))
    return series


def token_losses(model: GPT, row: list[int]) -> list[float]:
    """A document's tokens to the loss of each, in nats; the first is given."""
    ids = torch.tensor([row], device=model.wte.weight.device)
    with torch.no_grad():
        losses = F.cross_entropy(model(ids[:, :-1])[0], ids[0, 1:], reduction="none")
    return [0.0, *losses.tolist()]


class CopyingWatch:
    """Called with the history after every step of a training run: measures at some steps what the
    later mentions of each fact cost the model, in nats. Only in the world of posts.
    """

    def __init__(self, course: Course, model: GPT, steps: int, times: int = 16):
        self.fresh = fresh_documents(course.seed, FEW) if in_the_lesson(course) else []
        self.losses, self.tokenizer = partial(token_losses, model), course.tokenizer
        self.at = {max(1, round(steps * i / times)) for i in range(times + 1)}
        self.series: dict[int, dict[str, float]] = {}  # {step: {fact: loss}}

    def __call__(self, history: list[dict]) -> None:
        if self.fresh and len(history) in self.at:
            measured = fact_losses(self.fresh, self.losses, self.tokenizer)
            self.series[len(history)] = measured["later mentions"]


def parts(course: Course, losses: Losses) -> dict[str, dict]:
    """`loss_and_floor` in the world of posts, else nothing; printed too."""
    if not in_the_lesson(course):
        print("only in the world of posts do we know what each part of a document must cost")
        return {}
    series = loss_and_floor(fresh_documents(course.seed), losses, course.tokenizer)
    for part, loss in series["model"].items():
        print(f"{part}: {loss - series['least possible'][part]:.3f} nats per token above the floor")
    return series
