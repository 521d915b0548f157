"""Stage 3: the invariants of the first minibatch, rollouts against loops, and the exact optimum of a small problem."""

import copy
import json
from dataclasses import asdict, replace
from itertools import product

import pytest
import torch
from torch import Tensor, nn

from data.tldr.posts import Facts
from helpers.batching import left_pad
from helpers.config import PPOConfig
from helpers.datasets import Prompt, load_rows, load_tokenizer
from helpers.evaluation import judge, respond
from helpers.losses import kl_k3
from helpers.model import GPT, GPTConfig, RewardModel
from helpers.ppo import (
    Models,
    Rollout,
    check_first_minibatch,
    collect,
    gold_rewards,
    mean_kl,
    measure,
    minibatch_losses,
    response_logits,
    response_values,
    rollout_metrics,
    train,
    update,
)
from helpers.training import Optimizers

SETTINGS = PPOConfig(
    rollout_size=12, minibatch_size=5, epochs=2, iterations=2, response_tokens=8, missing_eos_score=-7.0,
    kl_coef=0.3, lr=1e-3, muon_lr=2e-3, value_lr=1e-3, value_muon_lr=2e-3, eval_prompts=10,
)  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer()


@pytest.fixture(scope="module")
def prompts() -> list[Prompt]:
    return load_rows("prompts", "train", limit=30)


def shaken(module: nn.Module, size: float) -> nn.Module:
    """A copy with noise on every weight."""
    module = copy.deepcopy(module)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += size * torch.randn_like(parameter)
    return module


@pytest.fixture
def models(tokenizer) -> Models:
    """Four tiny models as a run starts with them. Half of the responses stop within 8 tokens."""
    config = GPTConfig(tokenizer.vocab_size, context=160, layers=2, heads=2, channels=16)
    sft = shaken(GPT(config), 0.1)
    with torch.no_grad():
        sft.ln_f.bias[0] = 5.0
        sft.wte.weight[tokenizer.eos_id] = sft.wte.weight[tokenizer.pad_id] = 0.0
        sft.wte.weight[tokenizer.eos_id, 0], sft.wte.weight[tokenizer.pad_id, 0] = 1.5, -1.5
    reward = shaken(RewardModel(GPT(config)), 0.2)
    frozen = sft.requires_grad_(False), reward.requires_grad_(False)
    return Models(copy.deepcopy(sft).requires_grad_(), *frozen, copy.deepcopy(reward).requires_grad_())


@pytest.fixture
def moved(models) -> Models:
    """The same in the middle of a run: policy and value have moved away."""
    return replace(models, policy=shaken(models.policy, 0.05), value=shaken(models.value, 0.05))


def rollout_of(models: Models, prompts, tokenizer, config=SETTINGS, seed: int = 0) -> Rollout:
    ids, mask = left_pad([tokenizer.encode(prompt.prompt) for prompt in prompts], tokenizer.pad_id)
    return collect(models, ids, mask, config, tokenizer, torch.Generator().manual_seed(seed))


def plain_rows(rollout: Rollout) -> list[tuple[list[int], list[int]]]:
    """Prompt and response of each row, without padding."""
    batch = rollout.batch
    return [
        (ids[: batch.P][mask[: batch.P]].tolist(), ids[batch.P :][mask[batch.P :]].tolist())
        for ids, mask in zip(batch.ids, batch.mask)
    ]


@torch.no_grad()
def plain_logprobs(model: GPT, prompt: list[int], response: list[int]) -> Tensor:
    logprobs = model(torch.tensor([prompt + response]))[0].log_softmax(-1)
    return torch.stack([logprobs[len(prompt) + t - 1, token] for t, token in enumerate(response)])


def optimizers_of(models: Models) -> list[Optimizers]:
    return [Optimizers(models.policy, 1e-3, 2e-3), Optimizers(models.value, 1e-3, 2e-3)]


# ---------------------------------------------------------------- the rollout


def test_rollouts_are_of_the_kind_these_tests_need(models, prompts, tokenizer):
    rollout = rollout_of(models, prompts, tokenizer)
    lengths = rollout.batch.response_mask.sum(1)
    assert 5 <= rollout.stopped.sum() <= 25 and len(lengths.unique()) > 3
    assert len({len(prompt) for prompt, _ in plain_rows(rollout)}) > 5  # so that prompts are padded


