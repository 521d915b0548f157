"""Stage 3: the invariants of the first minibatch, rollouts against loops."""

import copy
import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from helpers import ppo_models
from helpers.batching import left_pad
from helpers.config import PPOConfig
from helpers.engine.hardware import cpu_has_bfloat16
from helpers.engine.snapshots import Keeper
from helpers.evaluation import judge, respond
from helpers.losses import kl_k3
from helpers.model import GPT, GPTConfig, RewardModel
from helpers.ppo import check_first_minibatch, minibatch_losses, train, update
from helpers.records import Prompt
from helpers.rollouts import (
    Models,
    Rollout,
    collect,
    gold_rewards,
    mean_kl,
    response_logits,
    response_values,
    rollout_metrics,
)
from helpers.rows.embedded import load_rows, load_tokenizer
from helpers.stages.ppo import measure
from helpers.training import Optimizers

SETTINGS = PPOConfig(
    rollout_size=12,
    minibatch_size=5,
    epochs=2,
    iterations=2,
    response_tokens=8,
    missing_eos_score=-7.0,
    kl_coef=0.3,
    lr=1e-3,
    muon_lr=2e-3,
    value_lr=1e-3,
    eval_prompts=10,
)


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
    return Models(
        copy.deepcopy(sft).requires_grad_(), *frozen, copy.deepcopy(reward).requires_grad_()
    )


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
        assert tokenizer.pad_id not in response and (
            stopped or len(response) == SETTINGS.response_tokens
        )


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
        assert losses["policy"].item() == pytest.approx(
            -rollout.advantages[index][mask].mean().item(), abs=1e-5
        )
        error = (rollout.values - rollout.returns)[index][mask]
        assert losses["value"].item() == pytest.approx(0.5 * (error**2).mean().item(), rel=1e-4)


@pytest.mark.parametrize(
    "device, independent, used",
    [("cpu", True, torch.bfloat16), ("cpu", False, torch.float32), ("cuda", True, torch.float32)],
)
def test_sixteen_bits_are_used_only_where_rows_are_independent(
    monkeypatch, device, independent, used
):
    monkeypatch.setattr(ppo_models, "rows_are_independent", lambda dtype: independent)
    assert ppo_models.products_dtype(SimpleNamespace(device=device, dtype=torch.bfloat16)) == used


@pytest.mark.skipif(
    not cpu_has_bfloat16(), reason="this CPU has no bfloat16 units, so PPO uses float32"
)
def test_sixteen_bits_keep_the_ratio_at_1_on_a_cpu(models, prompts, tokenizer):
    """Where a row's bits don't depend on the size of its batch, `products_dtype` may ask for
    bfloat16.
    """
    if not ppo_models.rows_are_independent(torch.bfloat16):
        pytest.skip("this CPU's rows depend on their batch, so PPO uses float32")
    short = replace(models, dtype=torch.bfloat16)
    rollout = rollout_of(short, prompts, tokenizer)
    assert not torch.equal(
        rollout.logprobs, rollout_of(models, prompts, tokenizer).logprobs
    )  # they are 16 bits
    assert rollout_metrics(rollout)["kl"] == 0
    for index in (torch.arange(len(rollout.scores)), torch.tensor([3]), torch.tensor([7, 1, 4])):
        assert minibatch_losses(short, rollout, index, SETTINGS)["ratio_off"] == 0


def test_logprobs_and_values_equal_a_plain_forward_without_padding(moved, prompts, tokenizer):
    rollout = rollout_of(moved, prompts, tokenizer)
    logits, values = (
        response_logits(moved.policy, rollout.batch),
        response_values(moved.value, rollout.batch),
    )
    for i, (prompt, response) in enumerate(plain_rows(rollout)):
        T = len(response)
        plain = moved.policy(torch.tensor([prompt + response]))[0, len(prompt) - 1 : -1]
        assert torch.allclose(logits[i, :T], plain, atol=1e-4)
        assert torch.allclose(
            rollout.logprobs[i, :T], plain_logprobs(moved.policy, prompt, response), atol=1e-4
        )
        assert torch.allclose(
            rollout.ref_logprobs[i, :T],
            plain_logprobs(moved.reference, prompt, response),
            atol=1e-4,
        )
        before = [
            moved.value.values(torch.tensor([prompt + response[:t]]))[0, -1] for t in range(T)
        ]
        assert torch.allclose(values[i, :T], torch.stack(before), atol=1e-4)
        assert torch.allclose(rollout.values[i, :T], torch.stack(before), atol=1e-4)


