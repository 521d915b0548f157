"""The benchmark's plumbing: workers answer and end, ratios are of medians, the table says what bench.json says."""

import json

import pytest
import torch

from helpers.model import GPTConfig
from tests.benchmarks import gpu
from tests.benchmarks.__main__ import with_smallest
from tests.benchmarks.rounds import Times, Worker, in_turns, ratio
from tools.bench_table import ROOT, ROWS, cell, table


def test_two_ways_take_turns_in_processes_of_their_own():
    short, long = ({"size": "2x64", "rows": rows, "length": 32} for rows in (1, 64))
    times = in_turns({str(w["rows"]): Worker("tests.benchmarks.ours:training", w) for w in (short, long)}, rounds=3)
    assert all(len(taken.cpu) == len(taken.wall) == 3 and taken.megabytes >= 0 for taken in times.values())
    assert ratio(times["64"], times["1"])["cpu"] > 1.5


def test_a_worker_that_fails_is_named():
    with pytest.raises(RuntimeError, match="ours:training.*'size': 'huge'.*exit status 1"):
        in_turns({"bad": Worker("tests.benchmarks.ours:training", {"size": "huge"})}, rounds=1)


def test_ratios_are_of_medians_with_the_spread_of_rounds():
    slow, fast = Times([4.0, 5.0, 9.0], [8.0, 8.0, 8.0], 0), Times([2.0, 2.0, 3.0], [4.0, 2.0, 8.0], 0)
    assert ratio(slow, fast) == {"cpu": 2.5, "cpu_spread": [2.0, 3.0], "wall": 2.0, "wall_spread": [1.0, 4.0]}
    entry = with_smallest({"a": ratio(slow, fast), "b": ratio(slow, slow)})
    assert (entry["ratio"], entry["spread"], entry["by"]) == (1.0, [1.0, 1.0], "cpu time")


def test_the_table_shows_the_committed_results():
    results = json.loads((ROOT / "bench.json").read_text())
    shown = table(results)
    for name in ROWS:
        assert cell(results.get(name), "4x128") in shown
    assert set(results) >= {"machine", "threads", "rounds", "growth", *ROWS}


TINY = GPTConfig(50258, 1024, layers=1, heads=1, channels=4)


@pytest.mark.parametrize("stage", ["pretrain", "sft", "reward"])
def test_the_steps_that_a_gpu_is_measured_with(stage):
    """On a CPU they run too, if slowly; each changes the weights."""
    work, tokens, guessed = gpu.stage_work(stage, torch.float32, TINY, "cpu")
    work()
    assert tokens > 8000 and {"pretrain": tokens, "sft": tokens / 9, "reward": 0}[stage] == guessed


def test_the_ppo_iteration_that_a_gpu_is_measured_with():
    work, config = gpu.ppo_work(torch.float32, TINY, "cpu")
    work()
    assert config.rollout_size == 32
