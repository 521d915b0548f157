"""The second judge of the reward stage: another reward model, which only measures."""

import shutil
from dataclasses import replace

import torch

from helpers.engine.distributed import is_main
from helpers.model import RewardModel
from helpers.records import Comparison, fingerprint
from helpers.rows.common import digest
from helpers.run.base_model import load_base
from helpers.run.checkpoints import save_stage
from helpers.run.course import Course
from helpers.stages.preferences import encode, learn_pairs, measure


def set_apart(
    course: Course, comparisons: list[Comparison]
) -> tuple[list[Comparison], list[Comparison]]:
    """The comparisons for the reward model, and those for the second judge: no prompt is in both.

    The hash of the prompt decides; `judge_share` is the judge's share. It gets none where there is
    a better judge: an embedded world's gold reward, or a bag of words for `sentiment`.
    """
    better = course.source == "embedded" or course.track == "sentiment"
    share = 0.0 if better else course.config.judge_share
    parts: tuple[list, list] = ([], [])
    for comparison in comparisons:
        parts[digest(f"judge {comparison.prompt}") < share * 2**64].append(comparison)
    return parts


def train_judge(course: Course, comparisons: list[Comparison], heldout: list[Comparison]) -> dict:
    """Train the second judge, save it as checkpoint `judge` and return its held-out accuracy.

    It shares neither comparisons nor weights with the reward model: it starts from the base model,
    with another seed. Without comparisons an old judge in the run folder is removed.
    """
    folder, tokenizer = course.judge_folder, course.tokenizer
    if not comparisons:
        if is_main():
            shutil.rmtree(folder, ignore_errors=True)
        return {}
    config = replace(course.config, seed=course.config.seed + 1)
    base, _ = load_base(course)
    torch.manual_seed(config.seed)  # of the head
    model = RewardModel(base, config.surprise_weight).to(course.device)
    pairs = encode(comparisons, tokenizer, base.config.context)
    learn_pairs(course, model, pairs, config, course.loop("judge", seed=config.seed))
    if not is_main():
        return {}
    measured = measure(model, tokenizer, heldout)
    metrics = {f"judge_{name}": measured[name] for name in ("accuracy", "accuracy_ci95")}
    metrics["judge_comparisons"] = len(comparisons)
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
