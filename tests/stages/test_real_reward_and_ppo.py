"""Notebooks 2 and 3 from the first cell to the last on rows in a local folder: labels instead of
pairs, and no gold.
"""

import json
import math

import pytest
import torch

from helpers.compare import win_rate
from helpers.records import fingerprint
from helpers.run import presets
from helpers.run.checkpoints import read_info
from helpers.run.setup import setup
from helpers.stages import pretrain, sft
from tests.support.folder_of_rows import public_rows, write_all
from tests.support.in_process import run_cells

FILES = {  # of the public data sets: kind, split and number of rows
    "sentiment": {
        "sst2/train": ("labels", "train", 500),
        "sst2/validation": ("labels", "heldout", 150),
    },
    "tldr": {
        "openai_summarize_tldr/train": ("demonstrations", "train", 120),
        "openai_summarize_tldr/valid": ("demonstrations", "heldout", 30),
        "openai_summarize_comparisons/train": ("comparisons", "train", 120),
        "openai_summarize_comparisons/valid1": ("comparisons", "heldout", 40),
    },
}
SIZES = {"layers": 1, "heads": 2, "channels": 32, "vocabulary": 600, "documents": 50}
PPO = {"iterations": 2, "rollout_size": 16, "minibatch_size": 8, "rank": 2}
SAMPLES = {"eval_prompts": 8, "response_tokens": 10}
REWARD = {"comparisons": 100, "best_of": 4} | SAMPLES | {"eval_prompts": 12}
TINY = {
    "sentiment": {
        "pretrain": SIZES | {"context": 64, "eval_documents": 5},
        "sft": SAMPLES | {"demonstrations": 120},
        "reward": REWARD | {"pointwise": True},
        "ppo": PPO | SAMPLES,
    },
    "tldr": {
        "pretrain": SIZES | {"context": 256, "eval_documents": 5},
        "sft": SAMPLES | {"demonstrations": 120},
        "reward": REWARD,
        "ppo": PPO | SAMPLES | {"adapter": "lora"},
    },
}


@pytest.fixture(params=["sentiment", "tldr"])
def run(request, tmp_path, monkeypatch):
    """(track, run folder) with the base and SFT models made by their stages, all of it tiny."""
    track, folder = request.param, tmp_path / "rows"
    files = FILES[track] | {"fineweb-edu/train": ("documents", "train", 60)}
    write_all(folder, {name: public_rows(track, *which) for name, which in files.items()})
    monkeypatch.setattr(presets, "SMOKE_REAL", TINY[track])
    monkeypatch.setattr(presets, "SMOKE_REAL_OF", {})
    monkeypatch.setattr(win_rate, "RESAMPLES", 20)  # each is a fit of its own
    # other processes would not have these settings
    monkeypatch.setattr("helpers.run.launch.launch", lambda *_, **__: [])
    settings = {"TRACK": track, "PRESET": "smoke", "SEED": "0", "SOURCE": "local", "THREADS": "1"}
    settings |= {"DATA_DIR": str(folder), "OUT": str(tmp_path / "run")}
    for name, value in settings.items():
        monkeypatch.setenv(f"RLHF_{name}", value)
    threads = torch.get_num_threads()
    pretrain.run(setup("0-Pretrain"))
    sft.run(setup("1-SFT"))
    yield track, tmp_path / "run"
    torch.set_num_threads(threads)


def check_reward(track: str, names: dict, metrics: dict, read_from: str) -> None:
    assert names["course"].source == "local" and math.isnan(names["bayes"])
    low, high = metrics["accuracy_ci95"]
    assert low <= metrics["accuracy"] <= high and "bayes_accuracy" not in metrics
    items = names["items"] if track == "sentiment" else names["comparisons"]
    assert read_from == fingerprint(items)
    if track == "sentiment":
        assert metrics["labels"] == len(names["heldout_items"])
        assert {"pair_accuracies", "bag_of_words_accuracy_ci95"} <= metrics.keys()
        assert metrics["curves"].keys() == {"label loss"}
    else:
        assert metrics["comparisons"] == len(names["heldout"])
        assert metrics["curves"].keys() == {"pairwise loss"}
        assert metrics["judge_comparisons"] == len(names["for_judge"]) > 0
        assert not {c.prompt for c in names["for_judge"]} & {c.prompt for c in items}


# each cell a second time, as a learner may
@pytest.mark.parametrize(
    "twice", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["once", "twice"]
)
def test_both_notebooks_run_to_the_end(run, twice, root):
    track, out = run
    names = run_cells(root / "2-RM-Training.ipynb", twice)
    metrics = json.loads((out / "metrics/reward.json").read_text())
    info = read_info(out / "checkpoints/reward", "reward")
    check_reward(track, names, metrics, info["data_fingerprint"])

    run_cells(root / "3-PPO.ipynb", twice)
    metrics = json.loads((out / "metrics/ppo.json").read_text())
    table = metrics["table"]
    assert "gold_reward" not in metrics
    assert metrics["curves"].keys() == {"score", "KL, nats per response"}
    assert {"base", "SFT", "best of 8", "PPO"} <= table.keys() and table["SFT"]["kl"] == 0
    assert ("judge" if track == "sentiment" else "ROUGE-L") in table["PPO"]
    saved = read_info(out / "checkpoints/ppo", "ppo")
    assert ("adapter" in saved) == (track == "tldr") == (saved["config"]["adapter"] == "lora")
    figures = {path.stem for path in (out / "figures").iterdir()}
    assert {"reward-accuracy", "reward-best-of-n"} <= figures
    assert {"ppo-training", "ppo-policies", "ppo-penalty"} <= figures