def test_responses_are_what_was_sampled(models, prompts, tokenizer):
    rollout = rollout_of(models, prompts, tokenizer)
    for (prompt, response), given, stopped in zip(plain_rows(rollout), prompts, rollout.stopped):
        assert prompt == tokenizer.encode(given.prompt)
        assert (response[-1] == tokenizer.eos_id) == stopped == (tokenizer.eos_id in response)
        assert tokenizer.pad_id not in response and (stopped or len(response) == SETTINGS.response_tokens)


def test_the_policy_starts_as_the_reference(models, prompts, tokenizer):
    rollout = rollout_of(models, prompts, tokenizer)
    assert torch.allclose(rollout.logprobs, rollout.ref_logprobs, atol=1e-5)
    metrics = rollout_metrics(rollout)
    assert abs(metrics["kl"]) < 1e-5 and abs(metrics["kl_k3"]) < 1e-5


def test_the_ratio_is_1_in_every_minibatch_before_the_first_step(moved, prompts, tokenizer):
    rollout = rollout_of(moved, prompts, tokenizer)
    for index in torch.randperm(len(prompts)).split(7):
        losses = minibatch_losses(moved, rollout, index, SETTINGS)
        assert losses["ratio_off"] < 1e-5 and losses["clip_fraction"] == 0
        mask = rollout.batch.response_mask[index]
        assert losses["policy"].item() == pytest.approx(-rollout.advantages[index][mask].mean().item(), abs=1e-5)
        error = (rollout.values - rollout.returns)[index][mask]
        assert losses["value"].item() == pytest.approx(0.5 * (error**2).mean().item(), rel=1e-4)


def test_logprobs_and_values_equal_a_plain_forward_without_padding(moved, prompts, tokenizer):
    rollout = rollout_of(moved, prompts, tokenizer)
    logits, values = response_logits(moved.policy, rollout.batch), response_values(moved.value, rollout.batch)
    for i, (prompt, response) in enumerate(plain_rows(rollout)):
        T = len(response)
        plain = moved.policy(torch.tensor([prompt + response]))[0, len(prompt) - 1 : -1]
        assert torch.allclose(logits[i, :T], plain, atol=1e-4)
        assert torch.allclose(rollout.logprobs[i, :T], plain_logprobs(moved.policy, prompt, response), atol=1e-4)
        assert torch.allclose(rollout.ref_logprobs[i, :T], plain_logprobs(moved.reference, prompt, response), atol=1e-4)
        before = [moved.value.values(torch.tensor([prompt + response[:t]]))[0, -1] for t in range(T)]
        assert torch.allclose(values[i, :T], torch.stack(before), atol=1e-4)
        assert torch.allclose(rollout.values[i, :T], torch.stack(before), atol=1e-4)


def test_scores_are_the_reward_models_and_replaced_where_the_end_is_missing(models, prompts, tokenizer):
    rollout = rollout_of(models, prompts, tokenizer)
    for score, stopped, (prompt, response) in zip(rollout.scores, rollout.stopped, plain_rows(rollout)):
        plain = models.reward.values(torch.tensor([prompt + response]))[0, -1].item()
        assert score.item() == pytest.approx(plain if stopped else SETTINGS.missing_eos_score, abs=1e-4)


def test_the_score_lands_on_the_last_real_token(models, prompts, tokenizer):
    """With gamma = lambda = 1 and no KL yet, what follows each token is the score: earlier or later it would be 0."""
    rollout = rollout_of(models, prompts, tokenizer, replace(SETTINGS, gamma=1.0, lam=1.0))
    mask = rollout.batch.response_mask
    expected = torch.where(mask, rollout.scores[:, None], 0.0)
    assert torch.allclose(rollout.returns, expected, atol=1e-4)
    # with gamma = 0 only the token that the score lands on sees it
    rollout = rollout_of(models, prompts, tokenizer, replace(SETTINGS, gamma=0.0))
    last = mask & (mask.cumsum(1) == mask.sum(1, keepdim=True))
    assert torch.allclose(rollout.returns, torch.where(last, rollout.scores[:, None], 0.0), atol=1e-4)


