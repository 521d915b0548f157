"""Stage 3: the first minibatch, one iteration by hand, the loop, the KL controller, what is
measured at the end.
"""

import json
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from helpers import ppo
from helpers.compare.samples import TEMPERATURES, Sampler, name_at
from helpers.engine.loop import Loop
from helpers.engine.snapshots import Snapshots
from helpers.losses import (
    clipped_policy_loss,
    clipped_value_loss,
    missing_eos_scores,
    token_logprobs,
)
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
from helpers.rollouts import Models, collect, response_logits, response_values, with_advantages
from helpers.rows.embedded import load_rows
from helpers.stages import ppo as stage
from tests.support.courses import course_in
from tests.support.ppo_models import SETTINGS, in_mid_run, own, rollout_of, starting_models
from tests.support.tensors import with_large_logits


@pytest.fixture(scope="module")
def prompts() -> list[Prompt]:
    return load_rows("prompts", "train", limit=30)


@pytest.fixture
def models(tokenizer) -> Models:
    return starting_models(tokenizer)


@pytest.fixture
def moved(models) -> Models:
    return in_mid_run(models)


# ---------------------------------------------------------------- minibatches


def test_the_ratio_is_1_in_every_minibatch_before_the_first_step(moved, prompts, tokenizer):
    rollout = rollout_of(moved, prompts, tokenizer)
    for index in torch.randperm(len(prompts)).split(7):
        losses = minibatch_losses(moved, rollout, index, SETTINGS)
        mask = rollout.batch.response_mask[index]
        assert losses["ratio_off"] < 1e-5 and losses["clip_fraction"] == 0
        advantage = rollout.advantages[index][mask].mean().item()
        assert losses["policy"].item() == pytest.approx(-advantage, abs=1e-5)
        error = (rollout.values - rollout.returns)[index][mask].square().mean().item()
        assert losses["value"].item() == pytest.approx(0.5 * error, rel=1e-4)


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
    config = replace(SETTINGS, kl_target=2.0, kl_horizon=100, seed=3, value_lr=7e-4)
    run = start_training(models, config)
    assert run.policy_optimizer.peak_lrs == [1e-3, 2e-3] and run.value_optimizer.peak_lrs[0] == 7e-4
    assert len(run.policy_optimizer.optimizers) == 2 and len(run.value_optimizer.optimizers) == 1
    controller = run.kl_controller
    assert (controller.kl_coef, controller.target, controller.horizon) == (0.3, 2.0, 100)
    assert run.prompt_rng.initial_seed() == run.token_rng.initial_seed() == 3
    lora = start_training(models, replace(config, adapter="lora", adapter_lr=5e-3))
    assert lora.policy_optimizer.peak_lrs == [5e-3, 0.0]
    assert lora.value_optimizer.peak_lrs[0] == 7e-4
    half = start_training(replace(models, dtype=torch.float16), config)
    for optimizers in (half.policy_optimizer, half.value_optimizer):
        assert optimizers.scaler.is_enabled()  # or small gradients round to 0
    assert half.policy_optimizer.optimizers[1].dtype == torch.float16


@pytest.mark.parametrize("sizes", [{"rollout_size": 10}, {"minibatch_size": 5}])
def test_processes_that_cannot_share_evenly_are_refused(models, sizes, monkeypatch):
    monkeypatch.setattr(ppo, "world", lambda: 4)
    config = replace(SETTINGS, rollout_size=12, minibatch_size=4)
    start_training(models, config)
    with pytest.raises(ValueError, match="4 processes can't share .* take multiples of 4"):
        start_training(models, replace(config, **sizes))


# ---------------------------------------------------------------- the loop


def weights(model: nn.Module) -> list[Tensor]:
    """All parameters but the surprise weight, which a value model does not learn."""
    return [p.detach().clone() for name, p in model.named_parameters() if name != "surprise_weight"]


