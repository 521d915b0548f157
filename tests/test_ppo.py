"""Stage 3: the invariants of the first minibatch, rollouts against loops, the KL controller."""

import copy
import json
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from helpers import ppo
from helpers.config import PPOConfig
from helpers.engine.hardware import cpu_has_bfloat16
from helpers.engine.loop import Loop
from helpers.engine.snapshots import Keeper
from helpers.evaluation import judge, respond
from helpers.losses import kl_k3, missing_eos_scores
from helpers.model import GPT, GPTConfig, RewardModel
from helpers.ppo import (
    KLController,
    check_first_minibatch,
    choose_prompts,
    iteration_metrics,
    minibatch_losses,
    minibatches,
    start_training,
    train,
)
from helpers.records import Prompt
from helpers.reward import score_responses
from helpers.rollouts import (
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
from helpers.rows.embedded import load_rows, load_tokenizer
from helpers.stages import ppo as stage
from tests.support.courses import course_in

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
    """Collected, with advantages."""
    generator = torch.Generator().manual_seed(seed)
    rollout = collect(models, prompts, config, tokenizer, generator)
    return with_advantages(rollout, config.kl_coef, config)


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


def test_advantages_come_after_the_rollout(moved, prompts, tokenizer):
    """What was collected stays as it was; the KL coefficient is that of the call."""
    generator = torch.Generator().manual_seed(0)
    rollout = collect(moved, prompts, SETTINGS, tokenizer, generator)
    assert rollout.advantages is None and rollout.returns is None
    weak, strong = (with_advantages(rollout, kl_coef, SETTINGS) for kl_coef in (0.0, 2.0))
    assert weak.logprobs is rollout.logprobs and rollout.returns is None
    mask = rollout.batch.response_mask
    k1 = ((rollout.logprobs - rollout.ref_logprobs) * mask).flip(1).cumsum(1).flip(1)
    free = replace(SETTINGS, gamma=1.0, lam=1.0)
    without, with_ = (with_advantages(rollout, c, free).returns for c in (0.0, 2.0))
    assert torch.allclose((without - with_)[mask], 2 * k1[mask], atol=1e-4)
    assert not torch.equal(weak.advantages, strong.advantages)
    assert (strong.advantages[~mask] == 0).all()


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


# ---------------------------------------------------------------- minibatches


def test_each_pass_sees_every_row_once_in_a_new_order():
    config = replace(SETTINGS, epochs=3, minibatch_size=5)
    rng = torch.Generator().manual_seed(0)
    found = [index.tolist() for index in minibatches(12, config, rng)]
    assert [len(index) for index in found] == [5, 5, 2] * 3
    passes = [sum(found[i : i + 3], []) for i in (0, 3, 6)]
    assert all(sorted(rows) == list(range(12)) for rows in passes)
    assert passes[0] != passes[1] != passes[2] and passes[0] != list(range(12))


def test_prompts_are_chosen_at_random_without_repeats(prompts):
    rng = torch.Generator().manual_seed(0)
    first, second = (choose_prompts(prompts, 12, rng) for _ in range(2))
    assert len(first) == 12 == len({prompt.prompt for prompt in first}) and first != second
    assert all(prompt in prompts for prompt in first)
    assert choose_prompts(prompts, 12, torch.Generator().manual_seed(0)) == first


def test_a_run_starts_with_what_the_settings_say(models):
    config = replace(SETTINGS, kl_target=2.0, kl_horizon=100, seed=3)
    run = start_training(models, config)
    assert run.policy_optimizer.peak_lrs == [1e-3, 2e-3] and run.value_optimizer.peak_lrs[0] == 1e-3
    assert len(run.policy_optimizer.optimizers) == 2 and len(run.value_optimizer.optimizers) == 1
    controller = run.kl_controller
    assert (controller.kl_coef, controller.target, controller.horizon) == (0.3, 2.0, 100)
    assert run.prompt_rng.initial_seed() == run.token_rng.initial_seed() == 3
    lora = start_training(models, replace(config, adapter="lora", adapter_lr=5e-3))
    assert lora.policy_optimizer.peak_lrs == [5e-3, 0.0]


@pytest.mark.parametrize("sizes", [{"rollout_size": 10}, {"minibatch_size": 5}])
def test_processes_that_cannot_share_evenly_are_refused(models, sizes, monkeypatch):
    monkeypatch.setattr(ppo, "world", lambda: 4)
    config = replace(SETTINGS, rollout_size=12, minibatch_size=4)
    start_training(models, config)
    with pytest.raises(ValueError, match="4 processes can't share .* take multiples of 4"):
        start_training(models, replace(config, **sizes))


# ---------------------------------------------------------------- the loop


def weights(model: nn.Module) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in model.parameters()]


