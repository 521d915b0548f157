"""Between pretraining and SFT, for a small base model on real posts: practice in copying, then the
task's own texts.

A summary takes half of its words from the post. A model of a few million parameters, pretrained for
minutes, has never had a reason to look back and copy; a few thousand demonstrations don't teach it.
These rows do, and cost no labels:

1. Prose whose sentences come again in another order: half of such a row can be copied.
2. The demonstrations as documents, prompts and all (task-adaptive pretraining, Gururangan et al.
2020, section 4).
3. The same posts with a stand-in for the summary: the post's title, or one of its sentences (as in
PEGASUS, where
   sentences of a document are the pseudo-summary to generate: Zhang et al. 2020, section 3.1).

SFT then reads every post twice, once with its summary and once with its title (`with_titles`): a
title is the one summary of a post that is there for nothing.
"""

import random
import re
from collections.abc import Callable, Sequence

from helpers import pretrain
from helpers.config import PretrainConfig, SFTConfig
from helpers.engine.loop import Loop
from helpers.model import GPT
from helpers.records import Demonstration, Document
from helpers.rows import tldr
from helpers.rows.common import completion
from helpers.run.course import Course
from helpers.tokenizer import Tokenizer

SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
SHORTEST, LONGEST = 16, 299  # characters of a sentence worth copying
LR, MUON_LR = 3e-3, 1e-2  # of a model that still has much to learn
AT_ONCE = 3, 12  # sentences of a practice row: at least, at most


def sentences(text: str) -> list[str]:
    """The sentences of a text that are neither scraps nor endless."""
    parts = (part.strip() for part in SENTENCE_END.split(text))
    return [part for part in parts if SHORTEST <= len(part) <= LONGEST]


def copying_rows(
    documents: Sequence[Document], tokenizer: Tokenizer, context: int, rows: int, seed: int
) -> list[list[int]]:
    """Token rows: some sentences of a document, the mark of a summary, and the same sentences in
    another order.

    At most `rows` of them, from documents in random order, each at most `context` tokens.
    """
    chance, found = random.Random(f"copying/{seed}"), []
    for document in chance.sample(documents, len(documents)):
        left = sentences(document.text)
        while len(left) > AT_ONCE[0]:
            size = chance.randint(*AT_ONCE)
            part, left = left[:size], left[size:]
            shuffled = chance.sample(part, len(part))
            row = tokenizer.encode(f"{' '.join(part)}\n\n{tldr.MARK} {' '.join(shuffled)}") + [
                tokenizer.eos_id
            ]
            if len(row) <= context:
                found.append(row)
            if len(found) == rows:
                return found
    return found


def stand_ins(demonstrations: Sequence[Demonstration], seed: int) -> list[Demonstration]:
    """As many demonstrations, in which the title or a sentence of the post stands in for the
    summary.
    """
    chance, found = random.Random(f"stand-ins/{seed}"), []
    for item in demonstrations:
        post = tldr.read_post({"prompt": item.prompt})
        choices = [
            post["title"],
            *chance.sample(said := sentences(post["post"]), min(1, len(said))),
        ]
        found.append(
            Demonstration(
                item.prompt, completion(chance.choice([text for text in choices if text]))
            )
        )
    return found


def with_titles(
    demonstrations: Sequence[Demonstration],
    rows: list[tuple[list[int], int]],
    tokenizer: Tokenizer,
    context: int,
) -> list[tuple[list[int], int]]:
    """The encoded demonstrations (tokens, and how many are the prompt's), and the same posts with
    their titles.
    """
    found = list(rows)
    for item in demonstrations:
        title = tldr.read_post({"prompt": item.prompt})["title"]
        prompt = tokenizer.encode(item.prompt)
        row = prompt + tokenizer.encode(f" {title}") + [tokenizer.eos_id]
        if title and len(row) <= context:
            found.append((row, len(prompt)))
    return found


def adapt(
    model: GPT,
    demonstrations: Sequence[Demonstration],
    documents: Sequence[Document],
    config: SFTConfig,
    tokenizer: Tokenizer,
    loop: Callable[[str], Loop] = Loop,
) -> None:
    """Train the base model in place on the three kinds of rows, in batches of SFT's size.

    loop(title) is the bookkeeping of each of the two runs.
    """
    context = model.config.context
    copying = copying_rows(documents, tokenizer, context, config.copying_rows, config.seed)
    reading = [
        row
        for item in (*demonstrations, *stand_ins(demonstrations, config.seed))
        if len(
            row := tokenizer.encode(item.prompt)
            + tokenizer.encode(item.completion)
            + [tokenizer.eos_id]
        )
        <= context
    ]
    for title, rows, epochs in (
        ("copying", copying, 1.0),
        ("reading", reading, config.adapt_epochs),
    ):
        settings = PretrainConfig(
            epochs=epochs,
            batch_size=config.batch_size,
            lr=LR,
            muon_lr=MUON_LR,
            micro_batch=config.micro_batch,
            seed=config.seed,
        )
        batches = pretrain.document_batches(
            rows, config.batch_size, epochs, tokenizer.pad_id, config.seed
        )
        pretrain.train(model, batches, settings, loop(title))


def adapt_if_wanted(
    model: GPT,
    course: Course,
    demonstrations: Sequence[Demonstration],
    rows: list[tuple[list[int], int]],
) -> list[tuple[list[int], int]]:
    """What 1-SFT does first where its settings ask for it (`adapt_epochs`), and the rows that SFT
    then reads.

    Elsewhere nothing is done, and the encoded demonstrations `rows` are returned.
    """
    if course.config.adapt_epochs:
        documents = course.rows("documents", "train", course.config_of("pretrain").documents)
        adapt(model, demonstrations, documents, course.config, course.tokenizer, course.loop)
        rows = with_titles(demonstrations, rows, course.tokenizer, model.config.context)
    return rows
