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

from helpers.rows.embedded import load_rows
from helpers.run import presets
from helpers.run.checkpoints import load_stage
from helpers.run.folders import STAGES as STAGE_OF
from helpers.run.policy_table import BLOCKS, all_rows
from helpers.run.setup import setup
from helpers.stages import ppo, pretrain, reward, sft
from tests.support.gpt2_files import small_gpt2

SMALL = {
    "pretrain": {
        "layers": 1,
        "heads": 2,
        "channels": 32,
        "context": 64,
        "vocabulary": 600,
        "documents": 150,
        "eval_documents": 15,
    },
    "sft": {"demonstrations": 320, "eval_prompts": 12, "response_tokens": 12},
    "reward": {"pointwise": True, "comparisons": 320, "eval_prompts": 16, "response_tokens": 12},
    "ppo": {
        "iterations": 2,
        "rollout_size": 16,
        "minibatch_size": 8,
        "eval_prompts": 12,
        "response_tokens": 12,
    },
}
STAGES = (("0-Pretrain", pretrain), ("1-SFT", sft), ("2-RM-Training", reward), ("3-PPO", ppo))
POSTS = SMALL | {
    "pretrain": SMALL["pretrain"] | {"context": 320},
    "reward": SMALL["reward"] | {"pointwise": False},
}


def sentiment_rows() -> dict[str, list[dict]]:
    """Rows in the columns of stanfordnlp/sst2, by file."""
    sentences = [
        {"sentence": row.prompt + row.completion, "label": row.label}
        for row in load_rows("labels", "train", "sentiment", limit=900)
    ]
    return {"sst2/train": sentences[:700], "sst2/validation": sentences[700:]}


def tldr_rows() -> dict[str, list[dict]]:
    """Rows in the columns of CarperAI/openai_summarize_tldr and openai_summarize_comparisons, by
    file.
    """
    posts = load_rows("demonstrations", "train", "tldr", limit=500)
    pairs = load_rows("comparisons", "train", "tldr", limit=500)
    return {
        "tldr/sft.train": [{"prompt": row.prompt, "label": row.completion} for row in posts],
        "tldr/comparisons.train": [
            {"prompt": r.prompt, "chosen": r.chosen, "rejected": r.rejected} for r in pairs
        ],
    }


@pytest.fixture
def run_stages(tmp_path, monkeypatch):
    """Runs the stages on the rows of some files: the run folder, and what each stage recorded."""
    threads = torch.get_num_threads()

    def run(
        track: str, rows: dict[str, list[dict]], settings: dict | None, stages=STAGES, **options
    ):
        documents = [
            {"text": row.text} for row in load_rows("documents", "train", track, limit=250)
        ]
        for name, part in {**rows, "fineweb-edu/train": documents}.items():
            path = tmp_path / f"rows/{name}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("\n".join(map(json.dumps, part)), encoding="utf-8")
        if settings is not None:
            monkeypatch.setitem(presets.REAL, track, settings)
        chosen = {"data_dir": tmp_path / "rows", "out": tmp_path / "run", "track": track}
        chosen |= {"preset": "cpu" if settings else "smoke", "threads": 1}
        for notebook, stage in stages:
            course = setup(notebook, **chosen, **options)
            assert course.source == "local"
            stage.run(course)
        return tmp_path / "run", {
            stage: course.metrics(stage) for stage in (STAGE_OF[name] for name, _ in stages)
        }

    yield run
    torch.set_num_threads(threads)


