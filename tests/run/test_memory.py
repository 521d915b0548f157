"""The counted memory against real tensors of small models, and the presets against their
machines.
"""

import itertools
from types import SimpleNamespace

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from helpers.config import PPOConfig
from helpers.engine.accumulation import token_parts
from helpers.generation import KVCache
from helpers.model import GPT, GPTConfig, RewardModel
from helpers.ppo import update
from helpers.pretrain import next_token_loss
from helpers.rollouts import Models, collect
from helpers.rows.tracks import TRACKS
from helpers.run.expected import MACHINES, expected, operations
from helpers.run.memory import (
    activation_bytes,
    cache_bytes,
    matrices,
    parameters,
    ppo_bytes,
    state_bytes,
)
from helpers.run.presets import load_config
from helpers.run.setup import counted
from helpers.training import Optimizers, autocast, fit

SMALL = GPTConfig(vocab_size=90, context=64, layers=3, heads=4, channels=64)
GPT2 = GPTConfig(50258, 1024)


def nbytes(tensors) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def remembered(optimizers: Optimizers) -> int:
    """Bytes of the optimisers' tensors, without AdamW's counts of steps."""
    states = (state for part in optimizers.parts for state in part.state.values())
    return nbytes(
        value
        for state in states
        for value in state.values()
        if torch.is_tensor(value) and value.dim()
    )


def test_parameters_are_those_of_the_model():
    for config in (SMALL, GPTConfig(31, 16, 1, 2, 8)):
        model = GPT(config)
        assert parameters(config) == model.num_parameters()
        assert matrices(config) == sum(
            p.numel() for n, p in model.named_parameters() if n[:2] == "h." and p.dim() == 2
        )
    assert parameters(GPTConfig()) == 124_439_808


@pytest.mark.parametrize("muon_lr", [0.0, 0.01])
def test_weights_gradients_and_optimisers_are_counted(muon_lr, capsys):
    model = GPT(SMALL)
    optimizers = Optimizers(model, 1e-3, muon_lr)
    held = {}

    def loss_of(model, batch):
        return next_token_loss(model, *batch), {}

    step = optimizers.parts[0].step
    optimizers.parts[0].step = lambda: (
        held.update(gradients=nbytes(p.grad for p in model.parameters())),
        step(),
    )
    ids = torch.randint(90, (8, 32))
    fit(
        model,
        [(ids, torch.ones_like(ids).bool())],
        loss_of,
        optimizers,
        Progress("toy", 1),
        split=token_parts(4),
    )
    real = nbytes(model.parameters()) + held["gradients"] + remembered(optimizers)
    assert state_bytes(SMALL, muon=muon_lr > 0) == real
    assert state_bytes(SMALL, muon=False, trained=False) == nbytes(model.parameters())


@pytest.mark.parametrize(("dtype", "bits"), [(torch.float32, 32), (torch.bfloat16, 16)])
def test_activations_are_what_autograd_keeps(dtype, bits):
    """Three blocks more keep three times as much as one; a few per cent are for the rest
    (statistics, positions).
    """
    model = GPT(SMALL)
    model.attention = "sdpa"  # as on a GPU: it keeps no T x T weights
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = (
                storage.nbytes(),
                tensor,
            )  # the tensor stays, so that no address comes twice
        return tensor

    ids = torch.randint(90, (16, 64))
    with (
        autocast("cpu", dtype),
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
    ):
        model.hidden(ids)
    real = sum(size for size, _ in kept.values())
    assert activation_bytes(SMALL, ids.numel(), bits) == pytest.approx(real, rel=0.06)


def test_the_cache_is_counted():
    assert cache_bytes(SMALL, 5, 48) == KVCache(GPT(SMALL), 5, 48).data.nbytes


