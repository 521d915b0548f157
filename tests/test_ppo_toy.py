"""PPO on a small problem whose best policy is known exactly."""

from dataclasses import replace

import pytest
import torch

from helpers.config import PPOConfig
from helpers.engine.loop import Loop
from helpers.ppo import train
from tests.support.toy import LONGEST, QUESTIONS, Exact, ToyTokenizer, toy_models, toy_prompts

TOY = PPOConfig(
    iterations=50,
    rollout_size=256,
    minibatch_size=128,
    epochs=2,
    lr=1e-2,
    muon_lr=1e-2,
    value_lr=1e-2,
    kl_coef=0.5,
    gamma=1.0,
    lam=0.95,
    value_clip=1.0,
    missing_eos_score=-1.0,
    response_tokens=LONGEST,
    seed=0,
)


def play(config: PPOConfig):
    """PPO on the small problem: the models after training, the exact problem, the history."""
    models = toy_models()
    exact = [Exact(question, models, config) for question in QUESTIONS]
    history = train(models, toy_prompts(), config, ToyTokenizer(), Loop("toy"))
    return models, exact, history


@pytest.fixture(scope="module")
def toy():
    return play(TOY)


def test_the_list_of_responses_is_complete_and_the_optimum_is_one(toy):
    models, exact, _ = toy
    for problem in exact:
        assert problem.ref.exp().sum().item() == pytest.approx(1, abs=1e-5)
        assert problem.logprobs(models.policy).exp().sum().item() == pytest.approx(1, abs=1e-5)
        optimum = problem.optimum()
        assert problem.objective(optimum) == pytest.approx(problem.best())
        for _ in range(5):  # no neighbour is better
            near = (optimum + 0.3 * torch.randn(len(optimum))).log_softmax(0)
            assert problem.objective(near) < problem.best()


def test_ppo_raises_the_reward(toy):
    _, exact, history = toy
    start = sum((problem.ref.exp() * problem.scores).sum().item() for problem in exact) / 2
    assert history[0]["score"] == pytest.approx(start, abs=0.2)
    assert history[-1]["score"] > start + 1


def test_ppo_comes_near_the_best_policy_under_the_kl_penalty(toy):
    models, exact, _ = toy
    for problem in exact:
        best, start = problem.best(), problem.objective(problem.ref)
        reached = problem.objective(problem.logprobs(models.policy))
        print(f"{start:.3f} -> {reached:.3f} of {best:.3f}")
        assert reached <= best + 1e-6
        assert reached > start + 0.96 * (best - start)


def test_a_target_holds_the_kl_wherever_the_coefficient_starts(toy):
    """The target is the KL of the best policy at kl_coef 0.5; at 2 and without control it would
    stay far below.
    """
    _, exact, _ = toy
    target = 0.0
    for problem in exact:
        best = problem.optimum()
        target += (best.exp() * (best - problem.ref)).sum().item() / len(exact)
    ends = {}
    for kl_target in (0.0, target):
        horizon = 3 * TOY.rollout_size
        config = replace(TOY, kl_coef=2.0, kl_target=kl_target, kl_horizon=horizon)
        _, _, history = play(config)
        ends[kl_target] = sum(row["kl"] for row in history[-20:]) / 20
    print(f"target {target:.2f}: {ends}")
    assert history[0]["kl_coef"] == 2.0
    # after the first rollout, whose KL is 0
    assert history[1]["kl_coef"] == pytest.approx(2.0 * (1 - 0.2 / 3))
    assert ends[0.0] < 0.5 * target and ends[target] == pytest.approx(target, rel=0.2)
