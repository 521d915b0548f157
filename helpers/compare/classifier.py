"""A sentiment judge that has nothing in common with the reward model: words and word pairs,
logistic regression.

It has no GPT in it and sees no order beyond two words, so what fools one need not fool the other.
Fit it on rows that the reward model did not learn from, where there are enough.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from helpers.evaluation import bootstrap_ci95
from helpers.records import Labelled

WORD = re.compile(r"n't|\w+?(?=n't)|\w+|[!?]")
STRENGTHS = (0.25, 1.0, 4.0)  # of the penalty, to choose from


def features(text: str) -> set[str]:
    """The words of a text and its pairs of neighbours, in lower case; "don't" and "do n't" are the
    same two words.
    """
    words = WORD.findall(text.lower())
    return {*words, *(f"{a} {b}" for a, b in zip(words, words[1:]))}


@dataclass(frozen=True)
class Classifier:
    """P(label is 1 | text) = sigmoid(bias + sum of the weights of the text's features)."""

    index: dict[str, int]  # feature: its place in weight
    weight: Tensor  # (F,) float64
    bias: float
    strength: float  # of the penalty it was fitted with

    def logits(self, texts: Sequence[str]) -> Tensor:
        """Log-odds (N,) of label 1; texts without a known feature get the bias."""
        return weigh(*lay_out(texts, self.index), self.weight) + self.bias

    def probability(self, texts: Sequence[str]) -> Tensor:
        """P(label is 1), (N,) float64."""
        return torch.sigmoid(self.logits(texts))

    def accuracy(
        self, texts: Sequence[str], labels: Sequence[int], seed: int = 0
    ) -> tuple[float, list[float]]:
        """Share of the texts whose likelier label is the true one, with its 95% bootstrap
        interval.
        """
        right = ((self.logits(texts) > 0) == as_labels(texts, labels).bool()).double()
        return right.mean().item(), bootstrap_ci95(right, seed)


def as_labels(texts: Sequence[str], labels: Sequence[int]) -> Tensor:
    """Labels (N,) float64. Raises ValueError unless there is one for each text, and each is 0
    or 1.
    """
    if len(texts) != len(labels) or not len(texts):
        raise ValueError(
            f"{len(texts)} texts and {len(labels)} labels: one for each, and at least one"
        )
    if not set(labels) <= {0, 1}:
        raise ValueError(f"labels must be 0 or 1, not {sorted(set(labels) - {0, 1})[0]!r}")
    return torch.tensor([float(label) for label in labels], dtype=torch.float64)


def lay_out(texts: Sequence[str], index: dict[str, int]) -> tuple[Tensor, Tensor]:
    """The known features of all texts one after the other, and where each text begins (N,)."""
    bags = [sorted(index[name] for name in features(text) if name in index) for text in texts]
    starts = torch.tensor([0, *(len(bag) for bag in bags)][: len(bags)]).cumsum(0)
    return torch.tensor([place for bag in bags for place in bag], dtype=torch.long), starts


def weigh(places: Tensor, starts: Tensor, weight: Tensor) -> Tensor:
    """Sum of the weights of each text's features (N,)."""
    return F.embedding_bag(places, weight[:, None], starts, mode="sum").squeeze(1)


def train(texts: Sequence[str], labels: Sequence[int], strength: float) -> Classifier:
    """The weights and bias with the least cross-entropy (summed) + strength / 2 |weight|^2, found
    by L-BFGS.

    The loss is convex, so there is one answer, whatever the start. Every feature of the texts gets
    a weight.
    """
    targets = as_labels(texts, labels)
    index = {name: i for i, name in enumerate(sorted(set().union(*map(features, texts))))}
    places, starts = lay_out(texts, index)
    weight = torch.zeros(len(index), dtype=torch.float64, requires_grad=True)
    bias = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weight, bias],
        max_iter=500,
        tolerance_grad=1e-4,
        tolerance_change=1e-9,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        logits = weigh(places, starts, weight) + bias
        loss = (
            F.binary_cross_entropy_with_logits(logits, targets, reduction="sum")
            + strength / 2 * weight.square().sum()
        )
        loss.backward()
        return loss

    optimizer.step(closure)
    return Classifier(index, weight.detach(), bias.item(), strength)


def fit(
    texts: Sequence[str],
    labels: Sequence[int],
    seed: int = 0,
    strengths: Sequence[float] = STRENGTHS,
) -> Classifier:
    """A classifier with the strength that does best on a tenth set aside (drawn by the seed),
    fitted again on all.

    "Best" is the least cross-entropy there; held-out rows for measuring are never looked at. Raises
    ValueError for fewer than 10 texts, or labels that are not 0 and 1.
    """
    targets = as_labels(texts, labels)
    if len(texts) < 10:
        raise ValueError(f"{len(texts)} texts are too few to set a tenth of them aside")
    order = torch.randperm(len(texts), generator=torch.Generator().manual_seed(seed)).tolist()
    apart, rest = order[: len(order) // 10], order[len(order) // 10 :]
    rows, row_labels = [texts[i] for i in rest], [labels[i] for i in rest]

    def loss(strength: float) -> float:
        logits = train(rows, row_labels, strength).logits([texts[i] for i in apart])
        return F.binary_cross_entropy_with_logits(logits, targets[apart]).item()

    return train(texts, labels, min(strengths, key=loss))


def fit_rows(
    rows: Sequence[Labelled], heldout: Sequence[Labelled], seed: int = 0
) -> tuple[Classifier, dict]:
    """A classifier of whole texts (prompt and completion), and its held-out accuracy with a 95%
    interval.
    """
    (texts, labels), measured = (
        ([row.prompt + row.completion for row in part], [row.label for row in part])
        for part in (rows, heldout)
    )
    classifier = fit(texts, labels, seed)
    share, interval = classifier.accuracy(*measured)
    return classifier, {"accuracy": share, "accuracy_ci95": interval}
