"""A sentiment judge that shares nothing with the reward model's network: logistic regression on
words and pairs of words.

It has no GPT inside and sees no order beyond two neighbouring words, so a text that fools the
reward model need not fool it.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from helpers.evaluation import bootstrap_ci95
from helpers.records import Labelled

WORD = r"n't|\w+?(?=n't)|\w+|[!?]"  # "don't" and SST-2's "do n't" are the same two words
STRENGTHS = (0.25, 1.0, 4.0)  # scikit-learn's C to choose from: data against the L2 penalty
FOLDS = 5


@dataclass(frozen=True)
class Classifier:
    """P(label is 1 | text) = sigmoid(bias + sum of the weights of the text's features)."""

    pipeline: Any  # of scikit-learn: texts to counts, counts to probabilities

    def probability(self, texts: Sequence[str]) -> Tensor:
        """P(label is 1) of each text, (N,) float64."""
        return torch.from_numpy(self.pipeline.predict_proba(texts)[:, 1])


def fit(texts: Sequence[str], labels: Sequence[int]) -> Classifier:
    """A classifier with the strength of least cross-entropy over 5 folds, fitted on all texts.
    Raises ValueError unless each label, 0 and 1, has at least 5 texts.
    """
    # imported here: only real rows of one track need scikit-learn
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV
    from sklearn.pipeline import make_pipeline

    counts = Counter(labels)
    if counts.keys() - {0, 1} or min(counts[0], counts[1]) < FOLDS:
        raise ValueError(f"labels must be 0 and 1, at least {FOLDS} times each, not {dict(counts)}")
    words = CountVectorizer(token_pattern=WORD, ngram_range=(1, 2), binary=True)
    regression, choices = LogisticRegression(max_iter=1000), {"C": STRENGTHS}
    search = GridSearchCV(regression, choices, scoring="neg_log_loss", cv=FOLDS)
    return Classifier(make_pipeline(words, search).fit(texts, labels))


def fit_rows(
    rows: Sequence[Labelled], heldout: Sequence[Labelled], seed: int = 0
) -> tuple[Classifier, dict]:
    """A classifier of prompt plus completion, and its held-out accuracy with a 95% interval."""
    classifier = fit([row.prompt + row.completion for row in rows], [row.label for row in rows])
    positive = classifier.probability([row.prompt + row.completion for row in heldout]) > 0.5
    correct = (positive == torch.tensor([row.label == 1 for row in heldout])).double()
    interval = bootstrap_ci95(correct, seed)
    return classifier, {"accuracy": correct.mean().item(), "accuracy_ci95": interval}
