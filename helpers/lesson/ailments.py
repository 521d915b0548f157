"""The classic mistakes of PPO code, each made from outside: the healthy code stays as it is.

    with dropout(patient) as ill:
        train(ill.models, ill.prompts, ill.config, ill.tokenizer, Loop("ill"))

An ailment changes a setting, a model, or a function that PPO looks up in a module, and puts it back
at the end. `helpers/lesson/clinic.py` lists them all and trains short runs with them.
Source of the list: Huang et al. 2024 and 2023 ("The N implementation details of RLHF with PPO"),
and the issues of the libraries that they discuss.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from helpers import losses, ppo, rollouts
from helpers.config import PPOConfig
from helpers.engine import loop as engine_loop
from helpers.generation import KVCache, Samples, next_token, sample, truncate_at_eos
from helpers.losses import masked_mean
from helpers.model import GPT
from helpers.records import Prompt
from helpers.rollouts import Batch, Models, Rollout
from helpers.tokenizer import Tokenizer
from helpers.training import Optimizers

SCALE = 2.0**16  # of the loss, where gradients are clipped before they are unscaled


@dataclass(frozen=True)
class Patient:
    """What a PPO run is given."""

    models: Models
    prompts: list[Prompt]
    config: PPOConfig
    tokenizer: Tokenizer
    base: GPT  # the model before SFT


@contextmanager
def swapped(owner: Any, **attributes: Any) -> Iterator[None]:
    """Give a module, class or object other attributes for a while."""
    before = {name: vars(owner)[name] for name in attributes if name in vars(owner)}
    try:
        for name, value in attributes.items():
            setattr(owner, name, value)
        yield
    finally:
        for name in attributes:  # an object's method is found in its class again
            setattr(owner, name, before[name]) if name in before else delattr(owner, name)


# ---------------------------------------------------------------- settings


def setting(**changes: Any) -> Callable:
    """Other settings."""
    return lambda patient: nullcontext(replace(patient, config=replace(patient.config, **changes)))


def one_minibatch(patient: Patient) -> AbstractContextManager[Patient]:
    """A minibatch as large as the rollout."""
    return setting(minibatch_size=patient.config.rollout_size)(patient)


def base_as_reference(patient: Patient) -> AbstractContextManager[Patient]:
    """The base model in the reference's place, as with an adapter that is switched off."""
    return nullcontext(replace(patient, models=replace(patient.models, reference=patient.base)))


# ---------------------------------------------------------------- sampling


@contextmanager
def other_sampler(patient: Patient, sampler: Callable[..., Samples]) -> Iterator[Patient]:
    """Rollouts sampled by another function; they are scored as ever."""
    with swapped(rollouts, sample=sampler):
        yield patient


def sampling(**options: Any) -> Callable:
    """Options of `sample` that the scoring does not know."""
    return partial(other_sampler, sampler=partial(sample, **options))


def processed(change: Callable[[Tensor, Tensor, int, int], Tensor]) -> Callable:
    """Logits that change(logits, ids, t, eos_id) alters before the t-th token is drawn."""
    return partial(other_sampler, sampler=partial(sample_processed, change=change))


def sample_processed(*args: Any, eos_id: int, pad_id: int, **options: Any) -> Samples:
    """`sample` with a logits processor."""
    ids = sampled_ids(*args, eos_id=eos_id, pad_id=pad_id, **options)
    return truncate_at_eos(ids, eos_id, pad_id)


