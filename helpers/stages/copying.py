"""Between pretraining and SFT, for a small base model on real posts: practice in copying, then the
task's own texts.

A summary takes half of its words from the post. A model of a few million parameters, pretrained for
minutes, has not learned to look back and copy, and a few thousand demonstrations don't teach it.
These rows do, and cost no labels:

1. Prose whose sentences come again in another order: half of such a row can be copied.
2. The demonstrations as documents, prompts and all (task-adaptive pretraining, Gururangan et al.
   2020, section 4).
3. The same posts with a pseudo-summary: the post's title, or one of its sentences (as in PEGASUS,
   Zhang et al. 2020, section 3.1).

SFT then reads every post twice, once with its summary and once with its title (`with_titles`),
which is a summary that every post has.
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
    """The sentences of a text, without those that are very short or very long."""
    parts = (part.strip() for part in SENTENCE_END.split(text))
    return [part for part in parts if SHORTEST <= len(part) <= LONGEST]


def copying_rows(
    documents: Sequence[Document], tokenizer: Tokenizer, context: int, rows: int, seed: int
) -> list[list[int]]:
    """Token rows: some sentences of a document, the cue of a summary, and the same sentences in
    another order.

    At most `rows` of them, from documents in random order, each at most `context` tokens.
    """
    rng, practice = random.Random(f"copying/{seed}"), []
    for document in rng.sample(documents, len(documents)):
        left = sentences(document.text)
        while len(left) > AT_ONCE[0]:
            size = rng.randint(*AT_ONCE)
            part, left = left[:size], left[size:]
            shuffled = " ".join(rng.sample(part, len(part)))
            ids = tokenizer.encode(f"{' '.join(part)}\n\n{tldr.SUMMARY_CUE} {shuffled}")
            if len(ids) < context:
                practice.append([*ids, tokenizer.eos_id])
            if len(practice) == rows:
                return practice
    return practice


def pseudo_summaries(demonstrations: Sequence[Demonstration], seed: int) -> list[Demonstration]:
    """As many demonstrations, with the title or a sentence of the post in place of the summary."""
    rng, items = random.Random(f"stand-ins/{seed}"), []
    for item in demonstrations:
        post = tldr.read_post({"prompt": item.prompt})
        candidates = sentences(post["post"])
        choices = [post["title"], *rng.sample(candidates, min(1, len(candidates)))]
        text = rng.choice([choice for choice in choices if choice])
        items.append(Demonstration(item.prompt, completion(text)))
    return items


def with_titles(
    demonstrations: Sequence[Demonstration],
    rows: list[tuple[list[int], int]],
    tokenizer: Tokenizer,
    context: int,
) -> list[tuple[list[int], int]]:
    """The encoded demonstrations (tokens, number of prompt tokens), then the posts with titles."""
    titled = []
    for item in demonstrations:
        title = tldr.read_post({"prompt": item.prompt})["title"]
        prompt = tokenizer.encode(item.prompt)
        row = prompt + tokenizer.encode(f" {title}") + [tokenizer.eos_id]
        if title and len(row) <= context:
            titled.append((row, len(prompt)))
    return rows + titled


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
    context, seed = model.config.context, config.seed
    copying = copying_rows(documents, tokenizer, context, config.copying_rows, seed)
    items = (*demonstrations, *pseudo_summaries(demonstrations, seed))
    texts = ((tokenizer.encode(item.prompt), tokenizer.encode(item.completion)) for item in items)
    reading = [[*prompt, *answer, tokenizer.eos_id] for prompt, answer in texts]
    reading = [row for row in reading if len(row) <= context]
    runs = {"copying": (copying, 1.0), "reading": (reading, config.adapt_epochs)}
    for title, (rows, epochs) in runs.items():
        sizes = {"batch_size": config.batch_size, "micro_batch": config.micro_batch}
        settings = PretrainConfig(epochs=epochs, lr=LR, muon_lr=MUON_LR, seed=seed, **sizes)
        order = config.batch_size, epochs, tokenizer.pad_id, seed
        pretrain.train(model, pretrain.document_batches(rows, *order), settings, loop(title))


def adapt_if_wanted(
    model: GPT,
    course: Course,
    demonstrations: Sequence[Demonstration],
    rows: list[tuple[list[int], int]],
) -> list[tuple[list[int], int]]:
    """Adapt the model where the settings of 1-SFT ask for it (`adapt_epochs`), and return the rows
    that SFT then reads; without `adapt_epochs` only return the encoded demonstrations `rows`.
    """
    if course.config.adapt_epochs:
        documents = course.rows("documents", "train", course.config_of("pretrain").documents)
        adapt(model, demonstrations, documents, course.config, course.tokenizer, course.loop)
        rows = with_titles(demonstrations, rows, course.tokenizer, model.config.context)
    return rows
