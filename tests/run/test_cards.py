"""Model cards: the Hub can read them, and they say what stage.json says and nothing else."""

import copy
import re

import pytest
from huggingface_hub import ModelCard

from helpers.rows.tracks import TRACKS
from helpers.run.cards import model_card

ROWS = "demonstrations/train (hub: stanfordnlp/sst2): 9 records; 2 rows left out (empty: 2)"
CONFIG = {"preset": "t4", "source": "hub", "init": "pretrain", "seed": 3, "lr": 5e-05}
INFO = {
    "stage": "sft",
    "track": "sentiment",
    "metrics": {},
    "parent": None,
    "data_fingerprint": "fe" * 32,
    "config": CONFIG | {"rows": [ROWS]},
    "tokenizer": {"name": "gpt2", "fingerprint": "ab"},
    "versions": {"python": "3.11.7", "torch": "2.13.0"},
}
METRICS = {
    "heldout_loss": 3.14159,
    "stop_rate": 0.98,
    "score": 1.25,
    "score_ci95": [1.125, 1.375],
    "kl": 7.5,
    "gold_gain_ci95": [0.5, 0.75],
    "accuracy_by_kind": {"facts": 0.875},
    "responses": 1500,
    "table": {
        "SFT": {"score": 0.0, "kl": 0.0, "flaws": {"x": 1.0}},
        "PPO": {"score": 1.25, "score_ci95": [1.125, 1.375]},
    },
    "curves": {"loss": {"x": [1], "y": [2.0]}},
    "nothing": {},
    "unknown": None,
}


def info(source: str = "hub", **changes) -> dict:
    record = copy.deepcopy(INFO)
    record["config"] |= {"source": source} | changes.pop("config", {})
    return record | changes


def front_matter(card: str) -> dict:
    """As huggingface_hub understands it."""
    return ModelCard(card).data.to_dict()


@pytest.mark.parametrize("stage", ["base", "pretrain", "sft", "reward", "ppo"])
@pytest.mark.parametrize("source", ["embedded", "local", "hub"])
def test_the_hub_reads_every_card(stage, source):
    task = "text-classification" if stage == "reward" else "text-generation"
    for track in TRACKS:
        card = model_card(info(source, stage=stage, track=track, metrics=METRICS))
        data = front_matter(card)
        assert data["language"] == "en" and data["library_name"] == "transformers"
        assert stage in data["tags"] and data["pipeline_tag"] == task
        assert "## Measured" in card and "## Limits" in card and "not for advice" in card


def test_data_are_named_only_when_they_were_used():
    card, data = model_card(info()), TRACKS["sentiment"].roles["demonstrations"].data
    assert front_matter(card)["datasets"] == ["stanfordnlp/sst2"]
    lines = [f"stanfordnlp/sst2, revision {data.revision}", "2 rows left out (empty: 2)", "fe" * 32]
    for line in [*lines, "| lr | 5e-05 |", "| seed | 3 |"]:
        assert line in card
    local = model_card(info("local"))
    assert "datasets" not in front_matter(local) and "files on the maker's machine" in local
    world = model_card(info("embedded"))
    assert "sst2" not in world.split("- rows:")[0] and "generated world of track sentiment" in world
    pairs = model_card(info(stage="reward", track="tldr"))
    assert front_matter(pairs)["datasets"] == ["CarperAI/openai_summarize_comparisons"]


def test_the_licence_and_the_base_are_named():
    assert front_matter(model_card(info("embedded")))["license"] == "mit"
    base = {"source": "openai-community/gpt2", "revision": "607a30d7"}
    parent = {"stage": "base", "checksum": "cd", "base": base}
    card = model_card(info("embedded", parent=parent))
    assert front_matter(card)["base_model"] == "openai-community/gpt2"
    assert front_matter(card)["license"] == "other"
    assert "first weights: openai-community/gpt2, revision 607a30d7" in card
    folder = parent | {"base": {"source": "gpt2", "revision": "sha256:ab"}}
    assert "base_model" not in front_matter(model_card(info(parent=folder)))
    converted = info("raw.pt", stage="base", track="any", config={"revision": "sha256:ab"})
    assert "# raw.pt" in model_card(converted)
    assert "Nothing in them was trained here" in model_card(converted)


def test_metrics_have_their_intervals_and_no_number_is_invented():
    card = model_card(info(stage="ppo", metrics=METRICS))
    measured = card.split("## Measured")[1].split("## Limits")[0]
    for line in (
        "| heldout_loss | 3.142 | nats per token |",
        "| gold_gain | [0.5, 0.75] | |",
        "| score | 1.25 [1.125, 1.375] | standard deviations of the SFT model's samples |",
        "| kl | 7.5 | nats per response, from the SFT model |",
        "| accuracy_by_kind, facts | 0.875 | |",
        "| responses | 1,500 |",
        "| | score | kl |",
        "| PPO | 1.25 [1.125, 1.375] | - |",
    ):
        assert line in measured, measured
    numbers = set(re.findall(r"(?<![\w.])\d[\d.,]*\d|(?<![\w.])\d", measured))
    assert numbers <= set("3.142 0.98 1.25 1.125 1.375 7.5 0.5 0.75 0.875 1,500 0 95".split())
    assert "PPO raised the score of one reward model" in card
    assert "Nothing." in model_card(info()).split("## Measured")[1]
