"""Stage 3: PPO against the reward model (taught in 3-PPO). `python -m helpers.ppo --preset cpu`."""

from dataclasses import replace

import torch
from torch import Tensor

from helpers.batching import left_pad
from helpers.config import PPOConfig
from helpers.engine.distributed import add_numbers, is_main, own_rows, world
from helpers.engine.hardware import prepare
from helpers.engine.snapshots import Keeper
from helpers.evaluation import Responses, bootstrap_ci95, respond
from helpers.kl_control import KLController
from helpers.losses import (
    clipped_policy_loss,
    clipped_value_loss,
    missing_eos_scores,
    token_logprobs,
)
from helpers.ppo_models import Models, load_models
from helpers.reward import score_responses
from helpers.rollouts import (
    Rollout,
    collect,
    gold_rewards,
    mean_kl,
    response_logits,
    response_values,
    rollout_metrics,
)
from helpers.rows.embedded import Prompt, fingerprint
from helpers.run.checkpoints import save_stage
from helpers.run.setup import Course
from helpers.stages.adapters import merge_adapters
from helpers.stages.cli import settings, stage_main
from helpers.tokenizer import Tokenizer
from helpers.training import Optimizers, Progress, autocast


def minibatch_losses(
    models: Models, rollout: Rollout, index: Tensor, config: PPOConfig
) -> dict[str, Tensor]:
    """Policy and value loss of the rows `index` of a rollout, with what is worth watching."""
    batch = rollout.batch.rows(index)
    mask, old = batch.response_mask, rollout.logprobs[index]
    with autocast(mask.device, models.dtype):  # as in `collect`, or the ratio would not start at 1
        logprobs = token_logprobs(response_logits(models.policy, batch), batch.response)  # (b, R)
        values = response_values(models.value, batch)
    policy, clipped = clipped_policy_loss(
        logprobs, old, rollout.advantages[index], mask, config.clip_range
    )
    value = clipped_value_loss(
        values, rollout.values[index], rollout.returns[index], mask, config.value_clip
    )
    ratio = torch.where(mask, (logprobs - old).exp(), 1.0).detach()
    return {
        "policy": policy,
        "value": value,
        "clip_fraction": clipped,
        "ratio_off": (ratio - 1).abs().max(),
    }


def update(
    models: Models,
    rollout: Rollout,
    optimizers: list[Optimizers],
    config: PPOConfig,
    generator,
    factor: float,
):
    """All gradient steps on one rollout: `epochs` passes in fresh random order. Returns the mean of
    each metric.

    A loss is a mean over tokens: a process that has a share of a minibatch's tokens has that share
    of its gradients.
    """
    seen, tokens = [], rollout.batch.response_mask.sum(1).double()  # (B,)
    for _ in range(config.epochs):
        order = torch.randperm(len(rollout.scores), generator=generator)
        for index in order.split(config.minibatch_size):
            own = index[list(own_rows(len(index)))]
            share = (tokens[own].sum() / tokens[index].sum()).item()  # 1 in a single process
            losses = minibatch_losses(models, rollout, own, config)
            for optimizer, loss in zip(
                optimizers, (losses["policy"], losses["value"]), strict=True
            ):
                optimizer.scaler.scale(
                    share * loss
                ).backward()  # separate models: each loss reaches its own
                optimizer.step(factor)
            numbers = add_numbers([share * loss.item() for loss in losses.values()])
            seen.append(dict(zip(losses, numbers, strict=True)))
    return {name: sum(step[name] for step in seen) / len(seen) for name in seen[0]} | {
        "first": seen[0]
    }


def check_first_minibatch(metrics: dict[str, float], first: dict[str, float]) -> None:
    """Before the first gradient step the policy is the SFT model: KL 0, ratio 1. Raises
    AssertionError if not.
    """
    assert abs(metrics["kl"]) < 1e-5, (
        f"KL is {metrics['kl']} at step 0: policy and reference are read differently"
    )
    assert first["ratio_off"] < 1e-5, f"ratio is off by {first['ratio_off']} in the first minibatch"


