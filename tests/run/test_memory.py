"""The counted memory against real tensors of small models, and presets against their machines."""

import itertools
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from helpers import cross_entropy
from helpers.config import ADAPTERS, PPOConfig, SFTConfig
from helpers.engine.loop import Loop
from helpers.generation import KVCache
from helpers.model import GPT, GPTConfig, RewardModel
from helpers.ppo import minibatch_losses, minibatches, start_training
from helpers.pretrain import next_token_loss, token_counts
from helpers.quantization import memory_bytes
from helpers.records import Prompt
from helpers.rollouts import Models, collect, with_advantages
from helpers.rows.tracks import TRACKS
from helpers.run import memory
from helpers.run.expected import MACHINES, expected, operations, ppo_seconds
from helpers.run.memory import (
    activation_bytes,
    adapter_bytes,
    cache_bytes,
    matrices,
    parameters,
    ppo_bytes,
    state_bytes,
    training_bytes,
)
from helpers.run.presets import load_config
from helpers.run.setup import counted
from helpers.stages.adapters import add_adapters
from helpers.training import Optimizers, autocast
from tests.support.courses import course_in
from tests.support.live_memory import LiveBytes

SMALL = GPTConfig(vocab_size=90, context=64, layers=3, heads=4, channels=64)
GPT2 = GPTConfig(50258, 1024)


