"""PPO on a small problem whose best policy is known exactly."""

import copy
from dataclasses import asdict, replace
from itertools import product

import pytest
import torch
from torch import Tensor, nn

from data.tldr.posts import Facts
from helpers.batching import left_pad, right_pad
from helpers.config import PPOConfig
from helpers.engine.loop import Loop
from helpers.model import GPT, GPTConfig, RewardModel
from helpers.ppo import train
from helpers.records import Prompt
from helpers.rollouts import Models
from tests.support.tensors import shaken

# Eight tokens, responses of at most three: every response can be listed, so the best policy under
# the KL penalty is known: pi*(y) = ref(y) exp(score(y) / kl_coef) / Z, with objective kl_coef * log
# Z (Ziegler et al. 2019, section 2.1).

EOS, PAD, LETTERS, LONGEST = 0, 1, (2, 3, 4, 5, 6, 7), 3
TOY_FACTS = asdict(Facts("sister", "hiding", "piano", "May", "Boston", "note", "away", "police"))
QUESTIONS = {"one": [2], "two": [5, 6]}  # of two lengths, so that one is padded


class ToyTokenizer:
    eos_id, pad_id = EOS, PAD

    def encode(self, text: str) -> list[int]:
        return QUESTIONS[text]

    def decode(self, ids: list[int]) -> str:
        return ""


class ToyGPT(GPT):
    """Never predicts a pad, so that its probabilities are those of the sampler."""

    def logits(self, hidden: Tensor) -> Tensor:
        logits = super().logits(hidden).clone()
        logits[..., PAD] = -50.0
        return logits


class ToyReward(nn.Module):
    """A score for each token at each place, depending on the question; it reads the end of text
    too.
    """

    def __init__(self):
        super().__init__()
        table = torch.randn(2, LONGEST, 8, generator=torch.Generator().manual_seed(0))
        self.table = table

    def by_token(self, ids: Tensor, mask: Tensor, _: Tensor | None) -> Tensor:
        question = (ids[:, 1] == QUESTIONS["two"][-1]).long()  # prompts are two tokens wide
        response, real = ids[:, 2:], mask[:, 2:]
        place = torch.arange(response.size(1))
        added = self.table[question[:, None], place, response] * real
        return torch.cat([torch.zeros_like(ids[:, :2]), added], dim=1)


def every_response() -> list[list[int]]:
    ended = [[*letters, EOS] for n in range(LONGEST) for letters in product(LETTERS, repeat=n)]
    return ended + [list(letters) for letters in product(LETTERS, repeat=LONGEST)]


class Exact:
    """All responses to a question, with their scores and reference log-probabilities."""

    def __init__(self, question: str, models: Models, config: PPOConfig):
        self.prompt, self.kl_coef = QUESTIONS[question], config.kl_coef
        self.responses = every_response()
        prompts, mask = left_pad([QUESTIONS["two"], self.prompt], PAD)
        responses, real = right_pad(self.responses, PAD)
        ids = torch.cat([prompts[1:].expand(len(responses), -1), responses], 1)
        scores = models.reward.by_token(
            ids, torch.cat([mask[1:].expand(len(real), -1), real], 1), None
        ).sum(1)
        stopped = torch.tensor([response[-1] == EOS for response in self.responses])
        self.scores = torch.where(stopped, scores, config.missing_eos_score).double()
        self.ref = self.logprobs(models.reference)

    @torch.no_grad()
    def logprobs(self, model: GPT) -> Tensor:
        """Of each whole response, (responses,): a plain forward over each, without padding."""
        found = []
        for response in self.responses:
            logprobs = model(torch.tensor([self.prompt + response]))[0].double().log_softmax(-1)
            before = len(self.prompt) - 1
            found.append(sum(logprobs[before + t, token] for t, token in enumerate(response)))
        return torch.stack(found)

    def objective(self, logprobs: Tensor) -> float:
        """E[score - kl_coef log(pi / ref)], the sum over all responses."""
        return (logprobs.exp() * (self.scores - self.kl_coef * (logprobs - self.ref))).sum().item()

    def optimum(self) -> Tensor:
        """log pi*."""
        return (self.ref + self.scores / self.kl_coef).log_softmax(0)

    def best(self) -> float:
        return self.kl_coef * (self.ref + self.scores / self.kl_coef).logsumexp(0).item()


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
    torch.manual_seed(0)
    gpt = GPTConfig(vocab_size=8, context=8, layers=1, heads=2, channels=32)
    reference = shaken(ToyGPT(gpt), 0.1).requires_grad_(False)
    models = Models(
        copy.deepcopy(reference).requires_grad_(), reference, ToyReward(), RewardModel(GPT(gpt))
    )
    exact = [Exact(question, models, config) for question in QUESTIONS]
    prompts = [Prompt(question, TOY_FACTS) for question in QUESTIONS] * 128
    history = train(models, prompts, config, ToyTokenizer(), Loop("toy"))
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