def test_returns_and_advantages_equal_double_sums(moved, prompts, tokenizer):
    config = replace(SETTINGS, gamma=0.9, lam=0.8)
    rollout = rollout_of(moved, prompts, tokenizer, config)
    raw = []
    for i, (prompt, response) in enumerate(plain_rows(rollout)):
        T = len(response)
        k1 = plain_logprobs(moved.policy, prompt, response) - plain_logprobs(moved.reference, prompt, response)
        rewards = (-config.kl_coef * k1).tolist()
        rewards[-1] += rollout.scores[i].item()
        values = [*rollout.values[i, :T].tolist(), 0.0]
        deltas = [rewards[t] + 0.9 * values[t + 1] - values[t] for t in range(T)]
        advantages = [sum((0.9 * 0.8) ** (s - t) * deltas[s] for s in range(t, T)) for t in range(T)]
        assert rollout.returns[i, :T].tolist() == pytest.approx([a + v for a, v in zip(advantages, values)], abs=1e-3)
        raw += advantages
    raw = torch.tensor(raw)
    whitened = (raw - raw.mean()) / raw.std(correction=0)
    assert torch.allclose(rollout.advantages[rollout.batch.response_mask], whitened, atol=1e-3)


def test_advantages_are_whitened_over_the_whole_rollout(moved, prompts, tokenizer):
    rollout = rollout_of(moved, prompts, tokenizer)
    mask = rollout.batch.response_mask
    real = rollout.advantages[mask]
    assert real.mean().item() == pytest.approx(0, abs=1e-5)
    assert real.std(correction=0).item() == pytest.approx(1, abs=1e-3)
    assert (rollout.advantages[~mask] == 0).all()


def test_the_dashboard_equals_loops(moved, prompts, tokenizer):
    rollout = rollout_of(moved, prompts, tokenizer)
    metrics = rollout_metrics(rollout)
    k1s, k3s, entropies, lengths = [], [], [], []
    for prompt, response in plain_rows(rollout):
        policy, reference = (plain_logprobs(m, prompt, response) for m in (moved.policy, moved.reference))
        k1s.append((policy - reference).sum().item())
        k3s.append(kl_k3(policy, reference).sum().item())
        logprobs = moved.policy(torch.tensor([prompt + response]))[0, len(prompt) - 1 : -1].log_softmax(-1).detach()
        entropies += (-(logprobs.exp() * logprobs).sum(-1)).tolist()
        lengths.append(len(response))
    n = len(prompts)
    assert metrics["kl"] == pytest.approx(sum(k1s) / n, abs=1e-3)
    assert metrics["kl_k3"] == pytest.approx(sum(k3s) / n, abs=1e-3)
    assert metrics["kl_k3"] > 0.01  # the policy did move
    assert metrics["entropy"] == pytest.approx(sum(entropies) / len(entropies), abs=1e-3)
    assert metrics["length"] == pytest.approx(sum(lengths) / n)
    assert metrics["stop_rate"] == pytest.approx(rollout.stopped.float().mean().item())
    assert metrics["score"] == pytest.approx(rollout.scores.mean().item())


def test_gold_is_watched_without_the_end_of_text(models, prompts, tokenizer):
    rollout = rollout_of(models, prompts, tokenizer)
    texts = [tokenizer.decode([i for i in response if i != tokenizer.eos_id]) for _, response in plain_rows(rollout)]
    expected = sum(judge(prompt, text).reward for prompt, text in zip(prompts, texts)) / len(prompts)
    assert gold_rewards(rollout, prompts, tokenizer) == pytest.approx(expected)


# ---------------------------------------------------------------- the update


def weights(model: nn.Module) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in model.parameters()]


def test_an_update_moves_policy_and_value_and_nothing_else(models, prompts, tokenizer):
    before = {name: weights(getattr(models, name)) for name in ("policy", "reference", "reward", "value")}
    rollout = rollout_of(models, prompts, tokenizer)
    update(models, rollout, optimizers_of(models), SETTINGS, torch.Generator().manual_seed(0), 1.0)
    for name, old in before.items():
        same = [torch.equal(a, b) for a, b in zip(old, getattr(models, name).parameters())]
        assert all(same) if name in ("reference", "reward") else not any(same), name


def test_the_value_loss_does_not_reach_the_policy_nor_the_policy_loss_the_value(models, prompts, tokenizer):
    rollout = rollout_of(models, prompts, tokenizer)
    for loss, trained, other in (("policy", "policy", "value"), ("value", "value", "policy")):
        minibatch_losses(models, rollout, torch.arange(6), SETTINGS)[loss].backward()
        assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in getattr(models, trained).parameters())
        assert all(p.grad is None for p in getattr(models, other).parameters())
        getattr(models, trained).zero_grad()


