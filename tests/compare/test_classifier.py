"""The bag-of-words judge: which words are alike to it, what it learns, and real rows."""

import json
import math
import os
from pathlib import Path

import pytest
import torch

from helpers.compare.classifier import fit, fit_rows
from helpers.records import Labelled

GOOD, BAD = ("warm", "funny", "bright"), ("dull", "cold", "flat")
TEXTS = [f"a {word} film number {i}" for i in range(60) for word in (GOOD[i % 3], BAD[i % 3])]
LABELS = [1, 0] * 60
REAL = Path(os.environ.get("RLHF_DATA_DIR", "nowhere")) / "sst2"


def features(text: str) -> set[str]:
    """What the classifier counts in a text."""
    return set(fit([text] * 10, [0, 1] * 5).pipeline[0].get_feature_names_out())


def test_features_are_words_and_pairs_alike_in_both_spellings():
    assert features("A Film, a FILM!") == {"a", "film", "!", "a film", "film a", "film !"}
    assert features("I don't") == features("i do n't") == {"i", "do", "n't", "i do", "do n't"}


def test_the_weights_minimise_the_penalised_cross_entropy():
    """x is good in 3 of 4 texts, y in 1 of 4: the gradient of weight^2 / 2 C + cross-entropy is 0
    where 40 (sigmoid(weight) - 3/4) + weight / C = 0, and by symmetry the bias is 0.
    """
    texts, labels = ["x"] * 40 + ["y"] * 40, [1, 1, 1, 0] * 10 + [1, 0, 0, 0] * 10
    classifier = fit(texts, labels)
    p, other, unknown = classifier.probability(["x", "y", "z"]).tolist()
    weight, C = math.log(p / (1 - p)), classifier.pipeline[-1].best_params_["C"]
    assert 40 * (p - 0.75) + weight / C == pytest.approx(0, abs=0.01)
    assert other == pytest.approx(1 - p, abs=1e-3) and unknown == pytest.approx(0.5, abs=1e-3)


def test_a_fit_knows_words_and_pairs():
    positive = fit(TEXTS, LABELS).probability(["warm and bright", "dull, so dull"]) > 0.5
    assert positive.tolist() == [True, False]
    texts, labels = ["not good", "good", "bad", "not bad"], [0, 1, 0, 1]
    negated = fit(texts * 20, labels * 20).probability(texts)
    assert (negated > 0.5).int().tolist() == labels


def test_noise_is_answered_with_the_strongest_penalty():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(2, (200,), generator=generator).tolist()
    rows = [torch.randint(30, (6,), generator=generator).tolist() for _ in labels]
    noise = [" ".join(f"w{i}" for i in row) for row in rows]
    assert fit(noise, labels).pipeline[-1].best_params_["C"] == 0.25


def test_rows_are_read_as_whole_texts():
    rows = [Labelled(text[:1], text[1:], label) for text, label in zip(TEXTS, LABELS)]
    heldout = [Labelled("warm", " film", 1)] * 60 + [Labelled("warm", " film", 0)] * 20
    classifier, metrics = fit_rows(rows, heldout)
    probabilities = classifier.probability(TEXTS)  # the same rows give the same judge
    assert probabilities.dtype == torch.float64
    assert torch.equal(probabilities, fit(TEXTS, LABELS).probability(TEXTS))
    error = 1.96 * math.sqrt(0.75 * 0.25 / 80)
    assert metrics["accuracy"] == 0.75
    assert metrics["accuracy_ci95"] == pytest.approx([0.75 - error, 0.75 + error], abs=0.02)


@pytest.mark.parametrize("labels", [[1] * 20, [1] * 4 + [0] * 16, [1, 2] * 10])
def test_labels_that_cannot_be_learned_from_are_refused(labels):
    with pytest.raises(ValueError, match="labels must be 0 and 1, at least 5 times each"):
        fit(["x"] * 20, labels)


@pytest.mark.skipif(
    not all((REAL / f"{split}.jsonl").is_file() for split in ("train", "validation")),
    reason="no sst2/train.jsonl and sst2/validation.jsonl in RLHF_DATA_DIR",
)
def test_real_sentences():
    """About 80% of SST-2's validation rows."""
    splits = []
    for split in ("train", "validation"):
        lines = (REAL / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
        rows = map(json.loads, lines)
        splits.append([Labelled("", row["sentence"], row["label"]) for row in rows])
    _, metrics = fit_rows(*splits)
    low, high = metrics["accuracy_ci95"]
    assert metrics["accuracy"] > 0.78 and low < metrics["accuracy"] < high < low + 0.07
