"""The reward model that learns from labels: its loss against a loop, and that it learns."""

import math

import pytest
import torch
from helpers.pointwise import train

from helpers.batching import right_pad
from helpers.config import RewardConfig
from helpers.model import GPT, GPTConfig, RewardModel
from helpers.records import Labelled
from helpers.reward import encode_labelled, label_loss
from helpers.rows.embedded import load_tokenizer

PAD = 1
CONFIG = GPTConfig(vocab_size=40, context=16, layers=1, heads=2, channels=16)


def make(seed: int = 0) -> RewardModel:
    torch.manual_seed(seed)
    return RewardModel(GPT(CONFIG))


def test_the_loss_equals_a_loop_without_padding():
    model = make()
    rows, labels = [[5, 6, 7], [8, 9, 10, 11, 12], [13, 14]], [1.0, 0.0, 1.0]
    ids, mask = right_pad(rows, PAD)
    loss, metrics = label_loss(model, ids, mask, torch.tensor(labels), lm_coef=0.5)
    by_hand, nats, guessed, right = 0.0, 0.0, 0, 0
    for row, label in zip(rows, labels):
        alone = torch.tensor([row])
        score = model.values(alone)[0, -1].item()
        p = 1 / (1 + math.exp(-score))
        by_hand -= math.log(p if label else 1 - p) / len(rows)
        right += (score > 0) == (label == 1)
        log_p = model.gpt(alone)[0].log_softmax(-1)
        nats -= sum(log_p[t, row[t + 1]].item() for t in range(len(row) - 1))
        guessed += len(row) - 1
    assert metrics["label"] == pytest.approx(by_hand, abs=1e-5) and metrics[
        "accuracy"
    ] == pytest.approx(right / 3)
    assert loss.item() == pytest.approx(by_hand + 0.5 * nats / guessed, abs=1e-5)
    without, _ = label_loss(model, ids, mask, torch.tensor(labels), lm_coef=0.0)
    assert without.item() == pytest.approx(by_hand, abs=1e-5)


def test_training_finds_the_token_that_decides(capsys):
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randint(2, 40, (6,), generator=generator).tolist() for _ in range(64)]
    labels = [int(20 in row or sum(row) % 2 == 0 and 21 in row) for row in rows]
    rows = [[20 if label else 22, *row] for row, label in zip(rows, labels)]
    config = RewardConfig(
        pointwise=True, batch_size=16, epochs=15, lr=1e-2, muon_lr=2e-2, lm_coef=0.0
    )
    histories = []
    for _ in range(2):
        model = make()
        histories.append(train(model, rows, labels, config, PAD))
    assert histories[0] == histories[1]
    assert histories[0][-1]["label"] < 0.1 < 0.4 < histories[0][0]["label"]


def test_accuracy_and_its_ceiling_by_hand():
    items = [
        Labelled("p", " c", label, odds) for label, odds in ((1, 0.9), (0, 0.6), (1, 0.3), (0, 0.8))
    ]
    found = measure(torch.tensor([2.0, 1.0, -0.5, -3.0]), items)
    assert found["accuracy"] == 0.5 and found["labels"] == 4
    assert found["bayes_accuracy"] == pytest.approx((0.9 + 0.6 + 0.7 + 0.8) / 4)
    low, high = found["accuracy_ci95"]
    assert 0 <= low <= 0.5 <= high <= 1
    assert "bayes_accuracy" not in measure(torch.zeros(1), [Labelled("p", " c", 0)])


def test_rows_end_with_the_end_of_text_and_too_long_ones_are_refused():
    tokenizer = load_tokenizer()
    item = Labelled("My sister", " keeps my bike.", 1)
    row = encode_labelled(item, tokenizer, 64)
    assert (
        row[-1] == tokenizer.eos_id and tokenizer.decode(row[:-1]) == item.prompt + item.completion
    )
    with pytest.raises(
        ValueError, match=f"a labelled text has {len(row)} tokens, more than the context of 3"
    ):
        encode_labelled(item, tokenizer, 3)