def test_minibatch_losses_compare_its_rows_with_the_rollout(models, moved, prompts, tokenizer):
    """In the middle of an update, with ranges so narrow that both clips hold, each its own."""
    config = replace(SETTINGS, clip_range=0.02, value_clip=0.005)
    rollout, index = rollout_of(models, prompts[:12], tokenizer), torch.tensor([7, 2, 9])
    losses = minibatch_losses(moved, rollout, index, config)
    batch = rollout.batch.rows(index)
    mask = batch.response_mask
    logprobs = token_logprobs(response_logits(moved.policy, batch), batch.response)
    values = response_values(moved.value, batch)
    policy, clipped = clipped_policy_loss(
        logprobs, rollout.logprobs[index], rollout.advantages[index], mask, 0.02
    )
    value = clipped_value_loss(values, rollout.values[index], rollout.returns[index], mask, 0.005)
    assert losses["policy"].item() == pytest.approx(policy.item(), abs=1e-6)
    assert losses["value"].item() == pytest.approx(value.item(), abs=1e-6)
    assert losses["clip_fraction"].item() == clipped.item() > 0


def test_one_iteration_by_hand(models, prompts, tokenizer, capsys):
    """The same prompts, tokens, minibatches, losses and updates, written out for AdamW; reference
    and reward model stay.
    """
    config = replace(SETTINGS, iterations=1, muon_lr=0.0, value_lr=5e-4)
    twin, found = own(models), own(models)
    frozen = weights(models.reference) + weights(models.reward)
    (row,) = train(found, prompts, config, tokenizer, Loop("toy"))
    assert all(map(torch.equal, frozen, weights(found.reference) + weights(found.reward)))
    rng, tokens = (torch.Generator().manual_seed(config.seed) for _ in range(2))
    chosen = [prompts[i] for i in torch.randperm(len(prompts), generator=rng)[:12].tolist()]
    rollout = collect(twin, chosen, config, tokenizer, tokens)
    rollout = with_advantages(rollout, config.kl_coef, config)
    betas = {"betas": (0.9, 0.95), "weight_decay": 0.0}
    rates = ((twin.policy, 1e-3), (twin.value, 5e-4))
    steps = [torch.optim.AdamW(m.parameters(), lr=rate, **betas) for m, rate in rates]
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
    for trained, other, start in (
        (found.policy, twin.policy, models.policy),
        (found.value, twin.value, models.value),
    ):
        for a, b, before in zip(weights(trained), weights(other), weights(start)):
            # of 6e-3 or 3e-3: a key bias has no gradient
            torch.testing.assert_close(a, b, atol=2e-4, rtol=0)
            assert not torch.equal(a, before)
    assert len(seen) == 6
    for name, key in (("value_loss", "value"), ("clip_fraction", "clip_fraction")):
        mean = sum(losses[key].item() for losses in seen) / 6
        assert row[name] == pytest.approx(mean, rel=1e-3, abs=1e-6)


def test_each_iteration_has_prompts_and_minibatches_of_its_own(
    models, prompts, tokenizer, monkeypatch, capsys
):
    used, rows, collected, losses = [], [], ppo.collect, ppo.minibatch_losses

    def collect_(models, prompts, *rest):
        used.append(prompts)
        return collected(models, prompts, *rest)

    def losses_(models, rollout, index, config):
        rows.append(index.tolist())
        return losses(models, rollout, index, config)

    monkeypatch.setattr(ppo, "collect", collect_)
    monkeypatch.setattr(ppo, "minibatch_losses", losses_)
    config = replace(SETTINGS, epochs=3, minibatch_size=6)
    train(models, prompts, config, tokenizer, Loop("toy"))
    first, second = used
    assert first != second and prompts[:12] not in used
    assert {prompt.prompt for prompt in first} != {prompt.prompt for prompt in second}
    passes = [a + b for a, b in zip(rows[::2], rows[1::2], strict=True)]
    assert len(passes) == 2 * 3 and all(sorted(one) == list(range(12)) for one in passes)
    assert len({tuple(one) for one in passes}) == 6 and list(range(12)) not in passes


def test_the_rate_follows_the_schedule_of_the_other_stages(
    models, prompts, tokenizer, monkeypatch, capsys
):
    factors, step = [], ppo.Optimizers.step

    def spy(self, factor=1.0, clip=1.0):
        factors.append(factor)
        return step(self, factor, clip)

    monkeypatch.setattr(ppo.Optimizers, "step", spy)
    config = replace(SETTINGS, iterations=4, minibatch_size=12, epochs=1)
    train(models, prompts, config, tokenizer, Loop("toy"))
    assert factors == [1.0] * 6 + [0.5] * 2  # of policy and value


