"""Stage 0: the next-token loss against a loop, batches that cover every row, padding that changes
nothing.
"""

import copy
import math
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from helpers.batching import batch_plan, right_pad
from helpers.config import PretrainConfig
from helpers.engine.loop import Loop
from helpers.engine.snapshots import Keeper, Stopped
from helpers.model import GPT, GPTConfig
from helpers.pretrain import (
    document_batches,
    encode_documents,
    heldout_loss,
    next_token_loss,
    train,
    trained_tokens,
)
from helpers.records import Document
from helpers.rows.build_shards import build
from helpers.rows.embedded import load_rows, load_tokenizer
from helpers.rows.shards import ShardError
from helpers.stages.pretrain import measure, shard_data
from helpers.training import schedule
from tests.support.tensors import shaken

PAD = 1
CONFIG = GPTConfig(vocab_size=40, context=32, layers=2, heads=2, channels=16)


def some_rows(number: int = 30, longest: int = 30) -> list[list[int]]:
    generator = torch.Generator().manual_seed(1)
    lengths = torch.randint(2, longest, (number,), generator=generator).tolist()
    return [torch.randint(2, 40, (length,), generator=generator).tolist() for length in lengths]


@torch.no_grad()
def loop_losses(model: GPT, row: list[int]) -> list[float]:
    """Minus log-probability of each token but the first, one prefix at a time."""
    losses = []
    for t in range(1, len(row)):
        logits = model(torch.tensor([row[:t]]))[0, -1].double()
        losses.append(-torch.log_softmax(logits, -1)[row[t]].item())
    return losses


def test_next_token_loss_equals_a_loop():
    model, rows = shaken(GPT(CONFIG)), some_rows(5, 9)
    losses = [loss for row in rows for loss in loop_losses(model, row)]
    assert next_token_loss(model, *right_pad(rows, PAD)).item() == pytest.approx(
        sum(losses) / len(losses), abs=1e-5
    )


@pytest.mark.parametrize("extra", [1, 7])
@pytest.mark.parametrize("filler", [PAD, 0, 39])
def test_padding_never_changes_the_loss_or_its_gradient(extra, filler):
    model, rows = shaken(GPT(CONFIG)), some_rows(4, 9)
    ids, mask = right_pad(rows, PAD)
    wide = torch.cat([ids.masked_fill(~mask, filler), torch.full((4, extra), filler)], 1)
    wide_mask = torch.cat([mask, torch.zeros(4, extra, dtype=torch.bool)], 1)
    results = []
    for batch in ((ids, mask), (wide, wide_mask)):
        model.zero_grad()
        loss = next_token_loss(model, *batch)
        loss.backward()
        results.append([loss.detach(), *(p.grad.clone() for p in model.parameters())])
    for a, b in zip(*results):
        assert a.shape == b.shape and torch.allclose(a, b, atol=1e-5)


def test_a_pad_token_inside_a_text_is_guessed_like_any_other():
    model, rows = shaken(GPT(CONFIG)), [[5, PAD, 6, 7], [8, 9]]
    losses = [loss for row in rows for loss in loop_losses(model, row)]
    assert next_token_loss(model, *right_pad(rows, PAD)).item() == pytest.approx(
        sum(losses) / len(losses), abs=1e-5
    )


def test_the_first_loss_of_a_fresh_model_is_ln_v():
    loss = next_token_loss(GPT(CONFIG), *right_pad(some_rows(), PAD)).item()
    assert loss == pytest.approx(math.log(40), abs=0.05)


# ---------------------------------------------------------------- batches


@pytest.mark.parametrize(
    ("number", "batch_size", "epochs"), [(50, 8, 1), (50, 8, 3), (7, 16, 2), (48, 8, 1.0)]
)
def test_every_row_comes_once_an_epoch(number, batch_size, epochs):
    lengths = [len(row) for row in some_rows(number)]
    plan = batch_plan(lengths, batch_size, epochs, seed=0)
    a_pass = math.ceil(number / batch_size)
    assert len(plan) == a_pass * epochs
    for epoch in range(int(epochs)):
        seen = Counter(i for index in plan[epoch * a_pass : (epoch + 1) * a_pass] for i in index)
        assert seen == Counter(range(number))


