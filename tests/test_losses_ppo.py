"""PPO's formulas against loops over single tokens, and the promise that what stands at a pad never
leaks.
"""

import math

import pytest
import torch

from helpers import losses
from tests.support.tensors import randn, random_mask

NAN = float("nan")


# ---------------- rewards and advantages


def ppo_batch(rows: int = 6, width: int = 9):
    mask = random_mask(rows, width, seed=3)
    logprobs, ref_logprobs, old_logprobs = (-randn(rows, width, seed=s).abs() for s in (60, 61, 62))
    rewards, values, old_values = (randn(rows, width, seed=s) for s in (63, 64, 65))
    return mask, logprobs, ref_logprobs, old_logprobs, rewards, values, old_values


def test_the_score_lands_on_the_last_real_token():
    mask, logprobs, ref_logprobs, *_ = ppo_batch()
    scores = randn(6, seed=66)
    rewards = losses.token_rewards(scores, logprobs, ref_logprobs, mask, kl_coef=0.1)
    for b in range(6):
        length = int(mask[b].sum())
        for t in range(9):
            expected = (
                -0.1 * (logprobs[b, t] - ref_logprobs[b, t]) if t < length else torch.tensor(0.0)
            )
            expected = expected + (scores[b] if t == length - 1 else 0.0)
            assert rewards[b, t].item() == pytest.approx(expected.item(), abs=1e-6)
    with pytest.raises(ValueError, match="no real token"):
        losses.token_rewards(scores, logprobs, ref_logprobs, torch.zeros_like(mask), 0.1)


def gae_brute_force(rewards, values, mask, gamma, lam):
    """A_t = sum_{l >= 0} (gamma lam)^l delta_{t+l}, a double loop over each row's own tokens."""
    advantages = torch.zeros_like(rewards)
    for b in range(len(rewards)):
        length = int(mask[b].sum())
        r, v = rewards[b, :length].tolist(), [*values[b, :length].tolist(), 0.0]
        delta = [r[t] + gamma * v[t + 1] - v[t] for t in range(length)]
        for t in range(length):
            advantages[b, t] = sum((gamma * lam) ** (k - t) * delta[k] for k in range(t, length))
    return advantages


@pytest.mark.parametrize("gamma", [1.0, 0.9])
@pytest.mark.parametrize("lam", [0.0, 0.5, 0.95, 1.0])
def test_gae_against_the_double_sum(gamma, lam):
    mask, *_, rewards, values, _ = ppo_batch()
    advantages, returns = losses.gae(rewards, values, mask, gamma, lam)
    expected = gae_brute_force(rewards, values, mask, gamma, lam)
    assert torch.allclose(advantages, expected, atol=1e-5)
    assert torch.allclose(returns, torch.where(mask, expected + values, 0.0), atol=1e-5)


def test_gae_with_lambda_one_gives_the_rewards_to_go_and_with_zero_the_td_error():
    mask, *_, rewards, values, _ = ppo_batch()
    _, returns = losses.gae(rewards, values, mask, gamma=1.0, lam=1.0)
    to_go = torch.where(mask, rewards, 0.0).flip(1).cumsum(1).flip(1)
    assert torch.allclose(returns, torch.where(mask, to_go, 0.0), atol=1e-5)
    row = losses.gae(rewards[:1], values[:1], mask[:1], gamma=1.0, lam=0.0)[0][0]
    assert row[0].item() == pytest.approx(
        (rewards[0, 0] + values[0, 1] - values[0, 0]).item(), abs=1e-6
    )


def test_returns_are_taken_before_whitening():
    """Whitening moves the advantages only; value targets built from whitened advantages would be
    other numbers.
    """
    mask, *_, rewards, values, _ = ppo_batch()
    advantages, returns = losses.gae(rewards, values, mask, lam=1.0)
    assert torch.allclose((returns - values)[mask], advantages[mask], atol=1e-5)
    assert not torch.allclose(
        (losses.whiten(advantages, mask) + values)[mask], returns[mask], atol=0.1
    )


# ---------------- clipped losses


@pytest.mark.parametrize(
    "ratio, advantage, gradient_flows",
    [
        (1.0, +1.0, True),
        (1.0, -1.0, True),
        (1.5, +1.0, False),  # already far enough in the good direction
        (1.5, -1.0, True),  # too likely and bad: pull it back, however far it is
        (0.5, +1.0, True),  # too unlikely and good: pull it back
        (0.5, -1.0, False),
        (1.1, +1.0, True),
        (0.9, -1.0, True),
    ],
)
def test_gradient_table_of_the_clipped_loss(ratio, advantage, gradient_flows):
    old = torch.full((1, 1), -2.0)
    logprobs = (old + math.log(ratio)).requires_grad_()
    mask = torch.ones(1, 1, dtype=torch.bool)
    loss, clip_fraction = losses.clipped_policy_loss(
        logprobs, old, torch.full((1, 1), advantage), mask
    )
    loss.backward()
    expected = -advantage * ratio if gradient_flows else 0.0  # d(-A ratio) / d logprob = -A ratio
    assert logprobs.grad.item() == pytest.approx(expected, abs=1e-5)
    assert clip_fraction.item() == (0.0 if gradient_flows else 1.0)