def own(models: Models) -> Models:
    """Policy and value to train on, with the others as they are."""
    return replace(models, policy=copy.deepcopy(models.policy), value=copy.deepcopy(models.value))


def test_training_moves_policy_and_value_and_nothing_else(models, prompts, tokenizer, capsys):
    names = ("policy", "reference", "reward", "value")
    before = {name: weights(getattr(models, name)) for name in names}
    train(models, prompts, replace(SETTINGS, iterations=1), tokenizer, Loop("toy"))
    for name, old in before.items():
        same = [torch.equal(a, b) for a, b in zip(old, getattr(models, name).parameters())]
        assert all(same) if name in ("reference", "reward") else not any(same), name


def test_one_iteration_by_hand(models, prompts, tokenizer, capsys):
    """The same prompts, tokens, minibatches, losses and updates, written out for AdamW."""
    config = replace(SETTINGS, iterations=1, muon_lr=0.0)
    twin, found = own(models), own(models)
    (row,) = train(found, prompts, config, tokenizer, Loop("toy"))
    rng, tokens = (torch.Generator().manual_seed(config.seed) for _ in range(2))
    chosen = [prompts[i] for i in torch.randperm(len(prompts), generator=rng)[:12].tolist()]
    rollout = with_advantages(
        collect(twin, chosen, config, tokenizer, tokens), config.kl_coef, config
    )
    betas = {"betas": (0.9, 0.95), "weight_decay": 0.0, "lr": 1e-3}
    steps = [torch.optim.AdamW(m.parameters(), **betas) for m in (twin.policy, twin.value)]
    seen = []
    for _ in range(config.epochs):
        for index in torch.randperm(12, generator=rng).split(5):
            losses = minibatch_losses(twin, rollout, index, config)
            for name, model, step in zip(("policy", "value"), (twin.policy, twin.value), steps):
                losses[name].backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                step.step()
                step.zero_grad()
            seen.append(losses)
    for name in ("policy", "value"):
        for a, b in zip(weights(getattr(found, name)), weights(getattr(twin, name))):
            # of 6e-3: a key bias has no gradient
            torch.testing.assert_close(a, b, atol=2e-4, rtol=0)
    assert len(seen) == 6
    for name, key in (("value_loss", "value"), ("clip_fraction", "clip_fraction")):
        mean = sum(losses[key].item() for losses in seen) / 6
        assert row[name] == pytest.approx(mean, rel=1e-3, abs=1e-6)


def test_the_rate_falls_to_zero_in_a_straight_line(models, prompts, tokenizer, monkeypatch, capsys):
    factors, step = [], ppo.Optimizers.step

    def spy(self, factor=1.0, clip=1.0):
        factors.append(factor)
        return step(self, factor, clip)

    monkeypatch.setattr(ppo.Optimizers, "step", spy)
    config = replace(SETTINGS, iterations=4, minibatch_size=12, epochs=1)
    train(models, prompts, config, tokenizer, Loop("toy"))
    assert factors == [1.0, 1.0, 0.75, 0.75, 0.5, 0.5, 0.25, 0.25]  # of policy and value


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


def test_training_makes_good_tokens_likelier_and_values_better(models, prompts, tokenizer, capsys):
    config = replace(
        SETTINGS, iterations=1, epochs=4, rollout_size=30, minibatch_size=30, value_clip=1e9
    )
    chosen = choose_prompts(prompts, 30, torch.Generator().manual_seed(0))
    rollout = rollout_of(models, chosen, tokenizer, config)  # the very one that it learns from
    train(models, prompts, config, tokenizer, Loop("toy"))
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


