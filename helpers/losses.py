"""The formulas of the course as pure functions on tensors, without models, tokenizers or devices.

Shapes: B batch, T sequence, R response, V vocabulary, N samples. `mask` is boolean, True on real
tokens; a response is padded on the right. Values at pads, even NaN, never affect a result or, but
for `whiten`, whose inputs are fixed, a gradient.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

# ---------------------------------------------------------------- averages over real tokens


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Mean of x over the entries where mask is True.

    x: any shape; mask: bool, same shape. Returns a scalar (nan if the mask is empty).
    """
    # torch.where instead of x * mask: NaN * 0 is NaN, so a product would let a pad's NaN through.
    total = torch.where(mask, x, 0.0).sum()
    return total / mask.sum()


def whiten(x: Tensor, mask: Tensor) -> Tensor:
    """Shift and scale x to mean 0 and variance 1 over the mask.

    x, mask: (B, R). Returns (B, R), 0 at pads. The variance is divided by n, not n - 1.
    Source: Ziegler et al. 2019, code of lm-human-preferences, `whiten`.
    """
    mean = masked_mean(x, mask)
    variance = masked_mean((x - mean) ** 2, mask)
    return torch.where(mask, (x - mean) * torch.rsqrt(variance + 1e-8), 0.0)


# ---------------------------------------------------------------- from logits


def token_logprobs(logits: Tensor, targets: Tensor) -> Tensor:
    """log pi(target) = logits[target] - log sum_v exp(logits[v]) at each position, in float32.

    logits: (B, T, V), where position t predicts targets[:, t], so the caller shifts them; targets:
    (B, T) token ids. Returns (B, T), nats, never above 0.
    """
    # float32, because the rounding of half precision would shift the PPO ratio
    logits = logits.float().flatten(0, -2)  # (B T, V)
    # Equal to log_softmax and gather; cross_entropy fuses them, which halves the backward time.
    return -F.cross_entropy(logits, targets.flatten(), reduction="none").view_as(targets)  # (B, T)


def entropy(logits: Tensor) -> Tensor:
    """Entropy of softmax(logits) over the last dimension: H = - sum_v p(v) log p(v).

    logits: (..., V), may contain -inf. Returns (...), nats, between 0 and ln V.
    """
    logprobs = torch.log_softmax(logits.float(), dim=-1)
    probs = logprobs.exp()
    return -(probs * torch.where(probs > 0, logprobs, 0.0)).sum(-1)  # 0 log 0 = 0


def completion_loss(logits: Tensor, ids: Tensor, completion_mask: Tensor) -> Tensor:
    """Cross-entropy of the completion tokens only, averaged over tokens (not over sequences).

    logits: (B, T, V), where position t predicts token t + 1; ids: (B, T); completion_mask: (B, T),
    True on the completion including its EOS, False on prompt and pads. Returns a scalar, nats per
    token. Raises ValueError if the mask is empty.
    Source: the supervised step of Ouyang et al. 2022 (InstructGPT), section 3.5; masking the prompt
    is our choice.
    """
    predicts = completion_mask[:, 1:].bool()  # (B, T-1): positions that predict a completion token
    if not predicts.any():
        raise ValueError(
            "completion_loss: no completion token in this batch, so there is nothing to learn from"
        )
    # Select first, so that no softmax is computed at the other positions.
    logits, targets = logits[:, :-1][predicts], ids[:, 1:][predicts]  # (N, V), (N,)
    total = F.cross_entropy(logits.float(), targets, reduction="sum")
    return total / predicts.sum()


# ---------------------------------------------------------------- reward model


