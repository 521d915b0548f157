"""The table of full fine-tuning, LoRA and QLoRA: bytes as counted are the bytes of real objects;
one run of it.
"""

import copy
import json
import math

import pytest
import torch
from helpers.stages.adapter_table import peak_bytes, table, training_bytes

from helpers import pretrain
from helpers.config import ADAPTERS, SFTConfig
from helpers.model import GPT, GPTConfig
from helpers.quantization import memory_bytes
from helpers.run import presets
from helpers.run.setup import setup
from helpers.stages import adapter_table
from helpers.stages.adapters import add_adapters
from helpers.training import Optimizers

SIZES = GPTConfig(vocab_size=60, context=24, layers=2, heads=2, channels=32)


@pytest.mark.parametrize("muon_lr", [0.0, 1e-2])
@pytest.mark.parametrize("embeddings", [True, False])
@pytest.mark.parametrize("adapter", ADAPTERS)
def test_counted_bytes_are_those_of_real_tensors(adapter, embeddings, muon_lr):
    targets = ("c_attn", "mlp.c_proj")
    settings = SFTConfig(
        adapter=adapter, rank=3, targets=targets, train_embeddings=embeddings, muon_lr=muon_lr
    )
    counted, model = training_bytes(SIZES, settings), GPT(SIZES)
    add_adapters(model, settings)
    optimizers = Optimizers(model, *settings.rates)
    model(torch.arange(24).view(2, 12)).square().mean().backward()
    learns = [p for p in model.parameters() if p.requires_grad]
    assert counted["weights"] == memory_bytes(model)
    assert counted["trained"] == sum(p.grad.numel() for p in learns)
    assert counted["gradients"] == sum(p.grad.numel() * p.grad.element_size() for p in learns)
    optimizers.step()
    state = [
        value
        for part in optimizers.parts
        for kept in part.state.values()
        for name, value in kept.items()
        if name != "step"
    ]
    assert counted["optimizer"] == sum(tensor.numel() * tensor.element_size() for tensor in state)


def test_gpt2_by_hand():
    """124,439,808 weights; 12 blocks with matrices of 12 C^2 = 7,077,888 numbers."""
    full, lora, qlora = (
        training_bytes(GPTConfig(), SFTConfig(adapter=name, rank=8, train_embeddings=False))
        for name in ADAPTERS
    )
    C, blocks = 768, 12
    assert (
        full["trained"] == 124_439_808 and full["weights"] == full["gradients"] == 4 * 124_439_808
    )
    muon, adamw = blocks * 12 * C * C, 124_439_808 - blocks * 12 * C * C
    assert full["optimizer"] == 4 * (muon + 2 * adamw)
    assert lora["trained"] == qlora["trained"] == blocks * 8 * (4 * C + 2 * C + 5 * C + 5 * C)
    assert (
        lora["weights"] - full["weights"]
        == lora["gradients"]
        == lora["optimizer"] // 2
        == 4 * lora["trained"]
    )
    bits = 8 * (qlora["weights"] - lora["weights"] + 4 * muon) / muon
    assert 4.126 < bits < 4.128  # 4 + 8 / 64 + 32 / (64 * 256), and the mean of each matrix


def test_the_peak_of_memory_sees_what_is_gone():
    before = peak_bytes(torch.device("cpu"))
    large = torch.ones(before // 4 + 2**24)  # more than the process has ever held
    del large
    assert peak_bytes(torch.device("cpu")) >= before + 2**25


def test_the_table_says_what_was_measured():
    way = {
        "heldout_loss": 0.42,
        "entropy_floor": 0.4,
        "gold_reward": 1.0,
        "gold_reward_ci95": [0.9, 1.1],
        "stop_rate": 0.99,
        "trained": 12_345,
        "weights": 2**22,
        "gradients": 2**20,
        "optimizer": 2**21,
        "peak": 2**29,
        "peak_growth": 2**25,
        "seconds": 61.2,
        "cpu_seconds": 60.8,
    }
    text = table({"full": way, "lora": way | {"trained": 99}})
    assert (
        "| | full | lora |\n|---|---|---|" in text
        and "| numbers that learn | 12,345 | 99 |" in text
    )
    assert "0.4200 (+5.0%)" in text and "1.00 (0.90 to 1.10)" in text and "| 512 (32) |" in text
    rows = table(
        {
            "lora": {
                name: value
                for name, value in way.items()
                if not name.startswith(("gold", "entropy"))
            }
            | {"ROUGE-L": 0.3, "ROUGE-L_ci95": [0.25, 0.35]}
        }
    )
    assert "gold" not in rows and "0.300 (0.250 to 0.350)" in rows and "| 0.4200 |" in rows


def test_the_command_measures_the_three_ways(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        presets,
        "SMOKE",
        {
            "pretrain": {
                "layers": 1,
                "heads": 2,
                "channels": 32,
                "documents": 320,
                "eval_documents": 16,
            },
            "sft": {"demonstrations": 640, "eval_prompts": 8, "response_tokens": 12, "rank": 2},
        },
    )
    for name, value in {
        "PRESET": "smoke",
        "TRACK": "instruct",
        "OUT": str(tmp_path),
        "THREADS": "1",
    }.items():
        monkeypatch.setenv(f"RLHF_{name}", value)
    for name in ("SOURCE", "DATA_DIR", "ADAPTER", "SEED"):
        monkeypatch.setenv(f"RLHF_{name}", "")
    pretrain.run(setup("0-Pretrain"))
    monkeypatch.setattr(
        adapter_table, "ProcessPoolExecutor", Inside
    )  # a process would not know these settings
    adapter_table.run(setup("1-SFT"))
    printed = capsys.readouterr().out
    written = json.loads((tmp_path / "metrics/adapters.json").read_text("utf-8"))
    ways = written["ways"]
    assert (written["track"], written["config"]["rank"], list(ways)) == (
        "instruct",
        2,
        ["full", "lora", "qlora"],
    )
    assert (
        "| | full | lora | qlora |" in printed and "| numbers that learn | 124,439,808 |" in printed
    )
    losses = {name: way["heldout_loss"] for name, way in ways.items()}
    assert len(set(losses.values())) == 3 and max(losses.values()) < 0.8 * math.log(
        1536
    )  # a blind guess
    for name in ("lora", "qlora"):
        info = json.loads((tmp_path / f"checkpoints/sft-{name}/stage.json").read_text("utf-8"))
        assert (info["stage"], info["config"]["adapter"]) == ("sft", name)
        assert (tmp_path / f"checkpoints/sft-{name}/adapter").is_dir()
    assert all(
        way["steps"] == 40 and way["entropy_floor"] < way["heldout_loss"] for way in ways.values()
    )


class Inside:
    """Runs in this process what would be given to a process of its own."""

    def __init__(self, workers, mp_context):
        assert workers == 1 and mp_context.get_start_method() == "spawn"

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return False

    def submit(self, function, *arguments):
        self.found = function(*arguments)
        return self

    def result(self):
        return copy.deepcopy(self.found)
