"""Rollouts: the policy's responses, with everything that PPO learns from (taught in 3-PPO)."""

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
    """The four models of PPO: policy and value are trained, reference and reward are fixed."""

    policy: GPT  # starts as the SFT model
    reference: GPT  # the SFT model
    reward: RewardModel
    value: RewardModel  # starts as the reward model (Stiennon et al. 2020, appendix G.1)
    dtype: torch.dtype = torch.float32  # of the matrix products, in rollouts and training

    def on_two(self, first: torch.device | str, second: torch.device | str) -> "Models":
        """The same models, the trained ones on the first device, the fixed ones on the second."""
        trained = {"policy": self.policy.to(first), "value": self.value.to(first)}
        fixed = {"reference": self.reference.to(second), "reward": self.reward.to(second)}
        return replace(self, **trained, **fixed)


@dataclass(frozen=True)
class Batch:
    """B prompts, left-padded to P tokens, with their responses, right-padded to R tokens."""

    ids: Tensor  # (B, P + R)
    mask: Tensor  # (B, P + R) True = real token
    P: int  # width of the prompts

    @property
    def response(self) -> Tensor:
        return self.ids[:, self.P :]  # (B, R)

    @property
    def response_mask(self) -> Tensor:
        return self.mask[:, self.P :]  # (B, R)

    @property
    def completion_mask(self) -> Tensor:
        """(B, P + R): the mask without the prompts."""
        in_response = torch.arange(self.mask.size(1), device=self.mask.device) >= self.P
        return self.mask & in_response

    @property
    def before_response(self) -> tuple[slice, slice]:
        """Index of the tokens that precede a response token: x[batch.before_response] is (B, R)."""
        return slice(None), slice(self.P - 1, -1)

    def rows(self, index: Tensor) -> "Batch":
        """The rows of a minibatch."""
        return Batch(self.ids[index], self.mask[index], self.P)

    def to_device_of(self, model: GPT) -> "Batch":
        """The batch on the device of a model."""
        device = model.wte.weight.device
        return Batch(self.ids.to(device), self.mask.to(device), self.P)


@dataclass(frozen=True)
class Rollout:
    """A batch and the tensors PPO learns from, (B, R) unless noted: one number per token."""

    batch: Batch
    scores: Tensor  # (B,): the reward model's, replaced where the EOS is missing
    earned: Tensor  # the part of the score that each token has earned
    stopped: Tensor  # (B,): True = the response has an EOS
    logprobs: Tensor  # of the policy that sampled the response
    ref_logprobs: Tensor  # of the reference
    values: Tensor  # of the value model, before the token is sampled
    entropy: Tensor  # of the policy's next-token distribution
    advantages: Tensor | None = None  # whitened; set by `with_advantages`
    returns: Tensor | None = None  # set by `with_advantages`


def response_logits(model: GPT, batch: Batch) -> Tensor:
    """Logits (B, R, V) that predict each response token; none are computed for the prompt."""
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
    """Sample a response to each of B prompts and evaluate it with all four models.

    With several processes, each takes a share of the prompts; the results are then gathered, so
    that every process has all rows.
    """
    device = models.policy.wte.weight.device
    encoded = [tokenizer.encode(prompt.prompt) for prompt in prompts]
    prompt_ids, prompt_mask = (x.to(device) for x in left_pad(encoded, tokenizer.pad_id))  # (B, P)

    # One random number per possible token, (B, R), drawn for all rows in every process, so that a
    # response does not depend on the number of processes.
    size = config.response_tokens, len(prompt_ids)
    uniforms = torch.rand(size, generator=generator, device=generator.device).T
    rows = list(own_rows(len(prompt_ids)))  # this process's share: all rows if there is only one
    samples = sample(
        models.policy,
        prompt_ids[rows],
        prompt_mask[rows],
        max_new_tokens=config.response_tokens,
        eos_id=tokenizer.eos_id,
        pad_id=tokenizer.pad_id,
        uniforms=uniforms[rows],
        dtype=models.dtype,
    )
    ids = torch.cat([prompt_ids, gather_rows(samples.ids, fill=tokenizer.pad_id)], dim=1)
    mask = torch.cat([prompt_mask, gather_rows(samples.mask)], dim=1)
    full_batch = Batch(ids, mask, prompt_ids.size(1))

    # Reference and reward model may be on another GPU: start them first, fetch their results last.
    batch = full_batch.rows(rows)
    reference_batch = batch.to_device_of(models.reference)
    with autocast(ids.device, models.dtype):
        by_token = models.reward.by_token(  # (B, P + R)
            reference_batch.ids, reference_batch.mask, reference_batch.completion_mask
        )
        ref_logprobs = token_logprobs(  # without a name for the logits, their memory is freed here
            response_logits(models.reference, reference_batch), reference_batch.response
        )
        logits = response_logits(models.policy, batch)  # (B, R, V)
        values = response_values(models.value, batch)
    earned = by_token[:, batch.P :].to(ids.device)  # (B, R)
    scores = missing_eos_scores(earned.sum(1), samples.stopped, config.missing_eos_score)
    return Rollout(
        full_batch,
        scores=gather_rows(scores),
        earned=gather_rows(earned),
        stopped=gather_rows(samples.stopped),
        logprobs=gather_rows(token_logprobs(logits, batch.response)),
        ref_logprobs=gather_rows(ref_logprobs.to(ids.device)),
        values=gather_rows(values),
        entropy=gather_rows(entropy(logits)),
    )