@pytest.mark.parametrize(("name", "other"), [("policy", "value"), ("value", "policy")])
def test_each_loss_reaches_its_own_model_only(models, prompts, tokenizer, name, other):
    rollout = rollout_of(models, prompts, tokenizer)
    minibatch_losses(models, rollout, torch.arange(6), SETTINGS)[name].backward()
    reached = [p.grad is not None and p.grad.any() for p in getattr(models, name).parameters()]
    assert any(reached)
    assert all(p.grad is None for p in getattr(models, other).parameters())


def test_a_broken_start_is_noticed():
    check_first_minibatch({"kl": 5e-6}, {"ratio_off": 5e-6})
    with pytest.raises(AssertionError, match="KL is -0.5 at step 0"):
        check_first_minibatch({"kl": -0.5}, {"ratio_off": 0.0})
    with pytest.raises(AssertionError, match="ratio is off by 0.01"):
        check_first_minibatch({"kl": 0.0}, {"ratio_off": 0.01})
    check_first_minibatch({"kl": 1e-4}, {"ratio_off": 1e-4}, rounding=1e-3)
    with pytest.raises(AssertionError, match="KL is 0.002 at step 0"):
        check_first_minibatch({"kl": 0.002}, {"ratio_off": 0.0}, rounding=1e-3)


def split_sums(monkeypatch, rows: int) -> None:
    """Sum the products of up to so many rows in two parts, as a GPU may where a batch is small."""
    linear = torch.nn.functional.linear

    def split(x, w, bias=None):
        if len(x) > rows:
            return linear(x, w, bias)
        half = x.size(-1) // 2
        return linear(x[..., :half], w[:, :half], bias) + linear(x[..., half:], w[:, half:])

    monkeypatch.setattr(torch.nn.functional, "linear", split)


def test_rounding_does_not_stop_a_run_but_a_wrong_temperature_does(
    models, prompts, tokenizer, monkeypatch, capsys
):
    """Logits as large as GPT-2's, and minibatches whose sums are split in another way than the
    rollout's.
    """
    for gpt in (models.policy, models.reference):
        with_large_logits(gpt, 100.0)
    config, seen = replace(SETTINGS, iterations=1), []
    split_sums(monkeypatch, rows=config.minibatch_size)
    check = ppo.check_first_minibatch

    def spy(metrics, first, rounding):
        seen.append(first["ratio_off"])
        check(metrics, first, rounding)

    monkeypatch.setattr(ppo, "check_first_minibatch", spy)
    train(own(models), prompts, config, tokenizer, Loop("toy"))
    assert seen[0] > 1e-5, "the sums are not split"
    read = ppo.response_logits
    monkeypatch.setattr(ppo, "response_logits", lambda *args: read(*args) / 0.98)
    with pytest.raises(AssertionError, match="ratio is off"):
        train(own(models), prompts, config, tokenizer, Loop("toy"))


def test_one_row_that_is_off_is_noticed(models, prompts, tokenizer, monkeypatch, capsys):
    """Read alone, it is a small share of the minibatch: a mean over the parts would hide it."""
    losses, off = ppo.minibatch_losses, iter([0.0, 3e-5])

    def one_off(*args):
        return losses(*args) | {"ratio_off": torch.tensor(next(off, 0.0))}

    monkeypatch.setattr(ppo, "minibatch_losses", one_off)
    config = replace(SETTINGS, iterations=1, minibatch_size=12, micro_batch=1)
    with pytest.raises(AssertionError, match="ratio is off by (2.99|3)"):
        train(own(models), prompts, config, tokenizer, Loop("toy"))


def test_every_iteration_is_logged(models, prompts, tokenizer, tmp_path, capsys):
    seen: list[int] = []
    snapshots = Snapshots(tmp_path / "log.jsonl", tmp_path / "snapshots")
    loop = Loop("toy", snapshots=snapshots, watch=lambda history: seen.append(len(history)))
    history = train(own(models), prompts, SETTINGS, tokenizer, loop)
    assert seen == [1, 2] and history is loop.history
    lines = snapshots.log.read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == history
    names = {"score", "gold", "kl", "kl_k3", "entropy", "clip_fraction", "explained_variance"}
    names |= {"length", "stop_rate", "step", "value_loss", "kl_coef", "ratio_off"}
    names |= {"surprise", "score_std", "length_std", "return_std", "advantage"}
    assert names == history[0].keys()
    other = train(own(models), prompts, replace(SETTINGS, seed=1), tokenizer, Loop("toy"))
    assert other[0]["score"] != history[0]["score"]


