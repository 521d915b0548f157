"""On a CUDA device: the same numbers as on the CPU, 16 bits, memory that runs out, snapshots. Run
by `make gpu`.
"""

import copy
from dataclasses import replace

import pytest
import torch

from helpers import ppo, pretrain, reward
from helpers.batching import left_pad
from helpers.config import PPOConfig, PretrainConfig
from helpers.engine.hardware import choose_device, choose_dtype
from helpers.engine.loop import Loop
from helpers.engine.snapshots import Snapshots, Stopped
from helpers.engine.transfer import Ahead
from helpers.generation import sample
from helpers.lora import LoRALinear
from helpers.model import GPT, GPTConfig, RewardModel
from helpers.muon import orthogonal
from helpers.quantization import NF4Linear, dequantize_nf4, quantize_nf4
from helpers.rollouts import Models
from helpers.rows.embedded import load_tokenizer
from helpers.run.checkpoints import load_stage, save_stage
from helpers.run.presets import choose_preset
from tests.support import runs
from tests.support.runs import ALL, PAIRS, PROMPTS, Letters, model

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
PPO = {"iterations": 3, "rollout_size": 8, "minibatch_size": 4, "response_tokens": 12}
PPO |= {"lr": 1e-3, "muon_lr": 0.0, "value_lr": 1e-3}
STAGES = [name for name in ALL if name != "ppo"]


def history_of(stage: str, where: str, dtype=torch.float32, snapshots=None) -> list[float]:
    """The losses of a small run of a stage, always from the same random weights."""
    loop = Loop(stage, dtype, snapshots)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "model", lambda scored=False: model(scored).to(where))
        ALL[stage](loop, 1e-2)
    return [step["loss"] for step in loop.history]


# ---------------------------------------------------------------- the same numbers as on the CPU


@pytest.mark.parametrize("stage", STAGES)
def test_training_follows_the_cpu(stage):
    assert history_of(stage, "cuda") == pytest.approx(history_of(stage, "cpu"), rel=2e-2)


def ppo_history(first: str, second: str, dtype=torch.float32, **settings) -> list[dict]:
    models = Models(model(), model(), model(True), model(True), dtype).on_two(first, second)
    return ppo.train(models, PROMPTS, PPOConfig(**PPO | settings), Letters(), Loop("ppo", dtype))


def test_ppo_in_parts_is_ppo_in_one_piece():
    whole, parts = ppo_history("cuda", "cuda"), ppo_history("cuda", "cuda", micro_batch=1)
    for ours, theirs in zip(parts, whole, strict=True):
        assert ours == pytest.approx(theirs, rel=2e-2, abs=2e-3)


def test_ppo_follows_the_cpu():
    for ours, theirs in zip(ppo_history("cuda", "cuda"), ppo_history("cuda", "cpu"), strict=True):
        assert ours == pytest.approx(theirs, abs=1e-3)


