"""The bag-of-words judge: words it reads alike, what it learns, and real rows where there are
any.
"""

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
ROWS = [
    Labelled(text.split()[0], " " + " ".join(text.split()[1:]), label)
    for text, label in zip(TEXTS, LABELS)
]


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
    weight = math.log(p / (1 - p))
    C = classifier.pipeline[-1].best_params_["C"]
    assert 40 * (p - 0.75) + weight / C == pytest.approx(0, abs=0.01)
    assert other == pytest.approx(1 - p, abs=1e-3) and unknown == pytest.approx(0.5, abs=1e-3)


def test_a_fit_reads_words_it_knows_and_pairs():
    assert (
        fit(TEXTS, LABELS).probability(["warm and bright", "dull, so dull"]) > 0.5
    ).tolist() == [True, False]
    texts, labels = ["not good", "good", "bad", "not bad"], [0, 1, 0, 1]
    negated = fit(texts * 20, labels * 20).probability(texts)
    assert (negated > 0.5).int().tolist() == labels


def test_the_same_rows_give_the_same_judge():
    first, again = (fit(TEXTS, LABELS).probability(TEXTS) for _ in range(2))
    assert first.dtype == torch.float64 and torch.equal(first, again)


def test_noise_is_answered_with_the_strongest_penalty():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(2, (200,), generator=generator).tolist()
    noise = [
        " ".join(f"w{i}" for i in torch.randint(30, (6,), generator=generator).tolist())
        for _ in labels
    ]
    assert fit(noise, labels).pipeline[-1].best_params_["C"] == 0.25


def test_rows_are_read_as_whole_texts():
    heldout = [Labelled("warm", " film", 1)] * 60 + [Labelled("warm", " film", 0)] * 20
    classifier, measured = fit_rows(ROWS, heldout)
    assert torch.equal(classifier.probability(TEXTS), fit(TEXTS, LABELS).probability(TEXTS))
    low, high = measured["accuracy_ci95"]
    error = 1.96 * math.sqrt(0.75 * 0.25 / 80)
    assert measured["accuracy"] == 0.75
    assert (low, high) == pytest.approx((0.75 - error, 0.75 + error), abs=0.02)


@pytest.mark.parametrize("labels", [[1] * 20, [1] * 4 + [0] * 16, [1, 2] * 10])
def test_labels_that_cannot_be_learned_from_are_refused(labels):
    with pytest.raises(ValueError, match="labels must be 0 and 1, at least 5 times each"):
        fit(["x"] * 20, labels)


def test_real_sentences():
    """About 80% of SST-2's validation rows, where they lie in RLHF_DATA_DIR."""
    folder = Path(os.environ.get("RLHF_DATA_DIR", "nowhere")) / "sst2"
    if not (folder / "train.jsonl").is_file() or not (folder / "validation.jsonl").is_file():
        pytest.skip("no sst2/train.jsonl and sst2/validation.jsonl in RLHF_DATA_DIR")
    rows = []
    for split in ("train", "validation"):
        lines = (folder / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
        found = map(json.loads, lines)
        rows.append([Labelled("", row["sentence"], row["label"]) for row in found])
    _, measured = fit_rows(*rows)
    low, high = measured["accuracy_ci95"]
    assert measured["accuracy"] > 0.78 and low < measured["accuracy"] < high < low + 0.07
