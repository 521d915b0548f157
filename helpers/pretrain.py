"""Stage 0: pretraining a language model from random weights (taught in 0-Pretrain)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from helpers.batching import Batches, batch_plan, right_pad, rows_at_once
from helpers.config import PretrainConfig
from helpers.cross_entropy import token_cross_entropy
from helpers.engine.loop import Loop
from helpers.model import GPT
from helpers.records import Document
from helpers.tokenizer import Tokenizer
from helpers.training import Optimizers, autocast, schedule


def next_token_loss(model: GPT, ids: Tensor, mask: Tensor) -> Tensor:
    """Mean cross-entropy of each token given those before it, in nats per token.

    ids, mask: (B, T), padded on the right.
    """
    hidden = model.hidden(ids)  # (B, T, C): position t predicts token t + 1
    # The last token and the pads predict nothing: -100 excludes a position from the loss.
    targets = torch.full_like(ids, -100)
    targets[:, :-1] = ids[:, 1:].masked_fill(~mask[:, 1:], -100)
    return token_cross_entropy(hidden.flatten(0, 1), model.wte.weight, targets.flatten())


@torch.no_grad()
def sinusoidal_start(model: GPT) -> None:
    """Initialise the position embeddings as sinusoids instead of noise, with GPT-2's std of 0.02.

    "One step back" is then the same rotation at every position, so that a head learns it for all
    positions at once. The embeddings stay trainable: only their initialisation differs from GPT-2.
    Source of the sinusoids: Vaswani et al. 2017, section 3.5.
    """
    context, channels = model.wpe.weight.shape
    # Frequencies in radians per token, from 1 down to 1 / context.
    frequencies = context ** -(torch.arange(0, channels, 2) / channels)
    angles = torch.arange(context)[:, None] * frequencies  # (context, C / 2)
    # A sinusoid has a mean square of 1/2, hence the factor sqrt(2).
    model.wpe.weight.copy_(0.02 * 2**0.5 * torch.cat([angles.sin(), angles.cos()], dim=1))


def encode_documents(
    documents: list[Document], tokenizer: Tokenizer, context: int
) -> list[list[int]]:
    """Token rows of the documents, each with an EOS: a longer document is split into several rows.

    A row has at most `context` tokens and starts with the last token of the previous row, so that
    every token of a document but its first is predicted.
    """
    rows = []
    for document in documents:
        ids = tokenizer.encode(document.text) + [tokenizer.eos_id]
        starts = range(0, max(1, len(ids) - 1), context - 1)
        rows += [ids[start : start + context] for start in starts]
    return rows


def document_batches(
    rows: list[list[int]], batch_size: int, epochs: float, pad_id: int, seed: int
) -> Batches:
    """Batches (ids, mask) of documents of similar length, in an order fixed by the seed."""
    plan = batch_plan([len(row) for row in rows], batch_size, epochs, seed)
    return Batches(plan, lambda index: right_pad([rows[i] for i in index], pad_id, multiple=16))


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
        predicted = mask[:, 1:].sum().item()
        total, tokens = total + loss.item() * predicted, tokens + predicted
    return total / tokens


def token_counts(batch: tuple[Tensor, Tensor]) -> Tensor:
    """How many tokens of each row of (ids, mask) are predicted, (B,): all but the first."""
    return batch[1][:, 1:].sum(1)


def train(
    model: GPT, batches: Sequence[tuple[Tensor, Tensor]], config: PretrainConfig, loop: Loop
) -> list[dict]:
    """Pretrain in place on batches (ids, mask), (B, T); returns the metrics of every step."""
    optimizers = Optimizers(model, config.lr, config.muon_lr, loop.dtype)
    with loop.run(len(batches), model=model, optimizers=optimizers) as steps:
        for step in steps:  # from 0, or from where a stopped run left off
            for (ids, mask), share in loop.parts(batches[step], token_counts, config.micro_batch):
                with loop.retry_smaller():  # if the memory runs out
                    with autocast(ids.device, loop.dtype):
                        loss = next_token_loss(model, ids, mask)
                    optimizers.backward(share * loss)  # adds up to the batch's gradient
                    loop.add(share, loss=loss)
            metrics, rate = loop.means(), schedule(step, len(batches))
            norm = optimizers.step(rate)
            loop.log(**metrics, grad_norm=norm, rate=rate)
    return loop.history


def trained_tokens(rows: list[list[int]], config: PretrainConfig) -> int:
    """How many tokens training reads; a token counts once per epoch."""
    plan = batch_plan([len(row) for row in rows], config.batch_size, config.epochs, config.seed)
    return sum(len(rows[i]) for index in plan for i in index)
