"""Losses, estimators and averages against oracles that share no code: loops, an exact enumeration,
PyTorch itself.
"""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F

from helpers import losses
from tests.support.tensors import randn, random_mask

NAN = float("nan")
V, LENGTH = 8, 3  # the toy: every one of the 8^3 responses can be written down


def randint(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, V, shape, generator=torch.Generator().manual_seed(seed))


# ---------------- averages


def test_masked_mean_is_the_mean_of_the_selected_entries():
    x, mask = randn(6, 9, seed=1), random_mask(6, 9)
    selected = [x[b, t].item() for b in range(6) for t in range(9) if mask[b, t]]
    mean = sum(selected) / len(selected)
    assert losses.masked_mean(x, mask).item() == pytest.approx(mean, abs=1e-6)
    # micro-batches add up with a shared count
    parts = [losses.masked_mean(x[i : i + 2], mask[i : i + 2]) for i in (0, 2, 4)]
    shares = [mask[i : i + 2].sum() / mask.sum() for i in (0, 2, 4)]
    assert sum(s * m for s, m in zip(shares, parts)).item() == pytest.approx(mean, abs=1e-6)
    assert sum(parts).item() / 3 != pytest.approx(mean, abs=1e-3)


def test_whiten_over_the_mask():
    x, mask = 3 * randn(6, 9, seed=3) + 5, random_mask(6, 9)
    white = losses.whiten(x, mask)
    assert white[mask].mean().item() == pytest.approx(0, abs=1e-5)
    assert white[mask].std(unbiased=False).item() == pytest.approx(1, abs=1e-5)
    assert (white[~mask] == 0).all()
    # a scale and a shift: the order stays
    assert torch.equal(white[mask].argsort(), x[mask].argsort())


@pytest.mark.parametrize("constant", [2.0, 0.1])
@pytest.mark.parametrize("mask", [random_mask(6, 9), torch.eye(6, 9, dtype=torch.bool)[:1]])
def test_whitening_a_constant_gives_zeros(constant, mask):
    """One token, too. 0.1 is no float32 number: its mean is off by rounding, which stays small."""
    white = losses.whiten(torch.where(mask, constant, NAN), mask)
    assert white.abs().max() < 1e-2


def test_whitening_brings_a_small_spread_to_1():
    x, mask = 3 + 0.01 * randn(6, 9, seed=3), random_mask(6, 9)
    assert losses.whiten(x, mask)[mask].std(unbiased=False).item() == pytest.approx(1, abs=1e-3)


# ---------------- language model -> numbers


def test_token_logprobs_against_log_softmax_and_gather():
    targets = randint(2, 5)
    contiguous, transposed = randn(2, 5, V, seed=4), randn(5, 2, V, seed=4).transpose(0, 1)
    for logits in (contiguous, transposed):
        expected = torch.log_softmax(logits, -1).gather(-1, targets.unsqueeze(-1)).squeeze(-1)
        assert torch.allclose(losses.token_logprobs(logits, targets), expected, atol=1e-6)
        half = losses.token_logprobs(logits.bfloat16(), targets)
        assert half.dtype == torch.float32 and torch.allclose(half, expected, atol=0.05)


def test_token_logprobs_gradient_is_one_hot_minus_probs():
    logits, targets = randn(2, 5, V, seed=5).requires_grad_(), randint(2, 5)
    losses.token_logprobs(logits, targets).sum().backward()
    expected = F.one_hot(targets, V) - logits.detach().softmax(-1)
    assert torch.allclose(logits.grad, expected, atol=1e-6)


def test_entropy_equals_pytorchs_and_leaves_out_what_is_never_sampled():
    assert losses.entropy(torch.zeros(4, V)).numpy() == pytest.approx(math.log(V), abs=1e-6)
    logits = randn(4, V, seed=6)
    expected = torch.distributions.Categorical(logits=logits).entropy()
    assert torch.allclose(losses.entropy(logits), expected, atol=1e-6)
    logits[:, 2] = -math.inf
    keep = [i for i in range(V) if i != 2]
    assert torch.allclose(losses.entropy(logits), losses.entropy(logits[:, keep]), atol=1e-6)


def completion_batch():
    logits, ids = randn(3, 7, V, seed=7), randint(3, 7)
    spans = [(2, 6), (4, 7), (1, 3)]  # completion = [start, end), pads after it
    mask = torch.zeros(3, 7, dtype=torch.bool)
    for row, (start, end) in enumerate(spans):
        mask[row, start:end] = True
    return logits, ids, mask, spans