def train(
    models: Models,
    prompts: list[Prompt],
    config: PPOConfig,
    tokenizer: Tokenizer,
    keeper: Keeper | None = None,
    watch=None,
) -> list[dict]:
    """PPO in place on `models.policy` and `models.value`; returns the metrics of every iteration.

    With a keeper the run is logged and saved, and goes on where one that was stopped has left off.
    `watch(history)` is called after each iteration, for a live picture. Raises ValueError if
    several processes can't share the work evenly.
    """
    if config.rollout_size % world() or config.minibatch_size % world():
        sizes = f"rollout_size {config.rollout_size} and minibatch_size {config.minibatch_size}"
        raise ValueError(
            f"{world()} processes can't share {sizes} evenly: take multiples of {world()}"
        )
    device = models.policy.wte.weight.device
    encoded = [tokenizer.encode(prompt.prompt) for prompt in prompts]
    choose = torch.Generator().manual_seed(config.seed)  # which prompts, which minibatches
    draw = torch.Generator(device).manual_seed(config.seed)  # which tokens
    optimizers = [
        Optimizers(models.policy, *config.rates),
        Optimizers(models.value, config.value_lr),
    ]
    for optimizer in optimizers:
        optimizer.products_in(models.dtype)
    price = KLController(config.kl_coef, config.kl_target, config.kl_horizon)
    progress = Progress("ppo", config.iterations, keeper)
    saved = {
        "policy": models.policy,
        "value": models.value,
        "policy_optimizer": optimizers[0],
        "value_optimizer": optimizers[1],
        "price": price,
        "choose": choose,
        "draw": draw,
    }
    with progress.steps_left(**saved) as iterations:
        for iteration in iterations:
            chosen = torch.randperm(len(prompts), generator=choose)[: config.rollout_size].tolist()
            ids, mask = (
                tensor.to(device)
                for tensor in left_pad([encoded[i] for i in chosen], tokenizer.pad_id)
            )
            rollout = collect(
                models, ids, mask, replace(config, kl_coef=price.kl_coef), tokenizer, draw
            )
            metrics = rollout_metrics(rollout) | (
                {"kl_coef": price.kl_coef} if config.kl_target else {}
            )
            price.update(metrics["kl"], config.rollout_size)
            if prompts[0].facts is not None:
                metrics["gold"] = gold_rewards(rollout, [prompts[i] for i in chosen], tokenizer)
            with progress.guard(rollout.batch):
                steps = update(
                    models, rollout, optimizers, config, choose, 1 - iteration / config.iterations
                )
            if iteration == 0:
                check_first_minibatch(metrics, steps["first"])
            progress.update(
                **metrics, clip_fraction=steps["clip_fraction"], value_loss=steps["value"]
            )
            if watch:
                watch(progress.history)
    return progress.history


def summarise(responses: Responses, scores: Tensor, kl: float) -> dict:
    """One row of the final table."""
    return {"score": scores.mean().item(), "kl": kl, **responses.report()}


def measure(
    models: Models, tokenizer: Tokenizer, prompts: list[Prompt], config: PPOConfig
) -> tuple[dict, dict[str, Responses]]:
    """Held-out comparison of PPO with SFT on the same prompts: metrics, and the responses of
    both.
    """
    both, rows = {}, {}
    for name, model in (("SFT", models.reference), ("PPO", models.policy)):
        both[name] = respond(
            model, tokenizer, prompts, max_new_tokens=config.response_tokens, seed=config.seed
        )
        scores = score_responses(models.reward, tokenizer, both[name])
        scores = missing_eos_scores(
            scores, torch.tensor(both[name].stopped), config.missing_eos_score
        )
        rows[name] = summarise(
            both[name], scores, mean_kl(model, models.reference, tokenizer, both[name])
        )
    metrics = {**rows["PPO"], "table": rows}
    if both["PPO"].known:
        drops = {
            name: both["SFT"].flaw(name) - both["PPO"].flaw(name) for name in rows["PPO"]["flaws"]
        }
        metrics |= {
            "sft_gold_reward": rows["SFT"]["gold_reward"],
            "gold_gain_ci95": bootstrap_ci95(both["PPO"].gold - both["SFT"].gold),
            "sft_flaws": rows["SFT"]["flaws"],
            **{f"{name}_drop_ci95": bootstrap_ci95(drop) for name, drop in drops.items()},
        }
    return metrics, both


def run(course: Course) -> None:
    """The whole stage: four models, PPO, held-out measurements, checkpoint, metrics."""
    config, tokenizer = course.config, course.tokenizer
    models = load_models(course, tokenizer)
    for gpt in (models.policy, models.value.gpt):
        prepare(gpt)
    prompts = course.rows("prompts", "train")
    train(models, prompts, config, tokenizer, course.keeper())
    if not is_main():
        return
    adapter = merge_adapters(models.policy)  # None when all weights were trained
    if prompts[0].facts is None:
        from helpers.compare.policies import on_real_rows, show  # builds on this module

        metrics = on_real_rows(course, models)
        show(course, metrics)
    else:
        heldout = course.rows("prompts", "heldout", config.eval_prompts)
        metrics, _ = measure(models, tokenizer, heldout, config)
    save_stage(
        course.folder(),
        models.policy,
        tokenizer,
        stage="ppo",
        track=course.track,
        config=settings(course),
        metrics=metrics,
        parent=course.folder("sft"),
        data_fingerprint=fingerprint(prompts),
        adapter=adapter,
    )
    course.forget_snapshots()
    course.record(**metrics)


if __name__ == "__main__":
    stage_main("3-PPO", run)
