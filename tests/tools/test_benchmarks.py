"""The benchmark's plumbing: workers answer and end, ratios are of medians, the table says what
bench.json says.
"""

import pytest

from benchmarks.__main__ import with_smallest
from benchmarks.rounds import Times, Worker, in_turns, ratio


def test_two_ways_take_turns_in_processes_of_their_own():
    short, long = ({"size": "2x64", "rows": rows, "length": 32} for rows in (1, 64))
    times = in_turns(
        {str(w["rows"]): Worker("benchmarks.ours:training", w) for w in (short, long)}, rounds=3
    )
    assert all(
        len(taken.cpu) == len(taken.wall) == 3 and taken.megabytes >= 0 for taken in times.values()
    )
    assert ratio(times["64"], times["1"])["cpu"] > 1.5


def test_a_worker_that_fails_is_named():
    with pytest.raises(RuntimeError, match="ours:training.*'size': 'huge'.*exit status 1"):
        in_turns({"bad": Worker("benchmarks.ours:training", {"size": "huge"})}, rounds=1)


def test_ratios_are_of_medians_with_the_spread_of_rounds():
    slow = Times([4.0, 5.0, 9.0], [8.0, 8.0, 8.0], 0)
    fast = Times([2.0, 2.0, 3.0], [4.0, 2.0, 8.0], 0)
    spreads = {"cpu_spread": [2.0, 3.0], "wall_spread": [1.0, 4.0]}
    assert ratio(slow, fast) == {"cpu": 2.5, "wall": 2.0} | spreads
    entry = with_smallest({"a": ratio(slow, fast), "b": ratio(slow, slow)})
    assert (entry["ratio"], entry["spread"], entry["by"]) == (1.0, [1.0, 1.0], "cpu time")