def bradley_terry_loss(chosen: Tensor, rejected: Tensor) -> Tensor:
    """- log P(chosen beats rejected) under P = sigmoid(chosen - rejected), averaged over pairs.

    chosen, rejected: (N,) scores. Returns a scalar, nats; ln 2 for a model that cannot tell them
    apart. Raises ValueError if the shapes differ: (N, 1) and (N,) would silently broadcast to
    N x N pairs.
    Source: Bradley & Terry 1952; Stiennon et al. 2020, section 3.4.
    """
    if chosen.shape != rejected.shape:
        raise ValueError(
            f"bradley_terry_loss: shapes differ, {tuple(chosen.shape)} and {tuple(rejected.shape)}"
        )
    return -F.logsigmoid(chosen - rejected).mean()


def missing_eos_scores(scores: Tensor, stopped: Tensor, penalty_score: float) -> Tensor:
    """Replace (not lower) the score of every response without an EOS.

    scores: (B,); stopped: (B,) bool, True where the response has an EOS. Returns (B,).
    Source: Ziegler et al. 2019 and Huang et al. 2024 (the "EOS trick"); both use -1.
    """
    return torch.where(stopped, scores, penalty_score)


def kl_best_of_n(n: int) -> float:
    """KL(best-of-n || reference) in nats, if no two samples tie: log n - (n - 1) / n.

    With ties the true KL is lower. Raises ValueError for n < 1.
    Source: Stiennon et al. 2020, appendix G.3; shown to be an upper bound by Beirami et al. 2024.
    """
    if n < 1:
        raise ValueError(f"kl_best_of_n: n must be at least 1, got {n}")
    return math.log(n) - (n - 1) / n


# ---------------------------------------------------------------- KL(policy || reference)
# Estimators on tokens sampled from the policy, with r = ref / pi: log r = ref_logprobs - logprobs.
# Source: Schulman 2020, "Approximating KL divergence".


