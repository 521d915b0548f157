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
    scores, expected = randn(6, seed=66), torch.zeros(6, 9)
    rewards = losses.token_rewards(scores, logprobs, ref_logprobs, mask, kl_coef=0.1)
    for b in range(6):
        length = int(mask[b].sum())
        for t in range(length):
            expected[b, t] = -0.1 * (logprobs[b, t] - ref_logprobs[b, t])
        expected[b, length - 1] += scores[b]
    torch.testing.assert_close(rewards, expected, atol=1e-6, rtol=0)
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


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.95), (0.9, 0.5), (1.0, 1.0)])
def test_gae_is_torchrls(gamma, lam):
    """torchrl takes one row at a time without pads, and ends it by `done`."""
    functional = pytest.importorskip("torchrl.objectives.value.functional")
    mask, *_, rewards, values, _ = ppo_batch()
    advantages, returns = losses.gae(rewards, values, mask, gamma, lam)
    for b, length in enumerate(mask.sum(1).tolist()):
        value, reward = values[b, :length, None], rewards[b, :length, None]  # (T, 1)
        after = torch.cat([value[1:], torch.zeros(1, 1)])
        done = torch.arange(length)[:, None] == length - 1
        theirs = functional.generalized_advantage_estimate(gamma, lam, value, after, reward, done)
        for ours, other in zip((advantages, returns), theirs, strict=True):
            assert torch.allclose(ours[b, :length], other[:, 0], atol=1e-5)


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
    expected = torch.where(mask, -advantages, 0.0) / mask.sum()
    assert torch.allclose(logprobs.grad, expected, atol=1e-7)


@pytest.mark.parametrize("clip_range", [0.2, 1e9])
def test_value_loss_against_a_loop(clip_range):
    mask, *_, rewards, values, old_values = ppo_batch()
    terms = []
    for b, t in mask.nonzero().tolist():
        v, old, target = values[b, t].item(), old_values[b, t].item(), rewards[b, t].item()
        near = min(max(v, old - clip_range), old + clip_range)
        terms.append(0.5 * max((v - target) ** 2, (near - target) ** 2))
    loss = losses.clipped_value_loss(values, old_values, rewards, mask, clip_range=clip_range)
    assert loss.item() == pytest.approx(sum(terms) / len(terms), abs=1e-5)


@pytest.mark.parametrize("name", ["clipped_policy_loss", "clipped_value_loss"])
def test_accumulated_losses_equal_the_whole_minibatch(name):
    mask, *_, a, b, c = ppo_batch()

    def loss(rows: slice):
        found = getattr(losses, name)(a[rows], b[rows], c[rows], mask[rows])
        return found[0] if isinstance(found, tuple) else found

    thirds = [slice(i, i + 2) for i in (0, 2, 4)]
    parts = sum(mask[rows].sum() / mask.sum() * loss(rows) for rows in thirds)
    assert torch.allclose(parts, loss(slice(None)), atol=1e-5)


def test_explained_variance():
    mask, *_, returns, values, _ = ppo_batch()
    by_hand = 1 - ((values - returns)[mask] ** 2).mean() / returns[mask].var(unbiased=False)
    mean = torch.full_like(returns, returns[mask].mean().item())
    for guess, expected in ((returns, 1.0), (mean, 0.0), (values, by_hand.item())):
        found = losses.explained_variance(guess, returns, mask).item()
        assert found == pytest.approx(expected, abs=1e-5)
    for level in (0.0, 1.0, 0.1, -3.7, 1e4):  # the mean of many 0.1 is not exactly 0.1
        equal = torch.full_like(returns, level)
        assert torch.isnan(losses.explained_variance(values, equal, mask))
        nearly = level + 1e-3 * max(1, abs(level)) * returns
        assert torch.isfinite(losses.explained_variance(values, nearly, mask))


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
    # where the first argument is the network's
    if name in ("masked_mean", "clipped_policy_loss", "clipped_value_loss"):
        expected.backward()
        got.backward()
        assert torch.equal(dirty[0].grad, clean[0].grad)
        assert (dirty[0].grad[~mask] == 0).all()
