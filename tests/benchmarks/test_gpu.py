"""`make gpu` in its dry form: every section runs on a CPU, and its figures are written down."""

import json
import os
import subprocess
import sys

import pytest

from helpers.engine.files import ROOT
from helpers.rows.embedded import load_rows

pytestmark = pytest.mark.slow


def dry(folder, *words: str) -> dict:
    """Run sections in processes of their own; what gpu.json then holds."""
    out = folder / "gpu.json"
    command = [sys.executable, "-m", "benchmarks.gpu", "--dry", "--out", str(out), *words]
    env = {name: value for name, value in os.environ.items() if not name.startswith("RLHF_")}
    env |= {"OMP_NUM_THREADS": "1"}
    options = {"cwd": ROOT, "env": env, "capture_output": True, "text": True}
    done = subprocess.run(command, **options, timeout=540)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return json.loads(out.read_text("utf-8"))


def figures(found: dict) -> dict:
    """What was measured, without the section's own time."""
    assert "failed" not in found and "skipped" not in found and found["seconds"] > 0
    return {name: value for name, value in found.items() if name != "seconds"}


def test_training_stages_and_processes(tmp_path):
    results = dry(tmp_path, "--only", "training", "stages", "processes")
    assert list(results) == ["training", "stages", "processes"]
    assert all(len(figures(found)) > 1 for found in results.values())
    stages = figures(results["stages"])
    assert {name.split(",")[0] for name in stages} == {"sft", "reward", "ppo"}
    assert all(row["GB counted"] >= 0 for row in stages.values())
    assert stages["ppo, float32"]["first KL"] == "0.0e+00"
    alone = results["processes"]["one process"]["losses"]
    assert len(alone) > 1 and all(loss > 0 for loss in alone)


def write(path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")


@pytest.fixture
def rows(tmp_path):
    """A folder with rows as real ones lie there, out of the embedded world."""
    folder = tmp_path / "rows"
    documents = load_rows("documents", "train", "sentiment", limit=250)
    write(folder / "fineweb-edu/train.jsonl", [{"text": row.text} for row in documents])
    labels = load_rows("labels", "train", "sentiment", limit=900)
    sentences = [{"sentence": r.prompt + r.completion, "label": r.label} for r in labels]
    write(folder / "sst2/train.jsonl", sentences[:700])
    write(folder / "sst2/validation.jsonl", sentences[700:])
    return folder


def test_the_course_on_rows_that_were_carried(tmp_path, rows):
    found = figures(dry(tmp_path, "--only", "course", "--rows", str(rows))["course"])
    assert "not run" not in found and len(found) >= 4