def test_logits_with_pads_and_a_cache():
    gpt = model()
    ids, mask = left_pad([[5, 6, 7, 8], [9, 10], [3] * 9], 1)
    expected = gpt(ids, mask)
    on_gpu = copy.deepcopy(gpt).cuda()(ids.cuda(), mask.cuda()).cpu()
    torch.testing.assert_close(on_gpu[mask], expected[mask], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("temperature", [0, 1])
@pytest.mark.parametrize("use_cache", [True, False])
def test_samples_are_those_of_the_cpu(temperature, use_cache):
    gpt = model()
    ids, mask = left_pad([[5, 6, 7, 8], [9, 10], [3] * 9], 1)
    uniforms = torch.rand(3, 16)
    asked = {
        "max_new_tokens": 16,
        "eos_id": 0,
        "pad_id": 1,
        "temperature": temperature,
        "use_cache": use_cache,
    }
    expected = sample(gpt, ids, mask, uniforms=uniforms, **asked)
    found = sample(gpt.cuda(), ids.cuda(), mask.cuda(), uniforms=uniforms.cuda(), **asked)
    assert torch.equal(found.ids.cpu(), expected.ids) and torch.equal(
        found.stopped.cpu(), expected.stopped
    )


def test_muon_makes_matrices_orthogonal():
    G = torch.randn(3, 64, 32)
    for dtype in (torch.float32, torch.bfloat16):
        values = torch.linalg.svdvals(orthogonal(G.cuda(), dtype=dtype).float())
        assert values.min() > 0.3 and values.max() < 1.4


def test_nf4_has_the_same_bits():
    weight = torch.randn(300, 201)
    ours, theirs = quantize_nf4(weight), quantize_nf4(weight.cuda())
    assert all(torch.equal(a, b.cpu()) for a, b in zip(ours, theirs))
    assert torch.equal(
        dequantize_nf4(*ours, weight.shape), dequantize_nf4(*theirs, weight.shape).cpu()
    )
    layer = NF4Linear(torch.nn.Linear(201, 300)).cuda()
    x = torch.randn(2, 201, device="cuda", requires_grad=True)
    with torch.autocast("cuda", dtype=torch.float16):
        y = LoRALinear(layer, 4, 8.0)(x)
    y.float().sum().backward()
    torch.testing.assert_close(x.grad, layer.weight.sum(0).expand(2, 201), atol=0.05, rtol=0.05)


# ---------------------------------------------------------------- 16 bits


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("stage", STAGES)
def test_16_bits_learn_as_float32_does(stage, dtype):
    ours, theirs = history_of(stage, "cuda", dtype), history_of(stage, "cuda")
    assert sum(ours) == pytest.approx(sum(theirs), rel=0.1)


def test_an_overflow_in_float16_leaves_the_weights_and_lowers_the_scale():
    from helpers.training import Optimizers

    gpt = model().cuda()
    optimizers = Optimizers(gpt, 1e-2, 1e-2, torch.float16)
    before, scale = copy.deepcopy(gpt.state_dict()), optimizers.scaler.get_scale()
    optimizers.backward(gpt.wte.weight.sum() * float("inf"))
    optimizers.step()
    assert all(torch.equal(value, before[name]) for name, value in gpt.state_dict().items())
    assert optimizers.scaler.get_scale() == scale / 2


# ---------------------------------------------------------------- memory, snapshots, checkpoints


def test_memory_that_runs_out_cuts_the_batch(capsys):
    config = GPTConfig(vocab_size=40, context=256, layers=4, heads=4, channels=256)
    rows = [torch.randint(2, 40, (256,)).tolist() for _ in range(64)]
    asked = PretrainConfig(batch_size=64, muon_lr=0.0)

    def train() -> float:
        torch.manual_seed(0)
        batches = pretrain.document_batches(rows, 64, 1, 1, 0)
        return pretrain.train(GPT(config).cuda(), batches, asked, Loop("toy"))[0]["loss"]

    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    expected, used = train(), torch.cuda.max_memory_allocated()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(0.6 * used / total)
    try:
        assert train() == pytest.approx(expected, rel=1e-4)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert "out of memory with 64 rows at once" in capsys.readouterr().out


@pytest.mark.parametrize("stage", STAGES)
def test_a_stopped_run_goes_on(stage, tmp_path):
    expected = history_of(stage, "cuda", torch.bfloat16)
    snapshots = Snapshots(tmp_path / "log.jsonl", tmp_path / "snapshots", every_steps=1)
    with pytest.raises(Stopped):  # a deadline in the past: after the first step
        history_of(stage, "cuda", torch.bfloat16, replace(snapshots, deadline=0.0))
    found = history_of(stage, "cuda", torch.bfloat16, snapshots)
    assert found == pytest.approx(expected, rel=1e-3)
    assert len(snapshots.log.read_text().splitlines()) == len(expected)


def test_a_checkpoint_from_the_gpu_opens_on_the_cpu(tmp_path):
    tokenizer = load_tokenizer("tldr")
    gpt = GPT(GPTConfig(tokenizer.vocab_size, 64, 2, 2, 32)).cuda()
    save_stage(
        tmp_path / "sft",
        gpt,
        tokenizer,
        stage="sft",
        track="tldr",
        config={},
        metrics={},
        parent=None,
        data_fingerprint="",
    )
    loaded, _ = load_stage(tmp_path / "sft", stage="sft", track="tldr", tokenizer=tokenizer)
    assert torch.equal(loaded.wte.weight, gpt.wte.weight.cpu())


def test_batches_are_pinned_ahead():
    batches = [(torch.full((2, 3), i), torch.ones(2, 3)) for i in range(4)]
    for found, expected in zip(Ahead(batches), batches, strict=True):
        assert all(tensor.is_pinned() for tensor in found) and torch.equal(found[0], expected[0])


def test_compiled_blocks_give_the_same_loss():
    gpt = GPT(GPTConfig(vocab_size=64, context=64, layers=2, heads=2, channels=64)).cuda()
    ids = torch.randint(2, 64, (4, 64), device="cuda")
    mask = torch.ones_like(ids).bool()
    expected = pretrain.next_token_loss(gpt, ids, mask).item()
    for block in gpt.h:
        block.compile(dynamic=True)
    loss = pretrain.next_token_loss(gpt, ids, mask)
    loss.backward()
    assert loss.item() == pytest.approx(expected, rel=1e-4)


def test_what_is_chosen_for_this_gpu():
    device = choose_device()
    assert device.type == "cuda"
    enough = torch.cuda.get_device_capability()[0] >= 8
    assert choose_dtype(device) is (torch.bfloat16 if enough else torch.float16)
    assert choose_preset(None, "embedded", device)[0] == "cpu"
    assert choose_preset(None, "hub", device)[0] in ("t4", "t4x2", "h100")


def test_scores_are_those_of_the_cpu():
    scored = RewardModel(GPT(GPTConfig(vocab_size=40, context=48, layers=2, heads=2, channels=16)))
    expected = reward.margins(scored, PAIRS, 1)
    torch.testing.assert_close(
        reward.margins(scored.cuda(), PAIRS, 1), expected, atol=1e-4, rtol=1e-4
    )