def test_an_update_makes_good_tokens_likelier_and_values_better(models, prompts, tokenizer):
    rollout = rollout_of(models, prompts, tokenizer)
    config = replace(SETTINGS, epochs=4, minibatch_size=30, value_clip=1e9)
    update(models, rollout, optimizers_of(models), config, torch.Generator().manual_seed(0), 1.0)
    mask = rollout.batch.response_mask
    with torch.no_grad():
        logprobs = response_logits(models.policy, rollout.batch).log_softmax(-1)
        moved = logprobs.gather(-1, rollout.batch.response[..., None]).squeeze(-1) - rollout.logprobs
        values = response_values(models.value, rollout.batch)
    assert (moved * rollout.advantages)[mask].mean() > 1e-3
    error, old_error = ((v - rollout.returns)[mask].square().mean() for v in (values, rollout.values))
    assert error < old_error


def test_later_passes_see_ratios_and_the_first_does_not(models, prompts, tokenizer):
    rollout = rollout_of(models, prompts, tokenizer)
    metrics = update(models, rollout, optimizers_of(models), SETTINGS, torch.Generator().manual_seed(0), 1.0)
    assert metrics["first"]["ratio_off"] < 1e-5 < metrics["ratio_off"]


def test_a_broken_start_is_noticed():
    check_first_minibatch({"kl": 5e-6}, {"ratio_off": 5e-6})
    with pytest.raises(AssertionError, match="KL is -0.5 at step 0"):
        check_first_minibatch({"kl": -0.5}, {"ratio_off": 0.0})
    with pytest.raises(AssertionError, match="ratio is off by 0.01"):
        check_first_minibatch({"kl": 0.0}, {"ratio_off": 0.01})


def test_training_is_deterministic_and_logged(models, prompts, tokenizer, tmp_path, capsys):
    runs = []
    for run in range(2):
        own = Models(copy.deepcopy(models.policy), models.reference, models.reward, copy.deepcopy(models.value))
        seen: list[int] = []
        history = train(own, prompts, SETTINGS, tokenizer, tmp_path / f"{run}.jsonl", lambda h: seen.append(len(h)))  # noqa: B023
        assert seen == [1, 2]
        logged = [json.loads(line) for line in (tmp_path / f"{run}.jsonl").read_text(encoding="utf-8").splitlines()]
        assert logged == history
        runs.append((history, weights(own.policy), weights(own.value)))
    assert runs[0][0] == runs[1][0]
    for part in (1, 2):
        assert all(torch.equal(a, b) for a, b in zip(runs[0][part], runs[1][part]))
    names = {"score", "gold", "kl", "entropy", "clip_fraction", "explained_variance", "length", "stop_rate"}
    assert names <= runs[0][0][0].keys()
    other = Models(copy.deepcopy(models.policy), models.reference, models.reward, copy.deepcopy(models.value))
    assert train(other, prompts, replace(SETTINGS, seed=1), tokenizer) != runs[0][0]


# ---------------------------------------------------------------- measuring


def test_mean_kl_equals_a_loop(moved, prompts, tokenizer):
    responses = respond(moved.policy, tokenizer, prompts, max_new_tokens=8)
    total = 0.0
    for prompt, response in zip(prompts, responses.ids):
        row = tokenizer.encode(prompt.prompt)
        policy, reference = (plain_logprobs(m, row, response) for m in (moved.policy, moved.reference))
        total += (policy - reference).sum().item()
    kl = mean_kl(moved.policy, moved.reference, tokenizer, responses, batch_size=7)
    assert kl == pytest.approx(total / len(prompts), abs=1e-3) and abs(kl) > 0.01
    assert mean_kl(moved.reference, moved.reference, tokenizer, responses) == 0