def test_completion_loss_is_the_mean_over_completion_tokens():
    logits, ids, mask, spans = completion_batch()
    loss = losses.completion_loss(logits, ids, mask)
    labels = ids.masked_fill(~mask, -100)
    expected = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    assert torch.allclose(loss, expected, atol=1e-6)
    assert torch.equal(losses.completion_loss(logits, ids, mask.long()), loss)
    rows = [
        [-math.log(logits[b, t - 1].softmax(-1)[ids[b, t]].item()) for t in range(start, end)]
        for b, (start, end) in enumerate(spans)
    ]
    assert loss.item() == pytest.approx(sum(map(sum, rows)) / sum(map(len, rows)), abs=1e-5)
    assert loss.item() != pytest.approx(sum(sum(row) / len(row) for row in rows) / 3, abs=1e-3)
    with pytest.raises(ValueError, match="no completion token"):
        losses.completion_loss(logits, ids, torch.zeros_like(mask))


def test_completion_loss_ignores_prompt_and_pads_even_if_nan():
    logits, ids, mask, spans = completion_batch()
    clean = losses.completion_loss(logits, ids, mask)
    dirty_logits, dirty_ids = logits.clone(), ids.clone()
    for b, (start, end) in enumerate(spans):  # row t predicts token t + 1
        dirty_logits[b, : start - 1], dirty_logits[b, end - 1 :] = NAN, NAN
        dirty_ids[b, :start], dirty_ids[b, end:] = 0, 0
    dirty_logits.requires_grad_()
    loss = losses.completion_loss(dirty_logits, dirty_ids, mask)
    loss.backward()
    assert torch.equal(loss, clean) and torch.isfinite(dirty_logits.grad).all()


# ---------------- reward model


def test_bradley_terry():
    chosen, rejected = randn(20, seed=8), randn(20, seed=9)
    loss = losses.bradley_terry_loss(chosen, rejected)
    by_hand = [math.log(1 + math.exp(r - c)) for c, r in zip(chosen.tolist(), rejected.tolist())]
    assert loss.item() == pytest.approx(sum(by_hand) / 20, abs=1e-6)
    two_classes = torch.stack([chosen, rejected], 1)
    expected = F.cross_entropy(two_classes, torch.zeros(20, dtype=torch.long))
    assert torch.allclose(loss, expected, atol=1e-6)
    assert torch.isfinite(losses.bradley_terry_loss(torch.tensor([-500.0]), torch.tensor([500.0])))
    with pytest.raises(ValueError, match="shapes differ"):
        losses.bradley_terry_loss(chosen.unsqueeze(1), rejected)


def test_missing_eos_replaces_the_score():
    scores, stopped = torch.tensor([2.0, -3.0, 0.5]), torch.tensor([True, False, False])
    assert losses.missing_eos_scores(scores, stopped, -1.0).tolist() == [2.0, -1.0, -1.0]


def test_kl_best_of_n_formula_and_exact():
    published = {1: 0.0, 4: 0.636, 16: 1.835, 64: 3.175, 128: 3.860}
    assert {n: round(losses.kl_best_of_n(n), 3) for n in published} == published
    # equally likely outcomes, all with different scores: the k-th best-of-n probability is exact
    many = 4000
    top = [(k / many) ** 16 - ((k - 1) / many) ** 16 for k in range(1, many + 1)]
    exact = sum(p * math.log(p * many) for p in top if p > 0)
    assert losses.kl_best_of_n(16) == pytest.approx(exact, abs=0.01)
    with pytest.raises(ValueError, match="at least 1"):
        losses.kl_best_of_n(0)


# ---------------- KL on the enumerable toy


def all_responses() -> torch.Tensor:
    return torch.tensor(list(itertools.product(range(V), repeat=LENGTH)))  # (512, 3)


def toy_logits(seed: int, scale: float) -> torch.Tensor:
    """Logits of a toy model for every response, (512, 3, V): a table for every prefix, so any
    distribution fits.
    """
    tables = [scale * randn(*([V] * t), V, seed=seed + t) for t in range(LENGTH)]
    y = all_responses()
    rows = [tables[0].expand(len(y), V), tables[1][y[:, 0]], tables[2][y[:, 0], y[:, 1]]]
    return torch.stack(rows, dim=1)


def toy():
    y, logits, ref_logits = all_responses(), toy_logits(10, 1.0), toy_logits(20, 1.0)
    logprobs, ref_logprobs = (losses.token_logprobs(x, y) for x in (logits, ref_logits))
    return y, logits, ref_logits, logprobs, ref_logprobs


