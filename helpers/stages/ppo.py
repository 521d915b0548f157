"""3-PPO as a command: four models, PPO, held-out measurements, checkpoint."""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor

from helpers import ppo
from helpers.compare.policies import on_real_rows
from helpers.engine.distributed import is_main
from helpers.evaluation import Responses, bootstrap_ci95
from helpers.losses import kl_best_of_n, missing_eos_scores
from helpers.model import GPT
from helpers.records import Prompt, fingerprint
from helpers.reward import score_responses
from helpers.rollouts import Models, mean_kl
from helpers.run.base_model import load_base
from helpers.run.checkpoints import load_stage
from helpers.run.course import Course
from helpers.stages.adapters import Adapter, merge_adapters, policy_and_reference
from helpers.stages.cli import loss_curve, stage_main
from helpers.stages.sft import sample
from helpers.tokenizer import Tokenizer

BEST_OF = 8
FEW = 64  # prompts that the base model and best of n are measured on, in an embedded world


def run(course: Course) -> None:
    """The whole stage."""
    models = load_models(course, course.tokenizer)
    for gpt in (models.policy, models.value.gpt):
        course.prepare(gpt)
    prompts = course.rows("prompts", "train")
    history = ppo.train(models, prompts, course.config, course.tokenizer, course.loop())
    if is_main():  # the other processes have only helped with the training
        adapter = merge_adapters(models.policy)
        metrics, _ = measure(course, models, load_base(course)[0])
        finish(course, models, prompts, history, metrics, adapter)


def finish(
    course: Course,
    models: Models,
    prompts: list[Prompt],
    history: list[dict],
    metrics: dict,
    adapter: Adapter | None = None,
) -> dict:
    """Save the plain policy as the stage's checkpoint and record the metrics, which are returned.
    adapter: what was merged into it.
    """
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
    return metrics


# ---------------------------------------------------------------- the four models


def rows_are_independent(dtype: torch.dtype) -> bool:
    """Whether this CPU's matrix products give a row the same bits whatever rows stand beside it."""
    generator = torch.Generator().manual_seed(0)  # its own: the run's numbers stay as they are
    x, w = (
        torch.randn(*shape, generator=generator).to(dtype) for shape in ((4096, 512), (512, 128))
    )
    whole = x @ w
    return all(torch.equal(whole[:rows], x[:rows] @ w) for rows in (1, 32, 700, 2048))


def matmul_dtype(device: torch.device, dtype: torch.dtype) -> torch.dtype:
    """The number format of PPO's matrix products: `dtype`, but 16 bits only where the ratio still
    starts at exactly 1.

    A minibatch has fewer rows than its rollout, so a row's bits must not depend on their number. On
    a GPU they do.
    """
    return dtype if device.type == "cpu" and rows_are_independent(dtype) else torch.float32


def load_models(course: Course, tokenizer: Tokenizer) -> Models:
    """Policy and reference from the SFT checkpoint, reward and value from the reward model's."""
    sft, reward = (
        load_stage(
            course.folder(stage),
            stage=stage,
            track=course.track,
            tokenizer=tokenizer,
            device=course.device,
        )[0]
        for stage in ("sft", "reward")
    )
    policy, reference = policy_and_reference(sft, course.config)
    value = copy.deepcopy(reward)
    return Models(
        policy,
        reference,
        reward.requires_grad_(False),
        value,
        matmul_dtype(course.device, course.dtype),
    )


# ---------------------------------------------------------------- held-out measurements


def measure(course: Course, models: Models, base: GPT) -> tuple[dict, dict[str, Responses]]:
    """The policies side by side on held-out prompts: metrics, and the responses of "base", "SFT",
    "best of 8" and "PPO".

    In an embedded world by its gold reward; on real rows by a second judge, overlap with
    references, and perplexity.
    """
    if course.source == "embedded":
        return measure_in_world(course, models, base)
    return on_real_rows(course, models, base, BEST_OF)


def measure_in_world(
    course: Course, models: Models, base: GPT
) -> tuple[dict, dict[str, Responses]]:
    """PPO against SFT on the same prompts, by the gold reward; the base model and best of n on
    fewer.
    """
    few = course.rows("prompts", "heldout", 16 if course.preset == "smoke" else FEW)
    prompts = course.rows("prompts", "heldout", course.config.eval_prompts)
    metrics, responses = against_sft(course, models, prompts)
    responses["base"] = sample(course, base, few)
    responses["best of 8"] = best_of(course, models, few, BEST_OF)
    distances = {
        "base": mean_kl(base, models.reference, course.tokenizer, responses["base"]),
        "best of 8": kl_best_of_n(BEST_OF),
    }
    rows = metrics["table"]
    for name, kl in distances.items():
        rows[name] = summarise(responses[name], scores_of(course, models, responses[name]), kl)
    metrics["table"] = {name: rows[name] for name in ("base", "SFT", "best of 8", "PPO")}
    for name, row in metrics["table"].items():
        row["gold_ci95"] = bootstrap_ci95(responses[name].gold)
        row["prompts"] = len(responses[name].texts)
    return metrics, responses


def against_sft(
    course: Course, models: Models, prompts: list[Prompt]
) -> tuple[dict, dict[str, Responses]]:
    """PPO against SFT on the same prompts: metrics, and the responses of both."""
    both, rows = {}, {}
    for name, model in (("SFT", models.reference), ("PPO", models.policy)):
        both[name] = sample(course, model, prompts)
        kl = mean_kl(model, models.reference, course.tokenizer, both[name])
        rows[name] = summarise(both[name], scores_of(course, models, both[name]), kl)
    sft, ppo_ = both["SFT"], both["PPO"]
    drops = {name: sft.flaw(name) - ppo_.flaw(name) for name in rows["PPO"]["flaws"]}
    metrics = {
        **rows["PPO"],
        "table": rows,
        "sft_gold_reward": rows["SFT"]["gold_reward"],
        "gold_gain_ci95": bootstrap_ci95(ppo_.gold - sft.gold),
        "sft_flaws": rows["SFT"]["flaws"],
    }
    metrics |= {f"{name}_drop_ci95": bootstrap_ci95(drop) for name, drop in drops.items()}
    return metrics, both


def scores_of(course: Course, models: Models, responses: Responses) -> Tensor:
    """The reward model's score of each response (N,), with missing ends replaced."""
    scores = score_responses(models.reward, course.tokenizer, responses)
    stopped = torch.tensor(responses.stopped)
    return missing_eos_scores(scores, stopped, course.config.missing_eos_score)


def best_of(course: Course, models: Models, prompts: list[Prompt], n: int) -> Responses:
    """The response with the highest score among n samples of the SFT model, for each prompt."""
    samples = sample(course, models.reference, [p for p in prompts for _ in range(n)])
    best = scores_of(course, models, samples).view(-1, n).argmax(1).tolist()
    return samples.subset([row * n + place for row, place in enumerate(best)])


def summarise(responses: Responses, scores: Tensor, kl: float) -> dict:
    """One row of the final table."""
    return {"score": scores.mean().item(), "kl": kl, **responses.report()}


def main(argv: Sequence[str] | None = None) -> None:
    """`python -m helpers ppo`."""
    stage_main("3-PPO", run, argv)