def test_part_of_an_epoch_is_part_of_the_rows():
    lengths = [10] * 80
    plan = batch_plan(lengths, 8, 2.5, seed=0)
    assert len(plan) == 25
    assert max(Counter(i for index in plan[20:] for i in index).values()) == 1
    assert len(batch_plan(lengths, 8, 0.3, seed=0)) == 3


def test_the_order_is_fixed_by_the_seed_and_new_each_epoch():
    lengths = [len(row) for row in some_rows(60)]
    plan = batch_plan(lengths, 10, 2, seed=3)
    assert plan == batch_plan(lengths, 10, 2, seed=3) != batch_plan(lengths, 10, 2, seed=4)
    assert plan[:6] != plan[6:]


def test_batches_hold_the_rows_and_their_mask():
    rows = some_rows(20)
    seen = []
    for ids, mask in document_batches(rows, 6, 1, PAD, seed=0):
        assert ids.shape == mask.shape
        seen += [row[keep].tolist() for row, keep in zip(ids, mask)]
        assert (ids[~mask] == PAD).all()
    assert sorted(seen) == sorted(rows)


def test_documents_end_with_the_end_of_text_and_long_ones_go_on_in_the_next_row():
    tokenizer = load_tokenizer()
    documents = load_rows("documents", "heldout", limit=3)
    rows = encode_documents(documents, tokenizer, 256)
    assert all(row[-1] == tokenizer.eos_id and row.count(tokenizer.eos_id) == 1 for row in rows)
    assert [tokenizer.decode(row[:-1]) for row in rows] == [document.text for document in documents]
    exact = [Document("short"), Document("word " * 40)]
    longest = len(tokenizer.encode(exact[1].text)) + 1
    assert len(encode_documents(exact, tokenizer, longest)[1]) == longest
    whole = encode_documents(exact[1:], tokenizer, longest)[0]
    for context in (2, 7, longest - 1):
        parts = encode_documents(exact[1:], tokenizer, context)
        assert max(map(len, parts)) <= context and min(map(len, parts)) > 1
        # a row starts with the last token
        assert parts[0] + [id_ for part in parts[1:] for id_ in part[1:]] == whole
        assert all(a[-1] == b[0] for a, b in zip(parts, parts[1:]))


def test_every_committed_document_fits_the_context():
    tokenizer = load_tokenizer()
    for split, limit in (("train", 3000), ("heldout", None)):
        rows = encode_documents(
            load_rows("documents", split, limit=limit), tokenizer, PretrainConfig.context
        )
        assert max(len(row) for row in rows) <= PretrainConfig.context


# ---------------------------------------------------------------- measuring and training


def test_heldout_loss_weighs_tokens_not_batches():
    model, rows = shaken(GPT(CONFIG)), some_rows(120)
    losses = [loss for row in rows for loss in loop_losses(model, row)]
    assert heldout_loss(model, rows, PAD) == pytest.approx(sum(losses) / len(losses), abs=1e-5)


def test_measure_holds_the_loss_against_the_floor():
    model, rows = shaken(GPT(CONFIG)), [[3, 4, 5, 0], [6, 7, 0]]  # 3 + 2 guessed tokens
    documents = [Document("x", -4.0), Document("y", -3.5)]
    metrics = measure(model, documents, rows, PAD)
    assert metrics["entropy_floor"] == pytest.approx(7.5 / 5)
    assert metrics["heldout_loss"] == pytest.approx(heldout_loss(model, rows, PAD))


def toy_config(**changes) -> PretrainConfig:
    return PretrainConfig(**dict(batch_size=4, epochs=10, lr=2e-2, muon_lr=2e-2, seed=0) | changes)


