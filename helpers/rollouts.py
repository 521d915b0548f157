"""Rollouts: the policy's own responses, scored, with all that PPO learns from (taught in 3-PPO)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from helpers.batching import left_pad, right_pad
from helpers.config import PPOConfig
from helpers.engine.distributed import gather_rows, own_rows
from helpers.evaluation import Responses
from helpers.generation import sample
from helpers.losses import (
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
from helpers.ppo_models import Models
from helpers.rows.embedded import Prompt
from helpers.tokenizer import Tokenizer
from helpers.training import autocast


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
        """Index of the token before each response token: x[batch.before_response] is (B, R,
        ...).
        """
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
    """What PPO learns from: a batch, and for each response token (B, R) what was known when it was
    sampled.
    """

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
    models: Models,
    prompt_ids: Tensor,
    prompt_mask: Tensor,
    config: PPOConfig,
    tokenizer: Tokenizer,
    generator,
) -> Rollout:
    """Sample a response to each prompt (B, P), score it, and work out advantages and returns.

    Of several processes each takes its own prompts; then all have all rows, and whiten over all of
    them.
    """
    size = config.response_tokens, len(prompt_ids)
    uniforms = torch.rand(
        size, generator=generator, device=generator.device
    ).T  # (B, R): one a token, whoever draws it
    own = list(own_rows(len(prompt_ids)))  # all of them, in a single process
    samples = sample(
        models.policy,
        prompt_ids[own],
        prompt_mask[own],
        max_new_tokens=config.response_tokens,
        eos_id=tokenizer.eos_id,
        pad_id=tokenizer.pad_id,
        uniforms=uniforms[own],
        dtype=models.dtype,
    )
    ids, mask = (
        gather_rows(samples.ids, fill=tokenizer.pad_id),
        gather_rows(samples.mask),
    )  # (B, R), of all
    whole = Batch(
        torch.cat([prompt_ids, ids], 1), torch.cat([prompt_mask, mask], 1), prompt_ids.size(1)
    )
    batch = whole.rows(own)
    there = batch.beside(
        models.reference
    )  # and the reward model: on the same device as the others, or on its own
    with autocast(ids.device, models.dtype):
        scores = models.reward(there.ids, there.mask)  # (B,)
        ref_logprobs = token_logprobs(response_logits(models.reference, there), there.response)
        logits = response_logits(models.policy, batch)  # (B, R, V)
        values = response_values(models.value, batch)
    logprobs = token_logprobs(logits, batch.response)
    scores, ref_logprobs = (
        scores.to(ids.device),
        ref_logprobs.to(ids.device),
    )  # now: two GPUs have worked side by side
    scores = missing_eos_scores(scores, samples.stopped, config.missing_eos_score)
    found = (scores, samples.stopped, logprobs, ref_logprobs, values, entropy(logits))
    scores, stopped, logprobs, ref_logprobs, values, entropies = map(gather_rows, found)
    rewards = token_rewards(scores, logprobs, ref_logprobs, mask, config.kl_coef)  # (B, R)
    advantages, returns = gae(rewards, values, mask, config.gamma, config.lam)
    advantages = whiten(
        advantages, mask
    )  # after the returns: the critic's targets keep their units
    return Rollout(
        whole, scores, stopped, logprobs, ref_logprobs, values, advantages, returns, entropies
    )


def rollout_metrics(rollout: Rollout) -> dict[str, float]:
    """The dashboard's numbers of one rollout: KL in nats per response, entropy in nats per token,
    length in tokens.
    """
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
    texts = [
        tokenizer.decode(row[k].tolist())
        for row, k in zip(rollout.batch.response, keep, strict=True)
    ]
    judged = Responses(prompts, [], texts, rollout.stopped.tolist())
    return judged.gold.mean().item()


@torch.no_grad()
def mean_kl(
    policy: GPT, reference: GPT, tokenizer: Tokenizer, responses: Responses, batch_size: int = 64
) -> float:
    """KL(policy || reference) in nats per response, estimated by k1 on the policy's own samples."""
    total, device = 0.0, policy.wte.weight.device
    for start in range(0, len(responses.ids), batch_size):
        prompts = [
            tokenizer.encode(prompt.prompt)
            for prompt in responses.prompts[start : start + batch_size]
        ]
        ids, mask = left_pad(prompts, tokenizer.pad_id)
        answers, answer_mask = right_pad(
            responses.ids[start : start + batch_size], tokenizer.pad_id
        )
        both, both_mask = (
            torch.cat([ids, answers], 1).to(device),
            torch.cat([mask, answer_mask], 1).to(device),
        )
        batch = Batch(both, both_mask, ids.size(1))
        there = batch.beside(reference)
        logprobs = token_logprobs(response_logits(policy, batch), batch.response)
        ref_logprobs = token_logprobs(response_logits(reference, there), there.response).to(device)
        total += (kl_k1(logprobs, ref_logprobs) * batch.response_mask).sum().item()
    return total / len(responses.ids)
