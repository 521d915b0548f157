"""2-RM-Training as a command: SFT model with a score head, training, measurements, normalisation,
checkpoint; on real rows also a second judge, which only measures.
"""

import copy
import shutil
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from helpers import reward
from helpers.compare.classifier import fit_rows
from helpers.engine.distributed import is_main
from helpers.engine.transfer import ahead
from helpers.evaluation import bootstrap_ci95, ratio_ci95
from helpers.model import RewardModel
from helpers.records import Comparison, Labelled, fingerprint
from helpers.reward import Pair, encode_comparison, encode_labelled
from helpers.rows.common import digest
from helpers.run.base_model import load_base
from helpers.run.checkpoints import load_stage, save_stage
from helpers.run.course import Course
from helpers.stages.cli import loss_curve, stage_main
from helpers.tokenizer import Tokenizer


def run(course: Course) -> None:
    """The whole stage."""
    asked = {"stage": "sft", "track": course.track, "tokenizer": course.tokenizer}
    policy, _ = load_stage(course.folder("sft"), **asked, device=course.device)
    model = RewardModel(copy.deepcopy(policy)).to(course.device)
    course.prepare(model.gpt)
    items, history, metrics = learn(course, model)
    if is_main():  # the other processes have only helped with the training
        prompts = course.rows("prompts", "train", course.config.eval_prompts)
        sampling = course.config, course.sampling_dtype
        scale = reward.normalise_on(model, policy, course.tokenizer, prompts, *sampling)
        finish(course, model, items, history, metrics, scale)


def learn(course: Course, model: RewardModel) -> tuple[list, list[dict], dict]:
    """Train the model on what the settings say, comparisons or labels: the records, the metrics of
    every step, and the held-out metrics.

    From comparisons the second judge is trained as well, on those that are set apart.
    """
    config, tokenizer = course.config, course.tokenizer
    kind = "labels" if config.pointwise else "comparisons"
    items, heldout = course.rows(kind, "train", config.comparisons), course.rows(kind, "heldout")
    if config.pointwise:
        history = learn_labels(course, model, items)
        return items, history, measure_labels(course, model, items, heldout) if is_main() else {}
    items, apart = set_apart(course, items)
    history = learn_pairs(course, model, encode(items, tokenizer, model.gpt.config.context))
    judged = train_judge(course, apart, heldout)  # by all processes
    return items, history, measure(model, tokenizer, heldout) | judged if is_main() else {}


def encode(comparisons: list[Comparison], tokenizer: Tokenizer, context: int) -> list[Pair]:
    """Every comparison's tokens."""
    return [encode_comparison(item, tokenizer, context) for item in comparisons]


def learn_pairs(
    course: Course, model: RewardModel, pairs: list[Pair], name: str = ""
) -> list[dict]:
    """Train on encoded pairs; returns the metrics of every step. name: of a run that is not the
    stage's main one.
    """
    config = course.config
    batches = reward.comparison_batches(pairs, config, course.tokenizer.pad_id)
    return reward.train(model, ahead(batches, course.device), config, course.loop(name))


def learn_labels(course: Course, model: RewardModel, items: list[Labelled]) -> list[dict]:
    """Train on texts and their labels; returns the metrics of every step."""
    config, tokenizer, context = course.config, course.tokenizer, model.gpt.config.context
    rows = [encode_labelled(item, tokenizer, context) for item in items]
    labels = [item.label for item in items]
    batches = reward.label_batches(rows, labels, config, tokenizer.pad_id)
    loop = course.loop(title="labels")
    return reward.train_on_labels(model, ahead(batches, course.device), config, loop)


