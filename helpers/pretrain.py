"""Stage 0: a language model from random weights (taught in 0-Pretrain). `python -m helpers.pretrain
--preset cpu`.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from helpers.batching import Batches, length_buckets, moved, right_pad, rows_at_once
from helpers.config import PretrainConfig
from helpers.cross_entropy import token_cross_entropy
from helpers.engine.accumulation import token_parts
from helpers.engine.distributed import is_main
from helpers.engine.hardware import prepare
from helpers.engine.snapshots import Keeper
from helpers.evaluation import entropy_floor
from helpers.model import GPT, GPTConfig
from helpers.rows.embedded import Document, fingerprint
from helpers.rows.shards import ShardError, ShardSet
from helpers.run.checkpoints import save_stage
from helpers.run.setup import Course
from helpers.stages.cli import settings, stage_main
from helpers.tokenizer import Tokenizer
from helpers.training import Optimizers, Progress, autocast, fit


def next_token_loss(model: GPT, ids: Tensor, mask: Tensor) -> Tensor:
    """Mean cross-entropy, in nats, of each token given those before it. ids, mask (B, T), padded on
    the right.
    """
    hidden = model.hidden(ids)  # (B, T, C): position t guesses token t+1
    targets = torch.full_like(ids, -100)  # -100: no guess, for pads and behind the last token
    targets[:, :-1] = ids[:, 1:].masked_fill(~mask[:, 1:], -100)
    return token_cross_entropy(hidden.flatten(0, 1), model.wte.weight, targets.flatten())


@torch.no_grad()
def sinusoidal_start(model: GPT) -> None:
    """Start the position embeddings as waves instead of noise, of GPT-2's size (0.02).

    "One step back" is then the same rotation at every position, so heads learn it for all positions
    at once (the waves of Vaswani et al. 2017, section 3.5). The embeddings stay trainable: only the
    start differs from GPT-2.
    """
    context, channels = model.wpe.weight.shape
    rates = context ** -(
        torch.arange(0, channels, 2) / channels
    )  # radians a token, from 1 down to 1 / context
    angles = torch.arange(context)[:, None] * rates  # (context, C / 2)
    model.wpe.weight.copy_(0.02 * 2**0.5 * torch.cat([angles.sin(), angles.cos()], dim=1))


def encode_documents(
    documents: list[Document], tokenizer: Tokenizer, context: int
) -> list[list[int]]:
    """Each document's tokens and an end of text, at most `context` a row: a longer document goes on
    in the next row.

    A row starts with the last token of the one before it, so that every token but the document's
    first is guessed.
    """
    rows = []
    for document in documents:
        ids = tokenizer.encode(document.text) + [tokenizer.eos_id]
        rows += [
            ids[start : start + context] for start in range(0, max(1, len(ids) - 1), context - 1)
        ]
    return rows


def document_batches(
    rows: list[list[int]], batch_size: int, epochs: float, pad_id: int, seed: int
) -> Batches:
    """Batches (ids, mask) of documents of similar length, in an order fixed by the seed."""
    plan = batch_plan([len(row) for row in rows], batch_size, epochs, seed)
    return Batches(plan, lambda index: right_pad([rows[i] for i in index], pad_id, multiple=16))


def batch_plan(lengths: list[int], batch_size: int, epochs: float, seed: int) -> list[list[int]]:
    """Which rows make up each step's batch: all rows once an epoch, in a new random order each
    time.
    """
    generator = torch.Generator().manual_seed(seed)
    plan: list[list[int]] = []
    while epochs > 0:
        buckets = length_buckets(lengths, batch_size, generator)
        plan += buckets[: round(len(buckets) * min(1.0, epochs))]
        epochs -= 1
    return plan


@torch.no_grad()
def heldout_loss(
    model: GPT, rows: list[list[int]], pad_id: int, dtype: torch.dtype = torch.float32
) -> float:
    """Mean next-token loss over all tokens of the rows, in nats per token."""
    total, tokens = 0.0, 0
    device = model.wte.weight.device
    at_once = rows_at_once(rows, model.config.vocab_size)
    for ids, mask in document_batches(rows, at_once, 1, pad_id, seed=0):
        ids, mask = ids.to(device), mask.to(device)
        with autocast(device, dtype):
            loss = next_token_loss(model, ids, mask)
        guessed = mask[:, 1:].sum().item()
        total, tokens = total + loss.item() * guessed, tokens + guessed
    return total / tokens


def train(
    model: GPT,
    rows: list[list[int]],
    config: PretrainConfig,
    pad_id: int,
    dtype=torch.float32,
    keeper: Keeper | None = None,
    title: str = "pretrain",
) -> list[dict]:
    """Pretrain in place on encoded documents; returns the metrics of every step.

    With a keeper the run is logged and saved, and goes on where one that was stopped has left off.
    """
    batches = document_batches(rows, config.batch_size, config.epochs, pad_id, config.seed)
    return train_on(model, batches, config, dtype, keeper, title)


def train_on(
    model: GPT,
    batches: Sequence,
    config: PretrainConfig,
    dtype=torch.float32,
    keeper: Keeper | None = None,
    title: str = "pretrain",
) -> list[dict]:
    """The same on batches (ids, mask), wherever they are from."""
    device = model.wte.weight.device

    def loss_of(model, batch):
        ids, mask = moved(batch, device)
        return next_token_loss(model, ids, mask), {}

    optimizers = Optimizers(model, config.lr, config.muon_lr)
    progress, split = Progress(title, len(batches), keeper), token_parts(config.micro_batch)
    return fit(model, batches, loss_of, optimizers, progress, dtype=dtype, split=split)


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
    rows, heldout_rows = (
        encode_documents(part, tokenizer, config.context) for part in (documents, heldout)
    )
    batches = document_batches(
        rows, config.batch_size, config.epochs, tokenizer.pad_id, config.seed
    )
    return Data(
        batches, heldout_rows, trained_tokens(rows, config), fingerprint(documents), heldout
    )


def shard_data(course: Course, folder: str) -> Data:
    """Tokens that `python -m helpers.rows.build_shards` has put on disk: as many as there are,
    `epochs` times.
    """
    config = course.config
    shards = ShardSet(folder, course.tokenizer, checksums=is_main())
    steps = round(config.epochs * shards.windows(config.context) / config.batch_size)
    if steps < 1:
        raise ShardError(
            f"{folder} has {shards.tokens:,} tokens: too few for one batch of {config.batch_size} "
            "rows"
        )
    batches = Batches(
        range(steps),
        lambda step: shards.batch(step, config.batch_size, config.context, config.seed),
    )
    heldout = shards.heldout_rows(config.context, config.eval_documents * config.context)
    return Data(
        batches, heldout, steps * config.batch_size * config.context, shards.fingerprint, []
    )


def run(course: Course) -> None:
    """The whole stage: data, model, training, held-out loss against its floor, checkpoint, metrics.

    Reads the track's documents, or where RLHF_SHARDS names a folder of shards, those.
    """
    config, tokenizer = course.config, course.tokenizer
    shards = os.environ.get("RLHF_SHARDS")
    data = shard_data(course, shards) if shards else document_data(course)
    model = GPT(
        GPTConfig(
            tokenizer.vocab_size, config.context, config.layers, config.heads, config.channels
        )
    )
    sinusoidal_start(model)
    model.to(course.device)
    prepare(model)
    keeper = course.keeper()
    if shards:
        keeper = replace(keeper, settings=keeper.settings | {"shards": data.fingerprint})
    history = train_on(model, data.batches, config, course.dtype, keeper)
    if not is_main():
        return  # the other processes have only helped with the training
    metrics = measure(model, data.documents, data.heldout, tokenizer.pad_id, course.dtype) | {
        "tokens": data.tokens
    }
    save_stage(
        course.folder(),
        model,
        tokenizer,
        stage="pretrain",
        track=course.track,
        config=settings(course),
        metrics=metrics,
        parent=None,
        data_fingerprint=data.fingerprint,
    )
    course.forget_snapshots()
    course.record(**metrics, first_loss=history[0]["loss"])


def measure(
    model: GPT, heldout: list[Document], rows: list[list[int]], pad_id: int, dtype=torch.float32
) -> dict:
    """Held-out loss in nats per token, and its entropy floor where the documents' log-probabilities
    are known.
    """
    metrics = {"heldout_loss": heldout_loss(model, rows, pad_id, dtype)}
    if heldout and all(document.logprob is not None for document in heldout):
        tokens = sum(len(row) - 1 for row in rows)
        metrics["entropy_floor"] = entropy_floor([document.logprob for document in heldout], tokens)
    return metrics


def trained_tokens(rows: list[list[int]], config: PretrainConfig) -> int:
    """Tokens that training reads, repeated ones counted again."""
    plan = batch_plan([len(row) for row in rows], config.batch_size, config.epochs, config.seed)
    return sum(len(rows[i]) for index in plan for i in index)


if __name__ == "__main__":
    stage_main("0-Pretrain", run)
