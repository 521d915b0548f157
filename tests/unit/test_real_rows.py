"""The four stages on rows in a local folder: own vocabulary, labels, no floors, and the table of policies."""

import json

import pytest
import torch
from gpt2_files import small_gpt2
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, GPT2Config, GPT2LMHeadModel

from helpers import ppo, presets, pretrain, reward, sft
from helpers.config import CONFIGS
from helpers.datasets import load_rows
from helpers.environment import setup

SMALL = {
    "pretrain": {"layers": 1, "heads": 2, "channels": 32, "context": 64, "vocabulary": 600, "documents": 150,
                 "eval_documents": 15},
    "sft": {"demonstrations": 320, "eval_prompts": 16, "response_tokens": 12},
    "reward": {"pointwise": True, "comparisons": 320, "eval_prompts": 16, "response_tokens": 12},
    "ppo": {"iterations": 2, "rollout_size": 16, "minibatch_size": 8, "eval_prompts": 12, "response_tokens": 12},
}  # fmt: skip


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Rows in the columns of stanfordnlp/sst2 and of fineweb-edu, and a run folder."""
    sentences = [{"sentence": row.prompt + row.completion, "label": row.label}
                 for row in load_rows("labels", "train", "sentiment", limit=900)]  # fmt: skip
    documents = [{"text": row.text} for row in load_rows("documents", "train", "sentiment", limit=250)]
    for name, rows in (("sst2/train", sentences[:700]), ("sst2/validation", sentences[700:]),
                       ("fineweb-edu/train", documents)):  # fmt: skip
        path = tmp_path / f"rows/{name}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    monkeypatch.setitem(presets.REAL, "sentiment", SMALL)
    settings = {"TRACK": "sentiment", "PRESET": "cpu", "SEED": "0"}
    for name, value in (settings | {"DATA_DIR": str(tmp_path / "rows"), "OUT": str(tmp_path / "run")}).items():
        monkeypatch.setenv(f"RLHF_{name}", value)
    for name in ("RLHF_SOURCE", "RLHF_INIT"):
        monkeypatch.delenv(name, raising=False)
    threads = torch.get_num_threads()
    yield tmp_path / "run"
    torch.set_num_threads(threads)


def test_the_stages_start_from_gpt2(folder, monkeypatch, capsys):
    """Preset smoke from weights beside the rows, without 0-Pretrain."""
    rows = folder.parent / "rows"
    small_gpt2(rows, monkeypatch)
    GPT2LMHeadModel(GPT2Config(vocab_size=263, n_positions=192, n_embd=16, n_layer=1, n_head=2)).save_pretrained(
        rows / "gpt2"
    )
    monkeypatch.setenv("RLHF_PRESET", "smoke")
    monkeypatch.setenv("RLHF_INIT", "gpt2")
    for notebook, stage in (("1-SFT", sft), ("2-RM-Training", reward), ("3-PPO", ppo)):
        stage.run(setup(notebook))
    assert "1-SFT: preset smoke, track sentiment, from gpt2, seed 0" in capsys.readouterr().out
    paths = {name: folder / f"checkpoints/{name}/stage.json" for name in ("base", "sft", "ppo")}
    info = {name: json.loads(path.read_text()) for name, path in paths.items()}
    assert info["sft"]["parent"]["checksum"] == info["base"]["files"]["model.safetensors"]
    assert info["sft"]["parent"]["stage"] == "base" and info["sft"]["config"]["init"] == "gpt2"
    assert any("sst2/train.jsonl): 320 records" in line for line in info["sft"]["config"]["rows"])
    assert list(info["ppo"]["metrics"]["table"])[0] == "base" and not (folder / "checkpoints/pretrain").exists()


def test_the_stages_run_on_a_local_folder(folder, capsys):
    for notebook, stage in (("0-Pretrain", pretrain), ("1-SFT", sft), ("2-RM-Training", reward), ("3-PPO", ppo)):
        course = setup(notebook)
        assert course.source == "local"
        stage.run(course)
    printed = capsys.readouterr().out
    assert "sentiment labels/train (local: sst2/train.jsonl): 320 records" in printed
    metrics = {name: json.loads((folder / f"metrics/{name}.json").read_text()) for name in CONFIGS}
    assert metrics["pretrain"]["heldout_loss"] < metrics["pretrain"]["first_loss"]
    assert "entropy_floor" not in metrics["pretrain"] and "entropy_floor" not in metrics["sft"]
    low, high = metrics["reward"]["accuracy_ci95"]
    assert low <= metrics["reward"]["accuracy"] <= high and "bayes_accuracy" not in metrics["reward"]
    table = metrics["ppo"]["table"]
    assert list(table) == ["base", "SFT", "best of 8", "PPO"] and "gold_reward" not in table["PPO"]
    assert table["SFT"]["kl"] == 0 and 0 <= table["PPO"]["judge"] <= 1
    low, high = metrics["ppo"]["judge_gain_ci95"]
    assert low <= metrics["ppo"]["judge_gain"] <= high and 0 < metrics["ppo"]["judge_accuracy"] <= 1
    for name in ("pretrain", "sft", "ppo"):
        assert AutoModelForCausalLM.from_pretrained(folder / "checkpoints" / name).config.vocab_size == 600
    assert AutoModelForSequenceClassification.from_pretrained(folder / "checkpoints/reward").num_labels == 1
