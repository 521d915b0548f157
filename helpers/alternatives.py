"""Other ways to learn from scores or from comparisons (taught in bonus/4-Alternatives).

They share one loop: take groups of responses, G to a prompt and in a row; weigh each response;
take gradient steps. A method is how it weighs, and its loss. Shapes: B responses of a rollout, b of
a minibatch, R tokens of a response.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from helpers.batching import left_pad, right_pad
from helpers.config import PPOConfig
from helpers.engine.loop import Loop
from helpers.losses import clipped_policy_loss, kl_k1, kl_k3, masked_mean, token_logprobs
from helpers.model import GPT
from helpers.ppo import choose_prompts
from helpers.records import Comparison, Prompt
from helpers.rollouts import Batch, Models, Rollout, collect, response_logits
from helpers.tokenizer import Tokenizer
from helpers.training import Optimizers, autocast, schedule

# ---------------------------------------------------------------- how a response is weighed
# scores (B,), of G responses to each prompt in a row -> weights (B,)


def batch_centred(scores: Tensor, group: int = 1) -> Tensor:
    """Score minus the mean of all scores: REINFORCE with a baseline (Williams 1992)."""
    return scores - scores.mean()


def leave_one_out(scores: Tensor, group: int) -> Tensor:
    """Score minus the mean of the other scores of the prompt's group.

    Source: RLOO, Ahmadian et al. 2024.
    """
    by_prompt = scores.view(-1, group)  # (B / G, G)
    others = (by_prompt.sum(1, keepdim=True) - by_prompt) / (group - 1)
    return (by_prompt - others).flatten()


def group_normalised(scores: Tensor, group: int) -> Tensor:
    """Score minus the mean of the prompt's group, over the group's standard deviation.

    Source: GRPO, Shao et al. 2024, section 4.1.2.
    """
    by_prompt = scores.view(-1, group)
    centred = by_prompt - by_prompt.mean(1, keepdim=True)
    return (centred / (by_prompt.std(1, keepdim=True) + 1e-4)).flatten()


def group_centred(scores: Tensor, group: int) -> Tensor:
    """Score minus the mean of the prompt's group, nothing else.

    Source: Dr. GRPO, Liu et al. 2025, section 3.2.
    """
    by_prompt = scores.view(-1, group)
    return (by_prompt - by_prompt.mean(1, keepdim=True)).flatten()


def best_of_group(scores: Tensor, group: int) -> Tensor:
    """1 for the best response to a prompt, of equals the first; 0 for the others: rejection
    sampling.
    """
    best = scores.view(-1, group).argmax(1)  # (B / G,)
    return F.one_hot(best, group).flatten().to(scores)


def first_of_group(scores: Tensor, group: int) -> Tensor:
    """1 for the first response to a prompt, whatever its score: a random choice, as a control."""
    return best_of_group(torch.zeros_like(scores), group)


def softmax_of_group(scores: Tensor, group: int) -> Tensor:
    """exp(score) over its mean in the prompt's group: reward-weighted regression.

    Source: Peters & Schaal 2007, whose weights are normalised over all samples.
    """
    return group * scores.view(-1, group).softmax(1).flatten()


def better_or_worse(scores: Tensor, group: int = 2) -> Tensor:
    """+1 for the better response of each pair, of equals the first; -1 for the other."""
    return 2 * best_of_group(scores, 2) - 1


# ---------------------------------------------------------------- methods and their losses


@dataclass(frozen=True)
class Method:
    """How the responses of a group are weighed, the loss, and the settings that go with them."""

    weigh: Callable[[Tensor, int], Tensor]
    loss: "Callable[[Tensor, Minibatch, Method], Tensor]"
    group: int = 4  # G, responses to a prompt
    beta: float = 0.0  # weight of the KL; in DPO and IPO it scales the margin
    beta_in_score: bool = False  # as in PPO: score - beta * KL; or the loss uses beta
    keep: int = 0  # of each group, how many to learn from: those with weight 1. 0: all of them
    rate: float = 1.0  # times PPO's learning rates
    clip_range: float = 0.2


@dataclass(frozen=True)
class Minibatch:
    """What a loss reads beside the log-probs (b, R), which alone carry a gradient."""

    old_logprobs: Tensor  # (b, R): of the policy that wrote the responses
    ref_logprobs: Tensor  # (b, R): of the reference
    weights: Tensor  # (b,)
    mask: Tensor  # (b, R)


def response_sums(x: Tensor, mask: Tensor) -> Tensor:
    """The sum over the tokens of each response: (b, R) to (b,)."""
    return torch.where(mask, x, 0.0).sum(1)


def weighted_loss(logprobs: Tensor, rows: Minibatch, method: Method) -> Tensor:
    """- mean_t w log pi(y_t): REINFORCE; with weights of 0 and 1, SFT on some of the responses."""
    return -masked_mean(rows.weights[:, None] * logprobs, rows.mask)


def clipped_loss(logprobs: Tensor, rows: Minibatch, method: Method) -> Tensor:
    """PPO's clipped loss, with a response's weight as the advantage of each of its tokens."""
    advantages = rows.weights[:, None].expand_as(logprobs)  # (b, R)
    old = rows.old_logprobs
    return clipped_policy_loss(logprobs, old, advantages, rows.mask, method.clip_range)[0]


def grpo_token_losses(logprobs: Tensor, rows: Minibatch, method: Method) -> Tensor:
    """max(- A ratio, - A clip(ratio)) + beta k3 of each token, (b, R); 0 at pads.

    Source: Shao et al. 2024, equations 3 and 4.
    """
    # masked before exp, as in clipped_policy_loss
    new, old, ref = (
        torch.where(rows.mask, x, 0.0) for x in (logprobs, rows.old_logprobs, rows.ref_logprobs)
    )
    ratio, advantages = (new - old).exp(), rows.weights[:, None]
    clipped = ratio.clamp(1 - method.clip_range, 1 + method.clip_range)
    policy = torch.maximum(-advantages * ratio, -advantages * clipped)
    return torch.where(rows.mask, policy + method.beta * kl_k3(new, ref), 0.0)


def grpo_loss(logprobs: Tensor, rows: Minibatch, method: Method) -> Tensor:
    """The mean over responses of the mean over a response's tokens (Shao et al. 2024, eq. 3)."""
    losses = grpo_token_losses(logprobs, rows, method)
    return (losses.sum(1) / rows.mask.sum(1)).mean()


