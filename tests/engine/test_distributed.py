"""Two gloo processes take the steps that one takes: the same losses at the same batch, in every
stage.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from helpers.engine import distributed
from helpers.engine.files import ROOT
from tests.support.runs import RUNS

CLOSE = 1e-5


def torchrun(*arguments: str, processes: int = 2) -> subprocess.CompletedProcess:
    """Run a module in several processes on this machine."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += [f"--nproc_per_node={processes}", "-m", *arguments]
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=400)


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory) -> Path:
    """The folder with the logs of every stage, trained by two processes."""
    folder = tmp_path_factory.mktemp("two")
    done = torchrun("tests.support.runs", str(folder))
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.mark.parametrize("stage", RUNS)
def test_two_processes_have_the_losses_of_one(stage, two_processes):
    expected, _ = RUNS[stage](0.01, None)
    lines = (two_processes / f"{stage}.jsonl").read_text(encoding="utf-8").splitlines()
    for ours, theirs in zip(map(json.loads, lines), expected, strict=True):
        assert ours.keys() == theirs.keys()
        for name in ("loss", "score", "kl", "value_loss", "length"):
            if name in theirs:
                assert ours[name] == pytest.approx(theirs[name], abs=CLOSE), (name, ours["step"])


def test_without_other_processes_nothing_changes():
    x = torch.randn(4, 3)
    assert distributed.world() == 1 and distributed.rank() == 0 and distributed.is_main()
    assert list(distributed.own_rows(3)) == [0, 1, 2]
    assert distributed.gather_rows(x) is x and distributed.add_numbers([1.5]) == [1.5]
    assert distributed.furthest(None, float) is None and distributed.furthest(3, float) == 3
    weight = torch.nn.Parameter(torch.ones(2))
    weight.grad = torch.tensor([1.0, 2.0])
    distributed.add_gradients([weight])
    assert weight.grad.tolist() == [1.0, 2.0]


def test_messages_between_three_processes():
    """Rows of different length, bool, one number a row; gradients that are missing; what one
    process alone has.
    """
    done = torchrun("tests.support.messages", processes=3)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("all right") == 3
