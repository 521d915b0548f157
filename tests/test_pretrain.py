"""Stage 0: documents as rows, what is measured, the first step by hand, shards."""

import copy
import math
from types import SimpleNamespace

import pytest
import torch

from helpers.config import PretrainConfig
from helpers.engine.loop import Loop
from helpers.engine.snapshots import Snapshots, Stopped
from helpers.model import GPT, GPTConfig
from helpers.pretrain import (
    document_batches,
    encode_documents,
    heldout_loss,
    next_token_loss,
    sinusoidal_start,
    train,
    trained_tokens,
)
from helpers.records import Document
from helpers.rows.build_shards import build
from helpers.rows.embedded import load_rows
from helpers.rows.shards import ShardError
from helpers.stages.pretrain import measure, shard_data
from helpers.training import schedule
from tests.support.tensors import shaken, with_large_logits

PAD = 1
CONFIG = GPTConfig(vocab_size=40, context=32, layers=2, heads=2, channels=16)


def some_rows(number: int = 30) -> list[list[int]]:
    lengths = torch.randint(2, 30, (number,)).tolist()
    return [torch.randint(2, 40, (length,)).tolist() for length in lengths]


def test_heldout_loss_has_float32_logits_under_autocast():
    """Token by token, as in a mean the roundings would cancel."""
    model = with_large_logits(shaken(GPT(CONFIG)))
    for row in torch.randint(2, 40, (30, 2)).tolist():
        exact = heldout_loss(model, [row], PAD)
        for dtype in (torch.bfloat16, torch.float16):
            assert heldout_loss(model, [row], PAD, dtype) == pytest.approx(exact, abs=0.03)


# ---------------------------------------------------------------- rows


def test_positions_start_as_waves_of_gpt2s_size():
    model = GPT(CONFIG)
    sinusoidal_start(model)
    rates = [32 ** -(2 * i / 16) for i in range(8)]
    for position, row in enumerate(model.wpe.weight.tolist()):
        waves = [wave(position * rate) for wave in (math.sin, math.cos) for rate in rates]
        assert row == pytest.approx([0.02 * math.sqrt(2) * wave for wave in waves], abs=1e-6)
    assert model.wpe.weight.square().mean().sqrt().item() == pytest.approx(0.02, rel=1e-4)
    assert model.wpe.weight.requires_grad


def test_documents_end_with_the_end_of_text_and_long_ones_go_on_in_the_next_row(tokenizer):
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


@pytest.mark.parametrize(("split", "limit"), [("train", 3000), ("heldout", None)])
def test_every_committed_document_fits_the_context(tokenizer, split, limit):
    documents, context = load_rows("documents", split, limit=limit), PretrainConfig.context
    assert len(encode_documents(documents, tokenizer, context)) == len(documents)


# ---------------------------------------------------------------- measuring and training


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


def test_the_first_step_by_hand(capsys, tmp_path):
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
    loop = Loop("toy", snapshots=Snapshots(tmp_path / "log", tmp_path / "snapshots", limit=1))
    with pytest.raises(Stopped):
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


def test_a_run_reads_shards_and_says_what_is_wrong_with_them(tokenizer, tmp_path):
    sizes = {"heldout_tokens": 4_000, "shard_tokens": 8_000}
    list(build(tmp_path, 30_000, tokenizer, source="embedded", **sizes))
    config = toy_config(context=48, batch_size=16, epochs=1.5, eval_documents=9)
    course = SimpleNamespace(tokenizer=tokenizer, config=config)
    data = shard_data(course, str(tmp_path))
    windows = sum((tokens - 1) // 47 for tokens in (8_000, 8_000, 8_000, 6_000))
    assert len(data.batches) == round(1.5 * windows / 16)
    assert data.tokens == len(data.batches) * 16 * 48
    ids, mask = data.batches[7]
    assert ids.shape == (16, 48) and mask.all() and torch.equal(ids, data.batches[7][0])
    assert not torch.equal(ids, data.batches[8][0])
    lengths = list(map(len, data.heldout))
    assert sum(lengths) >= 9 * 48 and max(lengths) <= 48 and data.documents == []
    model = GPT(GPTConfig(tokenizer.vocab_size, 48, 1, 2, 16))
    before = heldout_loss(model, data.heldout, tokenizer.pad_id)
    history = train(model, data.batches[:30], course.config, Loop("toy"))
    assert len(history) == 30
    assert measure(model, [], data.heldout, tokenizer.pad_id)["heldout_loss"] < before - 1
    course.config = toy_config(context=48, batch_size=90_000)
    with pytest.raises(ShardError, match="too few for one batch of 90000 rows"):
        shard_data(course, str(tmp_path))