def dr_grpo_loss(logprobs: Tensor, rows: Minibatch, method: Method) -> Tensor:
    """The sum over all tokens, divided by the same number for every response of a rollout: a token
    of a long response counts as much as one of a short response.

    Source: Liu et al. 2025, section 3.2. They divide by the longest response allowed and have no
    KL term.
    """
    return grpo_token_losses(logprobs, rows, method).sum() / logprobs.numel()


def preference_margins(logprobs: Tensor, rows: Minibatch) -> Tensor:
    """log (pi / ref)(better) - log (pi / ref)(worse) of each pair, (b / 2,): how far the policy has
    moved from the worse response to the better one.
    """
    moved = response_sums(logprobs - rows.ref_logprobs, rows.mask)  # (b,)
    return (rows.weights * moved).view(-1, 2).sum(1)


def dpo_loss(logprobs: Tensor, rows: Minibatch, method: Method) -> Tensor:
    """Bradley-Terry on the scores beta log(pi / ref). Source: Rafailov et al. 2023, equation 7."""
    return -F.logsigmoid(method.beta * preference_margins(logprobs, rows)).mean()


def ipo_loss(logprobs: Tensor, rows: Minibatch, method: Method) -> Tensor:
    """(margin - 1 / (2 beta))^2: a margin to reach. Source: Azar et al. 2024, equation 17."""
    return ((preference_margins(logprobs, rows) - 1 / (2 * method.beta)) ** 2).mean()