def test_training_lowers_the_loss(capsys):
    rows = [[5, 6, 7, 8, 9, 10, 0], [11, 12, 13, 14, 0], [15, 16, 17, 18, 19, 0], [20, 5, 6, 0]] * 4
    config, loop, model = toy_config(), Loop("toy"), GPT(CONFIG)
    batches = document_batches(rows, config.batch_size, config.epochs, PAD, config.seed)
    history = train(model, batches, config, loop)
    assert history is loop.history and len(history) == 40
    assert history[-1]["loss"] < 0.3 * history[0]["loss"]
    assert [row["rate"] for row in history] == [schedule(step, 40) for step in range(40)]
    assert history[0].keys() == {"step", "loss", "grad_norm", "rate"}


def test_the_first_step_by_hand(capsys):
    """The loss and the gradient of the first batch, before any weight moves; then one update at
    the schedule's first rate.
    """
    config, model = toy_config(epochs=8, muon_lr=0.0), shaken(GPT(CONFIG))
    batches = document_batches(some_rows(), 4, 8, PAD, 0)
    twin = copy.deepcopy(model)
    loss = next_token_loss(twin, *batches[0])
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(twin.parameters(), 1.0).item()
    rate = config.lr * schedule(0, len(batches))
    torch.optim.AdamW(twin.parameters(), rate, betas=(0.9, 0.95), weight_decay=0.0).step()
    assert 0 < schedule(0, len(batches)) < 1
    loop = Loop("toy", keeper=Keeper(Path("unused"), Path("unused"), limit=1))
    with pytest.raises(Stopped):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Loop, "write_log", lambda *args: None)
            train(model, batches, config, loop)
    assert loop.history[0]["loss"] == pytest.approx(loss.item(), rel=1e-5)
    assert loop.history[0]["grad_norm"] == pytest.approx(norm, rel=1e-4)
    for a, b in zip(model.parameters(), twin.parameters()):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_trained_tokens_counts_repeated_ones():
    rows = some_rows(10)
    total = sum(map(len, rows))
    assert trained_tokens(rows, toy_config(epochs=2)) == 2 * total
    assert trained_tokens(rows, SimpleNamespace(batch_size=5, epochs=1, seed=9)) == total


# ---------------------------------------------------------------- shards


def test_a_run_reads_shards_and_says_what_is_wrong_with_them(tmp_path):
    tokenizer = load_tokenizer("tldr")
    list(
        build(
            tmp_path, 30_000, tokenizer, source="embedded", heldout_tokens=4_000, shard_tokens=8_000
        )
    )
    config = toy_config(context=48, batch_size=16, epochs=1.5, eval_documents=9)
    course = SimpleNamespace(tokenizer=tokenizer, config=config)
    data = shard_data(course, str(tmp_path))
    windows = sum((tokens - 1) // 47 for tokens in (8_000, 8_000, 8_000, 6_000))
    assert (
        len(data.batches) == round(1.5 * windows / 16)
        and data.tokens == len(data.batches) * 16 * 48
    )
    ids, mask = data.batches[7]
    assert ids.shape == (16, 48) and mask.all() and torch.equal(ids, data.batches[7][0])
    assert not torch.equal(ids, data.batches[8][0])
    assert (
        sum(map(len, data.heldout)) >= 9 * 48
        and max(map(len, data.heldout)) <= 48
        and data.documents == []
    )
    model = GPT(GPTConfig(tokenizer.vocab_size, 48, 1, 2, 16))
    before = heldout_loss(model, data.heldout, tokenizer.pad_id)
    history = train(model, data.batches[:30], course.config, Loop("toy"))
    assert (
        len(history) == 30
        and measure(model, [], data.heldout, tokenizer.pad_id)["heldout_loss"] < before - 1
    )
    with pytest.raises(ShardError, match="too few for one batch of 90000 rows"):
        course.config = toy_config(context=48, batch_size=90_000)
        shard_data(course, str(tmp_path))