def test_gold_is_left_out_where_it_is_unknown(models, prompts, tokenizer):
    rollout = rollout_of(models, prompts, tokenizer)
    plain = [Prompt(prompt.prompt) for prompt in prompts]
    updates = [
        {"clip_fraction": 0.2, "value": 1.0, "ratio_off": 0.01},
        {"clip_fraction": 0.4, "value": 4.0, "ratio_off": 0.5},
    ]
    found = iteration_metrics(rollout, updates, plain, KLController(0.3), tokenizer)
    assert "gold" not in found
    assert found["ratio_off"] == 0.01  # of the first minibatch
    assert (found["clip_fraction"], found["value_loss"]) == (pytest.approx(0.3), 2.5)


def test_the_coefficient_that_is_logged_is_the_one_that_was_used(moved, prompts, tokenizer):
    """It moves after the rollout, by the number of its responses."""
    rollout = rollout_of(moved, prompts, tokenizer)
    control = KLController(0.3, target=1e-3, horizon=300)
    updates = [{"clip_fraction": 0.0, "value": 0.0, "ratio_off": 0.0}]
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
    ("kl", "target", "error"),
    [
        (9.0, 6.0, 0.2),  # half too much: counted as a fifth
        (6.6, 6.0, 0.1),
        (6.0, 6.0, 0.0),
        (5.4, 6.0, -0.1),
        (-1.0, 6.0, -0.2),
        (100.0, 0.0, 0.0),  # without a target the coefficient stays
    ],
)
def test_one_update_by_hand(kl, target, error):
    control = KLController(0.15, target, horizon=10_000)
    control.update(kl, responses=512)
    assert control.kl_coef == pytest.approx(0.15 * (1 + error * 512 / 10_000), rel=1e-12)


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
    says = "kl_target takes a target, a kl_coef and a kl_horizon above 0"
    with pytest.raises(ValueError, match=says):
        KLController(*settings)


# ---------------------------------------------------------------- measuring


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
    sft, ppo = ([name_at(name, t) for t in TEMPERATURES] for name in ("SFT", "PPO"))
    assert list(table) == ["base", *sft, "best of 8", *ppo]
    assert {table[name]["prompts"] for name in ("base", "best of 8")} == {16}
    assert {table[name]["prompts"] for name in (*sft, *ppo)} == {10}
    assert all(len(row["gold_ci95"]) == 2 for row in table.values())
    scores = score_responses(moved.reward, tokenizer, both["PPO"])
    scores = missing_eos_scores(scores, torch.tensor(both["PPO"].stopped), -7.0)
    assert metrics["score"] == table["PPO"]["score"] == pytest.approx(scores.mean().item())


@torch.no_grad()
def test_a_greedy_policy_takes_the_likeliest_tokens(models, moved, tokenizer, tmp_path):
    """And its KL from SFT is - log p of its response under SFT: its own probability is 1."""
    metrics, responses = stage.measure(course_of(tmp_path, tokenizer), moved, models.reference)
    nats = []
    for prompt, ids in zip(responses["PPO, greedy"].prompts, responses["PPO, greedy"].ids):
        start = tokenizer.encode(prompt.prompt)
        row = torch.tensor([start + ids])
        places = slice(len(start) - 1, -1)
        assert moved.policy(row)[0, places].argmax(-1).tolist() == ids
        logprobs = models.reference(row)[0, places].log_softmax(-1)
        nats.append(-sum(logprobs[place, id_].item() for place, id_ in enumerate(ids)))
    kl = metrics["table"]["PPO, greedy"]["kl"]
    assert kl == pytest.approx(sum(nats) / len(nats), rel=1e-4)


def test_best_of_n_takes_the_highest_score(models, prompts, tokenizer):
    sampler = Sampler(models, tokenizer, prompts[:4], SETTINGS)
    best, samples = sampler.best_of(3), sampler.sample(models.reference, 3)
    scores = sampler.scores(samples).view(4, 3)
    rows = [3 * i + int(place) for i, place in enumerate(scores.argmax(1))]
    assert best.ids == [samples.ids[row] for row in rows] and best.prompts == prompts[:4]
