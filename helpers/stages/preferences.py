"""Training and measuring a reward model, from comparisons or from single texts with labels."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from helpers import reward
from helpers.compare.classifier import fit_rows
from helpers.compare.facts import accuracy_by_fact, fact_pairs
from helpers.config import RewardConfig
from helpers.engine.loop import Loop
from helpers.engine.transfer import ahead
from helpers.evaluation import bootstrap_ci95, ratio_ci95
from helpers.model import RewardModel
from helpers.records import Comparison, Labelled
from helpers.reward import Pair, encode_comparison, encode_labelled
from helpers.run.course import Course
from helpers.tokenizer import Tokenizer

# ---------------------------------------------------------------- comparisons


def encode(comparisons: list[Comparison], tokenizer: Tokenizer, context: int) -> list[Pair]:
    """Every comparison's tokens."""
    return [encode_comparison(item, tokenizer, context) for item in comparisons]


def learn_pairs(
    course: Course, model: RewardModel, pairs: list[Pair], config: RewardConfig, loop: Loop
) -> list[dict]:
    """Train on encoded pairs; returns the metrics of every step."""
    batches = reward.comparison_batches(pairs, config, course.tokenizer.pad_id)
    return reward.train(model, ahead(batches, course.device), config, loop)


def label_noise(items: Sequence[Comparison | Labelled]) -> float | None:
    """The loss in nats of a model that knows the labels' probabilities, a floor for any other; None
    where they are unknown.
    """
    if any(item.probability is None for item in items):
        return None
    return -sum(math.log(item.probability) for item in items) / len(items)


def measure(model: RewardModel, tokenizer: Tokenizer, comparisons: list[Comparison]) -> dict:
    """Accuracy on held-out comparisons, over all and by kind of pair, with the Bayes accuracy."""
    pairs = encode(comparisons, tokenizer, model.gpt.config.context)
    return margin_metrics(reward.margins(model, pairs, tokenizer.pad_id), comparisons)


def margin_metrics(margin: Tensor, comparisons: list[Comparison]) -> dict:
    """What `measure` says, from the margin of each comparison, (N,)."""
    prompts = [comparison.prompt for comparison in comparisons]
    metrics = {
        "accuracy": reward.accuracy(margin),
        "accuracy_ci95": ratio_ci95(margin > 0, torch.ones(len(prompts)), prompts),
        "comparisons": len(comparisons),
    }
    if all(comparison.probability is not None for comparison in comparisons):
        metrics["bayes_accuracy"] = reward.bayes_accuracy(comparisons)
        metrics["accuracy_by_kind"] = reward.accuracy_by_kind(margin, comparisons)
    return metrics


def measure_facts(course: Course, model: RewardModel) -> dict:
    """Accuracy on pairs of the tldr world that differ in one fact, by fact; {} on other rows."""
    if (course.track, course.source) != ("tldr", "embedded"):
        return {}
    pairs = fact_pairs(30 if course.preset == "smoke" else 150)
    return {"accuracy_by_fact": accuracy_by_fact(model, course.tokenizer, pairs)}


# ---------------------------------------------------------------- labels


def learn_labels(course: Course, model: RewardModel, items: list[Labelled]) -> list[dict]:
    """Train on texts and their labels; returns the metrics of every step."""
    config, tokenizer, context = course.config, course.tokenizer, model.gpt.config.context
    texts = [encode_labelled(item, tokenizer, context) for item in items]
    labels = [item.label for item in items]
    batches = reward.label_batches(texts, labels, config, tokenizer.pad_id)
    loop = course.loop(title="labels")
    return reward.train_on_labels(model, ahead(batches, course.device), config, loop)


def measure_labels(
    course: Course, model: RewardModel, items: list[Labelled], heldout: list[Labelled]
) -> dict:
    """Accuracy on held-out labels, and that of a bag of words fitted on the same rows."""
    tokenizer, context = course.tokenizer, model.gpt.config.context
    texts = [encode_labelled(item, tokenizer, context) for item in heldout]
    words = fit_rows(items, heldout, course.config.seed)[1]
    scores = reward.score_texts(model, texts, tokenizer.pad_id).cpu()
    return label_metrics(scores, heldout) | {f"bag_of_words_{k}": v for k, v in words.items()}


def label_metrics(scores: Tensor, items: Sequence[Labelled]) -> dict:
    """Accuracy of scores (N,) on labels, with interval and, where it is known, Bayes accuracy."""
    right = ((scores > 0) == torch.tensor([item.label == 1 for item in items])).float()
    metrics = {"accuracy": right.mean().item(), "accuracy_ci95": bootstrap_ci95(right)}
    metrics["labels"] = len(items)
    if all(item.probability is not None for item in items):
        best = [max(item.probability, 1 - item.probability) for item in items]
        metrics["bayes_accuracy"] = sum(best) / len(best)
    return metrics
