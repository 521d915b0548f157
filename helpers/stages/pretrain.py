"""0-Pretrain as a command: data, training, held-out loss against its floor, checkpoint."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from helpers.batching import Batches
from helpers.engine.distributed import is_main
from helpers.engine.transfer import ahead
from helpers.evaluation import entropy_floor
from helpers.model import GPT, GPTConfig
from helpers.pretrain import (
    document_batches,
    encode_documents,
    heldout_loss,
    sinusoidal_start,
    train,
    trained_tokens,
)
from helpers.records import Document, fingerprint
from helpers.rows.shards import ShardError, ShardSet
from helpers.run.course import Course
from helpers.stages.cli import loss_curve, stage_main


@dataclass
class Data:
    """What a run learns from and is measured with."""

    batches: Sequence  # of (ids, mask), (B, T)
    heldout: list[list[int]]  # encoded rows
    tokens: int  # that training reads, repeated ones counted again
    fingerprint: str
    documents: list[Document]  # the held-out ones; none where tokens come from shards


def document_data(course: Course) -> Data:
    """The track's documents, in memory."""
    config, tokenizer = course.config, course.tokenizer
    documents = course.rows("documents", "train", config.documents)
    heldout = course.rows("documents", "heldout", config.eval_documents)
    rows = encode_documents(documents, tokenizer, config.context)
    sizes = config.batch_size, config.epochs
    batches = document_batches(rows, *sizes, tokenizer.pad_id, config.seed)
    heldout_rows = encode_documents(heldout, tokenizer, config.context)
    tokens = trained_tokens(rows, config)
    return Data(batches, heldout_rows, tokens, fingerprint(documents), heldout)


def shard_data(course: Course, folder: str) -> Data:
    """The tokens of a folder of shards, all of them, `epochs` times."""
    config = course.config
    shards = ShardSet(folder, course.tokenizer, checksums=is_main())
    size, context = config.batch_size, config.context
    steps = round(config.epochs * shards.windows(context) / size)
    if steps < 1:
        few = f"{shards.tokens:,} tokens: too few for one batch of {size} rows"
        raise ShardError(f"{folder} has {few}")
    batches = Batches(range(steps), lambda step: shards.batch(step, size, context, config.seed))
    heldout = shards.heldout_rows(context, config.eval_documents * context)
    return Data(batches, heldout, steps * size * context, shards.fingerprint, [])


def run(course: Course) -> None:
    """The whole stage, on the track's documents, or a folder of shards if the settings name one."""
    shards = course.settings.shards
    data = shard_data(course, shards) if shards else document_data(course)
    model = new_model(course)
    course.prepare(model)
    loop = course.loop(**({"shards": data.fingerprint} if shards else {}))
    history = train(model, ahead(data.batches, course.device), course.config, loop)
    if is_main():  # the other processes only help with the training
        finish(course, model, data, history)


def new_model(course: Course) -> GPT:
    """A GPT with random weights, of the size that the settings say."""
    config = course.config
    sizes = config.context, config.layers, config.heads, config.channels
    model = GPT(GPTConfig(course.tokenizer.vocab_size, *sizes))
    sinusoidal_start(model)
    return model.to(course.device)


def finish(course: Course, model: GPT, data: Data, history: list[dict]) -> dict:
    """Measure and save the model, and record the metrics, which are returned."""
    metrics = measure(model, data.documents, data.heldout, course.tokenizer.pad_id, course.dtype)
    metrics |= {"tokens": data.tokens}
    curve = loss_curve(history, ceiling=metrics.get("entropy_floor"))
    course.finish(
        model,
        metrics,
        parent=None,
        data_fingerprint=data.fingerprint,
        first_loss=history[0]["loss"],
        curves={"pretraining loss, nats per token": curve},
    )
    return metrics


def measure(
    model: GPT, heldout: list[Document], rows: list[list[int]], pad_id: int, dtype=torch.float32
) -> dict:
    """Held-out loss in nats per token, and its entropy floor where that is known."""
    metrics = {"heldout_loss": heldout_loss(model, rows, pad_id, dtype)}
    logprobs = [document.logprob for document in heldout]
    if logprobs and None not in logprobs:
        metrics["entropy_floor"] = entropy_floor(logprobs, sum(len(row) - 1 for row in rows))
    return metrics


def main(argv: Sequence[str] | None = None) -> None:
    """`python -m helpers pretrain`."""
    stage_main("0-Pretrain", run, argv)