def test_kl_estimators_against_the_exact_sequence_kl():
    _, logits, ref_logits, logprobs, ref_logprobs = toy()
    p, q = logprobs.sum(1).exp(), ref_logprobs.sum(1).exp()
    assert p.sum().item() == pytest.approx(1, abs=1e-5) and q.sum().item() == pytest.approx(
        1, abs=1e-5
    )
    exact = F.kl_div(q.log(), p, reduction="sum").item()  # PyTorch's argument order: KL(p || q)
    reverse = F.kl_div(p.log(), q, reduction="sum").item()
    assert exact > 0.1 and abs(exact - reverse) > 0.01  # the toy can tell the two directions apart

    def expected(estimator):  # E_{y ~ policy} sum_t estimator_t, with no sampling noise
        return (p * estimator(logprobs, ref_logprobs).sum(1)).sum().item()

    assert expected(losses.kl_k1) == pytest.approx(exact, abs=1e-4)
    assert expected(losses.kl_k3) == pytest.approx(exact, abs=1e-4)
    assert abs(expected(losses.kl_k2) - exact) > 0.05 * exact
    full = (p * losses.kl_full(logits, ref_logits).sum(1)).sum().item()
    assert full == pytest.approx(exact, abs=1e-4)


def test_kl_signs_and_zero():
    _, logits, ref_logits, logprobs, ref_logprobs = toy()
    assert (losses.kl_k1(logprobs, ref_logprobs) < 0).any()
    for estimator in (losses.kl_k2, losses.kl_k3):
        assert (estimator(logprobs, ref_logprobs) >= 0).all()
    assert (losses.kl_full(logits, ref_logits) > 0).all()
    for estimator in (losses.kl_k1, losses.kl_k2, losses.kl_k3):
        assert (estimator(logprobs, logprobs) == 0).all()
    # a token the policy likes more than the reference costs reward: the sign that keeps the policy
    # close
    assert losses.kl_k1(torch.tensor(-1.0), torch.tensor(-2.0)).item() == 1.0


def test_k3_keeps_its_digits_near_zero():
    """k2 and k3 agree to second order."""
    delta = torch.tensor([1e-3, -1e-3, 1e-4])
    taylor = (delta.double() ** 2 / 2 - delta.double() ** 3 / 6).float()  # of k3(log_r = -delta)
    for estimator in (losses.kl_k2, losses.kl_k3):
        assert torch.allclose(estimator(delta, torch.zeros(3)), taylor, rtol=1e-2)


def test_kl_full_with_a_token_that_is_never_sampled():
    logits, ref_logits = randn(4, V, seed=30), randn(4, V, seed=31)
    logits[:, 2] = ref_logits[:, 2] = -math.inf
    keep = [i for i in range(V) if i != 2]
    without = losses.kl_full(logits[:, keep], ref_logits[:, keep])
    assert torch.allclose(losses.kl_full(logits, ref_logits), without)
    ref_logits[:, 3] = -math.inf  # the policy can write what the reference cannot
    assert (losses.kl_full(logits, ref_logits) == math.inf).all()


def test_token_rewards_make_the_tilted_reference_optimal():
    """E_pi[sum of rewards] has its maximum at pi*(y) prop. to ref(y) exp(score(y) / beta), of
    height beta log Z.
    """
    y, _, _, logprobs, ref_logprobs = toy()
    beta, scores, mask = 0.5, randn(len(y), seed=40), torch.ones_like(y, dtype=torch.bool)

    def objective(policy_logprobs):
        rewards = losses.token_rewards(scores, policy_logprobs, ref_logprobs, mask, beta).sum(1)
        return (policy_logprobs.sum(1).exp() * rewards).sum().item()

    tilted = ref_logprobs.sum(1) + scores / beta
    best = tilted - tilted.logsumexp(0)  # log pi*(y)
    joint = best.view(V, V, V)
    first, second = joint.logsumexp((1, 2)), joint.logsumexp(2)  # log pi*(y1), log pi*(y1 y2)
    per_token = [
        first[:, None, None],
        (second - first[:, None])[..., None],
        joint - second[..., None],
    ]
    per_token = torch.stack([x.expand(V, V, V) for x in per_token], dim=-1).view(-1, LENGTH)
    # ref sums to 1, so this is beta log E_ref[exp(score / beta)]
    optimum = beta * tilted.logsumexp(0).item()
    assert objective(per_token) == pytest.approx(optimum, abs=1e-4)
    assert objective(logprobs) < optimum - 0.1 and objective(ref_logprobs) < optimum - 0.1
    for seed in range(5):  # every small step away from pi* costs something
        nudged = torch.log_softmax(best + 0.1 * randn(len(y), seed=50 + seed), 0)
        spread = torch.zeros(len(y), LENGTH)
        # the objective depends on the sum over tokens only
        spread[:, -1] = nudged - ref_logprobs.sum(1)
        assert objective(ref_logprobs + spread) < optimum
