"""The reward model with and without its surprise weight on real rows, all of it tiny."""

import importlib
import json
import sys
from types import SimpleNamespace

import pytest
import torch

from benchmarks import surprise
from benchmarks.page import write_table
from helpers.compare import win_rate
from helpers.records import Comparison
from helpers.run import presets
from helpers.run.checkpoints import load_stage
from helpers.run.folders import NOTEBOOKS
from helpers.run.report import read_metrics
from helpers.run.setup import setup
from tests.support.folder_of_rows import public_rows, write_all

FILES = {
    "sst2/train": ("sentiment", "labels", "train", 120),
    "sst2/validation": ("sentiment", "labels", "heldout", 40),
    "openai_summarize_tldr/train": ("tldr", "demonstrations", "train", 40),
    "openai_summarize_tldr/valid": ("tldr", "demonstrations", "heldout", 12),
    "openai_summarize_comparisons/train": ("tldr", "comparisons", "train", 60),
    "openai_summarize_comparisons/valid1": ("tldr", "comparisons", "heldout", 20),
    "fineweb-edu/train": ("tldr", "documents", "train", 40),
}
SAMPLES = {"eval_prompts": 6, "response_tokens": 8}
TINY = {
    "pretrain": {"layers": 1, "heads": 2, "channels": 16, "vocabulary": 500, "context": 256}
    | {"documents": 30, "eval_documents": 5},
    "sft": SAMPLES,
    "reward": SAMPLES | {"best_of": 2},
    "ppo": SAMPLES | {"iterations": 1, "rollout_size": 8, "minibatch_size": 4},
}


@pytest.fixture
def in_process(monkeypatch):
    """The stages, run in this process and with tiny settings."""

    def run_stage(stage, options):
        if not (options["out"] / "metrics" / f"{stage}.json").exists():
            importlib.import_module(f"helpers.stages.{stage}").run(
                setup(NOTEBOOKS[stage], **options)
            )

    monkeypatch.setattr(surprise, "run_stage", run_stage)
    monkeypatch.setattr(presets, "SMOKE_REAL", TINY)
    monkeypatch.setattr(presets, "SMOKE_REAL_OF", {"sentiment": {"reward": {"pointwise": True}}})
    monkeypatch.setattr(win_rate, "RESAMPLES", 20)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.mark.slow
def test_both_kinds_are_trained_and_ppo_learns_from_the_better(in_process, tmp_path, monkeypatch):
    rows, folder, out = tmp_path / "rows", tmp_path / "runs", tmp_path / "surprise.json"
    write_all(rows, {name: public_rows(*which) for name, which in FILES.items()})
    pages = []
    monkeypatch.setattr(surprise, "write_table", lambda *written: pages.append(written))
    command = f"surprise --rows {rows} --folder {folder} --out {out} --seeds 0-1 --preset smoke"
    monkeypatch.setattr(sys, "argv", command.split())
    surprise.main()
    tracks = json.loads(out.read_text())
    assert [found["track"] for found in tracks] == ["tldr", "sentiment"]
    for found in tracks:
        track, kinds = found["track"], (surprise.WITH, surprise.WITHOUT)
        for kind in kinds:
            for seed, accuracy in enumerate(found[kind]["by_seed"]):
                run = folder / f"{track}-{kind.replace(' ', '-')}-{seed}"
                # as the stage measured it before it shifted the scores
                assert accuracy == pytest.approx(read_metrics(run)["reward"]["accuracy"])
                model, _ = load_stage(run / "checkpoints/reward", stage="reward", track=track)
                assert (model.surprise_weight.item() == 0) == (kind == surprise.WITHOUT)
        means = [found[kind]["mean"] for kind in kinds]
        low, high = found["difference"]["ci95"]
        assert low <= found["difference"]["mean"] <= high
        assert found["difference"]["mean"] == pytest.approx(means[0] - means[1])
        better = kinds[means[1] > means[0]]
        assert found["ppo"]["from"] == better
        assert (folder / f"{track}-{better.replace(' ', '-')}-0/checkpoints/ppo").is_dir()
    assert [found["rows"] for found in tracks] == [20, 40]
    posts, sentences = (found["trained_on"] for found in tracks)
    assert 30 < posts < 60  # the second judge has the rest
    assert 100 < sentences <= 120  # a sentence that occurs twice is read once
    assert tracks[1]["rival"]["what"] == "bag of words"
    assert pages == [("surprise", surprise.table(tracks))]
    assert "| accuracy of the second judge |" in pages[0][1]

    monkeypatch.setattr(surprise.reward_stage, "run", lambda course: pytest.fail("trained twice"))
    surprise.main()
    assert json.loads(out.read_text()) == tracks


@pytest.mark.parametrize("wins, which, right", [(8, "longer", 0.75), (2, "shorter", 0.25)])
def test_the_rival_on_pairs_prefers_the_length_that_wins_in_training(wins, which, right):
    a = Comparison("Why?", " because it is so", " no")
    b = Comparison("Why?", " no", " because it is so")
    rows = {"train": wins * [a] + (10 - wins) * [b], "heldout": [a, a, a, b]}
    config = SimpleNamespace(pointwise=False)
    found = surprise.rival(SimpleNamespace(config=config, rows=lambda kind, split: rows[split]))
    assert found["what"] == f"the {which} one" and found["mean"] == right


def test_a_page_without_a_place_for_the_table_is_refused(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- bench -->\nold\n<!-- /bench -->\nb\n")
    write_table("bench", "new", page)
    assert page.read_text() == "a\n<!-- bench -->\n\nnew\n\n<!-- /bench -->\nb\n"
    with pytest.raises(ValueError, match="no place for this table: add <!-- surprise -->"):
        write_table("surprise", "new", page)
