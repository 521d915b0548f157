"""Rollouts: the policy's own responses, scored, with all that PPO learns from (taught in 3-PPO)."""

from dataclasses import dataclass, replace

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
from helpers.records import Prompt
from helpers.tokenizer import Tokenizer
from helpers.training import autocast


@dataclass(frozen=True)
class Models:
    """The four models of PPO. Policy and value are trained; reference and reward stay as they
    are.
    """

    policy: GPT  # starts as the SFT model
    reference: GPT  # the SFT model
    reward: RewardModel
    value: RewardModel  # starts as the reward model (Stiennon et al. 2020, appendix G.1)
    dtype: torch.dtype = torch.float32  # of the matrix products, in scoring and learning

    def on_two(self, first: torch.device | str, second: torch.device | str) -> "Models":
        """The same models: the two that learn on one device, the two that only read on another."""
        learn = {"policy": self.policy.to(first), "value": self.value.to(first)}
        return replace(
            self, **learn, reference=self.reference.to(second), reward=self.reward.to(second)
        )


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
    entropy: Tensor
    advantages: Tensor | None = None  # whitened; from `with_advantages`, and so
    returns: Tensor | None = None


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
    prompts: list[Prompt],
    config: PPOConfig,
    tokenizer: Tokenizer,
    generator: torch.Generator,
) -> Rollout:
    """Sample a response to each of B prompts, and read it with all four models.

    Of several processes each takes its own prompts; then all have all rows.
    """
    device = models.policy.wte.weight.device
    encoded = [tokenizer.encode(prompt.prompt) for prompt in prompts]
    prompt_ids, prompt_mask = (x.to(device) for x in left_pad(encoded, tokenizer.pad_id))  # (B, P)

    # One random number per token that may come, (B, R): a response does not depend on who samples.
    size = config.response_tokens, len(prompt_ids)
    uniforms = torch.rand(size, generator=generator, device=generator.device).T
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
    ids = torch.cat([prompt_ids, gather_rows(samples.ids, fill=tokenizer.pad_id)], dim=1)
    mask = torch.cat([prompt_mask, gather_rows(samples.mask)], dim=1)
    whole = Batch(ids, mask, prompt_ids.size(1))

    # Reference and reward model may be on another GPU: its results are fetched last.
    batch = whole.rows(own)
    reference_batch = batch.beside(models.reference)
    with autocast(ids.device, models.dtype):
        scores = models.reward(reference_batch.ids, reference_batch.mask)  # (B,)
        ref_logprobs = token_logprobs(  # its logits have no name: their memory is free at once
            response_logits(models.reference, reference_batch), reference_batch.response
        )
        logits = response_logits(models.policy, batch)  # (B, R, V)
        values = response_values(models.value, batch)
    scores = missing_eos_scores(scores.to(ids.device), samples.stopped, config.missing_eos_score)
    return Rollout(
        whole,
        scores=gather_rows(scores),
        stopped=gather_rows(samples.stopped),
        logprobs=gather_rows(token_logprobs(logits, batch.response)),
        ref_logprobs=gather_rows(ref_logprobs.to(ids.device)),
        values=gather_rows(values),
        entropy=gather_rows(entropy(logits)),
    )


def with_advantages(rollout: Rollout, kl_coef: float, config: PPOConfig) -> Rollout:
    """The rollout with its advantages and returns: rewards with the KL penalty, GAE, whitening.

    The returns come first, so that the value model's targets keep their units.
    """
    mask = rollout.batch.response_mask
    logprobs, ref_logprobs = rollout.logprobs, rollout.ref_logprobs
    rewards = token_rewards(rollout.scores, logprobs, ref_logprobs, mask, kl_coef)  # (B, R)
    advantages, returns = gae(rewards, rollout.values, mask, config.gamma, config.lam)
    return replace(rollout, advantages=whiten(advantages, mask), returns=returns)


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
