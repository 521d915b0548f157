"""The bag-of-words judge: solutions worked out by bisection, words it reads alike, and the true
rows where they lie.
"""

import json
import math
import os
from pathlib import Path

import pytest
import torch

from helpers.compare.classifier import STRENGTHS, features, fit, fit_rows, train
from helpers.records import Labelled

GOOD, BAD = ("warm", "funny", "bright"), ("dull", "cold", "flat")
TEXTS = [f"a {word} film number {i}" for i in range(60) for word in (GOOD[i % 3], BAD[i % 3])]
LABELS = [1, 0] * 60


def root(equation, low: float = -50.0, high: float = 50.0) -> float:
    """Where a rising function is 0."""
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (low, middle) if equation(middle) > 0 else (middle, high)
    return low


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_features_are_words_and_pairs_alike_in_both_spellings():
    assert features("A Film, a FILM!") == {"a", "film", "!", "a film", "film a", "film !"}
    assert features("I don't") == features("i do n't") == {"i", "do", "n't", "i do", "do n't"}
    assert features("") == features(" ,;. ") == set()


@pytest.mark.parametrize("strength", [0.1, 3.0])
def test_the_least_loss_is_found(strength):
    """x is good in 3 of 4, y in 1 of 4: by symmetry the bias is 0 and 40 (sigmoid(w) - 3/4) +
    strength w = 0.
    """
    texts, labels = ["x"] * 40 + ["y"] * 40, [1, 1, 1, 0] * 10 + [1, 0, 0, 0] * 10
    weight = root(lambda w: 40 * (sigmoid(w) - 0.75) + strength * w)
    found = train(texts, labels, strength)
    assert found.bias == pytest.approx(0, abs=1e-4)
    assert {name: found.weight[i].item() for name, i in found.index.items()} == pytest.approx(
        {"x": weight, "y": -weight}, abs=1e-4
    )
    assert found.probability(["x", "y", "z", ""]).tolist() == pytest.approx(
        [sigmoid(weight), sigmoid(-weight), 0.5, 0.5], abs=1e-4
    )


def test_without_features_the_bias_is_the_share_of_good_texts():
    assert train(["", "...", "", ""], [1, 1, 0, 1], 1.0).probability(
        ["new"]
    ).item() == pytest.approx(0.75, abs=1e-5)


def test_the_gradient_vanishes_where_training_ends():
    found = train(TEXTS, LABELS, 0.5)
    errors = found.probability(TEXTS) - torch.tensor(LABELS, dtype=torch.float64)
    gradient = 0.5 * found.weight
    for text, error in zip(TEXTS, errors):
        for name in features(text):
            gradient[found.index[name]] += error
    assert gradient.abs().max() < 1e-3 and abs(errors.sum()) < 1e-3


def test_a_fit_reads_words_it_knows_and_pairs():
    judge = fit(TEXTS, LABELS, seed=0)
    assert judge.strength in STRENGTHS
    assert judge.accuracy(["warm and bright", "dull, so dull"], [1, 0]) == (1.0, [1.0, 1.0])
    negated = fit(
        ["not good"] * 20 + ["good"] * 20 + ["bad"] * 20 + ["not bad"] * 20,
        [0] * 20 + [1] * 20 + [0] * 20 + [1] * 20,
    )
    assert ((negated.probability(["not good", "good", "bad", "not bad"]) > 0.5).tolist()) == [
        False,
        True,
        False,
        True,
    ]


def test_the_same_seed_gives_the_same_judge():
    first, again = (
        fit(TEXTS, LABELS, seed=3, strengths=(1.0, 4.0)),
        fit(TEXTS, LABELS, seed=3, strengths=(1.0, 4.0)),
    )
    assert torch.equal(first.weight, again.weight) and first.strength == again.strength


def test_accuracy_and_interval_by_hand():
    judge = train(["x", "y"] * 10, [1, 0] * 10, 1.0)
    accuracy, (low, high) = judge.accuracy(["x"] * 80, [1] * 60 + [0] * 20)
    assert accuracy == 0.75
    error = 1.96 * math.sqrt(0.75 * 0.25 / 80)
    assert (low, high) == pytest.approx((0.75 - error, 0.75 + error), abs=0.02)


def test_noise_is_answered_with_a_strong_penalty():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(2, (200,), generator=generator).tolist()
    noise = [
        " ".join(f"w{i}" for i in torch.randint(30, (6,), generator=generator).tolist())
        for _ in labels
    ]
    assert fit(noise, labels, strengths=(0.01, 100.0)).strength == 100.0


def test_rows_are_read_as_whole_texts():
    rows = [
        Labelled(text.split()[0], " " + " ".join(text.split()[1:]), y)
        for text, y in zip(TEXTS, LABELS)
    ]
    classifier, found = fit_rows(rows, rows, seed=0)
    assert classifier.logits(["warm and bright"]) == fit(TEXTS, LABELS, seed=0).logits(
        ["warm and bright"]
    )
    assert (found["accuracy"], found["accuracy_ci95"]) == classifier.accuracy(TEXTS, LABELS)


def test_bad_rows_are_refused():
    with pytest.raises(ValueError, match="2 texts and 1 labels"):
        train(["a", "b"], [1], 1.0)
    with pytest.raises(ValueError, match="labels must be 0 or 1, not 2"):
        train(["a", "b"], [1, 2], 1.0)
    with pytest.raises(ValueError, match="too few"):
        fit(["a"] * 9, [1] * 9)


def test_real_sentences():
    """About 80% of SST-2's validation rows, where they lie in RLHF_DATA_DIR."""
    folder = Path(os.environ.get("RLHF_DATA_DIR", "nowhere")) / "sst2"
    if not (folder / "train.jsonl").is_file() or not (folder / "validation.jsonl").is_file():
        pytest.skip("no sst2/train.jsonl and sst2/validation.jsonl in RLHF_DATA_DIR")
    rows = {}
    for split in ("train", "validation"):
        lines = (folder / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
        rows[split] = zip(*((row["sentence"], row["label"]) for row in map(json.loads, lines)))
    texts, labels = rows["train"]
    accuracy, (low, high) = train(texts, labels, 1.0).accuracy(*rows["validation"])
    assert accuracy > 0.78 and low < accuracy < high < low + 0.07