def test_scores_are_the_reward_models_and_replaced_where_the_end_is_missing(
    models, prompts, tokenizer
):
    rollout = rollout_of(models, prompts, tokenizer)
    for score, stopped, (prompt, response) in zip(
        rollout.scores, rollout.stopped, plain_rows(rollout)
    ):
        plain = models.reward.values(torch.tensor([prompt + response]))[0, -1].item()
        assert score.item() == pytest.approx(
            plain if stopped else SETTINGS.missing_eos_score, abs=1e-4
        )


def test_the_score_lands_on_the_last_real_token(models, prompts, tokenizer):
    """With gamma = lambda = 1 and no KL yet, what follows each token is the score: earlier or later
    it would be 0.
    """
    rollout = rollout_of(models, prompts, tokenizer, replace(SETTINGS, gamma=1.0, lam=1.0))
    mask = rollout.batch.response_mask
    expected = torch.where(mask, rollout.scores[:, None], 0.0)
    assert torch.allclose(rollout.returns, expected, atol=1e-4)
    # with gamma = 0 only the token that the score lands on sees it
    rollout = rollout_of(models, prompts, tokenizer, replace(SETTINGS, gamma=0.0))
    last = mask & (mask.cumsum(1) == mask.sum(1, keepdim=True))
    assert torch.allclose(
        rollout.returns, torch.where(last, rollout.scores[:, None], 0.0), atol=1e-4
    )


def test_returns_and_advantages_equal_double_sums(moved, prompts, tokenizer):
    config = replace(SETTINGS, gamma=0.9, lam=0.8)
    rollout = rollout_of(moved, prompts, tokenizer, config)
    raw = []
    for i, (prompt, response) in enumerate(plain_rows(rollout)):
        T = len(response)
        k1 = plain_logprobs(moved.policy, prompt, response) - plain_logprobs(
            moved.reference, prompt, response
        )
        rewards = (-config.kl_coef * k1).tolist()
        rewards[-1] += rollout.scores[i].item()
        values = [*rollout.values[i, :T].tolist(), 0.0]
        deltas = [rewards[t] + 0.9 * values[t + 1] - values[t] for t in range(T)]
        advantages = [
            sum((0.9 * 0.8) ** (s - t) * deltas[s] for s in range(t, T)) for t in range(T)
        ]
        assert rollout.returns[i, :T].tolist() == pytest.approx(
            [a + v for a, v in zip(advantages, values)], abs=1e-3
        )
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
        policy, reference = (
            plain_logprobs(m, prompt, response) for m in (moved.policy, moved.reference)
        )
        k1s.append((policy - reference).sum().item())
        k3s.append(kl_k3(policy, reference).sum().item())
        logprobs = (
            moved.policy(torch.tensor([prompt + response]))[0, len(prompt) - 1 : -1]
            .log_softmax(-1)
            .detach()
        )
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
    texts = [
        tokenizer.decode([i for i in response if i != tokenizer.eos_id])
        for _, response in plain_rows(rollout)
    ]
    expected = sum(judge(prompt, text).reward for prompt, text in zip(prompts, texts)) / len(
        prompts
    )
    assert gold_rewards(rollout, prompts, tokenizer) == pytest.approx(expected)


# ---------------------------------------------------------------- the update


def weights(model: nn.Module) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in model.parameters()]


def test_an_update_moves_policy_and_value_and_nothing_else(models, prompts, tokenizer):
    before = {
        name: weights(getattr(models, name)) for name in ("policy", "reference", "reward", "value")
    }
    rollout = rollout_of(models, prompts, tokenizer)
    update(models, rollout, optimizers_of(models), SETTINGS, torch.Generator().manual_seed(0), 1.0)
    for name, old in before.items():
        same = [torch.equal(a, b) for a, b in zip(old, getattr(models, name).parameters())]
        assert all(same) if name in ("reference", "reward") else not any(same), name


def test_the_value_loss_does_not_reach_the_policy_nor_the_policy_loss_the_value(
    models, prompts, tokenizer
):
    rollout = rollout_of(models, prompts, tokenizer)
    for loss, trained, other in (("policy", "policy", "value"), ("value", "value", "policy")):
        minibatch_losses(models, rollout, torch.arange(6), SETTINGS)[loss].backward()
        assert any(
            p.grad is not None and p.grad.abs().sum() > 0
            for p in getattr(models, trained).parameters()
        )
        assert all(p.grad is None for p in getattr(models, other).parameters())
        getattr(models, trained).zero_grad()


