"""HellaSwag: which of four endings does a base model find most likely?

Each question is the beginning of a short scene; one ending is true, three were written by a model
and chosen to fool models (Zellers et al. 2019). Guessing is right in 25%, a person in 95%.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from helpers.compare.perplexity import continuation_nats
from helpers.model import GPT
from helpers.rows.common import Unusable, field, usable
from helpers.rows.load import READERS, Report, checked
from helpers.rows.tracks import HubData, SourceError
from helpers.tokenizer import Tokenizer
from helpers.training import autocast

ENDINGS = 4
DATA = HubData(
    "Rowan/hellaswag",
    "218ec52e09a7e7462a5400043bb9a69a41d06b76",
    ("ctx", "endings", "label"),
    train="validation",  # 10,042 questions to measure with: the test split has no labels
    streaming=True,
    stand_ins=("hellaswag/hellaswag_val",),
)


@dataclass(frozen=True)
class Question:
    """A scene, four possible endings, and which of them (from 0) is true."""

    context: str
    endings: tuple[str, ...]
    label: int


@dataclass(frozen=True)
class Score:
    """The share of right answers, with its standard error.

    accuracy_norm picks the ending with the highest mean log-probability per token, as build-nanogpt
    and llm.c do: there the released GPT-2 124M has 0.2955 (and 0.2859 for `accuracy`, which picks
    the highest sum and so favours short endings). EleutherAI's harness divides by characters and
    formats the scenes differently: its numbers are higher.
    """

    questions: int
    accuracy: float
    accuracy_norm: float
    standard_error: float  # of accuracy_norm: sqrt(p (1 - p) / n)
    cut: int  # questions whose beginning was cut off to fit the model's context

    def __str__(self) -> str:
        share = f"{100 * self.accuracy_norm:.1f}% +- {100 * self.standard_error:.1f}%"
        chance = f"(chance: {100 / ENDINGS:.0f}%)"
        return f"HellaSwag: {share} of {self.questions:,} questions right {chance}"


def question(row: dict) -> Question:
    """A row as a question; the Hub has the label as a text. Raises Unusable."""
    endings, label = row.get("endings"), row.get("label")
    if not isinstance(endings, list) or len(endings) != ENDINGS:
        raise Unusable(f"not {ENDINGS} endings")
    if not isinstance(label, int | str) or str(label) not in map(str, range(ENDINGS)):
        raise Unusable(f"no label from 0 to {ENDINGS - 1}")
    texts = tuple(field({"ending": ending}, "ending") for ending in endings)
    return Question(field(row, "ctx"), texts, int(label))


def load_hellaswag(
    source: str, limit: int | None = None, data_dir: Path | None = None
) -> tuple[list[Question], Report]:
    """The first `limit` questions (None: all), and the report of unusable rows. Raises SourceError
    when the rows can't be had, as on an embedded world, or none can be used.
    """
    if source not in READERS:
        trouble = "whose model knows only the words of its world"
        raise DATA.unavailable(f"does not go with source {source!r}, {trouble}")
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be 1 or more, not {limit}")
    rows, _, place = READERS[source](DATA, "train", data_dir)
    report = Report("HellaSwag", f"{source}: {place}")
    questions = list(islice(usable(checked(rows, DATA), question, report), limit))
    report.records = report.used = len(questions)
    if not questions:
        raise SourceError(f"no row can be used: {report}")
    return questions, report


def ending_logprobs(
    model: GPT, tokenizer: Tokenizer, questions: Sequence[Question], batch_size: int = 64
) -> tuple[Tensor, Tensor, int]:
    """log p(ending | scene) in nats and tokens of the endings, both (N, 4), and how many scenes had
    to be cut.

    An ending follows a space. Where scene and ending do not fit the context together, the scene
    loses its beginning, for all four endings alike. batch_size: endings at once.
    """
    before, after, cut, context = [], [], 0, model.config.context
    for item in questions:
        endings = [tokenizer.encode(" " + ending)[: context - 1] for ending in item.endings]
        scene, room = tokenizer.encode(item.context), context - max(map(len, endings))
        cut += len(scene) > room
        before += [scene[-room:]] * ENDINGS
        after += endings
    logprobs = -continuation_nats(model, before, after, batch_size)
    tokens = torch.tensor([len(ids) for ids in after])
    return logprobs.view(-1, ENDINGS), tokens.view(-1, ENDINGS), cut


def hellaswag(
    model: GPT, tokenizer: Tokenizer, questions: Sequence[Question], dtype=torch.float32
) -> Score:
    """The score of a model, which computes in `dtype`. Raises ValueError without questions."""
    if not questions:
        raise ValueError("no questions to ask")
    with autocast(model.wte.weight.device, dtype):
        sums, tokens, cut = ending_logprobs(model, tokenizer, questions)
    labels = torch.tensor([item.label for item in questions])
    right, right_norm = (
        (scores.argmax(1) == labels).double().mean().item() for scores in (sums, sums / tokens)
    )
    error = math.sqrt(right_norm * (1 - right_norm) / len(questions))
    return Score(len(questions), right, right_norm, error, cut)