def peak_bytes(work) -> int:
    """The most memory that tensors made by the work took at once, without what was there before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        work()
    events = [e for e in profiled.profiler.kineto_results.events() if e.name() == "[memory]"]
    sizes = [
        event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())
    ]  # below 0: freed
    return max(itertools.accumulate(sizes))


@pytest.mark.parametrize(
    ("vocabulary", "rows", "minibatch", "prompt", "new"),
    [
        (4000, 8, 2, 64, 8),
        (600, 16, 16, 64, 8),
        (8000, 32, 4, 16, 16),
    ],  # mostly weights; activations; logits
)
def test_ppo_is_counted_as_it_is_measured(vocabulary, rows, minibatch, prompt, new):
    """A whole iteration on the CPU, with the kernels of a GPU's attention: counted is 0 to a third
    above measured.

    Above, as gradients and activations are counted together, which they hardly ever are at their
    largest.
    """
    model = GPTConfig(vocabulary, context=96, layers=3, heads=4, channels=64)
    config = PPOConfig(
        rollout_size=rows, minibatch_size=minibatch, epochs=1, response_tokens=new, muon_lr=0.0
    )
    policy, reference, reward, value = (GPT(model) for _ in range(4))
    for gpt in (policy, reference, reward, value):
        gpt.attention = "sdpa"
    models = Models(policy, reference, RewardModel(reward), RewardModel(value))
    optimizers = [Optimizers(policy, 1e-3), Optimizers(models.value, 1e-3)]
    ids, draws = torch.randint(2, vocabulary, (rows, prompt)), torch.Generator().manual_seed(0)
    found = []

    def iteration() -> None:
        tokens = SimpleNamespace(eos_id=-1, pad_id=1)
        rollout = collect(models, ids, torch.ones_like(ids).bool(), config, tokens, draws)
        update(models, rollout, optimizers, config, torch.Generator().manual_seed(0), 1.0)
        found.append(rollout)

    iteration()  # makes what the optimisers remember
    held = sum(
        nbytes(gpt.parameters())
        for gpt in vars(models).values()
        if isinstance(gpt, torch.nn.Module)
    )
    measured = held + sum(remembered(optimizer) for optimizer in optimizers) + peak_bytes(iteration)
    assert measured < ppo_bytes(model, config, prompt + new) < 4 / 3 * measured


def test_ppo_of_gpt2_fits_a_t4():
    """32 prompts of 512 tokens with responses of 64."""
    config = PPOConfig(rollout_size=32, minibatch_size=8, response_tokens=64, muon_lr=0.0)
    assert 5e9 < ppo_bytes(GPT2, config, 576) < 14e9
    whole = PPOConfig(rollout_size=32, minibatch_size=32, response_tokens=64, muon_lr=0.0)
    assert ppo_bytes(GPT2, whole, 576) > 14e9, "smaller minibatches must be what makes it fit"


@pytest.mark.parametrize("preset", MACHINES)
@pytest.mark.parametrize("track", TRACKS)
def test_every_stage_fits_its_machine(preset, track):
    for stage, (minutes, gigabytes) in expected(preset, track).items():
        assert 1 < gigabytes < 0.93 * MACHINES[preset].memory, stage
        assert 0 < minutes < 120, stage
    one, two = expected("t4", track), expected("t4x2", track)
    assert all(
        one[stage][1] == two[stage][1] and one[stage][0] / 2 <= two[stage][0] < one[stage][0]
        for stage in one
    )


def test_operations_of_gpt2():
    """Six for each weight and token, with the head's, and attention (Kaplan et al. 2020, table
    1).
    """
    assert operations(GPT2, 1, 1, 1024, True) == pytest.approx(
        6 * 124e6 + 6 * 12 * 768 * 1024, rel=0.01
    )


def test_only_gpu_presets_are_counted(make_course):
    with pytest.raises(
        ValueError, match="nothing is counted for preset 'cpu': choose from t4, t4x2, h100"
    ):
        expected("cpu", "tldr")
    assert (
        counted(make_course(preset="t4", source="embedded"))
        == counted(make_course(source="hub"))
        == ""
    )
    assert "counted, not measured: " in counted(make_course(preset="t4", source="hub"))


@pytest.fixture
def make_course(tmp_path):
    from helpers.run.setup import Course

    def make(**changes) -> Course:
        settings = dict(
            notebook="1-SFT",
            stage="sft",
            preset="cpu",
            track="tldr",
            seed=0,
            out=tmp_path,
            device=torch.device("cpu"),
            dtype=torch.float32,
            threads=1,
            where="local",
            config=load_config("sft"),
        )
        return Course(**settings | changes)

    return make
