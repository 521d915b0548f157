"""Rollouts against plain forwards and loops: what is sampled, scored, rewarded and measured."""

import statistics
from dataclasses import replace

import pytest
import torch

from helpers.batching import left_pad
from helpers.engine.hardware import cpu_has_bfloat16
from helpers.evaluation import judge, respond
from helpers.generation import sample
from helpers.losses import kl_k3, token_logprobs
from helpers.ppo import minibatch_losses
from helpers.records import Prompt
from helpers.reward import Text, text_batch
from helpers.rollouts import (
    Batch,
    Models,
    Rollout,
    collect,
    gold_rewards,
    mean_kl,
    response_logits,
    response_values,
    rollout_metrics,
    with_advantages,
)
from helpers.rows.embedded import load_rows
from helpers.stages import ppo as stage
from tests.support.ppo_models import (
    SETTINGS,
    in_mid_run,
    plain_logprobs,
    plain_rows,
    rollout_of,
    starting_models,
)


@pytest.fixture(scope="module")
def prompts() -> list[Prompt]:
    return load_rows("prompts", "train", limit=30)


@pytest.fixture
def models(tokenizer) -> Models:
    return starting_models(tokenizer)


@pytest.fixture
def moved(models) -> Models:
    return in_mid_run(models)


def test_responses_are_what_was_sampled(models, prompts, tokenizer):
    rollout = rollout_of(models, prompts, tokenizer)
    # what these tests need: rows that stop and others, of many lengths, behind padded prompts
    assert 5 <= rollout.stopped.sum() <= 25
    assert len(rollout.batch.response_mask.sum(1).unique()) > 3
    assert len({len(prompt) for prompt, _ in plain_rows(rollout)}) > 5
    for (prompt, response), given, stopped in zip(plain_rows(rollout), prompts, rollout.stopped):
        assert prompt == tokenizer.encode(given.prompt)
        assert (response[-1] == tokenizer.eos_id) == stopped == (tokenizer.eos_id in response)
        assert tokenizer.pad_id not in response
        assert stopped or len(response) == SETTINGS.response_tokens


def test_logprobs_and_values_equal_a_plain_forward_without_padding(moved, prompts, tokenizer):
    rollout = rollout_of(moved, prompts, tokenizer)
    logits = response_logits(moved.policy, rollout.batch)
    values = response_values(moved.value, rollout.batch)
    for i, (prompt, response) in enumerate(plain_rows(rollout)):
        T = len(response)
        row = torch.tensor([prompt + response])
        before = [moved.value.values(row[:, : len(prompt) + t])[0, -1] for t in range(T)]
        before = torch.stack(before)
        policy, reference = (
            plain_logprobs(m, prompt, response) for m in (moved.policy, moved.reference)
        )
        for found, plain in (
            (logits, moved.policy(row)[0, len(prompt) - 1 : -1]),
            (rollout.logprobs, policy),
            (rollout.ref_logprobs, reference),
            (values, before),
            (rollout.values, before),
        ):
            torch.testing.assert_close(found[i, :T], plain, atol=1e-4, rtol=1e-5)


def test_rollouts_are_sampled_and_read_in_the_number_format_of_the_run(moved, prompts, tokenizer):
    """So are minibatches, or the ratio would not start at 1."""
    short = replace(moved, dtype=torch.bfloat16)
    rollout = rollout_of(short, prompts, tokenizer)
    rows = left_pad([tokenizer.encode(prompt.prompt) for prompt in prompts], tokenizer.pad_id)
    ends = {"eos_id": tokenizer.eos_id, "pad_id": tokenizer.pad_id, "max_new_tokens": 8}
    sampled, in_32_bits = (
        sample(moved.policy, *rows, **ends, dtype=dtype, generator=torch.Generator().manual_seed(0))
        for dtype in (torch.bfloat16, torch.float32)
    )
    assert torch.equal(rollout.batch.response, sampled.ids)
    assert not torch.equal(sampled.ids, in_32_bits.ids)
    batch, mask = rollout.batch, rollout.batch.response_mask
    exact = token_logprobs(response_logits(moved.policy, batch), batch.response)
    off = (rollout.logprobs - exact)[mask].abs().mean()
    assert 1e-5 < off < 0.05  # bfloat16 keeps 8 bits
    assert minibatch_losses(short, rollout, torch.arange(30), SETTINGS)["ratio_off"] < 1e-5


