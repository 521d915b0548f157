"""3-PPO as a command: four models, PPO, held-out measurements, checkpoint."""

import copy
from collections.abc import Sequence
from dataclasses import replace

import torch

from helpers import ppo
from helpers.compare.ceiling import GoldReward
from helpers.compare.endpoint_judge import judge_of
from helpers.compare.policies import evaluate_policies
from helpers.compare.references import read_heldout
from helpers.compare.world import evaluate_in_world
from helpers.engine.distributed import is_main
from helpers.engine.hardware import rows_are_independent
from helpers.evaluation import Responses, respond
from helpers.model import GPT
from helpers.records import Prompt, fingerprint
from helpers.rollouts import Models
from helpers.run.base_model import load_base
from helpers.run.checkpoints import load_stage
from helpers.run.course import Course
from helpers.stages.adapters import Adapter, merge_adapters, policy_and_reference
from helpers.stages.cli import loss_curve, stage_main
from helpers.tokenizer import Tokenizer

BEST_OF = 8


def run(course: Course) -> None:
    """The whole stage."""
    if course.source != "embedded" and course.settings.judge_url:
        judge_of(course.settings, course.track)  # refused now, not after the training
    models = load_models(course, course.tokenizer)
    for gpt in (models.policy, models.value.gpt):
        course.prepare(gpt)
    prompts = course.rows("prompts", "train")
    read_heldout(course)  # what is missing is noticed now, not after the training
    if course.source != "embedded" and course.track == "sentiment":  # of its second judge
        for split in ("train", "heldout"):
            course.rows("labels", split)
    history = ppo.train(models, prompts, course.config, course.tokenizer, course.loop())
    oracle = train_oracle(course)[0] if course.source == "embedded" else None
    if is_main():  # the other processes only help with the training
        adapter = merge_adapters(models.policy)
        metrics, _ = measure(course, models, load_base(course)[0], oracle)
        finish(course, models, prompts, history, metrics, adapter)


def load_models(course: Course, tokenizer: Tokenizer) -> Models:
    """Policy and reference from the SFT checkpoint, reward and value from the reward model's."""
    expected = {"track": course.track, "tokenizer": tokenizer, "device": course.device}
    sft, reward = (
        load_stage(course.folder(stage), stage=stage, **expected)[0] for stage in ("sft", "reward")
    )
    policy, reference = policy_and_reference(sft, course.config)
    value = copy.deepcopy(reward)
    value.surprise_weight.requires_grad_(False)  # only the head's values are read
    dtype = matmul_dtype(course.device, course.dtype)
    return Models(policy, reference, reward.requires_grad_(False), value, dtype)


def train_oracle(course: Course) -> tuple[GPT, list[dict]]:
    """The same PPO with the gold reward in the reward model's place: what a perfect reward model
    would give. Only an embedded world has one. Returns the policy and the metrics of every
    iteration.
    """
    models, config = load_models(course, course.tokenizer), course.config
    for gpt in (models.policy, models.value.gpt):
        course.prepare(gpt)
    prompts = course.rows("prompts", "train")
    sampling = {"max_new_tokens": config.response_tokens, "dtype": course.sampling_dtype}
    few = prompts[: config.eval_prompts]
    samples = respond(models.reference, course.tokenizer, few, seed=config.seed + 1, **sampling)
    gold = GoldReward(prompts, course.tokenizer, samples)
    models = replace(models, reward=gold)
    history = ppo.train(models, prompts, config, course.tokenizer, course.loop("oracle"))
    merge_adapters(models.policy)
    return models.policy, history


def matmul_dtype(device: torch.device, dtype: torch.dtype) -> torch.dtype:
    """The number format of PPO's matrix products: `dtype`, but 16 bits only where the ratio still
    starts at exactly 1.

    A minibatch has fewer rows than its rollout, so a row's bits must not depend on their number. On
    a GPU they do.
    """
    return dtype if device.type == "cpu" and rows_are_independent(dtype) else torch.float32


def measure(
    course: Course, models: Models, base: GPT, oracle: GPT | None = None
) -> tuple[dict, dict[str, Responses]]:
    """The policies side by side on held-out prompts: metrics, and the responses of "base", "SFT",
    "best of 8", "PPO" and "oracle PPO", and of SFT and PPO at lower temperatures.

    In an embedded world by its gold reward; on real rows by a second judge, overlap with
    references, and perplexity.
    """
    if course.source == "embedded":
        return evaluate_in_world(course, models, base, BEST_OF, oracle)
    return evaluate_policies(course, models, base, BEST_OF)


def finish(
    course: Course,
    models: Models,
    prompts: list[Prompt],
    history: list[dict],
    metrics: dict,
    adapter: Adapter | None = None,
) -> dict:
    """Save the plain policy and record the metrics, which are returned. adapter: merged into it."""
    curves = {"score": "score", "gold reward": "gold", "KL, nats per response": "kl"}
    course.finish(
        models.policy,
        metrics,
        parent=course.folder("sft"),
        data_fingerprint=fingerprint(prompts),
        adapter=adapter,
        curves={
            name: loss_curve(history, key, xlabel="iteration")
            for name, key in curves.items()
            if key in history[0]
        },
    )
    if "gain_over_cooled_sft_ci95" in metrics:
        course.expect(
            metrics["gain_over_cooled_sft_ci95"][0] > 0,
            "PPO's policy is not better than the SFT model at its best temperature. Look at the "
            "score: where it does not rise, try more `iterations` or a smaller `kl_coef`; where it "
            "rises alone, the reward model is to blame.",
        )
    return metrics


def main(argv: Sequence[str] | None = None) -> None:
    """`python -m helpers ppo`."""
    stage_main("3-PPO", run, argv)
