"""Stage 3: optimising the policy against the reward model with PPO (taught in 3-PPO)."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from helpers.config import PPOConfig
from helpers.engine.distributed import world
from helpers.engine.hardware import logprob_rounding
from helpers.engine.loop import Loop
from helpers.losses import clipped_policy_loss, clipped_value_loss, token_logprobs
from helpers.records import Prompt
from helpers.rollouts import (
    Models,
    Rollout,
    collect,
    gold_rewards,
    response_logits,
    response_values,
    rollout_metrics,
    with_advantages,
)
from helpers.tokenizer import Tokenizer
from helpers.training import Optimizers, autocast, schedule


class KLController:
    """The coefficient of the KL penalty: fixed without a target, else adapted after each rollout.

        kl_coef <- kl_coef * (1 + e * responses / horizon), e = clip(KL / target - 1, -0.2, 0.2)

    target: nats per response. horizon: the number of responses in which kl_coef can grow by a
    fifth. Raises ValueError for a negative target, and with a target for a horizon or a kl_coef
    that is not above 0 (no factor changes a coefficient of 0).
    Source: Ziegler et al. 2019, section 2.2 (their K = 0.1 is responses / horizon).
    """

    def __init__(self, kl_coef: float, target: float = 0.0, horizon: int = 640):
        if target and not (target > 0 and kl_coef > 0 and horizon > 0):
            raise ValueError(
                "kl_target takes a target, a kl_coef and a kl_horizon above 0 (a target of 0 "
                f"keeps kl_coef fixed), not kl_target {target}, kl_coef {kl_coef} and kl_horizon "
                f"{horizon}"
            )
        self.kl_coef, self.target, self.horizon = kl_coef, target, horizon

    def update(self, kl: float, responses: int) -> None:
        """Adapt kl_coef to a rollout's mean KL (nats per response) over this many responses."""
        if self.target:
            error = min(max(kl / self.target - 1, -0.2), 0.2)
            self.kl_coef *= 1 + error * responses / self.horizon

    def state_dict(self) -> dict:
        return {"kl_coef": self.kl_coef}

    def load_state_dict(self, state: dict) -> None:
        self.kl_coef = state["kl_coef"]


def minibatch_losses(
    models: Models, rollout: Rollout, index: Tensor, config: PPOConfig
) -> dict[str, Tensor]:
    """Policy loss and value loss on the rows `index` of a rollout, and two diagnostics."""
    batch = rollout.batch.rows(index)
    mask, old_logprobs = batch.response_mask, rollout.logprobs[index]
    old_values, returns = rollout.values[index], rollout.returns[index]
    advantages = rollout.advantages[index]

    # In the same number format as in `collect`, or the ratio would not start at 1.
    with autocast(mask.device, models.dtype):
        logprobs = token_logprobs(response_logits(models.policy, batch), batch.response)  # (b, R)
        values = response_values(models.value, batch)
    policy_loss, clip_fraction = clipped_policy_loss(
        logprobs, old_logprobs, advantages, mask, config.clip_range
    )
    value_loss = clipped_value_loss(values, old_values, returns, mask, config.value_clip)
    ratio = torch.where(mask, (logprobs - old_logprobs).exp(), 1.0).detach()
    return {
        "policy": policy_loss,
        "value": value_loss,
        "clip_fraction": clip_fraction,
        "ratio_off": (ratio - 1).abs().max(),
    }


def check_first_minibatch(
    metrics: dict[str, float], first: dict[str, float], rounding: float = 1e-5
) -> None:
    """Assert KL 0 and ratio 1: before the first gradient step, the policy equals the reference.

    rounding: how far from that they may be, from `logprob_rounding`.
    """
    assert abs(metrics["kl"]) < rounding, (
        f"KL is {metrics['kl']} at step 0: policy and reference are read differently"
    )
    assert first["ratio_off"] < rounding, (
        f"ratio is off by {first['ratio_off']} in the first minibatch"
    )


@dataclass
class Training:
    """The state of a PPO run apart from the models; snapshots save both."""

    policy_optimizer: Optimizers
    value_optimizer: Optimizers
    kl_controller: KLController
    prompt_rng: torch.Generator  # chooses prompts and minibatches
    token_rng: torch.Generator  # samples tokens