def test_sentiment_on_a_local_folder(run_stages, capsys):
    folder, metrics = run_stages("sentiment", sentiment_rows(), SMALL)
    assert (
        "sentiment labels/train (local: sst2/train.jsonl): 320 records" in capsys.readouterr().out
    )
    assert metrics["pretrain"]["heldout_loss"] < metrics["pretrain"]["first_loss"]
    assert "entropy_floor" not in metrics["pretrain"] and "entropy_floor" not in metrics["sft"]
    low, high = metrics["sft"]["heldout_loss_ci95"]
    assert low < metrics["sft"]["heldout_loss"] < high
    low, high = metrics["reward"]["accuracy_ci95"]
    assert (
        low <= metrics["reward"]["accuracy"] <= high and "bayes_accuracy" not in metrics["reward"]
    )
    low, high = metrics["reward"]["bag_of_words_accuracy_ci95"]
    assert low <= metrics["reward"]["bag_of_words_accuracy"] <= high
    table = metrics["ppo"]["table"]
    assert list(table) == ["base", "SFT", "best of 8", "PPO"] and "gold_reward" not in table["PPO"]
    assert table["SFT"]["kl"] == 0 and 0 <= table["PPO"]["judge"] <= 1
    low, high = metrics["ppo"]["judge_gain_ci95"]
    assert low <= metrics["ppo"]["judge_gain"] <= high and 0 < metrics["ppo"]["judge_accuracy"] <= 1
    assert not (folder / "checkpoints/judge").exists()
    for name in ("pretrain", "sft", "ppo"):
        assert (
            AutoModelForCausalLM.from_pretrained(folder / "checkpoints" / name).config.vocab_size
            == 600
        )
    assert (
        AutoModelForSequenceClassification.from_pretrained(folder / "checkpoints/reward").num_labels
        == 1
    )


def test_the_stages_start_from_gpt2(run_stages, tmp_path, monkeypatch, capsys):
    """Preset smoke from weights beside the rows, without 0-Pretrain."""
    small_gpt2(tmp_path / "rows", monkeypatch)
    monkeypatch.setitem(presets.SMOKE_REAL["pretrain"], "context", 512)  # its tokens are short
    gpt2 = GPT2LMHeadModel(
        GPT2Config(vocab_size=263, n_positions=512, n_embd=16, n_layer=1, n_head=2)
    )
    gpt2.save_pretrained(tmp_path / "rows/gpt2")
    stages = (("1-SFT", sft), ("2-RM-Training", reward), ("3-PPO", ppo))
    folder, _ = run_stages("sentiment", sentiment_rows(), None, stages, init="gpt2")
    assert "1-SFT: preset smoke, track sentiment, from gpt2, seed 0" in capsys.readouterr().out
    paths = {name: folder / f"checkpoints/{name}/stage.json" for name in ("base", "sft", "ppo")}
    info = {name: json.loads(path.read_text()) for name, path in paths.items()}
    assert info["sft"]["parent"]["checksum"] == info["base"]["files"]["model.safetensors"]
    assert info["sft"]["parent"]["stage"] == "base"
    assert info["sft"]["config"]["init"] == "gpt2"
    assert any(": 320 records" in row for row in info["sft"]["config"]["rows"])
    assert info["ppo"]["parent"]["base"]["revision"] == info["base"]["config"]["revision"]
    assert (
        list(info["ppo"]["metrics"]["table"])[0] == "base"
        and not (folder / "checkpoints/pretrain").exists()
    )
    assert (
        "first weights: gpt2, revision sha256:"
        in (folder / "checkpoints/ppo/README.md").read_text()
    )


def test_tldr_on_a_local_folder(run_stages, capsys):
    folder, metrics = run_stages("tldr", tldr_rows(), POSTS)
    printed = capsys.readouterr().out
    model, info = load_stage(folder / "checkpoints/judge", stage="reward", track="tldr")
    assert info["parent"]["stage"] == "pretrain" and info["config"]["seed"] == 1
    judged = metrics["reward"]["judge_comparisons"]
    assert (
        0.1 < judged / 320 < 0.3
        and info["metrics"]["judge_accuracy"] == metrics["reward"]["judge_accuracy"]
    )
    found = metrics["ppo"]
    assert found["judge_accuracy"] == metrics["reward"]["judge_accuracy"] and found["asked"] == {}
    assert found["table"]["SFT"]["judge"] == pytest.approx(
        0, abs=1e-5
    )  # in SFT standard deviations
    for lines, row in ((metrics["sft"], metrics["sft"]), (found, found["table"]["SFT"])):
        lead = next(name for name in lines["baselines"] if name.startswith("lead-"))
        for said in (row, row["greedy"]):
            gain = said["ROUGE-L"] - lines["baselines"][lead]["ROUGE-L"]
            low, high = said["ROUGE-L_over_lead_ci95"]
            assert (
                said["ROUGE-L_over_lead"] == pytest.approx(gain, abs=1e-5) and low <= gain <= high
            )
    keys = {column.key for columns in BLOCKS.values() for column in columns}
    assert keys <= all_rows(found)["PPO"].keys()
    assert "wins over people" in printed
