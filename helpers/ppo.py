"""Stage 3: PPO against the reward model (taught in 3-PPO). `python -m helpers.ppo --preset cpu`."""

from dataclasses import dataclass

import torch
from torch import Tensor

from helpers.adapters import merge_adapters
from helpers.batching import left_pad, right_pad
from helpers.checkpoints import save_stage
from helpers.config import PPOConfig
from helpers.datasets import Prompt, fingerprint
from helpers.distributed import add_numbers, gather_rows, is_main, own_rows, world
from helpers.environment import Course
from helpers.evaluation import Responses, bootstrap_ci95, respond
from helpers.generation import sample
from helpers.hardware import prepare
from helpers.losses import (
    clipped_policy_loss,
    clipped_value_loss,
    entropy,
    explained_variance,
    gae,
    kl_k1,
    kl_k3,
    masked_mean,
    missing_eos_scores,
    token_logprobs,
    token_rewards,
    whiten,
)
from helpers.model import GPT, RewardModel
from helpers.ppo_models import Models, load_models
from helpers.resume import Keeper
from helpers.reward import score_responses
from helpers.stage import settings, stage_main
from helpers.tokenizer import Tokenizer
from helpers.training import Optimizers, Progress, autocast


@dataclass(frozen=True)
class Batch:
    """B prompts (left-padded, P tokens) with their responses (right-padded, R tokens)."""

    ids: Tensor  # (B, P + R)
    mask: Tensor  # (B, P + R) True = real token
    P: int

    @property
    def response(self) -> Tensor:
        return self.ids[:, self.P :]  # (B, R)

    @property
    def response_mask(self) -> Tensor:
        return self.mask[:, self.P :]  # (B, R)

    @property
    def before_response(self) -> tuple[slice, slice]:
        """Index of the token before each response token: x[batch.before_response] is (B, R, ...)."""
        return slice(None), slice(self.P - 1, -1)

    def rows(self, index: Tensor) -> "Batch":
        """The rows of a minibatch."""
        return Batch(self.ids[index], self.mask[index], self.P)

    def beside(self, model: GPT) -> "Batch":
        """The batch on a model's device."""
        device = model.wte.weight.device
        return Batch(self.ids.to(device), self.mask.to(device), self.P)


@dataclass(frozen=True)
class Rollout:
    """What PPO learns from: a batch, and for each response token (B, R) what was known when it was sampled."""

    batch: Batch
    scores: Tensor  # (B,) of the reward model, with missing ends replaced
    stopped: Tensor  # (B,)
    logprobs: Tensor
    ref_logprobs: Tensor
    values: Tensor
    advantages: Tensor
    returns: Tensor
    entropy: Tensor


def response_logits(model: GPT, batch: Batch) -> Tensor:
    """Logits (B, R, V) that predict each response token; the prompt's are never computed."""
    hidden = model.hidden(batch.ids, batch.mask, keep=batch.before_response)  # (B, R, C)
    return model.logits(hidden)  # position t predicts token t + 1


def response_values(model: RewardModel, batch: Batch) -> Tensor:
    """The value (B, R) of the text before each response token."""
    return model.values(batch.ids, batch.mask, keep=batch.before_response)


@torch.no_grad()
def collect(
    models: Models, prompt_ids: Tensor, prompt_mask: Tensor, config: PPOConfig, tokenizer: Tokenizer, generator
) -> Rollout:
    """Sample a response to each prompt (B, P), score it, and work out advantages and returns.

    Of several processes each takes its own prompts; then all have all rows, and whiten over all of them.
    """
    size = config.response_tokens, len(prompt_ids)
    uniforms = torch.rand(size, generator=generator, device=generator.device).T  # (B, R): one a token, whoever draws it
    own = list(own_rows(len(prompt_ids)))  # all of them, in a single process
    samples = sample(
        models.policy, prompt_ids[own], prompt_mask[own], max_new_tokens=config.response_tokens,
        eos_id=tokenizer.eos_id, pad_id=tokenizer.pad_id, uniforms=uniforms[own], dtype=models.dtype,
    )  # fmt: skip
    ids, mask = gather_rows(samples.ids, fill=tokenizer.pad_id), gather_rows(samples.mask)  # (B, R), of all
    whole = Batch(torch.cat([prompt_ids, ids], 1), torch.cat([prompt_mask, mask], 1), prompt_ids.size(1))
    batch = whole.rows(own)
    there = batch.beside(models.reference)  # and the reward model: on the same device as the others, or on its own
    with autocast(ids.device, models.dtype):
        scores = models.reward(there.ids, there.mask)  # (B,)
        ref_logprobs = token_logprobs(response_logits(models.reference, there), there.response)
        logits = response_logits(models.policy, batch)  # (B, R, V)
        values = response_values(models.value, batch)
    logprobs = token_logprobs(logits, batch.response)
    scores, ref_logprobs = scores.to(ids.device), ref_logprobs.to(ids.device)  # now: two GPUs have worked side by side
    scores = missing_eos_scores(scores, samples.stopped, config.missing_eos_score)
    found = (scores, samples.stopped, logprobs, ref_logprobs, values, entropy(logits))
    scores, stopped, logprobs, ref_logprobs, values, entropies = map(gather_rows, found)
    rewards = token_rewards(scores, logprobs, ref_logprobs, mask, config.kl_coef)  # (B, R)
    advantages, returns = gae(rewards, values, mask, config.gamma, config.lam)
    advantages = whiten(advantages, mask)  # after the returns: the critic's targets keep their units
    return Rollout(whole, scores, stopped, logprobs, ref_logprobs, values, advantages, returns, entropies)