def rewards_of(rollout: Rollout, kl_coef: float) -> Tensor:
    """What each token is paid, (B, R): what it has earned of the score, minus the KL penalty. What
    the score lacks then, where the EOS is missing, comes with the last token.
    """
    earned, logprobs = rollout.earned, (rollout.logprobs, rollout.ref_logprobs)
    rest = rollout.scores - earned.sum(1)  # (B,)
    return earned + token_rewards(rest, *logprobs, rollout.batch.response_mask, kl_coef)


def with_advantages(rollout: Rollout, kl_coef: float, config: PPOConfig) -> Rollout:
    """The rollout with advantages and returns: rewards with the KL penalty, GAE, whitening.

    Returns are computed before whitening, so that the value model's targets keep their units.
    """
    mask, rewards = rollout.batch.response_mask, rewards_of(rollout, kl_coef)
    advantages, returns = gae(rewards, rollout.values, mask, config.gamma, config.lam)
    return replace(rollout, advantages=whiten(advantages, mask), returns=returns)


def rollout_metrics(rollout: Rollout) -> dict[str, float]:
    """Metrics of one rollout for the dashboard.

    KL is in nats per response, entropy and surprise in nats per token, length in tokens. surprise:
    the mean of - log pi over the sampled tokens. It equals the entropy, up to noise, only if the
    tokens were sampled from what scores them. advantage: their mean, 0 after whitening.
    """
    mask = rollout.batch.response_mask
    lengths = mask.sum(1).float()
    k1 = kl_k1(rollout.logprobs, rollout.ref_logprobs) * mask
    k3 = kl_k3(rollout.logprobs, rollout.ref_logprobs) * mask
    return {
        "score": rollout.scores.mean().item(),
        "kl": k1.sum(1).mean().item(),
        "entropy": masked_mean(rollout.entropy, mask).item(),
        "length": lengths.mean().item(),
        "stop_rate": rollout.stopped.float().mean().item(),
        "explained_variance": explained_variance(rollout.values, rollout.returns, mask).item(),
        "kl_k3": k3.sum(1).mean().item(),
        "surprise": masked_mean(-rollout.logprobs, mask).item(),
        "score_std": rollout.scores.std(correction=0).item(),
        "length_std": lengths.std(correction=0).item(),
        "return_std": rollout.returns[mask].std(correction=0).item(),
        "advantage": masked_mean(rollout.advantages, mask).item(),
    }


def gold_rewards(rollout: Rollout, prompts: list[Prompt], tokenizer: Tokenizer) -> float:
    """Mean gold reward of a rollout: logged, but never used for training."""
    ids = rollout.batch.response
    is_text = rollout.batch.response_mask & (ids != tokenizer.eos_id)
    rows = [row[mask].tolist() for row, mask in zip(ids, is_text, strict=True)]
    texts = [tokenizer.decode(row) for row in rows]
    responses = Responses(prompts, [], texts, rollout.stopped.tolist())
    return responses.gold.mean().item()


@torch.no_grad()
def mean_kl(
    policy: GPT, reference: GPT, tokenizer: Tokenizer, responses: Responses, batch_size: int = 64
) -> float:
    """KL(policy || reference) in nats per response, estimated by k1 on the policy's own samples."""
    total, device = 0.0, policy.wte.weight.device
    for start in range(0, len(responses.ids), batch_size):
        rows = slice(start, start + batch_size)
        encoded = [tokenizer.encode(prompt.prompt) for prompt in responses.prompts[rows]]
        prompt_ids, prompt_mask = left_pad(encoded, tokenizer.pad_id)
        response_ids, response_mask = right_pad(responses.ids[rows], tokenizer.pad_id)
        ids = torch.cat([prompt_ids, response_ids], 1).to(device)
        mask = torch.cat([prompt_mask, response_mask], 1).to(device)
        batch = Batch(ids, mask, prompt_ids.size(1))

        reference_batch = batch.to_device_of(reference)
        logprobs = token_logprobs(response_logits(policy, batch), batch.response)
        ref_logprobs = token_logprobs(
            response_logits(reference, reference_batch), reference_batch.response
        )
        kl = kl_k1(logprobs, ref_logprobs.to(device))  # (b, R)
        total += (kl * batch.response_mask).sum().item()
    return total / len(responses.ids)