def finish(
    course: Course,
    model: RewardModel,
    items: list,
    history: list[dict],
    metrics: dict,
    scale: tuple[float, float],
    **recorded: Any,
) -> dict:
    """Save the normalised model as the stage's checkpoint and record the metrics, which are
    returned. scale: mean and standard deviation that it was normalised by. recorded: what else
    goes into the record.
    """
    metrics = metrics | {"mean": scale[0], "std": scale[1]}
    name, window = ("label" if course.config.pointwise else "pairwise"), max(1, len(history) // 10)
    course.finish(
        model,
        metrics,
        parent=course.folder("sft"),
        data_fingerprint=fingerprint(items),
        curves={f"{name} loss": loss_curve(history, name, window)},
        **recorded,
    )
    return metrics


def measure(model: RewardModel, tokenizer: Tokenizer, comparisons: list[Comparison]) -> dict:
    """Accuracy on held-out comparisons, over all and by kind of pair, with the Bayes accuracy."""
    pairs = encode(comparisons, tokenizer, model.gpt.config.context)
    margin = reward.margins(model, pairs, tokenizer.pad_id)
    interval = ratio_ci95(
        margin > 0, torch.ones(len(pairs)), [comparison.prompt for comparison in comparisons]
    )
    metrics = {
        "accuracy": reward.accuracy(margin),
        "accuracy_ci95": interval,
        "comparisons": len(comparisons),
    }
    if all(comparison.probability is not None for comparison in comparisons):
        by_kind = reward.accuracy_by_kind(margin, comparisons)
        metrics |= {
            "bayes_accuracy": reward.bayes_accuracy(comparisons),
            "accuracy_by_kind": by_kind,
        }
    return metrics


def measure_labels(
    course: Course, model: RewardModel, items: list[Labelled], heldout: list[Labelled]
) -> dict:
    """Accuracy on held-out labels, and what a bag of words makes of the same rows."""
    tokenizer, context = course.tokenizer, model.gpt.config.context
    rows = [encode_labelled(item, tokenizer, context) for item in heldout]
    words = fit_rows(items, heldout, course.config.seed)[1]
    scores = reward.score_rows(model, rows, tokenizer.pad_id)
    return label_metrics(scores, heldout) | {f"bag_of_words_{k}": v for k, v in words.items()}


def label_metrics(scores: Tensor, items: Sequence[Labelled]) -> dict:
    """Accuracy of scores (N,) on labels with its 95% interval, and the best possible one where the
    odds are known.
    """
    right = ((scores > 0) == torch.tensor([item.label == 1 for item in items])).float()
    metrics = {
        "accuracy": right.mean().item(),
        "accuracy_ci95": bootstrap_ci95(right),
        "labels": len(items),
    }
    if all(item.probability is not None for item in items):
        metrics["bayes_accuracy"] = sum(
            max(item.probability, 1 - item.probability) for item in items
        ) / len(items)
    return metrics


# ---------------------------------------------------------------- the second judge


def set_apart(
    course: Course, comparisons: list[Comparison]
) -> tuple[list[Comparison], list[Comparison]]:
    """The comparisons for the reward model, and those for the second judge: no prompt is in both.

    The hash of the prompt decides; `judge_share` says for how many. None are set apart where a
    better judge is at hand: the gold reward of an embedded world, and for `sentiment` a classifier
    of another kind.
    """
    share = (
        course.config.judge_share
        if course.source != "embedded" and course.track != "sentiment"
        else 0.0
    )
    parts: tuple[list, list] = ([], [])
    for comparison in comparisons:
        parts[digest(f"judge {comparison.prompt}") < share * 2**64].append(comparison)
    return parts


def train_judge(course: Course, comparisons: list[Comparison], heldout: list[Comparison]) -> dict:
    """A second reward model that only measures, kept as checkpoint `judge`; returns its held-out
    accuracy.

    It shares neither comparisons nor weights with the first: it starts from the base model, with
    another seed. Without comparisons there is no judge, and an old one in the run folder is
    removed.
    """
    folder, tokenizer = course.judge_folder, course.tokenizer
    if not comparisons:
        if is_main():
            shutil.rmtree(folder, ignore_errors=True)
        return {}
    config = replace(course.config, seed=course.config.seed + 1)
    base, _ = load_base(course)
    torch.manual_seed(config.seed)  # of the head
    model = RewardModel(base).to(course.device)
    pairs = encode(comparisons, tokenizer, base.config.context)
    learn_pairs(replace(course, config=config), model, pairs, "judge")
    if not is_main():
        return {}
    measured = measure(model, tokenizer, heldout)
    metrics = {
        "judge_accuracy": measured["accuracy"],
        "judge_accuracy_ci95": measured["accuracy_ci95"],
        "judge_comparisons": len(comparisons),
    }
    save_stage(
        folder,
        model,
        tokenizer,
        stage="reward",
        track=course.track,
        config=course.facts() | {"seed": config.seed},
        metrics=metrics,
        parent=course.base_folder,
        data_fingerprint=fingerprint(comparisons),
    )
    return metrics


def main(argv: Sequence[str] | None = None) -> None:
    """`python -m helpers reward`."""
    stage_main("2-RM-Training", run, argv)
