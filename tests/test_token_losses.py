"""The losses of pretraining and SFT against a loop over prefixes: padding changes nothing, tokens
weigh alike, and the prompt is not learned.
"""

import pytest
import torch

from helpers.batching import right_pad
from helpers.losses import completion_loss
from helpers.model import GPT, GPTConfig
from helpers.pretrain import document_batches, heldout_loss, next_token_loss
from helpers.sft import (
    completion_masks,
    completion_nll,
    demonstration_batches,
    heldout_completion_loss,
)
from tests.support.tensors import shaken

PAD = 1
CONFIG = GPTConfig(vocab_size=40, context=32, layers=2, heads=2, channels=16)
stages = pytest.mark.parametrize("stage", ["pretrain", "sft"])


def some_rows(number: int = 12) -> list[tuple[list[int], int]]:
    """Rows with the number of their prompt tokens; PAD's id is an ordinary token in them."""
    generator = torch.Generator().manual_seed(1)
    rows = []
    for prompt, completion in torch.randint(1, 12, (number, 2), generator=generator).tolist():
        ids = torch.randint(1, 40, (prompt + completion,), generator=generator).tolist()
        rows.append((ids, prompt))
    return rows


def batch_of(stage: str, rows) -> tuple[torch.Tensor, torch.Tensor]:
    ids, mask = right_pad([row for row, _ in rows], PAD)
    return ids, mask if stage == "pretrain" else completion_masks(mask, [n for _, n in rows])


def loss_of(stage: str, model: GPT, ids, mask) -> torch.Tensor:
    return (next_token_loss if stage == "pretrain" else completion_nll)(model, ids, mask)


@torch.no_grad()
def loop_loss(stage: str, model: GPT, rows) -> float:
    """Minus the mean log-probability of each token that is learned, one prefix at a time."""
    losses = []
    for row, prompt in rows:
        for t in range(1 if stage == "pretrain" else prompt, len(row)):
            logprobs = model(torch.tensor([row[:t]]))[0, -1].double().log_softmax(-1)
            losses.append(-logprobs[row[t]].item())
    return sum(losses) / len(losses)


@stages
def test_the_loss_equals_a_loop(stage):
    model, rows = shaken(GPT(CONFIG)), some_rows()
    assert any(PAD in row for row, _ in rows)
    loss = loss_of(stage, model, *batch_of(stage, rows))
    assert loss.item() == pytest.approx(loop_loss(stage, model, rows), abs=1e-5)


def with_gradients(model: GPT, loss: torch.Tensor) -> list[torch.Tensor]:
    return [loss.detach(), *torch.autograd.grad(loss, list(model.parameters()))]


@stages
@pytest.mark.parametrize(("filler", "extra"), [(PAD, 1), (0, 7), (39, 5)])
def test_padding_changes_neither_the_loss_nor_its_gradient(stage, filler, extra):
    model, rows = shaken(GPT(CONFIG)), some_rows(6)
    ids, mask = batch_of(stage, rows)
    real = batch_of("pretrain", rows)[1]
    wide = torch.cat([ids.masked_fill(~real, filler), torch.full((6, extra), filler)], 1)
    wide_mask = torch.nn.functional.pad(mask, (0, extra))
    for a, b in zip(
        with_gradients(model, loss_of(stage, model, ids, mask)),
        with_gradients(model, loss_of(stage, model, wide, wide_mask)),
    ):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=0)


@stages
def test_heldout_loss_weighs_tokens_not_batches(stage):
    model, rows = shaken(GPT(CONFIG)), some_rows(120)
    if stage == "pretrain":
        loss = heldout_loss(model, [row for row, _ in rows], PAD)
    else:
        loss = heldout_completion_loss(model, rows, PAD)
    assert loss == pytest.approx(loop_loss(stage, model, rows), abs=1e-5)


@stages
def test_batches_hold_each_row_once_with_its_mask(stage):
    rows = [([i + 2] * (i % 9 + 3), i % 3 + 1) for i in range(20)]
    if stage == "pretrain":
        batches = document_batches([row for row, _ in rows], 6, 1, PAD, seed=0)
    else:
        batches = demonstration_batches(rows, 6, 1, PAD, seed=0)
    seen = []
    for ids, mask in batches:
        assert ids.shape == mask.shape
        seen += [(row[row != PAD].tolist(), row[keep].tolist()) for row, keep in zip(ids, mask)]
    learned = [(row, row if stage == "pretrain" else row[prompt:]) for row, prompt in rows]
    assert sorted(seen) == sorted(learned)


def test_completion_nll_equals_the_plain_loss_and_its_gradient():
    model = shaken(GPT(CONFIG))
    ids, mask = batch_of("sft", some_rows())
    for a, b in zip(
        with_gradients(model, completion_nll(model, ids, mask)),
        with_gradients(model, completion_loss(model(ids), ids, mask)),
    ):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=0)
