"""2-RM-Training as a command: SFT model with a score head, training, measurements, normalisation,
checkpoint; on real rows also a second judge, which only measures.
"""

import copy
from collections.abc import Sequence
from typing import Any

from helpers import reward
from helpers.engine.distributed import is_main
from helpers.model import RewardModel
from helpers.records import Comparison, Labelled, fingerprint
from helpers.run.checkpoints import load_stage
from helpers.run.course import Course
from helpers.run.report import way_to_bayes
from helpers.stages.cli import loss_curve, stage_main
from helpers.stages.judge import set_apart, train_judge
from helpers.stages.preferences import (
    encode,
    label_noise,
    learn_labels,
    learn_pairs,
    measure,
    measure_facts,
    measure_labels,
)

LEAST_WAY, LEAST_FACT = 0.85, 0.9  # what a reward model that reads the prompt has at least


def run(course: Course) -> None:
    """The whole stage."""
    expected = {"stage": "sft", "track": course.track, "tokenizer": course.tokenizer}
    policy, _ = load_stage(course.folder("sft"), **expected, device=course.device)
    model = RewardModel(copy.deepcopy(policy), course.config.surprise_weight).to(course.device)
    course.prepare(model.gpt)
    prompts = course.rows("prompts", "train", course.config.eval_prompts)  # before the training
    items, history, metrics = learn(course, model)
    if is_main():  # the other processes only help with the training
        sampling = course.config, course.sampling_dtype
        scale = reward.normalise_on(model, policy, course.tokenizer, prompts, *sampling)
        finish(course, model, items, history, metrics, scale)


def learn(course: Course, model: RewardModel) -> tuple[list, list[dict], dict]:
    """Train the model on comparisons or labels, as the settings say: the records, the metrics of
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
    pairs = encode(items, tokenizer, model.gpt.config.context)
    history = learn_pairs(course, model, pairs, config, course.loop())
    judge_metrics = train_judge(course, apart, heldout)  # by all processes
    if not is_main():
        return items, history, {}
    metrics = measure(model, tokenizer, heldout) | measure_facts(course, model)
    return items, history, metrics | judge_metrics


def finish(
    course: Course,
    model: RewardModel,
    items: list[Comparison] | list[Labelled],
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
    curve = loss_curve(history, "loss", window, label_noise(items), "annotators' noise")
    course.finish(
        model,
        metrics,
        parent=course.folder("sft"),
        data_fingerprint=fingerprint(items),
        curves={f"{name} loss": curve},
        **recorded,
    )
    warn(course, metrics)
    return metrics


def warn(course: Course, metrics: dict) -> None:
    """Say so where the reward model has not learned to read in time."""
    remedy = "train it on more comparisons (`comparisons`), or with another seed"
    if "bayes_accuracy" in metrics:
        way = way_to_bayes(metrics["accuracy"], metrics["bayes_accuracy"])
        course.expect(
            way >= LEAST_WAY,
            f"the reward model came {way:.0%} of the way from chance to the Bayes accuracy, and "
            f"{LEAST_WAY:.0%} or more is usual. PPO can gain less from it: {remedy}.",
        )
    for fact, share in metrics.get("accuracy_by_fact", {}).items():
        course.expect(
            share >= LEAST_FACT,
            f"the reward model is right on {share:.0%} of the pairs that differ in {fact!r}. A "
            f"policy may get it wrong unpunished: {remedy}.",
        )


def main(argv: Sequence[str] | None = None) -> None:
    """`python -m helpers reward`."""
    stage_main("2-RM-Training", run, argv)
