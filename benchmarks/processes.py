"""One process against two that train one model together: tokens a second at the same global batch.

    python -m torch.distributed.run --standalone --nproc_per_node=2 -m benchmarks.processes

Each process has one thread and a core of its own, and takes its rows of each batch of 32 x 256
tokens (4 layers x 128, the course's loop with Muon and AdamW; gradients are added up over gloo).
The first one prints tokens a second.
"""

import contextlib
import io
import json
import os
import statistics
import subprocess
import sys
import time

import torch

from benchmarks.ours import set_up
from benchmarks.rounds import ROOT
from benchmarks.shapes import CONTEXT, random_rows
from helpers import pretrain
from helpers.config import PretrainConfig
from helpers.engine.distributed import barrier, is_main, process_group, rank
from helpers.engine.loop import Loop

ROWS, STEPS, WARM = 32, 12, 3


def train() -> float:
    """Tokens a second of this many processes."""
    model, dtype = set_up("4x128", "auto")
    config = PretrainConfig()
    batch = random_rows(ROWS, CONTEXT), torch.ones(ROWS, CONTEXT, dtype=torch.bool)

    def steps(number: int) -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            pretrain.train(model, [batch] * number, config, Loop("benchmark", dtype))

    steps(WARM)
    barrier()
    start = time.perf_counter()
    steps(STEPS)
    return STEPS * batch[0].numel() / (time.perf_counter() - start)


def launched(processes: int) -> float:
    """Tokens a second of so many new processes."""
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        f"--nproc_per_node={processes}",
        "-m",
        "benchmarks.processes",
    ]
    run = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )
    if run.returncode:
        raise RuntimeError(
            f"{' '.join(command)} ended with exit status {run.returncode}; its error stands above"
        )
    return json.loads(run.stdout.splitlines()[-1])["tokens_per_second"]


def measure(rounds: int) -> dict[str, dict]:
    """`two_processes_vs_one`: the ratio of tokens a second by wall time, in turns."""
    speeds = {1: [], 2: []}
    for _ in range(rounds):
        for processes, found in speeds.items():
            found.append(launched(processes))
    each = [two / one for one, two in zip(speeds[1], speeds[2], strict=True)]
    medians = {number: statistics.median(found) for number, found in speeds.items()}
    return {
        "two_processes_vs_one": {
            "4x128": {
                "wall": round(medians[2] / medians[1], 2),
                "wall_spread": [round(min(each), 2), round(max(each), 2)],
                "tokens_per_second": {
                    str(number): round(speed, 1) for number, speed in medians.items()
                },
            }
        }
    }


if __name__ == "__main__":
    with process_group(torch.device("cpu")):
        if hasattr(os, "sched_setaffinity"):
            cores = sorted(os.sched_getaffinity(0))
            os.sched_setaffinity(0, {cores[rank() % len(cores)]})
        torch.set_num_threads(1)
        speed = train()
        if is_main():
            print(json.dumps({"tokens_per_second": speed}))