METHODS = {
    "rejection sampling": Method(best_of_group, weighted_loss, keep=1),
    "random choice": Method(first_of_group, weighted_loss, keep=1),
    "reward-weighted SFT": Method(softmax_of_group, weighted_loss),
    "REINFORCE": Method(batch_centred, weighted_loss, group=1, beta=0.05, beta_in_score=True),
    "RLOO": Method(leave_one_out, clipped_loss, beta=0.05, beta_in_score=True),
    "GRPO": Method(group_normalised, grpo_loss, beta=0.02),
    "Dr. GRPO": Method(group_centred, dr_grpo_loss, beta=0.02),
    "DPO": Method(better_or_worse, dpo_loss, group=2, beta=0.1),
    "IPO": Method(better_or_worse, ipo_loss, group=2, beta=0.03),
    "DPO on comparisons": Method(better_or_worse, dpo_loss, group=2, beta=0.1, rate=0.5),
}

# ---------------------------------------------------------------- where responses come from


class NoValues(nn.Module):
    """Stands where PPO has its value model, for methods that have none: all values are 0."""

    def __init__(self, gpt: GPT):
        super().__init__()
        self.gpt = gpt

    def values(self, ids: Tensor, attention_mask: Tensor, keep: tuple[slice, slice]) -> Tensor:
        return torch.zeros(ids.shape, device=ids.device)[keep]