def test_measure_compares_with_sft_on_the_same_prompts(models, moved, prompts, tokenizer):
    metrics, both = measure(models, tokenizer, prompts, SETTINGS)
    assert both["PPO"].ids == both["SFT"].ids  # the same model, seed and prompts
    assert metrics["gold_reward"] == metrics["sft_gold_reward"] and metrics["gold_gain_ci95"] == [0.0, 0.0]
    assert metrics["kl"] == 0 and metrics["flaws"] == metrics["sft_flaws"]
    metrics, both = measure(moved, tokenizer, prompts, SETTINGS)
    assert both["PPO"].ids != both["SFT"].ids and metrics["kl"] != 0
    gain = both["PPO"].gold.mean() - both["SFT"].gold.mean()
    low, high = metrics["gold_gain_ci95"]
    assert low <= gain <= high
    assert metrics["gold_reward"] - metrics["sft_gold_reward"] == pytest.approx(gain.item(), abs=1e-5)
    needed = {"gold_reward", "sft_gold_reward", "gold_gain_ci95", "score", "kl", "stop_rate", "flaws", "sft_flaws"}
    assert needed <= metrics.keys()


# ---------------------------------------------------------------- the exact optimum of a small problem
# Eight tokens, responses of at most three: every response can be listed, so the best policy under the KL penalty is
# known: pi*(y) = ref(y) exp(score(y) / kl_coef) / Z, with objective kl_coef * log Z (Ziegler et al. 2019, section 2.1).

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
    """A score for each token at each place, depending on the question; it reads the end of text too."""

    def __init__(self):
        super().__init__()
        table = torch.randn(2, LONGEST, 8, generator=torch.Generator().manual_seed(0))
        self.table = table

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        question = (ids[:, 1] == QUESTIONS["two"][-1]).long()  # prompts are two tokens wide
        response, real = ids[:, 2:], mask[:, 2:]
        place = torch.arange(response.size(1))
        return (self.table[question[:, None], place, response] * real).sum(1)


def every_response() -> list[list[int]]:
    ended = [[*letters, EOS] for n in range(LONGEST) for letters in product(LETTERS, repeat=n)]
    return ended + [list(letters) for letters in product(LETTERS, repeat=LONGEST)]


class Exact:
    """All responses to a question, with their scores and reference log-probabilities."""

    def __init__(self, question: str, models: Models, config: PPOConfig):
        self.prompt, self.kl_coef, self.responses = QUESTIONS[question], config.kl_coef, every_response()
        rows = [[PAD] * (2 - len(self.prompt)) + self.prompt + response for response in self.responses]
        width = 2 + LONGEST
        ids = torch.tensor([row + [PAD] * (width - len(row)) for row in rows])
        scores = models.reward(ids, ids != PAD)
        stopped = torch.tensor([response[-1] == EOS for response in self.responses])
        self.scores = torch.where(stopped, scores, config.missing_eos_score).double()
        self.ref = self.logprobs(models.reference)

    @torch.no_grad()
    def logprobs(self, model: GPT) -> Tensor:
        return torch.stack([plain_logprobs(model, self.prompt, r).double().sum() for r in self.responses])

    def objective(self, logprobs: Tensor) -> float:
        """E[score - kl_coef log(pi / ref)], the sum over all responses."""
        return (logprobs.exp() * (self.scores - self.kl_coef * (logprobs - self.ref))).sum().item()

    def optimum(self) -> Tensor:
        """log pi*."""
        return (self.ref + self.scores / self.kl_coef).log_softmax(0)

    def best(self) -> float:
        return self.kl_coef * (self.ref + self.scores / self.kl_coef).logsumexp(0).item()


TOY = PPOConfig(
    iterations=50, rollout_size=256, minibatch_size=128, epochs=2, lr=1e-2, muon_lr=1e-2, value_lr=1e-2,
    value_muon_lr=1e-2, kl_coef=0.5, gamma=1.0, lam=0.95, value_clip=1.0, missing_eos_score=-1.0,
    response_tokens=LONGEST, seed=0,
)  # fmt: skip


@pytest.fixture(scope="module")
def toy():
    """PPO on the small problem: the models after training, the exact problem, the history."""
    torch.manual_seed(0)
    config = GPTConfig(vocab_size=8, context=8, layers=1, heads=2, channels=32)
    reference = ToyGPT(config)
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    reference.requires_grad_(False)
    models = Models(copy.deepcopy(reference).requires_grad_(), reference, ToyReward(), RewardModel(GPT(config)))
    exact = [Exact(question, models, TOY) for question in QUESTIONS]
    prompts = [Prompt(question, TOY_FACTS) for question in QUESTIONS] * 128
    history = train(models, prompts, TOY, ToyTokenizer())
    return models, exact, history


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