def start_training(models: Models, config: PPOConfig) -> Training:
    """Create optimisers, KL controller and random generators.

    Raises ValueError if the processes cannot share rollouts and minibatches evenly.
    """
    if config.rollout_size % world() or config.minibatch_size % world():
        sizes = f"rollout_size {config.rollout_size} and minibatch_size {config.minibatch_size}"
        raise ValueError(
            f"{world()} processes can't share {sizes} evenly: take multiples of {world()}"
        )
    device = models.policy.wte.weight.device
    return Training(
        Optimizers(models.policy, *config.rates, models.dtype),
        Optimizers(models.value, config.value_lr, dtype=models.dtype),
        KLController(config.kl_coef, config.kl_target, config.kl_horizon),
        torch.Generator().manual_seed(config.seed),
        torch.Generator(device).manual_seed(config.seed),
    )


def choose_prompts(prompts: list[Prompt], size: int, rng: torch.Generator) -> list[Prompt]:
    """Choose `size` of the prompts at random, without replacement."""
    return [prompts[i] for i in torch.randperm(len(prompts), generator=rng)[:size].tolist()]


def minibatches(rows: int, config: PPOConfig, rng: torch.Generator) -> Iterator[Tensor]:
    """Row indices of each gradient step: `epochs` passes over the rollout, each in random order."""
    for _ in range(config.epochs):
        yield from torch.randperm(rows, generator=rng).split(config.minibatch_size)


def train(
    models: Models, prompts: list[Prompt], config: PPOConfig, tokenizer: Tokenizer, loop: Loop
) -> list[dict]:
    """Train policy and value model in place; returns the metrics of every iteration."""
    run = start_training(models, config)
    state = {"policy": models.policy, "value": models.value, **vars(run)}
    with loop.run(config.iterations, **state) as iterations:
        for iteration in iterations:  # from 0, or from where a stopped run left off
            batch = choose_prompts(prompts, config.rollout_size, run.prompt_rng)
            rollout = collect(models, batch, config, tokenizer, run.token_rng)
            rollout = with_advantages(rollout, run.kl_controller.kl_coef, config)
            tokens, updates = rollout.batch.response_mask.sum(1).cpu(), []
            for index in minibatches(len(batch), config, run.prompt_rng):
                for rows, share in loop.parts(index, tokens.__getitem__, config.micro_batch):
                    with loop.retry_smaller():  # if the memory runs out
                        losses = minibatch_losses(models, rollout, rows, config)
                        run.policy_optimizer.backward(share * losses["policy"])
                        run.value_optimizer.backward(share * losses["value"])
                        loop.add_largest(ratio_off=losses.pop("ratio_off"))
                        loop.add(share, **losses)
                updates.append(loop.means())
                for optimizer in (run.policy_optimizer, run.value_optimizer):
                    optimizer.step(schedule(iteration, config.iterations))
            metrics = iteration_metrics(rollout, updates, batch, run.kl_controller, tokenizer)
            if iteration == 0:
                rounding = logprob_rounding(models.policy, models.dtype)
                check_first_minibatch(metrics, updates[0], rounding)
            loop.log(**metrics)
    return loop.history


def iteration_metrics(
    rollout: Rollout,
    updates: list[dict[str, float]],
    prompts: list[Prompt],
    kl_controller: KLController,
    tokenizer: Tokenizer,
) -> dict[str, float]:
    """The metrics that one iteration logs; also updates the KL controller.

    ratio_off: how far the ratio was from 1 in the first minibatch, before any gradient step.
    """
    metrics = rollout_metrics(rollout)
    metrics |= {"kl_coef": kl_controller.kl_coef, "ratio_off": updates[0]["ratio_off"]}
    kl_controller.update(metrics["kl"], len(prompts))
    if prompts[0].facts is not None:  # logged, never used for training
        metrics = {"gold": gold_rewards(rollout, prompts, tokenizer)} | metrics
    for name, key in (("clip_fraction", "clip_fraction"), ("value_loss", "value")):
        metrics[name] = sum(update[key] for update in updates) / len(updates)
    return metrics