def test_an_update_makes_good_tokens_likelier_and_values_better(models, prompts, tokenizer):
    rollout = rollout_of(models, prompts, tokenizer)
    config = replace(SETTINGS, epochs=4, minibatch_size=30, value_clip=1e9)
    update(models, rollout, optimizers_of(models), config, torch.Generator().manual_seed(0), 1.0)
    mask = rollout.batch.response_mask
    with torch.no_grad():
        logprobs = response_logits(models.policy, rollout.batch).log_softmax(-1)
        moved = (
            logprobs.gather(-1, rollout.batch.response[..., None]).squeeze(-1) - rollout.logprobs
        )
        values = response_values(models.value, rollout.batch)
    assert (moved * rollout.advantages)[mask].mean() > 1e-3
    error, old_error = (
        (v - rollout.returns)[mask].square().mean() for v in (values, rollout.values)
    )
    assert error < old_error


def test_later_passes_see_ratios_and_the_first_does_not(models, prompts, tokenizer):
    rollout = rollout_of(models, prompts, tokenizer)
    metrics = update(
        models, rollout, optimizers_of(models), SETTINGS, torch.Generator().manual_seed(0), 1.0
    )
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
        own = Models(
            copy.deepcopy(models.policy),
            models.reference,
            models.reward,
            copy.deepcopy(models.value),
        )
        seen: list[int] = []
        keeper = Keeper(tmp_path / f"{run}.jsonl", tmp_path / f"{run}")
        history = train(own, prompts, SETTINGS, tokenizer, keeper, lambda h: seen.append(len(h)))  # noqa: B023
        assert seen == [1, 2]
        logged = [
            json.loads(line)
            for line in (tmp_path / f"{run}.jsonl").read_text(encoding="utf-8").splitlines()
        ]
        assert logged == history
        runs.append((history, weights(own.policy), weights(own.value)))
    assert runs[0][0] == runs[1][0]
    for part in (1, 2):
        assert all(torch.equal(a, b) for a, b in zip(runs[0][part], runs[1][part]))
    names = {
        "score",
        "gold",
        "kl",
        "entropy",
        "clip_fraction",
        "explained_variance",
        "length",
        "stop_rate",
    }
    assert names <= runs[0][0][0].keys()
    other = Models(
        copy.deepcopy(models.policy), models.reference, models.reward, copy.deepcopy(models.value)
    )
    assert train(other, prompts, replace(SETTINGS, seed=1), tokenizer) != runs[0][0]


# ---------------------------------------------------------------- measuring


def test_mean_kl_equals_a_loop(moved, prompts, tokenizer):
    responses = respond(moved.policy, tokenizer, prompts, max_new_tokens=8)
    total = 0.0
    for prompt, response in zip(prompts, responses.ids):
        row = tokenizer.encode(prompt.prompt)
        policy, reference = (
            plain_logprobs(m, row, response) for m in (moved.policy, moved.reference)
        )
        total += (policy - reference).sum().item()
    kl = mean_kl(moved.policy, moved.reference, tokenizer, responses, batch_size=7)
    assert kl == pytest.approx(total / len(prompts), abs=1e-3) and abs(kl) > 0.01
    assert mean_kl(moved.reference, moved.reference, tokenizer, responses) == 0


def test_measure_compares_with_sft_on_the_same_prompts(models, moved, prompts, tokenizer):
    metrics, both = measure(models, tokenizer, prompts, SETTINGS)
    assert both["PPO"].ids == both["SFT"].ids  # the same model, seed and prompts
    assert metrics["gold_reward"] == metrics["sft_gold_reward"] and metrics["gold_gain_ci95"] == [
        0.0,
        0.0,
    ]
    assert metrics["kl"] == 0 and metrics["flaws"] == metrics["sft_flaws"]
    metrics, both = measure(moved, tokenizer, prompts, SETTINGS)
    assert both["PPO"].ids != both["SFT"].ids and metrics["kl"] != 0
    gain = both["PPO"].gold.mean() - both["SFT"].gold.mean()
    low, high = metrics["gold_gain_ci95"]
    assert low <= gain <= high
    assert metrics["gold_reward"] - metrics["sft_gold_reward"] == pytest.approx(
        gain.item(), abs=1e-5
    )
    needed = {
        "gold_reward",
        "sft_gold_reward",
        "gold_gain_ci95",
        "score",
        "kl",
        "stop_rate",
        "flaws",
        "sft_flaws",
    }
    assert needed <= metrics.keys()