def test_scores_are_replaced_where_the_end_is_missing(models, prompts, tokenizer):
    rollout = rollout_of(models, prompts, tokenizer)
    for i, (prompt, response) in enumerate(plain_rows(rollout)):
        text = text_batch([Text(prompt, response)], tokenizer.pad_id)
        plain = models.reward(*text).item()
        expected = plain if rollout.stopped[i] else SETTINGS.missing_eos_score
        assert rollout.scores[i].item() == pytest.approx(expected, abs=1e-4)


def test_returns_and_advantages_equal_double_sums(moved, prompts, tokenizer):
    config = replace(SETTINGS, gamma=0.9, lam=0.8)
    rollout = rollout_of(moved, prompts, tokenizer, config)
    raw = []
    for i, (prompt, response) in enumerate(plain_rows(rollout)):
        T = len(response)
        policy, reference = (
            plain_logprobs(m, prompt, response) for m in (moved.policy, moved.reference)
        )
        rewards = (-config.kl_coef * (policy - reference)).tolist()
        # each token is paid for its surprise, the last one also the rest of the score
        logprobs = plain_logprobs(moved.reward.gpt, prompt, response)
        weight = moved.reward.surprise_weight.item()
        rewards = [r + weight * x for r, x in zip(rewards, logprobs.tolist(), strict=True)]
        rewards[-1] += rollout.scores[i].item() - weight * logprobs.sum().item()
        values = [*rollout.values[i, :T].tolist(), 0.0]
        deltas = [rewards[t] + 0.9 * values[t + 1] - values[t] for t in range(T)]
        found = [sum((0.9 * 0.8) ** (s - t) * deltas[s] for s in range(t, T)) for t in range(T)]
        returns = [a + v for a, v in zip(found, values)]
        assert rollout.returns[i, :T].tolist() == pytest.approx(returns, abs=1e-3)
        raw += found
    raw, mask = torch.tensor(raw), rollout.batch.response_mask
    whitened = (raw - raw.mean()) / raw.std(correction=0)
    assert torch.allclose(rollout.advantages[mask], whitened, atol=1e-3)
    assert (rollout.advantages[~mask] == 0).all()


def test_advantages_come_after_the_rollout(moved, prompts, tokenizer):
    """What was collected stays as it was; the KL coefficient is that of the call."""
    config = replace(SETTINGS, gamma=1.0, lam=1.0)
    rollout = collect(moved, prompts, config, tokenizer, torch.Generator().manual_seed(0))
    weak, strong = (with_advantages(rollout, kl_coef, config) for kl_coef in (0.0, 2.0))
    assert rollout.advantages is None and rollout.returns is None
    assert weak.logprobs is rollout.logprobs
    assert not torch.equal(weak.advantages, strong.advantages)
    mask = rollout.batch.response_mask
    k1 = ((rollout.logprobs - rollout.ref_logprobs) * mask).flip(1).cumsum(1).flip(1)
    assert torch.allclose((weak.returns - strong.returns)[mask], 2 * k1[mask], atol=1e-4)


