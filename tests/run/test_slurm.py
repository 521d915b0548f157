"""docs/slurm.sh with Slurm's commands and variables made up: what it runs saves before the limit
and queues again.
"""

import os
import shutil
import signal
import subprocess
import sys

import psutil
import pytest

from helpers.engine.files import ROOT
from tests.support.worker_pids import wait_for_lines

SCRIPT = ROOT / "docs" / "slurm.sh"
pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="a shell script")


def test_the_script_is_well_formed():
    read = subprocess.run(["bash", "-n", SCRIPT], capture_output=True, text=True)
    assert (read.returncode, read.stderr) == (0, "")


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """A folder on the PATH with an srun that just runs, and a scontrol that notes what it is
    asked.
    """
    commands = {
        "srun": 'exec "$@"',
        "scontrol": 'if [ "$1" = show ]; then printf "node1\\nnode2\\n"; else echo "$@" >> '
        f"{tmp_path}/asked; fi",
        "python": f'exec {sys.executable} "$@"',
    }
    for name, body in commands.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    for name in [name for name in os.environ if name.startswith("RLHF_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    for name, value in {
        "JOB_ID": "17",
        "JOB_NODELIST": "node[1-2]",
        "GPUS_ON_NODE": "1",
        "NNODES": "1",
    }.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    return tmp_path


def test_sigterm_saves_and_the_job_queues_again(cluster):
    command = ["bash", SCRIPT, "pretrain", "--preset", "smoke", "--out", str(cluster / "run")]
    with subprocess.Popen(
        command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        try:
            wait_for_lines(2, cluster / "run" / "logs" / "pretrain.jsonl")
            steps = psutil.Process(process.pid).children()
            step = next(child for child in steps if "helpers.run.launch" in child.cmdline())
            step.send_signal(signal.SIGTERM)  # to the job's step, as --signal=TERM@300 does
            printed, _ = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 143 and "saved; the same run goes on from there" in printed, (
        printed
    )
    assert (cluster / "asked").read_text() == "requeue 17\n"
    assert list((cluster / "run" / "snapshots" / "pretrain" / "pretrain").glob("step-*"))


def test_it_names_the_first_machine_to_all(cluster, monkeypatch):
    """Of a failure too the job learns the exit code, and does not queue again."""
    monkeypatch.setenv("SLURM_NNODES", "2")
    done = subprocess.run(
        ["bash", SCRIPT, "pretrain"], cwd=ROOT, text=True, capture_output=True, timeout=60
    )
    assert (
        done.returncode == 1
        and "--rdzv-endpoint node1:29500: no machine 'node1' is known here" in done.stderr
    )
    assert not (cluster / "asked").exists()
