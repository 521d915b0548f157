"""The four stages on rows in a local folder: own vocabulary, no floors, a second judge, and the
table of policies.
"""

import json

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
)

from helpers.run import presets
from helpers.run.checkpoints import load_stage
from helpers.run.folders import STAGES as STAGE_OF
from helpers.run.policy_table import BLOCKS, all_rows
from helpers.run.setup import setup
from helpers.stages import ppo, pretrain, reward, sft
from tests.support.folder_of_rows import public_rows, write_all
from tests.support.gpt2_files import small_gpt2

SIZES = {"layers": 1, "heads": 2, "channels": 32, "context": 64, "vocabulary": 600}
SAMPLES = {"eval_prompts": 12, "response_tokens": 12}
SMALL = {
    "pretrain": SIZES | {"documents": 150, "eval_documents": 15},
    "sft": SAMPLES | {"demonstrations": 320},
    "reward": {"pointwise": True, "comparisons": 320, "eval_prompts": 16, "response_tokens": 12},
    "ppo": SAMPLES | {"iterations": 2, "rollout_size": 16, "minibatch_size": 8},
}
STAGES = {"0-Pretrain": pretrain, "1-SFT": sft, "2-RM-Training": reward, "3-PPO": ppo}
POSTS = SMALL | {
    "pretrain": SMALL["pretrain"] | {"context": 320},
    "reward": SMALL["reward"] | {"pointwise": False},
}


def files_of(track: str) -> dict[str, list[dict]]:
    """Rows of a track's public data sets, by file."""
    files = {"fineweb-edu/train": public_rows(track, "documents", "train", 250)}
    if track == "sentiment":
        sentences = public_rows(track, "labels", "train", 900)
        return files | {"sst2/train": sentences[:700], "sst2/validation": sentences[700:]}
    for name, kind in (("sft", "demonstrations"), ("comparisons", "comparisons")):
        files[f"tldr/{name}.train"] = public_rows(track, kind, "train", 500)
    return files


@pytest.fixture
def run_stages(tmp_path, monkeypatch):
    """Runs the stages on a track's rows: the run folder, and what each stage recorded."""
    threads = torch.get_num_threads()

    def run(track: str, settings: dict | None, notebooks=tuple(STAGES), **options):
        write_all(tmp_path / "rows", files_of(track))
        if settings is not None:
            monkeypatch.setitem(presets.REAL, track, settings)
        chosen = {"data_dir": tmp_path / "rows", "out": tmp_path / "run", "track": track}
        chosen |= {"preset": "cpu" if settings else "smoke", "threads": 1}
        for notebook in notebooks:
            course = setup(notebook, **chosen, **options)
            assert course.source == "local"
            STAGES[notebook].run(course)
        stages = [STAGE_OF[name] for name in notebooks]
        return tmp_path / "run", {stage: course.metrics(stage) for stage in stages}

    yield run
    torch.set_num_threads(threads)


def test_sentiment_on_a_local_folder(run_stages, capsys):
    folder, metrics = run_stages("sentiment", SMALL)
    printed = capsys.readouterr().out
    assert "sentiment labels/train (local: sst2/train.jsonl): 320 records" in printed
    base, sft_metrics, rm, ppo_metrics = metrics.values()
    assert base["heldout_loss"] < base["first_loss"]
    assert "entropy_floor" not in base.keys() | sft_metrics.keys() and "bayes_accuracy" not in rm
    for numbers, name in (
        (sft_metrics, "heldout_loss"),
        (rm, "accuracy"),
        (rm, "bag_of_words_accuracy"),
        (ppo_metrics, "judge_gain"),
    ):
        low, high = numbers[f"{name}_ci95"]
        assert low <= numbers[name] <= high
    table = ppo_metrics["table"]
    rows = ["base", "SFT", "SFT, greedy", "best of 8", "PPO", "PPO, greedy"]
    assert list(table) == rows and "gold_reward" not in table["PPO"]
    assert table["SFT"]["kl"] == 0 and 0 <= table["PPO"]["judge"] <= 1
    assert 0 < ppo_metrics["judge_accuracy"] <= 1
    checkpoints = folder / "checkpoints"
    assert not (checkpoints / "judge").exists()
    for name in ("pretrain", "sft", "ppo"):
        model = AutoModelForCausalLM.from_pretrained(checkpoints / name)
        assert model.config.vocab_size == 600
    model = AutoModelForSequenceClassification.from_pretrained(checkpoints / "reward")
    assert model.num_labels == 1


@pytest.mark.slow
def test_the_stages_start_from_gpt2(run_stages, tmp_path, monkeypatch, capsys):
    """Preset smoke from weights beside the rows, without 0-Pretrain."""
    small_gpt2(tmp_path / "rows", monkeypatch)
    monkeypatch.setitem(presets.SMOKE_REAL["pretrain"], "context", 512)  # its tokens are short
    config = GPT2Config(vocab_size=263, n_positions=512, n_embd=16, n_layer=1, n_head=2)
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "rows/gpt2")
    folder, _ = run_stages("sentiment", None, tuple(STAGES)[1:], init="gpt2")
    assert "1-SFT: preset smoke, track sentiment, from gpt2, seed 0" in capsys.readouterr().out
    base, sft_info, ppo_info = (
        json.loads((folder / f"checkpoints/{name}/stage.json").read_text())
        for name in ("base", "sft", "ppo")
    )
    assert sft_info["parent"]["checksum"] == base["files"]["model.safetensors"]
    assert sft_info["parent"]["stage"] == "base" and sft_info["config"]["init"] == "gpt2"
    assert any(": 320 records" in row for row in sft_info["config"]["rows"])
    assert ppo_info["parent"]["base"]["revision"] == base["config"]["revision"]
    assert list(ppo_info["metrics"]["table"])[0] == "base"
    assert not (folder / "checkpoints/pretrain").exists()
    card = (folder / "checkpoints/ppo/README.md").read_text()
    assert "first weights: gpt2, revision sha256:" in card


@pytest.mark.slow
def test_tldr_on_a_local_folder(run_stages, capsys):
    folder, metrics = run_stages("tldr", POSTS)
    _, sft_metrics, rm, ppo_metrics = metrics.values()
    _, info = load_stage(folder / "checkpoints/judge", stage="reward", track="tldr")
    assert info["parent"]["stage"] == "pretrain" and info["config"]["seed"] == 1
    assert 0.1 < rm["judge_comparisons"] / 320 < 0.3
    accuracies = {numbers["judge_accuracy"] for numbers in (info["metrics"], rm, ppo_metrics)}
    assert len(accuracies) == 1 and ppo_metrics["asked"] == {}
    sft_row = ppo_metrics["table"]["SFT"]
    assert sft_row["judge"] == pytest.approx(0, abs=1e-5)  # in SFT standard deviations
    for numbers, row in ((sft_metrics, sft_metrics), (ppo_metrics, sft_row)):
        lead = next(name for name in numbers["baselines"] if name.startswith("lead-"))
        for one in (row, row["greedy"]):
            gain = one["ROUGE-L"] - numbers["baselines"][lead]["ROUGE-L"]
            low, high = one["ROUGE-L_over_lead_ci95"]
            assert one["ROUGE-L_over_lead"] == pytest.approx(gain, abs=1e-5) and low <= gain <= high
    keys = {column.key for columns in BLOCKS.values() for column in columns}
    assert keys <= all_rows(ppo_metrics)["PPO"].keys()
    assert "wins over people" in capsys.readouterr().out
