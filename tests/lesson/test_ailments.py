"""Every ailment does what it says, and leaves nothing behind."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from helpers import losses, ppo, rollouts
from helpers.engine import loop as engine_loop
from helpers.engine.loop import Loop
from helpers.lesson.ailments import SCALE, Patient
from helpers.lesson.clinic import AILMENTS, ailment_of, train_patient
from helpers.losses import masked_mean
from helpers.ppo import minibatch_losses
from helpers.rollouts import Rollout, rewards_of, rollout_metrics
from helpers.rows.load import load_rows
from helpers.training import Optimizers
from tests.support.ppo_models import SETTINGS, own, rollout_of, starting_models

MODULES = (losses, ppo, rollouts, engine_loop, nn.utils, Optimizers)


@pytest.fixture(scope="module")
def well(tokenizer) -> Patient:
    prompts = load_rows("prompts", "train", limit=16)
    models = starting_models(tokenizer)
    base = copy.deepcopy(models.reference)
    config = replace(SETTINGS, iterations=1, rollout_size=16, minibatch_size=8, epochs=1)
    return Patient(models, prompts, config, tokenizer, base)


@pytest.fixture(scope="module")
def healthy(well) -> Rollout:
    return rolled(well)


def rolled(patient: Patient) -> Rollout:
    """A rollout of a patient; its functions are looked up as PPO does."""
    generator = torch.Generator().manual_seed(0)
    given = patient.models, patient.prompts, patient.config, patient.tokenizer, generator
    return ppo.with_advantages(ppo.collect(*given), patient.config.kl_coef, patient.config)


def ill(well: Patient, name: str) -> Rollout:
    with AILMENTS[name].infect(well) as patient:
        return rolled(patient)


def inside(patient: Patient) -> list[dict]:
    """What an ailment could change: modules, and what the models carry beside their weights."""
    models = [getattr(patient.models, n) for n in ("policy", "reference", "reward", "value")]
    parts = [part for model in models for part in model.modules()]
    hooks = [{"hooks": len(part._forward_hooks), "names": sorted(vars(part))} for part in parts]
    return [dict(vars(module)) for module in MODULES] + hooks


@pytest.mark.parametrize("name", AILMENTS)
def test_nothing_is_left_behind(name, well):
    before = inside(well)
    with AILMENTS[name].infect(well) as patient:
        assert inside(well) != before or patient != well  # it does something
    assert inside(well) == before
    with pytest.raises(RuntimeError), AILMENTS[name].infect(well):
        raise RuntimeError
    assert inside(well) == before


@pytest.mark.parametrize("name", ["temperature", "top-k", "top-p", "repetition penalty"])
def test_other_tokens_are_sampled_and_scored_as_ever(name, well, healthy):
    rollout = ill(well, name)
    width = min(rollout.batch.response.size(1), healthy.batch.response.size(1))
    assert not torch.equal(rollout.batch.response[:, :width], healthy.batch.response[:, :width])
    with torch.no_grad():
        logits = rollouts.response_logits(well.models.policy, rollout.batch)
    scored = rollouts.token_logprobs(logits, rollout.batch.response)
    mask = rollout.batch.response_mask
    assert torch.allclose(rollout.logprobs[mask], scored[mask], atol=1e-5)


def test_greedy_rollouts(well):
    rollout = ill(well, "greedy rollouts")
    with torch.no_grad():
        logits = rollouts.response_logits(well.models.policy, rollout.batch)
    logits[..., well.tokenizer.pad_id] = -torch.inf
    mask = rollout.batch.response_mask
    assert torch.equal(logits.argmax(-1)[mask], rollout.batch.response[mask])


def test_no_response_is_shorter_than_the_minimum_length(well, healthy):
    rollout = ill(well, "minimum length")
    assert not rollout.stopped.any() and healthy.stopped.any()
    assert rollout.batch.response_mask.all()


def test_what_follows_the_eos_counts(well, healthy):
    rollout = ill(well, "tokens after the EOS")
    assert rollout.batch.response_mask.all() and rollout.batch.response.size(1) == 8
    assert torch.equal(rollout.stopped, healthy.stopped)
    mask = healthy.batch.response_mask  # the same tokens up to the EOS
    same = rollout.batch.response[:, : mask.size(1)]
    assert torch.equal(same[mask], healthy.batch.response[mask])


def test_the_mask_drops_an_eos_that_is_the_pad(well, healthy):
    rollout = ill(well, "pad is EOS")
    assert not rollout.stopped.any()
    assert (rollout.scores == well.config.missing_eos_score).all()
    lengths, before = (r.batch.response_mask.sum(1) for r in (rollout, healthy))
    shorter = healthy.stopped & (before > 1)
    assert shorter.any() and torch.equal(before - lengths, shorter.long())


def test_positions_and_pads_change_what_is_read(well, healthy):
    short = ~well_filled(healthy)
    for name in ("positions count the pads", "pads attended"):
        rollout = ill(well, name)
        mask = healthy.batch.response_mask & short[:, None]
        assert torch.equal(rollout.batch.ids, healthy.batch.ids)
        assert (rollout.logprobs - healthy.logprobs)[mask].abs().max() > 1e-3
        refs = (rollout.ref_logprobs - healthy.ref_logprobs)[mask].abs().max()
        assert (refs > 1e-3) == (name == "positions count the pads")


def well_filled(rollout: Rollout):
    """(B,): prompts without a pad."""
    return rollout.batch.mask[:, : rollout.batch.P].all(1)


def test_dropout_and_16_bits_move_the_ratio(well, healthy):
    index = torch.arange(16)
    with torch.no_grad():
        first = minibatch_losses(well.models, healthy, index, well.config)
        assert first["ratio_off"] < 1e-5
        for name, least, most in (("dropout", 0.02, 1e9), ("log-softmax in 16 bits", 1e-4, 0.1)):
            with AILMENTS[name].infect(well) as patient:
                off = minibatch_losses(patient.models, healthy, index, well.config)["ratio_off"]
            assert least < off < most, name


def test_the_head_is_read_at_the_last_column(well, healthy):
    rollout = ill(well, "reward read at a pad")
    longest = healthy.batch.mask[:, -1] & healthy.stopped
    shorter = healthy.stopped & ~healthy.batch.mask[:, -1]
    off = (rollout.scores - healthy.scores).abs()
    assert shorter.any() and off[shorter].min() > 1e-4
    assert not longest.any() or off[longest].max() < 1e-4


def test_scores_are_scaled_or_normalised(well, healthy):
    large, normal = (
        ill(well, name) for name in ("scores not normalised", "scores z-scored by batch")
    )
    stopped = healthy.stopped
    assert torch.allclose(large.scores[stopped], 10 * healthy.scores[stopped], rtol=1e-4)
    for part in normal.scores.split(8):
        assert part.mean().abs() < 1e-5 and abs(part.std(correction=0) - 1) < 1e-3


def test_the_kl_is_never_negative(well, healthy):
    moved = replace(healthy, ref_logprobs=healthy.ref_logprobs + 0.5)
    with AILMENTS["KL made positive"].infect(well):
        rewards, kl = rewards_of(moved, 0.1), rollout_metrics(moved)["kl"]
    mask = moved.batch.response_mask
    assert kl == pytest.approx(-rollout_metrics(moved)["kl"], rel=1e-4) and kl > 0
    penalty = (rewards_of(moved, 0.1) - rewards)[mask]
    assert torch.allclose(penalty, torch.full_like(penalty, 0.1), atol=1e-5)


def test_whitening_goes_wrong_in_two_ways(well, healthy):
    late, shifted = ill(well, "returns after whitening"), ill(well, "mean added back")
    mask = healthy.batch.response_mask
    assert torch.allclose((late.returns - late.values)[mask], late.advantages[mask], atol=1e-5)
    raw = healthy.returns - healthy.values
    mean = masked_mean(shifted.advantages, mask)
    assert mean == pytest.approx(masked_mean(raw, mask).item(), abs=1e-5) and abs(mean) > 0.01
    assert torch.allclose(shifted.advantages[mask] - mean, healthy.advantages[mask], atol=1e-4)


def test_settings(well):
    with AILMENTS["reference is not SFT"].infect(well) as patient:
        assert patient.models.reference is well.base
    changed = {
        "one update per rollout": {"minibatch_size": 16},
        "too many epochs": {"epochs": 8},
        "no KL penalty": {"kl_coef": 0.0},
        "value rate too high": {"value_lr": 0.3},
        "value model never learns": {"value_lr": 0.0},
    }
    for name, settings in changed.items():
        with AILMENTS[name].infect(well) as patient:
            assert patient == replace(well, config=replace(well.config, **settings))


def test_gradients_are_clipped_before_they_are_unscaled(well):
    norms, grads = [], []
    for name in ("", "clipped while scaled"):
        model = nn.Linear(3, 1)
        with torch.no_grad():
            model.weight.fill_(1.0)
        optimizers = Optimizers(model, 0.0)
        optimizers.optimizers[0].zero_grad = lambda set_to_none: None
        infect = AILMENTS[name].infect(well) if name else torch.no_grad()
        with infect, torch.enable_grad():
            optimizers.backward(model(torch.ones(1, 3)).sum())
            norms.append(optimizers.step())
        grads.append(model.weight.grad.norm().item())
    assert norms[1] == pytest.approx(SCALE * norms[0])
    assert grads[1] < 2 / SCALE < 0.5 < grads[0]


def test_parts_of_a_minibatch_count_alike(well):
    counts = torch.tensor([10.0, 1.0, 1.0, 1.0])
    assert engine_loop.share_of(counts, slice(0, 3)) == pytest.approx(12 / 13)
    with AILMENTS["micro-batches averaged"].infect(well) as patient:
        assert patient.config.micro_batch == 3
        assert engine_loop.share_of(counts, slice(0, 3)) == 0.5


def test_an_ailing_run_goes_on(well):
    """What would stop it at the first minibatch is logged instead."""
    patient = replace(well, models=own(well.models))
    with AILMENTS["dropout"].infect(patient) as sick, pytest.raises(AssertionError):
        ppo.train(sick.models, sick.prompts, sick.config, sick.tokenizer, Loop("ill", lines=0))
    history, _ = train_patient(well, AILMENTS["dropout"])
    assert len(history) == 1 and history[0]["ratio_off"] > 0.02


def test_the_healthy_run_is_ppo(well, tokenizer):
    models = own(well.models)
    expected = ppo.train(models, well.prompts, well.config, tokenizer, Loop("well", lines=0))
    before = copy.deepcopy(well.models.policy.state_dict())
    history, policy = train_patient(well)
    assert history == expected
    for name, weight in policy.state_dict().items():
        assert torch.equal(weight, models.policy.state_dict()[name])
        assert torch.equal(well.models.policy.state_dict()[name], before[name])


def test_an_unknown_ailment_is_refused_with_the_names():
    with pytest.raises(ValueError, match="no ailment 'flu': choose from dropout, positions"):
        ailment_of("flu")


def test_rollout_of_is_what_is_compared(well, healthy, tokenizer):
    """`rolled` is the rollout of the other tests."""
    other = rollout_of(well.models, well.prompts, tokenizer, well.config)
    assert torch.equal(other.advantages, healthy.advantages)
