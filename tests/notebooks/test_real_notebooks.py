"""0-Pretrain, 1-SFT and 1b-Adapters from top to bottom on rows in a local folder, with tiny
settings: the columns of the Hub's data sets, written by the embedded worlds.
"""

import json
from dataclasses import replace

import matplotlib
import pytest
import torch

from helpers.engine.files import ROOT
from helpers.rows.embedded import load_rows
from helpers.run.presets import load_config
from tests.support.in_process import run_cells

SMALL = {
    "pretrain": {
        "layers": 2,
        "heads": 2,
        "channels": 32,
        "vocabulary": 600,
        "documents": 260,
        "eval_documents": 20,
    },
    "sft": {"demonstrations": 250, "eval_prompts": 16, "response_tokens": 16, "epochs": 1.0},
}
# no document of the first fits as a whole, each of the second does
CONTEXT = {"sentiment": 64, "tldr": 256}


def sentences() -> dict[str, list[dict]]:
    """Rows of stanfordnlp/sst2; one has no end that could be learned, one is there twice."""
    labels = load_rows("labels", "train", "sentiment", limit=520)
    rows = [{"sentence": row.prompt + row.completion, "label": row.label} for row in labels]
    return {
        "sst2/train": [{"sentence": "too short", "label": 1}, rows[0], *rows[:420]],
        "sst2/validation": rows[420:],
    }


def posts() -> dict[str, list[dict]]:
    """Rows of CarperAI/openai_summarize_tldr; one is no post, one is there twice."""
    demonstrations = load_rows("demonstrations", "train", limit=380)
    rows = [{"prompt": row.prompt, "label": row.completion.strip()} for row in demonstrations]
    broken = {"prompt": "no post", "label": "A summary."}
    return {
        "openai_summarize_tldr/train": [broken, rows[0], *rows[:300]],
        "openai_summarize_tldr/valid": rows[300:],
    }


ROWS = {"sentiment": sentences, "tldr": posts}
# and a duplicate each
LEFT_OUT = {"sentiment": "sentence too short: ", "tldr": "prompt is no Reddit post: 1"}


@pytest.fixture(params=ROWS)
def track(request, tmp_path, monkeypatch):
    """A track with rows in tmp_path/rows, a run folder tmp_path/run and tiny settings."""
    documents = [
        {"text": row.text} for row in load_rows("documents", "train", request.param, limit=320)
    ]
    for name, rows in {**ROWS[request.param](), "fineweb-edu/train": documents}.items():
        path = tmp_path / f"rows/{name}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")

    def tiny(stage, preset="cpu", track="tldr", seed=0, source="embedded"):
        changes = SMALL.get(stage, {}) | (
            {"context": CONTEXT[track]} if stage == "pretrain" else {}
        )
        return replace(load_config(stage, preset, track, seed, source), **changes)

    for module in ("course", "setup"):
        monkeypatch.setattr(f"helpers.run.{module}.load_config", tiny)
    # other processes would not have these settings
    monkeypatch.setattr("helpers.run.launch.launch", lambda *_, **__: [])
    settings = {"TRACK": request.param, "PRESET": "smoke", "SEED": "0", "DTYPE": "float32"}
    for name, value in (
        settings | {"DATA_DIR": str(tmp_path / "rows"), "OUT": str(tmp_path / "run")}
    ).items():
        monkeypatch.setenv(f"RLHF_{name}", value)
    monkeypatch.delenv("RLHF_SOURCE", raising=False)
    threads, style = torch.get_num_threads(), dict(matplotlib.rcParams)
    yield request.param
    torch.set_num_threads(threads)
    matplotlib.rcParams.update(style)


# each cell a second time, as a learner may
@pytest.mark.parametrize(
    "twice", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["once", "twice"]
)
def test_the_notebooks_run_on_a_local_folder(track, twice, tmp_path, capsys):
    pretrain = run_cells(ROOT / "0-Pretrain.ipynb", twice)
    printed = capsys.readouterr().out
    assert pretrain["floor"] is None
    assert "bits per byte" in printed
    metrics = json.loads((tmp_path / "run/metrics/pretrain.json").read_text())
    assert metrics["source"] == "local" and "entropy_floor" not in metrics
    assert (
        metrics["heldout_loss"] < metrics["first_loss"]
        and metrics["bigram_loss"] < metrics["first_loss"]
    )

    sft = run_cells(ROOT / "1-SFT.ipynb", twice)
    printed = capsys.readouterr().out
    read = next(
        line
        for line in printed.splitlines()
        if line.startswith(f"{track} demonstrations/train (local: ") and "250 records" in line
    )
    assert LEFT_OUT[track] in read and "duplicate: 1" in read
    assert len(sft["demonstrations"]) == 250 and all(
        item.logprob is None for item in sft["demonstrations"]
    )
    # some answers are too long
    by_people = {item.prompt for item in sft["heldout"]}
    compared = [prompt for prompt in sft["few"] if prompt.prompt in by_people]
    assert len(compared) > 0.8 * len(sft["few"]) and "ROUGE-L" in printed
    metrics = json.loads((tmp_path / "run/metrics/sft.json").read_text())
    assert (
        metrics["heldout_loss"] < metrics["base_loss"]
        and metrics["heldout_loss"] < metrics["unigram_loss"]
    )
    low, high = metrics["heldout_loss_ci95"]
    assert low < metrics["heldout_loss"] < high and ("ROUGE-L_over_lead" in metrics) == (
        track == "tldr"
    )
    assert (
        not {"entropy_floor", "gold_reward", "flaws"} & set(metrics)
        and 0 <= metrics["stop_rate"] <= 1
    )
    assert {path.name for path in (tmp_path / "run/figures").iterdir()} >= {
        "pretrain-the-ladder.png",
        "pretrain-first-and-later-mentions.png",
        "sft-loss-against-floor.png",
        "sft-temperature.png",
        "sft-without-mask-without-end.png",
    }

    adapters = run_cells(ROOT / "bonus/1b-Adapters.ipynb", twice)
    assert {*adapters["losses"]} == {"full", "blocks only", "LoRA", "QLoRA"}