def test_policy_loss_against_a_loop():
    mask, logprobs, _, old_logprobs, _, _, _ = ppo_batch()
    advantages = randn(6, 9, seed=67)
    terms, clipped = [], 0
    for b, t in mask.nonzero().tolist():
        rho, a = math.exp(logprobs[b, t] - old_logprobs[b, t]), advantages[b, t].item()
        bounded = min(max(rho, 0.8), 1.2)
        terms.append(-min(a * rho, a * bounded))  # the paper's form: minus the smaller objective
        clipped += a * bounded < a * rho
    loss, clip_fraction = losses.clipped_policy_loss(logprobs, old_logprobs, advantages, mask)
    assert loss.item() == pytest.approx(sum(terms) / len(terms), abs=1e-5)
    assert clip_fraction.item() == pytest.approx(clipped / len(terms), abs=1e-6) and clipped > 0


def test_first_minibatch_gives_the_plain_policy_gradient():
    mask, logprobs, *_ = ppo_batch()
    advantages = losses.whiten(randn(6, 9, seed=68), mask)
    logprobs.requires_grad_()
    loss, clip_fraction = losses.clipped_policy_loss(logprobs, logprobs.detach(), advantages, mask)
    loss.backward()
    assert abs(loss.item()) < 1e-6 and clip_fraction.item() == 0
    assert torch.allclose(
        logprobs.grad, torch.where(mask, -advantages, 0.0) / mask.sum(), atol=1e-7
    )


def test_value_loss_against_a_loop():
    mask, *_, rewards, values, old_values = ppo_batch()
    terms = []
    for b, t in mask.nonzero().tolist():
        v, old, target = values[b, t].item(), old_values[b, t].item(), rewards[b, t].item()
        near = min(max(v, old - 0.2), old + 0.2)
        terms.append(0.5 * max((v - target) ** 2, (near - target) ** 2))
    loss = losses.clipped_value_loss(values, old_values, rewards, mask)
    assert loss.item() == pytest.approx(sum(terms) / len(terms), abs=1e-5)
    unclipped = losses.clipped_value_loss(values, old_values, rewards, mask, clip_range=1e9)
    assert unclipped.item() == pytest.approx(
        0.5 * ((values - rewards)[mask] ** 2).mean().item(), abs=1e-5
    )


@pytest.mark.parametrize("name", ["clipped_policy_loss", "clipped_value_loss"])
def test_accumulated_losses_equal_the_whole_minibatch(name):
    mask, *_, a, b, c = ppo_batch()
    loss = getattr(losses, name)

    def first(result):
        return result[0] if isinstance(result, tuple) else result

    whole = first(loss(a, b, c, mask))
    parts = sum(
        mask[i : i + 2].sum() / mask.sum() * first(loss(*(x[i : i + 2] for x in (a, b, c, mask))))
        for i in (0, 2, 4)
    )
    assert torch.allclose(parts, whole, atol=1e-5)


def test_explained_variance():
    mask, *_, returns, values, _ = ppo_batch()
    mean = torch.full_like(returns, returns[mask].mean().item())
    assert losses.explained_variance(returns, returns, mask).item() == pytest.approx(1)
    assert losses.explained_variance(mean, returns, mask).item() == pytest.approx(0, abs=1e-5)
    by_hand = 1 - ((values - returns)[mask] ** 2).mean() / returns[mask].var(unbiased=False)
    assert losses.explained_variance(values, returns, mask).item() == pytest.approx(
        by_hand.item(), abs=1e-5
    )
    assert torch.isnan(losses.explained_variance(values, torch.ones_like(returns), mask))


# ---------------- pads never leak

MASKED = {
    "masked_mean": lambda a, b, c, mask: losses.masked_mean(a, mask),
    "whiten": lambda a, b, c, mask: losses.whiten(a, mask),
    "token_rewards": lambda a, b, c, mask: losses.token_rewards(torch.arange(6.0), a, b, mask, 0.1),
    "gae advantages": lambda a, b, c, mask: losses.gae(a, b, mask)[0],
    "gae returns": lambda a, b, c, mask: losses.gae(a, b, mask)[1],
    "clipped_policy_loss": lambda a, b, c, mask: losses.clipped_policy_loss(a, b, c, mask)[0],
    "clip fraction": lambda a, b, c, mask: losses.clipped_policy_loss(a, b, c, mask)[1],
    "clipped_value_loss": lambda a, b, c, mask: losses.clipped_value_loss(a, b, c, mask),
    "explained_variance": lambda a, b, c, mask: losses.explained_variance(a, b, mask),
}


@pytest.mark.parametrize("junk", [1e4, NAN, math.inf])
@pytest.mark.parametrize("name", MASKED)
def test_what_stands_at_a_pad_changes_no_result_and_no_gradient(name, junk):
    mask = random_mask(6, 9, seed=3)
    clean = [randn(6, 9, seed=s).mul(0.3).requires_grad_() for s in (70, 71, 72)]
    dirty = [torch.where(mask, x.detach(), junk).requires_grad_() for x in clean]
    expected, got = MASKED[name](*clean, mask), MASKED[name](*dirty, mask)
    assert torch.equal(got, expected)
    if name in (
        "masked_mean",
        "clipped_policy_loss",
        "clipped_value_loss",
    ):  # the first argument is the network's
        expected.backward()
        got.backward()
        assert torch.equal(dirty[0].grad, clean[0].grad)
        assert (dirty[0].grad[~mask] == 0).all()