def sampled_responses(
    models: Models, prompts: list[Prompt], group: int, config: PPOConfig, tokenizer: Tokenizer
) -> Iterator[Rollout]:
    """Rollouts without end: `group` responses of the policy, as it is then, to each of
    rollout_size / group prompts.
    """
    prompt_rng = torch.Generator().manual_seed(config.seed)
    token_rng = torch.Generator(models.policy.wte.weight.device).manual_seed(config.seed)
    while True:
        chosen = choose_prompts(prompts, config.rollout_size // group, prompt_rng)
        repeated = [prompt for prompt in chosen for _ in range(group)]
        yield collect(models, repeated, config, tokenizer, token_rng)


@torch.no_grad()
def pairs_as_rollout(
    models: Models, comparisons: list[Comparison], tokenizer: Tokenizer
) -> Rollout:
    """The completions of comparisons in the form of a rollout: chosen (score 1) and rejected (0)
    in turn. The policy has not sampled them: the old log-probs are the reference's.
    """
    prompts = [tokenizer.encode(row.prompt) for row in comparisons for _ in range(2)]
    texts = [text for row in comparisons for text in (row.chosen, row.rejected)]
    completions = [tokenizer.encode(text) + [tokenizer.eos_id] for text in texts]
    (prompt_ids, prompt_mask), (ids, mask) = (
        left_pad(prompts, tokenizer.pad_id),
        right_pad(completions, tokenizer.pad_id),
    )
    batch = Batch(
        torch.cat([prompt_ids, ids], 1), torch.cat([prompt_mask, mask], 1), prompt_ids.size(1)
    ).to_device_of(models.reference)
    with autocast(batch.ids.device, models.dtype):
        logprobs = token_logprobs(response_logits(models.reference, batch), batch.response)
    scores = torch.tensor([1.0, 0.0], device=logprobs.device).repeat(len(comparisons))
    none = torch.zeros_like(logprobs)
    return Rollout(
        batch,
        scores,
        earned=none,
        stopped=torch.ones_like(scores, dtype=torch.bool),
        logprobs=logprobs,
        ref_logprobs=logprobs,
        values=none,
        entropy=none,
    )


def labelled_responses(
    models: Models, comparisons: list[Comparison], config: PPOConfig, tokenizer: Tokenizer
) -> Iterator[Rollout]:
    """Rollouts without end, of rollout_size / 2 comparisons each: nothing is sampled."""
    rng = torch.Generator().manual_seed(config.seed)
    while True:
        chosen = choose_prompts(comparisons, config.rollout_size // 2, rng)
        yield pairs_as_rollout(models, chosen, tokenizer)


# ---------------------------------------------------------------- one loop for all


def total_scores(rollout: Rollout, method: Method) -> Tensor:
    """What a method weighs, (B,): the score, minus the KL penalty if that belongs to the score."""
    if not method.beta_in_score:
        return rollout.scores
    kl = kl_k1(rollout.logprobs, rollout.ref_logprobs)  # (B, R)
    return rollout.scores - method.beta * response_sums(kl, rollout.batch.response_mask)


def step_rows(groups: Tensor, config: PPOConfig, rng: torch.Generator) -> Tensor:
    """The rows of each gradient step, (steps, minibatch_size), from the row numbers of each group.

    groups: (number, size), whole groups stay together. There are as many steps as PPO takes on a
    rollout: where few rows are kept, they come round more often.
    """
    at_once = config.minibatch_size // groups.size(1)
    steps = config.epochs * config.rollout_size // config.minibatch_size
    passes = math.ceil(steps * at_once / len(groups))
    order = torch.cat([torch.randperm(len(groups), generator=rng) for _ in range(passes)])
    return groups[order[: steps * at_once]].view(steps, -1)


def train(
    method: Method, models: Models, rollouts: Iterator[Rollout], config: PPOConfig, loop: Loop
) -> list[dict]:
    """Train the policy in place; returns the metrics of every iteration."""
    rates = [method.rate * rate for rate in config.rates]
    optimizer = Optimizers(models.policy, *rates, models.dtype)
    rng = torch.Generator().manual_seed(config.seed)
    with loop.run(config.iterations, policy=models.policy, optimizer=optimizer) as iterations:
        for iteration in iterations:
            rollout = next(rollouts)
            weights = method.weigh(total_scores(rollout, method), method.group)  # (B,)
            kept = (weights > 0).nonzero() if method.keep else torch.arange(len(weights))
            for index in step_rows(kept.view(-1, method.keep or method.group), config, rng):
                batch = rollout.batch.rows(index)
                with autocast(batch.ids.device, models.dtype):
                    logits = response_logits(models.policy, batch)
                logprobs = token_logprobs(logits, batch.response)  # (b, R)
                old, ref = rollout.logprobs[index], rollout.ref_logprobs[index]
                rows = Minibatch(old, ref, weights[index], batch.response_mask)
                loss = method.loss(logprobs, rows, method)
                optimizer.backward(loss)
                optimizer.step(schedule(iteration, config.iterations))
            loop.log(**rollout_summary(rollout), loss=loss.item())
    return loop.history


def rollout_summary(rollout: Rollout) -> dict[str, float]:
    """Mean score, KL in nats per response, and length in tokens."""
    mask = rollout.batch.response_mask
    kl = response_sums(kl_k1(rollout.logprobs, rollout.ref_logprobs), mask)
    length = mask.sum(1).float()
    means = (x.mean().item() for x in (rollout.scores, kl, length))
    return dict(zip(("score", "kl", "length"), means, strict=True))


# ---------------------------------------------------------------- rewards that can be verified


def pass_at_k(correct: int, n: int, k: int) -> float:
    """The chance that at least one of k responses is right, estimated without bias from n responses
    of which `correct` are: 1 - C(n - correct, k) / C(n, k).

    Raises ValueError unless 0 <= correct <= n and 1 <= k <= n.
    Source: Chen et al. 2021 (Codex), equation 1.
    """
    if not (0 <= correct <= n and 1 <= k <= n):
        raise ValueError(
            f"pass_at_k takes 0 <= correct <= n and 1 <= k <= n, not {correct} of {n} and k = {k}"
        )
    return 1 - math.comb(n - correct, k) / math.comb(n, k)
