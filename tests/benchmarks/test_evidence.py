"""Whole courses of many seeds: which runs, what is not run again, and the table."""

import json
import subprocess
import time

import pytest

from benchmarks import evidence
from benchmarks.evidence import jobs, merged, rows_of, run_job, settings_of, table, write

PPO = {
    "sft_gold_by_temperature": {"1.0": -1.0, "0.0": -2.0},
    "ppo_gold_by_temperature": {"1.0": 4.0, "0.0": 4.5},
    "oracle_gold_reward": 4.5,
    "maximum_gold_reward": 5.0,
    "share_of_maximum": 0.8,
    "share_of_oracle": 0.9,
    "gain_over_cooled_sft_ci95": [4.8, 5.2],
    "flaws": {"copying": 0.1},
    "stop_rate": 1.0,
    "kl": 6.0,
}
STAGES = {
    "pretrain": {"heldout_loss": 0.55, "entropy_floor": 0.5},
    "sft": {"heldout_loss": 0.24, "entropy_floor": 0.2, "flaws": {"copying": 0.6}},
    "reward": {"accuracy": 0.8, "bayes_accuracy": 0.85, "accuracy_by_fact": {"who": 1.0}},
    "ppo": PPO,
}


def recorded(out, stages, seed=0, **changes):
    """What the stages of a run have recorded."""
    (out / "metrics").mkdir(parents=True, exist_ok=True)
    for stage in stages:
        values = STAGES[stage] | changes.get(stage, {})
        values |= {"seconds": 60.0, "seed": seed, "curves": {"loss": [1, 2]}}
        (out / "metrics" / f"{stage}.json").write_text(json.dumps(values))


def test_every_seed_has_a_course_and_a_reward_model_with_other_rounding():
    found = jobs(["tldr", "sentiment"], range(2), 1)
    assert {(job["track"], job["seed"]) for job in found} == {
        (track, seed) for track in ("tldr", "sentiment") for seed in (0, 1)
    }
    for track in ("tldr", "sentiment"):
        runs = [job for job in found if job["track"] == track and job["seed"] == 1]
        assert {1, 2} <= {job["threads"] for job in runs}
        assert len({(job["threads"], job["dtype"]) for job in runs}) == len(runs) == 3


def test_only_what_is_missing_is_run(tmp_path, monkeypatch):
    asked = []

    def run(command, **options):
        asked.append(command[3])
        out = next(flag for flag in command if flag.startswith("--out=")).removeprefix("--out=")
        recorded(tmp_path / out.rpartition("/")[2], command[3:4])

    monkeypatch.setattr(subprocess, "run", run)
    job = {"track": "tldr", "seed": 0, "threads": 1, "dtype": "float32"}
    recorded(tmp_path / "tldr-0", ("pretrain", "sft"))
    (tmp_path / "tldr-0" / "checkpoints" / "sft").mkdir(parents=True)
    said = []
    course = run_job(job, True, tmp_path, "smoke", said.append)
    assert asked == ["reward", "ppo"] and len(said) == 2
    assert course["ppo"]["kl"] == 6.0 and "curves" not in course["ppo"]
    again = run_job(job | {"threads": 2}, False, tmp_path, "smoke", said.append)
    assert asked == ["reward", "ppo", "reward"] and "ppo" not in again
    assert (tmp_path / "tldr-0-2-float32" / "checkpoints" / "sft").is_dir()
    assert run_job(job, True, tmp_path, "smoke", said.append) == course and len(asked) == 3


def a_run(seed, accuracy, whole=True):
    stages = STAGES if whole else {"reward": STAGES["reward"]}
    values = {stage: {**values, "seconds": 60.0} for stage, values in stages.items()}
    values["reward"]["accuracy"] = accuracy
    about = {"cpu": "a CPU", "torch": "2", "preset": "cpu"}
    about["settings"] = settings_of("cpu", "tldr")
    return {"track": "tldr", "seed": seed, "whole": whole, **about, **values}


def test_the_table_has_means_and_the_range_over_all_runs(tmp_path):
    runs = [a_run(0, 0.815), a_run(0, 0.85, whole=False), a_run(1, 0.78)]
    rows = rows_of(runs)
    assert rows["courses, reward models"] == "2, 3"
    assert rows["reward model: share of the way to Bayes"] == "0.90 (0.80 to 1.00)"
    assert rows["SFT: loss over its floor, %"] == "20.0 (20.0 to 20.0)"
    assert rows["copying: of SFT 0.60, of PPO"] == "0.10 (0.10 to 0.10)"
    assert rows["seconds of the four stages"] == "240 (240 to 240)"
    results = {"runs": runs}
    page, path = tmp_path / "results.md", tmp_path / "evidence.json"
    page.write_text("before\n<!-- evidence -->\nearlier\n<!-- /evidence -->\nafter\n")
    write(results, path, page)
    assert json.loads(path.read_text()) == results
    text = page.read_text()
    assert table(results) in text and "earlier" not in text
    assert "Seeds: tldr 0, 1. a CPU, torch 2, preset cpu." in text
    assert text.startswith("before\n<!-- evidence -->") and text.endswith("after\n")


def test_runs_of_other_seeds_stay_while_the_settings_do(tmp_path):
    path = tmp_path / "evidence.json"
    old = [a_run(0, 0.7), a_run(3, 0.8), a_run(4, 0.8) | {"settings": "earlier ones"}]
    other = a_run(0, 0.8) | {"track": "sentiment", "settings": settings_of("cpu", "sentiment")}
    path.write_text(json.dumps({"runs": [other, *old, a_run(5, 0.8) | {"preset": "smoke"}]}))
    new = [a_run(1, 0.8), a_run(0, 0.9)]
    found = merged(new, path, "cpu")
    assert found == [new[1], new[0], old[1], other]
    assert merged(new, tmp_path / "none.json", "cpu") == [new[1], new[0]]


@pytest.mark.parametrize("text, seeds", [("3", [3]), ("0-2", [0, 1, 2])])
@pytest.mark.parametrize("at_once", ["1", "2"])
def test_seeds_are_a_first_and_a_last(text, seeds, at_once, monkeypatch):
    """The courses come first, also side by side; the other reward models need their SFT models."""

    order = []

    def run(job, whole, *rest):
        order.append(whole)
        time.sleep(0.02 if job["seed"] == 0 else 0.0)  # the first to start is the last to end
        return {**job, "whole": whole}

    written = []
    monkeypatch.setattr(evidence, "run_job", run)
    monkeypatch.setattr(evidence, "merged", lambda runs, *rest: runs)
    monkeypatch.setattr(evidence, "write", lambda results, path: written.append(results))
    monkeypatch.setattr(evidence, "table", lambda results: "")
    command = ["evidence", "--tracks", "tldr", "--seeds", text, "--at-once", at_once]
    monkeypatch.setattr("sys.argv", command)
    evidence.main()
    runs, todo = written[0]["runs"], jobs(["tldr"], seeds, 1)
    assert [run["seed"] for run in runs if run["whole"]] == seeds
    assert order == sorted(order, reverse=True)
    plain = [{key: run[key] for key in run if key != "whole"} for run in runs]
    assert plain == [*todo[::3], *(job for job in todo if job not in todo[::3])]
