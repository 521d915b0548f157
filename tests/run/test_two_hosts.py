"""Two hosts with torchrun's own rendezvous: one loses its process, and nothing is lost."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.engine.files import ROOT
from tests.support.worker_pids import pid_of_rank, wait_for_lines

STEPS, KILLED_AT = 14, 6
SLOW = 300  # seconds after which a run counts as hung, on a busy machine too
STAGE = f"-m helpers pretrain --preset smoke --save-steps 2 --steps {STEPS}".split()


def agent(out: Path, *options: str) -> subprocess.Popen:
    """torchrun on one host, with a run folder of its own: the hosts share no disk."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("RLHF_")}
    # The shared store numbers restarts by host, and the hosts would wait for different numbers.
    env |= {"OMP_NUM_THREADS": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    out.mkdir(parents=True)
    command = [sys.executable, "-m", "torch.distributed.run", *options, *STAGE, "--out", str(out)]
    with (out / "printed.txt").open("w") as output:
        return subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output, env=env)


def log(out: Path) -> Path:
    return out / "logs" / "pretrain-trial.jsonl"


def losses(out: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in log(out).read_text().splitlines()]


@pytest.mark.slow
def test_a_killed_process_changes_nothing(tmp_path):
    undisturbed = agent(tmp_path / "one", "--standalone", "--nproc-per-node=2")
    assert undisturbed.wait(SLOW) == 0, (tmp_path / "one" / "printed.txt").read_text()
    with socket.create_server(("127.0.0.1", 0)) as free:
        endpoint = f"127.0.0.1:{free.getsockname()[1]}"
    options = ["--nnodes=2", "--nproc-per-node=1", "--max-restarts=3"]
    options += ["--rdzv-backend=c10d", f"--rdzv-endpoint={endpoint}", "--local-addr=127.0.0.1"]
    hosts = [tmp_path / "a", tmp_path / "b"]
    agents = [agent(host, *options) for host in hosts]
    try:
        wait_for_lines(KILLED_AT, *map(log, hosts))
        second = agents[log(hosts[0]).exists()]  # rank 0 writes the log
        os.kill(pid_of_rank(second.pid, 1), signal.SIGKILL)
        codes = [process.wait(SLOW) for process in agents]
    finally:
        for process in agents:
            process.terminate()
    printed = "\n".join((host / "printed.txt").read_text() for host in hosts)
    assert codes == [0, 0] and "going on after step" in printed, printed
    # Bit for bit, in the log of the host that ran rank 0 at the end: two summands have one sum.
    assert losses(tmp_path / "one") in [losses(host) for host in hosts if log(host).exists()]