def minibatch_losses(models: Models, rollout: Rollout, index: Tensor, config: PPOConfig) -> dict[str, Tensor]:
    """Policy and value loss of the rows `index` of a rollout, with what is worth watching."""
    batch = rollout.batch.rows(index)
    mask, old = batch.response_mask, rollout.logprobs[index]
    with autocast(mask.device, models.dtype):  # as in `collect`, or the ratio would not start at 1
        logprobs = token_logprobs(response_logits(models.policy, batch), batch.response)  # (b, R)
        values = response_values(models.value, batch)
    policy, clipped = clipped_policy_loss(logprobs, old, rollout.advantages[index], mask, config.clip_range)
    value = clipped_value_loss(values, rollout.values[index], rollout.returns[index], mask, config.value_clip)
    ratio = torch.where(mask, (logprobs - old).exp(), 1.0).detach()
    return {"policy": policy, "value": value, "clip_fraction": clipped, "ratio_off": (ratio - 1).abs().max()}


def update(models: Models, rollout: Rollout, optimizers: list[Optimizers], config: PPOConfig, generator, factor: float):
    """All gradient steps on one rollout: `epochs` passes in fresh random order. Returns the mean of each metric.

    A loss is a mean over tokens: a process that has a share of a minibatch's tokens has that share of its gradients.
    """
    seen, tokens = [], rollout.batch.response_mask.sum(1).double()  # (B,)
    for _ in range(config.epochs):
        order = torch.randperm(len(rollout.scores), generator=generator)
        for index in order.split(config.minibatch_size):
            own = index[list(own_rows(len(index)))]
            share = (tokens[own].sum() / tokens[index].sum()).item()  # 1 in a single process
            losses = minibatch_losses(models, rollout, own, config)
            for optimizer, loss in zip(optimizers, (losses["policy"], losses["value"]), strict=True):
                optimizer.scaler.scale(share * loss).backward()  # separate models: each loss reaches its own
                optimizer.step(factor)
            numbers = add_numbers([share * loss.item() for loss in losses.values()])
            seen.append(dict(zip(losses, numbers, strict=True)))
    return {name: sum(step[name] for step in seen) / len(seen) for name in seen[0]} | {"first": seen[0]}


def rollout_metrics(rollout: Rollout) -> dict[str, float]:
    """The dashboard's numbers of one rollout: KL in nats per response, entropy in nats per token, length in tokens."""
    mask = rollout.batch.response_mask
    k1 = kl_k1(rollout.logprobs, rollout.ref_logprobs) * mask
    k3 = kl_k3(rollout.logprobs, rollout.ref_logprobs) * mask
    return {
        "score": rollout.scores.mean().item(),
        "kl": k1.sum(1).mean().item(),
        "kl_k3": k3.sum(1).mean().item(),
        "entropy": masked_mean(rollout.entropy, mask).item(),
        "explained_variance": explained_variance(rollout.values, rollout.returns, mask).item(),
        "length": mask.sum(1).float().mean().item(),
        "stop_rate": rollout.stopped.float().mean().item(),
    }


def gold_rewards(rollout: Rollout, prompts: list[Prompt], tokenizer: Tokenizer) -> float:
    """Mean gold reward of a rollout: watched, never learned from."""
    keep = rollout.batch.response_mask & (rollout.batch.response != tokenizer.eos_id)
    texts = [tokenizer.decode(row[k].tolist()) for row, k in zip(rollout.batch.response, keep, strict=True)]
    judged = Responses(prompts, [], texts, rollout.stopped.tolist())
    return judged.gold.mean().item()


def check_first_minibatch(metrics: dict[str, float], first: dict[str, float]) -> None:
    """Before the first gradient step the policy is the SFT model: KL 0, ratio 1. Raises AssertionError if not."""
    assert abs(metrics["kl"]) < 1e-5, f"KL is {metrics['kl']} at step 0: policy and reference are read differently"
    assert first["ratio_off"] < 1e-5, f"ratio is off by {first['ratio_off']} in the first minibatch"