@torch.no_grad()
def sampled_ids(
    model: GPT,
    prompt_ids: Tensor,
    prompt_mask: Tensor,
    *,
    change: Callable,
    max_new_tokens: int,
    eos_id: int,
    pad_id: int,
    uniforms: Tensor,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Token ids (B, R), also after the EOS: a plain `sample` with a logits processor."""
    (B, P), R = prompt_ids.shape, max_new_tokens
    mask = F.pad(prompt_mask.bool(), (0, R), value=True)
    ids, cache = prompt_ids, KVCache(model, B, P + R)
    for t in range(R):
        hidden = model.hidden(ids[:, cache.length :], mask[:, : P + t], cache=cache, last_only=True)
        logits = change(model.logits(hidden[:, 0]), ids, t, eos_id)  # (B, V)
        logits[:, pad_id] = -torch.inf
        ids = torch.cat([ids, next_token(logits, uniforms[:, t])[:, None]], dim=1)
    return ids[:, P:]


def repetition_penalty(logits: Tensor, ids: Tensor, t: int, eos_id: int) -> Tensor:
    """Logits of tokens that occurred already, prompt included, lowered by a factor of 1.2.

    Source: Keskar et al. 2019, CTRL; `RepetitionPenaltyLogitsProcessor` of transformers.
    """
    old = logits.gather(1, ids)
    return logits.scatter(1, ids, torch.where(old > 0, old / 1.2, old * 1.2))


def minimum_length(logits: Tensor, ids: Tensor, t: int, eos_id: int) -> Tensor:
    """No end of text among the first 32 tokens."""
    if t < 32:
        logits[:, eos_id] = -torch.inf
    return logits


# ---------------------------------------------------------------- the end of text


def never_truncated(*args: Any, **options: Any) -> Samples:
    """Sampled on after the EOS, every token counted."""
    ids = sampled_ids(*args, change=lambda logits, *_: logits, **options)
    is_eos = ids == options["eos_id"]
    return Samples(ids, torch.ones_like(ids, dtype=torch.bool), is_eos.any(1))


def without_eos(*args: Any, **options: Any) -> Samples:
    """The mask is `ids != pad_id` with the EOS as pad: no response seems to have an EOS."""
    samples = sample(*args, **options)
    mask = samples.mask & (samples.ids != options["eos_id"])
    mask[:, 0] = True  # an empty response would be refused
    return Samples(samples.ids, mask, torch.zeros_like(samples.stopped))


# ---------------------------------------------------------------- reading the policy


@contextmanager
def other_logits(patient: Patient, read: Callable[[GPT, Batch], Tensor]) -> Iterator[Patient]:
    """Log-probs from other logits than `response_logits`, in rollouts and in training."""
    with swapped(rollouts, response_logits=read), swapped(ppo, response_logits=read):
        yield patient


def without_positions(model: GPT, batch: Batch) -> Tensor:
    """Position ids that count the left pads, as a bare forward of GPT-2 has them."""
    positions = torch.arange(batch.ids.size(1), device=batch.ids.device).expand_as(batch.ids)
    return model.logits(model.hidden(batch.ids, batch.mask, positions, keep=batch.before_response))


def attended_pads(patient: Patient) -> AbstractContextManager[Patient]:
    """The policy attends to left pads, which are end-of-text tokens; the reference does not."""

    def read(model: GPT, batch: Batch) -> Tensor:
        if model is not patient.models.policy:
            return healthy(model, batch)
        ids = batch.ids.masked_fill(~batch.mask, patient.tokenizer.eos_id)
        return healthy(model, Batch(ids, torch.ones_like(batch.mask), batch.P))

    healthy = rollouts.response_logits
    return other_logits(patient, read)


@contextmanager
def dropout(patient: Patient, p: float = 0.1) -> Iterator[Patient]:
    """The policy never leaves the training mode of GPT-2, whose dropout is 0.1."""
    with ExitStack() as hooks:
        for block in patient.models.policy.h:
            for part in (block.attn, block.mlp):
                drop = part.register_forward_hook(lambda _, inputs, out: F.dropout(out, p))
                hooks.callback(drop.remove)
        yield patient


@contextmanager
def rounded_softmax(patient: Patient) -> Iterator[Patient]:
    """In training, the log-softmax is computed in 16 bits."""

    def token_logprobs(logits: Tensor, targets: Tensor) -> Tensor:
        logprobs = logits.bfloat16().log_softmax(-1)
        return logprobs.gather(-1, targets[..., None]).squeeze(-1).float()

    with swapped(ppo, token_logprobs=token_logprobs):
        yield patient


# ---------------------------------------------------------------- scores and the KL


@contextmanager
def read_at_the_end(patient: Patient) -> Iterator[Patient]:
    """The head is read at the last column, a pad in all but the longest responses."""
    reward = patient.models.reward
    healthy = reward.head_and_logprobs

    def head_and_logprobs(ids: Tensor, attention_mask: Tensor, completion_mask: Tensor):
        hidden = reward.gpt.hidden(ids, attention_mask)[:, -1]
        return reward.head(hidden), healthy(ids, attention_mask, completion_mask)[1]

    with swapped(reward, head_and_logprobs=head_and_logprobs):
        yield patient


@contextmanager
def scaled_scores(patient: Patient, factor: float = 10.0) -> Iterator[Patient]:
    """A reward model that was never normalised: its scores are ten times as large."""
    reward = patient.models.reward
    healthy = reward.by_token
    with swapped(reward, by_token=lambda *batch: factor * healthy(*batch)):
        yield patient


@contextmanager
def scores_by_batch(patient: Patient, size: int = 8) -> Iterator[Patient]:
    """Scores shifted and scaled to mean 0 and variance 1 in every eight responses."""

    def z_scores(scores: Tensor, stopped: Tensor, penalty_score: float) -> Tensor:
        parts = healthy(scores, stopped, penalty_score).split(size)
        return torch.cat([(x - x.mean()) / (x.std(correction=0) + 1e-8) for x in parts])

    healthy = rollouts.missing_eos_scores
    with swapped(rollouts, missing_eos_scores=z_scores):
        yield patient


@contextmanager
def positive_kl(patient: Patient) -> Iterator[Patient]:
    """The absolute value of k1, so that the KL is "never negative": in the penalty and the log."""

    def kl_k1(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
        return healthy(logprobs, ref_logprobs).abs()

    healthy = losses.kl_k1
    with swapped(losses, kl_k1=kl_k1), swapped(rollouts, kl_k1=kl_k1):
        yield patient


# ---------------------------------------------------------------- advantages and gradients


@contextmanager
def returns_after_whitening(patient: Patient) -> Iterator[Patient]:
    """Returns from the whitened advantages: the value model's targets lose their units."""

    def with_advantages(rollout: Rollout, kl_coef: float, config: PPOConfig) -> Rollout:
        rollout = healthy(rollout, kl_coef, config)
        return replace(rollout, returns=rollout.advantages + rollout.values)

    healthy = ppo.with_advantages
    with swapped(ppo, with_advantages=with_advantages):
        yield patient


@contextmanager
def mean_added_back(patient: Patient) -> Iterator[Patient]:
    """Whitening that keeps the mean, which is meant for rewards."""

    def whiten(x: Tensor, mask: Tensor) -> Tensor:
        return torch.where(mask, healthy(x, mask) + masked_mean(x, mask), 0.0)

    healthy = rollouts.whiten
    with swapped(rollouts, whiten=whiten):
        yield patient


@contextmanager
def clipped_while_scaled(patient: Patient) -> Iterator[Patient]:
    """Gradients are clipped before they are unscaled: nearly all become as small as can be."""

    def backward(optimizers: Optimizers, loss: Tensor) -> None:
        (SCALE * loss).backward()

    def clip_then_unscale(parameters: list[nn.Parameter], clip: float) -> Tensor:
        norm = healthy(parameters, clip)
        for parameter in parameters:
            if parameter.grad is not None:
                parameter.grad /= SCALE
        return norm

    healthy = nn.utils.clip_grad_norm_
    with (
        swapped(Optimizers, backward=backward),
        swapped(nn.utils, clip_grad_norm_=clip_then_unscale),
    ):
        yield patient


@contextmanager
def averaged_parts(patient: Patient) -> Iterator[Patient]:
    """Micro-batches of three responses, whose means are averaged, however many tokens they have."""

    def share_of(counts: Tensor, rows: slice) -> float:
        return 1 / -(-len(counts) // 3)

    with swapped(engine_loop, share_of=share_of):
        yield replace(patient, config=replace(patient.config, micro_batch=3))
