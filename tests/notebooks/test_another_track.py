"""The chain of notebooks on film reviews, in a file of its own: it takes as long as the first."""

import re

import pytest

from tests.support.smoke_runs import report_in, run_smoke


@pytest.mark.slow
def test_another_track_runs_through_the_same_notebooks(tmp_path):
    """Film reviews. The first two stages run as commands. Two processes train the reward model, as
    on two GPUs, and its notebook resumes from what they have learned.
    """
    out = tmp_path / "smoke"
    for stage in ("pretrain", "sft"):
        run_smoke("sentiment", out, "helpers", stage)
    run_smoke("sentiment", out, "helpers", "launch", "reward", "--processes", "2", "--hand-over")
    printed = run_smoke("sentiment", out, "helpers", "course", "--stages", "reward,ppo")
    notebook = (out / "notebooks/2-RM-Training.ipynb").read_text("utf-8")
    assert re.search(r"going on after step (\d+) of \1\b", notebook)
    report = report_in(out)
    assert (report["track"], report["source"]) == ("sentiment", "embedded")
    for stage in ("pretrain", "sft"):
        assert report[stage]["entropy_floor"] - 0.01 < report[stage]["heldout_loss"] < 2.5
    assert 0.5 < report["reward"]["accuracy"] < report["reward"]["bayes_accuracy"]
    assert "broken" in printed