def test_a_broken_start_is_noticed():
    check_first_minibatch({"kl": 5e-6}, {"ratio_off": 5e-6})
    with pytest.raises(AssertionError, match="KL is -0.5 at step 0"):
        check_first_minibatch({"kl": -0.5}, {"ratio_off": 0.0})
    with pytest.raises(AssertionError, match="ratio is off by 0.01"):
        check_first_minibatch({"kl": 0.0}, {"ratio_off": 0.01})


def test_every_iteration_is_logged(models, prompts, tokenizer, tmp_path, capsys):
    seen: list[int] = []
    keeper = Keeper(tmp_path / "log.jsonl", tmp_path / "snapshots")
    loop = Loop("toy", keeper=keeper, watch=lambda history: seen.append(len(history)))
    history = train(own(models), prompts, SETTINGS, tokenizer, loop)
    assert seen == [1, 2] and history is loop.history
    lines = keeper.log.read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == history
    names = {"score", "gold", "kl", "kl_k3", "entropy", "clip_fraction", "explained_variance"}
    names |= {"length", "stop_rate", "step", "value_loss"}
    assert names == history[0].keys()  # kl_coef is logged where it can move
    other = train(own(models), prompts, replace(SETTINGS, seed=1), tokenizer, Loop("toy"))
    assert other[0]["score"] != history[0]["score"]


def test_gold_is_left_out_where_it_is_unknown(models, prompts, tokenizer):
    rollout = rollout_of(models, prompts, tokenizer)
    plain = [Prompt(prompt.prompt) for prompt in prompts]
    updates = [{"clip_fraction": 0.2, "value": 1.0}, {"clip_fraction": 0.4, "value": 4.0}]
    found = iteration_metrics(rollout, updates, plain, KLController(0.3), tokenizer)
    assert "gold" not in found and "kl_coef" not in found
    assert (found["clip_fraction"], found["value_loss"]) == (pytest.approx(0.3), 2.5)


def test_the_coefficient_that_is_logged_is_the_one_that_was_used(moved, prompts, tokenizer):
    """It moves after the rollout, by the number of its responses."""
    rollout = rollout_of(moved, prompts, tokenizer)
    control = KLController(0.3, target=1e-3, horizon=300)
    updates = [{"clip_fraction": 0.0, "value": 0.0}]
    found = iteration_metrics(rollout, updates, prompts, control, tokenizer)
    e = min(max(found["kl"] / 1e-3 - 1, -0.2), 0.2)
    assert found["kl_coef"] == 0.3 and abs(e) == 0.2
    assert control.kl_coef == pytest.approx(0.3 * (1 + e * 30 / 300))


def test_the_loop_uses_the_coefficient_of_its_iteration(
    models, prompts, tokenizer, monkeypatch, capsys
):
    used, whole = [], ppo.with_advantages

    def spy(rollout, kl_coef, config):
        used.append(kl_coef)
        return whole(rollout, kl_coef, config)

    monkeypatch.setattr(ppo, "with_advantages", spy)
    config = replace(SETTINGS, iterations=3, kl_target=5.0, kl_horizon=60)
    history = train(models, prompts, config, tokenizer, Loop("toy"))
    assert used == [row["kl_coef"] for row in history]
    assert used[1] == pytest.approx(0.3 * (1 - 0.2 * 12 / 60))


# ---------------------------------------------------------------- the KL controller


@pytest.mark.parametrize(
    ("kl", "expected"),
    [
        (9.0, 0.15 * (1 + 0.2 * 512 / 10_000)),  # half too much: counted as a fifth
        (6.6, 0.15 * (1 + 0.1 * 512 / 10_000)),
        (6.0, 0.15),
        (5.4, 0.15 * (1 - 0.1 * 512 / 10_000)),
        (-1.0, 0.15 * (1 - 0.2 * 512 / 10_000)),
    ],
)
def test_one_update_by_hand(kl, expected):
    control = KLController(0.15, target=6.0, horizon=10_000)
    control.update(kl, responses=512)
    assert control.kl_coef == pytest.approx(expected, rel=1e-12)


