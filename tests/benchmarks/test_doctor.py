"""The doctor's benchmark on histories that are made up."""

import json
from types import SimpleNamespace

import pytest

from benchmarks import doctor

HISTORIES = {
    "": {"kl_coef": 0.05, "clip_fraction": 0.02},
    "no KL penalty": {"kl_coef": 0.0, "clip_fraction": 0.02},
    "log-softmax in 16 bits": {"ratio_off": 0.5, "clip_fraction": 0.02},
    "too many epochs": {"clip_fraction": 0.01},
}


@pytest.fixture
def trained(monkeypatch) -> list[tuple[int, str]]:
    """The runs that were trained, instead of training them."""
    runs: list[tuple[int, str]] = []

    def run_clinic(course, ailment: str) -> list[dict]:
        runs.append((course.seed, ailment))
        return [{"step": step, "kl": 0.2 * (step - 1)} | HISTORIES[ailment] for step in (1, 2, 3)]

    monkeypatch.setattr(doctor, "setup", lambda *_, seed, **__: SimpleNamespace(seed=seed))
    monkeypatch.setattr(doctor, "run_clinic", run_clinic)
    return runs


def called(monkeypatch, folder, *words: str) -> dict:
    ailments = [doctor.HEALTHY, *(name for name in HISTORIES if name)]
    options = ["--runs", str(folder / "runs"), "--kept", str(folder / "kept")]
    options += ["--out", str(folder / "doctor.json"), *words, "--ailments", *ailments]
    monkeypatch.setattr("sys.argv", ["doctor", *options])
    doctor.main()
    return json.loads((folder / "doctor.json").read_text(encoding="utf-8"))


def test_every_run_is_trained_once_and_judged(trained, monkeypatch, tmp_path, capsys):
    log = tmp_path / "runs" / "tldr-7" / "logs" / "ppo.jsonl"
    log.parent.mkdir(parents=True)
    log.write_text('{"step": 1, "score": 0.1, "kl": 0.0}\n', encoding="utf-8")
    called(monkeypatch, tmp_path, "--seeds", "0")
    record = called(monkeypatch, tmp_path, "--seeds", "0-1")
    assert trained == [(seed, name) for seed in (0, 1) for name in HISTORIES]
    assert record["healthy"] == [{"log": "tldr-7 ppo", "named": []}]
    firsts = {(run["seed"], run["ailment"]): run["first"] for run in record["runs"]}
    assert firsts[0, doctor.HEALTHY] == firsts[1, "too many epochs"] == "nothing"
    assert firsts[1, "log-softmax in 16 bits"] == "dropout"


def test_the_table_counts_what_was_named(trained, monkeypatch, tmp_path, capsys):
    called(monkeypatch, tmp_path, "--seeds", "0-1")
    table = capsys.readouterr().out
    for line in (
        "| (healthy) | nothing 2 | 2 of 2 |  | 2 of 2 |",
        "| no KL penalty | no KL penalty 2 | 2 of 2 | 2 of 2 | 2 of 2 |",
        "| log-softmax in 16 bits | dropout 2 | 0 of 2 | 2 of 2 | 0 of 2 |",
        "| too many epochs | nothing 2 | 0 of 2 | 0 of 2 | 0 of 2 |",
        "| all ailments | | 2 of 6 | 4 of 6 | 2 of 6 |",
        "Seeds 0, 1. Silent about 0 of 0 healthy logs.",
    ):
        assert line in table