def train(
    models: Models, prompts: list[Prompt], config: PPOConfig, tokenizer: Tokenizer,
    keeper: Keeper | None = None, watch=None,
) -> list[dict]:  # fmt: skip
    """PPO in place on `models.policy` and `models.value`; returns the metrics of every iteration.

    With a keeper the run is logged and saved, and goes on where one that was stopped has left off. `watch(history)` is
    called after each iteration, for a live picture. Raises ValueError if several processes can't share the work evenly.
    """
    if config.rollout_size % world() or config.minibatch_size % world():
        sizes = f"rollout_size {config.rollout_size} and minibatch_size {config.minibatch_size}"
        raise ValueError(f"{world()} processes can't share {sizes} evenly: take multiples of {world()}")
    device = models.policy.wte.weight.device
    encoded = [tokenizer.encode(prompt.prompt) for prompt in prompts]
    choose = torch.Generator().manual_seed(config.seed)  # which prompts, which minibatches
    draw = torch.Generator(device).manual_seed(config.seed)  # which tokens
    optimizers = [
        Optimizers(models.policy, *config.rates),
        Optimizers(models.value, config.value_lr, config.value_muon_lr),
    ]
    for optimizer in optimizers:
        optimizer.products_in(models.dtype)
    progress = Progress("ppo", config.iterations, keeper)
    saved = {"policy": models.policy, "value": models.value, "policy_optimizer": optimizers[0],
             "value_optimizer": optimizers[1], "choose": choose, "draw": draw}  # fmt: skip
    with progress.steps_left(**saved) as iterations:
        for iteration in iterations:
            chosen = torch.randperm(len(prompts), generator=choose)[: config.rollout_size].tolist()
            ids, mask = (tensor.to(device) for tensor in left_pad([encoded[i] for i in chosen], tokenizer.pad_id))
            rollout = collect(models, ids, mask, config, tokenizer, draw)
            metrics = rollout_metrics(rollout)
            if prompts[0].facts is not None:
                metrics["gold"] = gold_rewards(rollout, [prompts[i] for i in chosen], tokenizer)
            with progress.guard(rollout.batch):
                steps = update(models, rollout, optimizers, config, choose, 1 - iteration / config.iterations)
            if iteration == 0:
                check_first_minibatch(metrics, steps["first"])
            progress.update(**metrics, clip_fraction=steps["clip_fraction"], value_loss=steps["value"])
            if watch:
                watch(progress.history)
    return progress.history


@torch.no_grad()
def mean_kl(policy: GPT, reference: GPT, tokenizer: Tokenizer, responses: Responses, batch_size: int = 64) -> float:
    """KL(policy || reference) in nats per response, estimated by k1 on the policy's own samples."""
    total, device = 0.0, policy.wte.weight.device
    for start in range(0, len(responses.ids), batch_size):
        prompts = [tokenizer.encode(prompt.prompt) for prompt in responses.prompts[start : start + batch_size]]
        ids, mask = left_pad(prompts, tokenizer.pad_id)
        answers, answer_mask = right_pad(responses.ids[start : start + batch_size], tokenizer.pad_id)
        both, both_mask = torch.cat([ids, answers], 1).to(device), torch.cat([mask, answer_mask], 1).to(device)
        batch = Batch(both, both_mask, ids.size(1))
        there = batch.beside(reference)
        logprobs = token_logprobs(response_logits(policy, batch), batch.response)
        ref_logprobs = token_logprobs(response_logits(reference, there), there.response).to(device)
        total += (kl_k1(logprobs, ref_logprobs) * batch.response_mask).sum().item()
    return total / len(responses.ids)


def summarise(responses: Responses, scores: Tensor, kl: float) -> dict:
    """One row of the final table."""
    return {
        "score": scores.mean().item(),
        "kl": kl,
        **responses.report(),
    }


def measure(
    models: Models, tokenizer: Tokenizer, prompts: list[Prompt], config: PPOConfig
) -> tuple[dict, dict[str, Responses]]:
    """Held-out comparison of PPO with SFT on the same prompts: metrics, and the responses of both."""
    both, rows = {}, {}
    for name, model in (("SFT", models.reference), ("PPO", models.policy)):
        both[name] = respond(model, tokenizer, prompts, max_new_tokens=config.response_tokens, seed=config.seed)
        scores = score_responses(models.reward, tokenizer, both[name])
        scores = missing_eos_scores(scores, torch.tensor(both[name].stopped), config.missing_eos_score)
        rows[name] = summarise(both[name], scores, mean_kl(model, models.reference, tokenizer, both[name]))
    metrics = {**rows["PPO"], "table": rows}
    if both["PPO"].known:
        drops = {name: both["SFT"].flaw(name) - both["PPO"].flaw(name) for name in rows["PPO"]["flaws"]}
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
        from helpers.policies import on_real_rows, show  # builds on this module

        metrics = on_real_rows(course, models)
        show(course, metrics)
    else:
        heldout = course.rows("prompts", "heldout", config.eval_prompts)
        metrics, _ = measure(models, tokenizer, heldout, config)
    save_stage(
        course.folder(), models.policy, tokenizer, stage="ppo", track=course.track, config=settings(course),
        metrics=metrics, parent=course.folder("sft"), data_fingerprint=fingerprint(prompts),
        adapter=adapter,
    )  # fmt: skip
    course.forget_snapshots()
    course.record(**metrics)


if __name__ == "__main__":
    stage_main("3-PPO", run)