def test_without_a_target_the_coefficient_stays():
    control = KLController(0.3)
    for kl in (0.0, 100.0):
        control.update(kl, responses=10_000)
    assert control.kl_coef == 0.3


@pytest.mark.parametrize("start", [0.05, 5.0])
def test_the_loop_ends_at_the_coefficient_whose_best_policy_has_the_target_kl(start):
    """Were PPO perfect, each rollout would come from pi*(y) = ref(y) exp(score(y) / kl_coef) /
    Z.
    """
    ref = torch.randn(50, dtype=torch.double).log_softmax(0)
    scores = torch.randn(50, dtype=torch.double)

    def best_kl(kl_coef: float) -> float:
        best = (ref + scores / kl_coef).log_softmax(0)
        return (best.exp() * (best - ref)).sum().item()

    control = KLController(start, target=best_kl(0.7), horizon=640)
    for _ in range(1000):
        control.update(best_kl(control.kl_coef), responses=64)
    assert control.kl_coef == pytest.approx(0.7, rel=1e-3)


@pytest.mark.parametrize(
    "settings", [(0.3, -1.0, 640), (0.0, 6.0, 640), (0.3, 6.0, 0), (0.3, float("nan"), 640)]
)
def test_settings_that_cannot_steer_are_refused(settings):
    with pytest.raises(
        ValueError, match="kl_target takes a target, a kl_coef and a kl_horizon above 0"
    ):
        KLController(*settings)


def test_a_controller_goes_on_from_its_state():
    control, other = KLController(0.3, target=6.0), KLController(0.3, target=6.0)
    control.update(9.0, responses=64)
    other.load_state_dict(control.state_dict())
    assert other.kl_coef == control.kl_coef != 0.3


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


def course_of(tmp_path, tokenizer, **changes):
    course = course_in(tmp_path, "ppo", config=SETTINGS, **changes)
    course.__dict__["tokenizer"] = tokenizer
    return course


def test_policies_are_compared_on_the_same_prompts(models, moved, tokenizer, tmp_path):
    course = course_of(tmp_path, tokenizer)
    metrics, both = stage.measure(course, models, models.reference)
    assert both["PPO"].ids == both["SFT"].ids  # the same model, seed and prompts
    assert metrics["gold_reward"] == metrics["sft_gold_reward"]
    assert metrics["gold_gain_ci95"] == [0.0, 0.0] and metrics["kl"] == 0
    assert metrics["flaws"] == metrics["sft_flaws"]
    metrics, both = stage.measure(course, moved, models.reference)
    assert both["PPO"].ids != both["SFT"].ids and metrics["kl"] != 0
    gain = (both["PPO"].gold.mean() - both["SFT"].gold.mean()).item()
    low, high = metrics["gold_gain_ci95"]
    assert low <= gain <= high
    assert metrics["gold_reward"] - metrics["sft_gold_reward"] == pytest.approx(gain, abs=1e-5)
    needed = {"score", "stop_rate", "words", "hallucination_drop_ci95"}
    assert needed <= metrics.keys()
    table = metrics["table"]
    assert list(table) == ["base", "SFT", "best of 8", "PPO"]
    assert [table[name]["prompts"] for name in table] == [16, 10, 16, 10]
    assert all(len(row["gold_ci95"]) == 2 for row in table.values())
    scores = score_responses(moved.reward, tokenizer, both["PPO"])
    scores = missing_eos_scores(scores, torch.tensor(both["PPO"].stopped), -7.0)
    assert metrics["score"] == table["PPO"]["score"] == pytest.approx(scores.mean().item())


def test_best_of_n_takes_the_highest_score(models, prompts, tokenizer, tmp_path):
    course = course_of(tmp_path, tokenizer)
    best = stage.best_of(course, models, prompts[:4], 3)
    samples = stage.sample(course, models.reference, [p for p in prompts[:4] for _ in range(3)])
    scores = stage.scores_of(course, models, samples).view(4, 3)
    rows = [3 * i + int(place) for i, place in enumerate(scores.argmax(1))]
    assert best.ids == [samples.ids[row] for row in rows] and best.prompts == prompts[:4]
