"""Notebooks 2 and 3 from the first cell to the last on rows in a local folder: labels instead of
pairs, and no gold.
"""

import json
import math

import pytest
import torch

from helpers.compare import win_rate
from helpers.records import fingerprint
from helpers.rows.embedded import load_rows
from helpers.run import presets
from helpers.run.checkpoints import read_info
from helpers.run.setup import setup
from helpers.stages import pretrain, sft
from tests.support.in_process import run_cells

CONTEXTS = {"sentiment": 64, "tldr": 256}
FILES = {  # where the columns of a public data set lie in a folder
    "sentiment": {"sst2/train": ("train", 500), "sst2/validation": ("heldout", 150)},
    "tldr": {
        "openai_summarize_tldr/train": ("train", 120),
        "openai_summarize_tldr/valid": ("heldout", 30),
    },
}


def rows_of(track: str, split: str, limit: int) -> list[dict]:
    """Rows as stanfordnlp/sst2 or CarperAI/openai_summarize_tldr have them, out of the embedded
    world.
    """
    if track == "sentiment":
        return [
            {"sentence": row.prompt + row.completion, "label": row.label}
            for row in load_rows("labels", split, track, limit)
        ]
    return [
        {"prompt": row.prompt, "label": row.completion}
        for row in load_rows("demonstrations", split, track, limit)
    ]


def write(path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")


@pytest.fixture(params=["sentiment", "tldr"])
def run(request, tmp_path, monkeypatch):
    """(track, run folder) with the base and SFT models made by their command lines, all of it
    tiny.
    """
    track = request.param
    folder = tmp_path / "rows"
    for name, (split, limit) in FILES[track].items():
        write(folder / f"{name}.jsonl", rows_of(track, split, limit))
    if track == "tldr":
        for name, split, limit in (("train", "train", 120), ("valid1", "heldout", 40)):
            rows = [
                {"prompt": row.prompt, "chosen": row.chosen, "rejected": row.rejected}
                for row in load_rows("comparisons", split, track, limit)
            ]
            write(folder / f"openai_summarize_comparisons/{name}.jsonl", rows)
    documents = load_rows("documents", "train", track, 60)
    write(folder / "fineweb-edu/train.jsonl", [{"text": row.text} for row in documents])
    tiny = {
        "pretrain": {
            "layers": 1,
            "heads": 2,
            "channels": 32,
            "context": CONTEXTS[track],
            "vocabulary": 600,
            "documents": 50,
            "eval_documents": 5,
        },
        "sft": {"demonstrations": 120, "eval_prompts": 8, "response_tokens": 10},
        "reward": {
            "pointwise": track == "sentiment",
            "comparisons": 100,
            "eval_prompts": 12,
            "response_tokens": 10,
            "best_of": 4,
        },
        "ppo": {
            "iterations": 2,
            "rollout_size": 16,
            "minibatch_size": 8,
            "eval_prompts": 8,
            "response_tokens": 10,
            "adapter": "full" if track == "sentiment" else "lora",
            "rank": 2,
        },
    }
    monkeypatch.setattr(presets, "SMOKE_REAL", tiny)
    monkeypatch.setattr(presets, "SMOKE_REAL_OF", {})
    monkeypatch.setattr(win_rate, "RESAMPLES", 20)  # each is a fit of its own
    monkeypatch.setattr(
        "helpers.run.launch.launch", lambda *_, **__: []
    )  # other processes would not have these settings
    settings = {"TRACK": track, "PRESET": "smoke", "SEED": "0", "SOURCE": "local"}
    for name, value in (
        settings | {"DATA_DIR": str(folder), "OUT": str(tmp_path / "run"), "THREADS": "1"}
    ).items():
        monkeypatch.setenv(f"RLHF_{name}", value)
    threads = torch.get_num_threads()
    pretrain.run(setup("0-Pretrain"))
    sft.run(setup("1-SFT"))
    yield track, tmp_path / "run"
    torch.set_num_threads(threads)


def test_both_notebooks_run_to_the_end(run, root):
    track, out = run
    names = run_cells(root / "2-RM-Training.ipynb")
    assert names["course"].source == "local" and math.isnan(names["bayes"])
    reward = json.loads((out / "metrics/reward.json").read_text())
    low, high = reward["accuracy_ci95"]
    assert low <= reward["accuracy"] <= high and "bayes_accuracy" not in reward
    learned_from = names["items"] if track == "sentiment" else names["comparisons"]
    assert read_info(out / "checkpoints/reward", "reward")["data_fingerprint"] == fingerprint(
        learned_from
    )
    if track == "sentiment":
        assert reward["labels"] == len(names["heldout_items"]) and "label loss" in reward["curves"]
        assert {"pair_accuracies", "bag_of_words_accuracy_ci95"} <= reward.keys()
    else:
        assert (
            reward["comparisons"] == len(names["heldout"]) and "pairwise loss" in reward["curves"]
        )
        assert reward["judge_comparisons"] == len(names["for_judge"]) > 0
        assert not {c.prompt for c in names["for_judge"]} & {c.prompt for c in names["comparisons"]}

    names = run_cells(root / "3-PPO.ipynb")
    found = json.loads((out / "metrics/ppo.json").read_text())
    assert "gold_reward" not in found and set(found["curves"]) == {"score", "KL, nats per response"}
    assert {"base", "SFT", "best of 8", "PPO"} <= found["table"].keys() and found["table"]["SFT"][
        "kl"
    ] == 0
    assert ("judge" if track == "sentiment" else "ROUGE-L") in found["table"]["PPO"]
    saved = read_info(out / "checkpoints/ppo", "ppo")
    assert ("adapter" in saved) == (track == "tldr") == (saved["config"]["adapter"] == "lora")
    figures = {path.stem for path in (out / "figures").iterdir()}
    assert {
        "reward-accuracy",
        "reward-best-of-n",
        "ppo-training",
        "ppo-policies",
        "ppo-without-kl",
    } <= figures