def kl_k1(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """k1 = - log r, elementwise. Unbiased; a sample may be negative. The penalty in the reward."""
    return logprobs - ref_logprobs


def kl_k2(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """k2 = (log r)^2 / 2, elementwise. Biased; never negative."""
    return (ref_logprobs - logprobs) ** 2 / 2


def kl_k3(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """k3 = r - 1 - log r, elementwise. Unbiased and never negative; logged, not in the reward."""
    log_r = ref_logprobs - logprobs
    return torch.expm1(log_r) - log_r  # expm1(x) = exp(x) - 1, accurate near 0


def kl_full(logits: Tensor, ref_logits: Tensor) -> Tensor:
    """Exact KL of the next-token distributions: sum_v pi(v) (log pi(v) - log ref(v)).

    logits, ref_logits: (..., V). Returns (...), nats, never negative up to rounding. It costs a
    softmax over the vocabulary for each of the two.
    """
    logprobs = torch.log_softmax(logits.float(), dim=-1)
    ref_logprobs = torch.log_softmax(ref_logits.float(), dim=-1)
    probs = logprobs.exp()
    # 0 log 0 = 0, which -inf logits would otherwise make NaN
    return (probs * torch.where(probs > 0, logprobs - ref_logprobs, 0.0)).sum(-1)


# ---------------------------------------------------------------- PPO


def token_rewards(
    scores: Tensor, logprobs: Tensor, ref_logprobs: Tensor, mask: Tensor, kl_coef: float
) -> Tensor:
    """r_t = - kl_coef * (log pi(t) - log ref(t)), plus the score at the last real token.

    scores: (B,), one per response; logprobs, ref_logprobs, mask: (B, R). Returns (B, R), 0 at pads.
    Raises ValueError for a response without a token.
    Source: Ziegler et al. 2019, equation 2.
    """
    if not mask.any(dim=1).all():
        raise ValueError(
            "token_rewards: a response has no real token, so its score has nowhere to land"
        )
    # "0.0 -" instead of "-" avoids printing "-0."
    rewards = torch.where(mask, 0.0 - kl_coef * kl_k1(logprobs, ref_logprobs), 0.0)  # (B, R)
    last = mask.sum(dim=1) - 1  # (B,): index of the last real token (the EOS, if there is one)
    rewards[torch.arange(len(last), device=last.device), last] += scores
    return rewards


def gae(
    rewards: Tensor, values: Tensor, mask: Tensor, gamma: float = 1.0, lam: float = 0.95
) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation (GAE), computed by its backward recursion.

        delta_t = r_t + gamma V_{t+1} - V_t
        A_t = delta_t + gamma lam A_{t+1}
        return_t = A_t + V_t

    rewards, values, mask: (B, R), where values[:, t] is V before token t is sampled. The response
    ends at its last real token, whether that is an EOS or not: V and A after it are 0. Returns
    advantages and returns, (B, R) each, 0 at pads. Whiten the advantages afterwards, never the
    returns.
    Source: Schulman et al. 2016, equation 16.
    """
    rewards = torch.where(mask, rewards, 0.0)
    values = torch.where(mask, values, 0.0)  # so that V_{t+1} = 0 after the last real token
    advantages = torch.zeros_like(values)
    advantage = next_value = torch.zeros_like(values[:, 0])  # (B,)
    for t in reversed(range(values.shape[1])):
        # Going backwards, delta and advantage stay 0 at the pads.
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        advantage = delta + gamma * lam * advantage
        advantages[:, t] = advantage
        next_value = values[:, t]
    return advantages, advantages + values


def clipped_policy_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    clip_range: float = 0.2,
) -> tuple[Tensor, Tensor]:
    """L = mean_t max(- A_t ratio_t, - A_t clip(ratio_t, 1 - c, 1 + c)), with ratio = pi / pi_old.

    All arguments are (B, R); only logprobs carries a gradient. Returns the loss and the clip
    fraction: the share of tokens where the clipped term is larger, which get no gradient.
    Source: Schulman et al. 2017, equation 7.
    """
    # Masked before exp, so that a NaN at a pad does not reach the gradient.
    log_ratio = torch.where(mask, logprobs - old_logprobs, 0.0)
    ratio = log_ratio.exp()
    # The larger loss of the two: no reward for leaving the clip range, but mistakes still count.
    unclipped = -advantages * ratio
    clipped = -advantages * ratio.clamp(1 - clip_range, 1 + clip_range)
    loss = masked_mean(torch.maximum(unclipped, clipped), mask)
    clip_fraction = masked_mean((clipped > unclipped).float(), mask)
    return loss, clip_fraction


def clipped_value_loss(
    values: Tensor, old_values: Tensor, returns: Tensor, mask: Tensor, clip_range: float = 0.2
) -> Tensor:
    """L = 1/2 mean_t max((V_t - R_t)^2, (V_old + clip(V_t - V_old, -c, c) - R_t)^2).

    All arguments are (B, R); only values carries a gradient. clip_range is in units of the score,
    so it assumes a normalised reward model. Returns a scalar.
    Source: Ziegler et al. 2019, code of lm-human-preferences.
    """
    values, old_values, returns = (torch.where(mask, x, 0.0) for x in (values, old_values, returns))
    clipped = old_values + (values - old_values).clamp(-clip_range, clip_range)
    # The larger loss of the two: moving V further than the clip range gains nothing.
    losses = torch.maximum((values - returns) ** 2, (clipped - returns) ** 2)
    return 0.5 * masked_mean(losses, mask)


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> Tensor:
    """1 - mean((V - R)^2) / var(R) over the mask.

    1 for a perfect value model, 0 for one that is as good as predicting the mean return. values,
    returns, mask: (B, R). Returns a scalar, nan if all returns are equal up to rounding.
    Source: Ziegler et al. 2019, code of lm-human-preferences, `var_explained`.
    """
    variance = masked_mean((returns - masked_mean(returns, mask)) ** 2, mask)
    error = masked_mean((values - returns) ** 2, mask)
    rounding = (16 * torch.finfo(returns.dtype).eps) ** 2 * masked_mean(returns**2, mask)
    return torch.where(variance > rounding, 1 - error / variance, torch.nan)