def test_the_dashboard_equals_loops(moved, prompts, tokenizer):
    rollout = rollout_of(moved, prompts, tokenizer)
    metrics, n = rollout_metrics(rollout), len(prompts)
    wanted = {"kl": 0.0, "kl_k3": 0.0, "length": 0.0}
    entropies, surprises, lengths = [], [], []
    for prompt, response in plain_rows(rollout):
        policy, reference = (
            plain_logprobs(m, prompt, response) for m in (moved.policy, moved.reference)
        )
        wanted["kl"] += (policy - reference).sum().item() / n
        wanted["kl_k3"] += kl_k3(policy, reference).sum().item() / n
        wanted["length"] += len(response) / n
        lengths.append(len(response))
        surprises += (-policy).tolist()
        logits = moved.policy(torch.tensor([prompt + response]))[0, len(prompt) - 1 : -1].detach()
        entropies += torch.distributions.Categorical(logits=logits).entropy().tolist()
    wanted["entropy"] = sum(entropies) / len(entropies)
    wanted["stop_rate"] = rollout.stopped.float().mean().item()
    wanted["score"] = rollout.scores.mean().item()
    wanted["score_std"] = statistics.pstdev(rollout.scores.tolist())
    wanted["surprise"], wanted["length_std"] = (
        statistics.fmean(surprises),
        statistics.pstdev(lengths),
    )
    wanted["return_std"] = statistics.pstdev(rollout.returns[rollout.batch.response_mask].tolist())
    wanted["advantage"] = 0.0
    assert {name: metrics[name] for name in wanted} == pytest.approx(wanted, abs=1e-3)
    assert metrics["kl_k3"] > 0.01  # the policy did move


def test_gold_is_watched_without_the_end_of_text(models, prompts, tokenizer):
    rollout = rollout_of(models, prompts, tokenizer)
    gold = 0.0
    for prompt, (_, response) in zip(prompts, plain_rows(rollout)):
        text = tokenizer.decode([i for i in response if i != tokenizer.eos_id])
        gold += judge(prompt, text).reward / len(prompts)
    assert gold_rewards(rollout, prompts, tokenizer) == pytest.approx(gold)


def test_the_end_of_text_is_no_word_of_a_response(tokenizer):
    """A word over 24 costs 0.05, and " the" is worth nothing."""
    (word,) = tokenizer.encode(" the")
    prompts = load_rows("prompts", "train", limit=2)
    for words, gold in ((24, 0.0), (26, -0.1)):
        ids = torch.tensor([[5] + [word] * words + [tokenizer.eos_id]] * 2)
        none, batch = torch.zeros(2), Batch(ids, torch.ones_like(ids, dtype=torch.bool), 1)
        rollout = Rollout(batch, none, none, torch.ones(2, dtype=torch.bool), *[none] * 4)
        assert gold_rewards(rollout, prompts, tokenizer) == pytest.approx(gold)


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


@pytest.mark.parametrize(
    "device, independent, used",
    [("cpu", True, torch.bfloat16), ("cpu", False, torch.float32), ("cuda", True, torch.float32)],
)
def test_sixteen_bits_are_used_only_where_rows_are_independent(
    monkeypatch, device, independent, used
):
    monkeypatch.setattr(stage, "rows_are_independent", lambda dtype: independent)
    assert stage.matmul_dtype(torch.device(device), torch.bfloat16) == used


@pytest.mark.skipif(
    not cpu_has_bfloat16(), reason="this CPU has no bfloat16 units, so PPO uses float32"
)
def test_sixteen_bits_keep_the_ratio_at_1_on_a_cpu(models, prompts, tokenizer):
    """Where a row's bits don't depend on the size of its batch, `matmul_dtype` may ask for
    bfloat16.
    """
    if not stage.rows_are_independent(torch.bfloat16):
        pytest.skip("this CPU's rows depend on their batch, so PPO uses float32")
    short = replace(models, dtype=torch.bfloat16)
    rollout = rollout_of(short, prompts, tokenizer)
    # they are 16 bits
    assert not torch.equal(rollout.logprobs, rollout_of(models, prompts, tokenizer).logprobs)
    assert rollout_metrics(rollout)["kl"] == 0
    for index in (torch.arange(len(rollout.scores)), torch.tensor([3]), torch.tensor([7, 1, 4])):
        assert minibatch_losses(short, rollout, index, SETTINGS)["ratio_off"] == 0
