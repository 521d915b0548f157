"""helpers/alternatives.py against brute force, and on a problem whose best policy is known."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from helpers import alternatives as alt
from helpers.alternatives import METHODS, Method, Minibatch
from helpers.engine.loop import Loop
from helpers.records import Comparison
from tests.support.toy import QUESTIONS, Exact, ToyTokenizer, toy_models, toy_prompts
from tests.test_ppo_toy import TOY

SCORES = torch.tensor([1.0, 3.0, 5.0, -1.0, 0.5, 0.5, 0.5, 0.5])  # two prompts, four responses
NAMES = list(METHODS)


def rows(b: int = 6, R: int = 5, seed: int = 0, weights=None) -> tuple[torch.Tensor, Minibatch]:
    """Random log-probs that carry a gradient, and the rest of a minibatch, with pads."""
    rng = torch.Generator().manual_seed(seed)
    new, old, ref = -torch.rand(3, b, R, generator=rng) * 3
    lengths = torch.randint(1, R + 1, (b,), generator=rng)
    mask = torch.arange(R) < lengths[:, None]
    weights = torch.randn(b, generator=rng) if weights is None else weights
    return new.requires_grad_(), Minibatch(old, ref, weights, mask)


# ---------------------------------------------------------------- weights


def test_the_weights_by_hand():
    first = SCORES[:4]
    assert alt.batch_centred(first).tolist() == [-1.0, 1.0, 3.0, -3.0]
    expected = [1 - 7 / 3, 3 - 5 / 3, 5 - 1.0, -1 - 3.0]
    assert alt.leave_one_out(first, 4).tolist() == pytest.approx(expected)
    assert alt.group_centred(first, 4).tolist() == [-1.0, 1.0, 3.0, -3.0]
    std = math.sqrt((1 + 1 + 9 + 9) / 3)
    expected = [x / (std + 1e-4) for x in (-1, 1, 3, -3)]
    assert alt.group_normalised(first, 4).tolist() == pytest.approx(expected)
    assert alt.best_of_group(SCORES, 4).tolist() == [0, 0, 1, 0, 1, 0, 0, 0]
    assert alt.first_of_group(SCORES, 4).tolist() == [1, 0, 0, 0, 1, 0, 0, 0]
    assert alt.better_or_worse(SCORES, 2).tolist() == [-1, 1, 1, -1, 1, -1, 1, -1]
    exps = [math.exp(x) for x in first.tolist()]
    expected = [4 * x / sum(exps) for x in exps]
    assert alt.softmax_of_group(first, 4).tolist() == pytest.approx(expected)


@pytest.mark.parametrize("weigh", [alt.leave_one_out, alt.group_normalised, alt.group_centred])
def test_responses_that_all_score_alike_teach_nothing(weigh):
    assert weigh(SCORES[4:], 4).tolist() == [0.0] * 4


def test_leave_one_out_is_a_scaled_centring():
    centred = alt.group_centred(SCORES, 4) * 4 / 3
    assert torch.allclose(alt.leave_one_out(SCORES, 4), centred)


# ---------------------------------------------------------------- losses by brute force


def test_the_weighted_loss_is_a_mean_over_tokens():
    new, batch = rows()
    values = [-batch.weights[i] * new[i, t] for i, t in batch.mask.nonzero().tolist()]
    assert alt.weighted_loss(new, batch, METHODS["REINFORCE"]).item() == pytest.approx(
        (sum(values) / len(values)).item(), rel=1e-6
    )


@pytest.mark.parametrize("beta", [0.0, 0.3])
def test_grpo_and_dr_grpo_token_by_token(beta):
    new, batch = rows()
    method = Method(alt.group_normalised, alt.grpo_loss, beta=beta, clip_range=0.2)
    losses = torch.zeros_like(new)
    for i, t in batch.mask.nonzero().tolist():
        ratio = (new[i, t] - batch.old_logprobs[i, t]).exp()
        log_r = batch.ref_logprobs[i, t] - new[i, t]
        A = batch.weights[i]
        policy = max(-A * ratio, -A * ratio.clamp(0.8, 1.2))
        losses[i, t] = policy + beta * (log_r.exp() - 1 - log_r)
    lengths = batch.mask.sum(1)
    expected = (losses.sum(1) / lengths).mean()
    assert alt.grpo_loss(new, batch, method).item() == pytest.approx(expected.item(), rel=1e-5)
    expected = losses.sum() / (6 * 5)
    assert alt.dr_grpo_loss(new, batch, method).item() == pytest.approx(expected.item(), rel=1e-5)


def test_dpo_and_ipo_pair_by_pair():
    new, batch = rows(weights=alt.better_or_worse(torch.tensor([2.0, 1.0, 0.0, 3.0, 1.0, 1.0])))
    sums = ((new - batch.ref_logprobs) * batch.mask).sum(1)
    better, worse = sums[[0, 3, 4]], sums[[1, 2, 5]]
    method = replace(METHODS["DPO"], beta=0.4)
    expected = -F.logsigmoid(0.4 * (better - worse)).mean()
    assert alt.dpo_loss(new, batch, method).item() == pytest.approx(expected.item(), rel=1e-5)
    expected = ((better - worse - 1.25) ** 2).mean()
    assert alt.ipo_loss(new, batch, method).item() == pytest.approx(expected.item(), rel=1e-5)


def test_dpo_begins_at_ln_2():
    new, batch = rows(weights=alt.better_or_worse(torch.arange(6.0)))
    start = replace(batch, ref_logprobs=new.detach())
    assert alt.dpo_loss(new, start, METHODS["DPO"]).item() == pytest.approx(math.log(2))


@pytest.mark.parametrize("name", NAMES)
def test_nan_at_pads_touches_neither_loss_nor_gradient(name):
    method = METHODS[name]
    new, batch = rows(weights=alt.better_or_worse(torch.arange(6.0)))
    loss = method.loss(new, batch, method)
    (gradient,) = torch.autograd.grad(loss, new)
    dirty = torch.where(batch.mask, new.detach(), torch.nan).requires_grad_()
    hidden = torch.where(batch.mask, 0.0, torch.nan)
    other = replace(
        batch, old_logprobs=batch.old_logprobs + hidden, ref_logprobs=batch.ref_logprobs + hidden
    )
    again = method.loss(dirty, other, method)
    (dirty_gradient,) = torch.autograd.grad(again, dirty)
    assert again.item() == pytest.approx(loss.item())
    assert torch.equal(gradient[batch.mask], dirty_gradient[batch.mask])
    assert (dirty_gradient[~batch.mask] == 0).all()


# ---------------------------------------------------------------- the loop


def test_the_rows_of_the_steps_are_whole_groups_and_as_many_as_ppos():
    config = replace(TOY, rollout_size=32, minibatch_size=8, epochs=2)
    rng = torch.Generator().manual_seed(0)
    index = alt.step_rows(torch.arange(32).view(-1, 4), config, rng)
    assert index.shape == (8, 8)
    assert index.flatten().bincount().tolist() == [2] * 32
    assert all((row.view(-1, 4) // 4 == row.view(-1, 4)[:, :1] // 4).all() for row in index)
    best = alt.step_rows(torch.arange(0, 32, 4)[:, None], config, rng)
    assert best.shape == (8, 8) and {*best.flatten().tolist()} == {*range(0, 32, 4)}


def test_comparisons_become_a_rollout_of_pairs():
    models, tokenizer = toy_models(), ToyTokenizer()
    tokenizer.encode = lambda text: QUESTIONS.get(text) or [int(c) for c in text]
    comparisons = [
        Comparison("one", chosen="234", rejected="5"),
        Comparison("two", chosen="6", rejected="77"),
    ]
    rollout = alt.pairs_as_rollout(models, comparisons, tokenizer)
    batch = rollout.batch
    texts = [row[mask].tolist() for row, mask in zip(batch.ids, batch.mask)]
    assert texts == [[2, 2, 3, 4, 0], [2, 5, 0], [5, 6, 6, 0], [5, 6, 7, 7, 0]]
    assert rollout.scores.tolist() == [1, 0, 1, 0] and rollout.stopped.all()
    alone = models.reference(torch.tensor([texts[3]])).log_softmax(-1)[0]
    expected = [alone[1 + t, token].item() for t, token in enumerate(texts[3][2:])]
    assert rollout.ref_logprobs[3, :3].tolist() == pytest.approx(expected, abs=1e-5)


def learn(name: str, kl_coef: float = 0.5, **settings):
    """A method on the small problem: the trained models and the exact problems."""
    config = replace(TOY, kl_coef=kl_coef)
    models = replace(toy_models())
    models = replace(models, value=alt.NoValues(models.policy))
    exact = [Exact(question, models, config) for question in QUESTIONS]
    method = replace(METHODS[name], beta=kl_coef, **settings)
    rollouts = alt.sampled_responses(models, toy_prompts(), method.group, config, ToyTokenizer())
    alt.train(method, models, rollouts, config, Loop("toy", lines=0))
    return models, exact


IN_SCORE = {"beta_in_score": True, "loss": alt.clipped_loss}


@pytest.mark.parametrize(
    ("name", "share", "settings"),
    [
        ("RLOO", 0.93, {}),
        pytest.param(
            "REINFORCE", 0.75, {}, marks=pytest.mark.slow
        ),  # one baseline for both, no ratio
        pytest.param("Dr. GRPO", 0.93, IN_SCORE, marks=pytest.mark.slow),
    ],
)
def test_policy_gradients_come_near_the_best_policy_under_the_kl_penalty(name, share, settings):
    models, exact = learn(name, **settings)
    for problem in exact:
        best, start = problem.best(), problem.objective(problem.ref)
        reached = problem.objective(problem.logprobs(models.policy))
        print(f"{name}: {start:.3f} -> {reached:.3f} of {best:.3f}")
        assert reached > start + share * (best - start)