def nbytes(tensors) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def remembered(optimizers: Optimizers) -> int:
    """Bytes of the optimisers' tensors, without AdamW's counts of steps."""
    states = [state for part in optimizers.optimizers for state in part.state.values()]
    values = [value for state in states for value in state.values() if torch.is_tensor(value)]
    return nbytes(value for value in values if value.dim())


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
    model, held = GPT(SMALL), {}
    optimizers = Optimizers(model, 1e-3, muon_lr)
    ids = torch.randint(90, (8, 32))
    loop = Loop("toy")
    with loop.run(1, model=model, optimizers=optimizers):
        full_batch = (ids, torch.ones_like(ids).bool())
        for batch, share in loop.parts(full_batch, token_counts, 4):
            optimizers.backward(share * next_token_loss(model, *batch))
    held["gradients"] = nbytes(p.grad for p in model.parameters())
    optimizers.step()
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
    saved = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            # with the tensor, so that no address comes twice
            saved[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    ids = torch.randint(90, (16, 64))
    hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
    with autocast("cpu", dtype), hooks:
        model.hidden(ids)
    real = sum(size for size, _ in saved.values())
    assert activation_bytes(SMALL, ids.numel(), bits) == pytest.approx(real, rel=0.06)


def test_the_cache_is_counted():
    assert cache_bytes(SMALL, 5, 48) == nbytes(KVCache(GPT(SMALL), 5, 48).data)


def peak_bytes(work) -> int:
    """The most memory that tensors made by the work took at once, without what was there before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        work()
    events = [e for e in profiled.profiler.kineto_results.events() if e.name() == "[memory]"]
    events.sort(key=lambda event: event.start_ns())
    return max(itertools.accumulate(event.nbytes() for event in events))  # below 0: freed


@pytest.mark.parametrize(
    ("vocabulary", "rows", "minibatch", "prompt", "new"),
    # mostly weights; activations; logits
    [(4000, 8, 2, 64, 8), (600, 16, 16, 64, 8), (8000, 32, 4, 16, 16)],
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
    run = start_training(models, config)
    optimizers = [run.policy_optimizer, run.value_optimizer]
    generator = torch.Generator().manual_seed(0)
    texts = [torch.randint(2, vocabulary, (prompt,)).tolist() for _ in range(rows)]
    tokens = SimpleNamespace(eos_id=-1, pad_id=1, encode=texts.__getitem__)
    prompts = [Prompt(i) for i in range(rows)]
    loop = Loop("toy")

    def iteration() -> None:
        rollout = collect(models, prompts, config, tokens, run.token_rng)
        rollout = with_advantages(rollout, config.kl_coef, config)
        counts = rollout.batch.response_mask.sum(1)
        with loop.run(1, policy=policy, value=models.value):
            for index in minibatches(rows, config, generator):
                for part, share in loop.parts(index, counts.__getitem__):
                    losses = minibatch_losses(models, rollout, part, config)
                    run.policy_optimizer.backward(share * losses["policy"])
                    run.value_optimizer.backward(share * losses["value"])
                del losses
                for optimizer in optimizers:
                    optimizer.step()

    iteration()  # makes what the optimisers remember
    four = [gpt for gpt in vars(models).values() if isinstance(gpt, torch.nn.Module)]
    state = sum(nbytes(gpt.parameters()) for gpt in four) + sum(map(remembered, optimizers))
    measured = state + peak_bytes(iteration)
    assert measured < ppo_bytes(model, config, prompt + new) < 4 / 3 * measured


def test_ppo_of_gpt2_fits_a_t4():
    """32 prompts of 512 tokens with responses of 64."""
    config = PPOConfig(rollout_size=32, minibatch_size=8, response_tokens=64, muon_lr=0.0)
    assert 5e9 < ppo_bytes(GPT2, config, 576) < 14e9
    unsplit = PPOConfig(rollout_size=32, minibatch_size=32, response_tokens=64, muon_lr=0.0)
    assert ppo_bytes(GPT2, unsplit, 576) > 14e9, "smaller minibatches must be what makes it fit"


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
    """Six per weight and token, with the head's, and attention (Kaplan et al. 2020, table 1)."""
    by_hand = 6 * 124e6 + 6 * 12 * 768 * 1024
    assert operations(GPT2, 1, 1, 1024, True) == pytest.approx(by_hand, rel=0.01)


def test_only_gpu_presets_are_counted(tmp_path):
    with pytest.raises(ValueError, match="for preset 'cpu': choose from t4, t4x2, h100"):
        expected("cpu", "tldr")
    for preset, source in (("t4", "embedded"), ("cpu", "hub")):
        assert counted(course_in(tmp_path, "sft", preset=preset, source=source)) == ""
    text = counted(course_in(tmp_path, "sft", preset="t4", source="hub"))
    assert text.startswith("; counted, not measured: ")


@pytest.mark.parametrize("muon_lr", [0.0, 1e-2])
@pytest.mark.parametrize("embeddings", [True, False])
@pytest.mark.parametrize("adapter", ADAPTERS)
def test_adapters_are_counted_as_real_tensors(adapter, embeddings, muon_lr, capsys):
    sizes = GPTConfig(vocab_size=60, context=24, layers=2, heads=2, channels=32)
    chosen = {"adapter": adapter, "train_embeddings": embeddings, "muon_lr": muon_lr}
    settings = SFTConfig(rank=3, targets=("c_attn", "mlp.c_proj"), **chosen)
    counted, model = adapter_bytes(sizes, settings), GPT(sizes)
    add_adapters(model, settings)
    optimizers = Optimizers(model, *settings.rates)
    model(torch.arange(24).view(2, 12)).square().mean().backward()
    learns = [p for p in model.parameters() if p.requires_grad]
    assert counted["weights"] == memory_bytes(model)
    assert counted["trained"] == sum(p.grad.numel() for p in learns)
    assert counted["gradients"] == nbytes(p.grad for p in learns)
    optimizers.step()
    assert counted["optimizer"] == remembered(optimizers)


def test_adapters_of_gpt2_by_hand():
    """124,439,808 weights; 12 blocks with matrices of 12 C^2 = 7,077,888 numbers."""
    full, lora, qlora = (
        adapter_bytes(GPTConfig(), SFTConfig(adapter=name, rank=8, train_embeddings=False))
        for name in ADAPTERS
    )
    C, blocks, all_weights = 768, 12, 124_439_808
    assert full["trained"] == all_weights
    assert full["weights"] == full["gradients"] == 4 * all_weights
    muon, adamw = blocks * 12 * C * C, all_weights - blocks * 12 * C * C
    assert full["optimizer"] == 4 * (muon + 2 * adamw)
    assert lora["trained"] == qlora["trained"] == blocks * 8 * (4 * C + 2 * C + 5 * C + 5 * C)
    more = lora["weights"] - full["weights"]
    assert more == lora["gradients"] == lora["optimizer"] // 2 == 4 * lora["trained"]
    bits = 8 * (qlora["weights"] - lora["weights"] + 4 * muon) / muon
    assert 4.126 < bits < 4.128  # 4 + 8 / 64 + 32 / (64 * 256), and the mean of each matrix


@pytest.mark.parametrize("rows", [4, 64])
def test_logits_in_chunks_are_counted_as_they_are_measured(rows, monkeypatch):
    """Few tokens, whose logits fit, and many: counted is a third above measured at most."""
    for module in (cross_entropy, memory):
        monkeypatch.setattr(module, "MAX_LOGITS", 1024 * 900)
    sizes = GPTConfig(vocab_size=900, context=64, layers=4, heads=2, channels=32)
    model, ids = GPT(sizes), torch.randint(900, (rows, 64))
    model.attention = "sdpa"

    def step() -> None:
        model.zero_grad(set_to_none=True)
        next_token_loss(model, ids, torch.ones_like(ids).bool()).backward()

    weights = nbytes(model.parameters())
    counted = training_bytes(sizes, ids.numel(), ids.numel(), 32, muon=False)
    counted -= 2 * weights  # there is no optimiser
    with LiveBytes() as live:
        step()
    assert 0.95 * live.peak < counted < 4 / 3 * live.peak


def test_the_counts_are_near_what_an_h100_took():
    """docs/results.md, "On a GPU": pretraining steps in 16 bits, 32 rows of 1,024 tokens; an
    iteration of PPO in float32, without TF32, at t4's sizes.
    """
    for muon, gigabytes in (True, 13.91), (False, 14.26):
        counted = training_bytes(GPT2, 32 * 1024, 32 * 1024, 16, muon) / 1e9
        assert counted == pytest.approx(gigabytes, rel=0.01)
    one = replace(load_config("ppo", "t4", source="hub"), iterations=1, eval_prompts=0)
    assert 2.049 < ppo_seconds(MACHINES["h100"], one, 576, 8) < 1.25 * 2.049
