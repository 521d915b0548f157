"""Two machines, as two network namespaces with a cable between them: one loses its process, and
nothing is lost.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.engine.files import ROOT
from tests.support.worker_pids import pid_of_rank, wait_for_lines

HOSTS = {"a": "10.213.77.1", "b": "10.213.77.2"}
PORT = 29533
STEPS, KILLED_AT = 14, 6
SLOW = 180  # seconds after which a run counts as hung, on a busy machine too


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True, timeout=20)


def cable_of(host: str) -> str:
    """The network interface of a host."""
    return f"rl{os.getpid() % 100_000}{host}"


@pytest.fixture
def hosts():
    """{"a": namespace, "b": namespace}, joined by a virtual cable; afterwards nothing of them is
    left.
    """
    if sys.platform != "linux" or os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("network namespaces take Linux, root and the command `ip`")
    names = {host: f"rlhf-{os.getpid()}-{host}" for host in HOSTS}
    cable = {host: cable_of(host) for host in HOSTS}
    try:
        try:
            for name in names.values():
                ip("netns", "add", name)
            ip("link", "add", cable["a"], "type", "veth", "peer", "name", cable["b"])
            for host, name in names.items():
                ip("link", "set", cable[host], "netns", name)
                ip("-n", name, "addr", "add", f"{HOSTS[host]}/24", "dev", cable[host])
                ip("-n", name, "link", "set", cable[host], "up")
                ip("-n", name, "link", "set", "lo", "up")
        except subprocess.CalledProcessError as error:
            pytest.skip(f"network namespaces are not permitted here: {error.stderr.strip()}")
        yield names
    finally:
        for name in names.values():
            inside = subprocess.run(
                ["ip", "netns", "pids", name], capture_output=True, text=True
            ).stdout.split()
            for pid in inside:
                os.kill(int(pid), signal.SIGKILL)
            subprocess.run(["ip", "netns", "del", name], capture_output=True)


class Cluster:
    """The same command on both hosts, each with a run folder of its own: they share no disk."""

    def __init__(self, hosts: dict[str, str], folder: Path, restarts: int):
        self.folder = folder
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith("RLHF_")
        }
        environment |= {"RLHF_PRESET": "smoke", "RLHF_THREADS": "1", "RLHF_SAVE_STEPS": "2"}
        command = [
            sys.executable,
            "-m",
            "helpers.run.launch",
            "pretrain",
            "--nnodes",
            "2",
            "--processes",
            "1",
            "--rdzv-endpoint",
            f"{HOSTS['a']}:{PORT}",
            "--max-restarts",
            str(restarts),
            "--steps",
            str(STEPS),
        ]
        folder.mkdir()
        self.processes = {}
        for host, name in hosts.items():
            with (folder / f"{host}.txt").open("w") as output:
                self.processes[host] = subprocess.Popen(
                    ["ip", "netns", "exec", name, *command],
                    cwd=ROOT,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env=environment | {"RLHF_OUT": str(folder / host)},
                )

    def log(self, host: str) -> Path:
        return self.folder / host / "logs" / "pretrain-trial.jsonl"

    def wait(self, seconds: float) -> dict[str, int]:
        """The exit code of each host; TimeoutExpired if one hangs."""
        return {host: process.wait(seconds) for host, process in self.processes.items()}

    def printed(self) -> str:
        return "\n".join(
            f"--- {host}\n" + (self.folder / f"{host}.txt").read_text() for host in self.processes
        )

    def losses(self) -> list[float]:
        """Of the whole run, from the host whose process was the first at the end."""
        logs = [
            self.log(host).read_text().splitlines()
            for host in self.processes
            if self.log(host).exists()
        ]
        whole = [lines for lines in logs if len(lines) == STEPS]
        assert whole, self.printed()
        return [json.loads(line)["loss"] for line in whole[-1]]


def wait_for_first(cluster: Cluster) -> str:
    """The host whose process writes the log, once the run is under way."""
    wait_for_lines(KILLED_AT, *(cluster.log(host) for host in cluster.processes))
    return next(host for host in cluster.processes if cluster.log(host).exists())


def test_a_killed_process_changes_nothing(hosts, tmp_path):
    calm = Cluster(hosts, tmp_path / "calm", restarts=0)
    assert set(calm.wait(SLOW).values()) == {0}, calm.printed()
    killed = Cluster(hosts, tmp_path / "killed", restarts=3)
    first = wait_for_first(killed)
    victim = "b" if first == "a" else "a"
    os.kill(pid_of_rank(killed.processes[victim].pid, 1), signal.SIGKILL)
    assert set(killed.wait(SLOW).values()) == {0}, killed.printed()
    assert "going on after step" in killed.printed()
    assert killed.losses() == calm.losses(), "bit for bit: two summands have only one sum"


def test_a_machine_that_vanishes_is_missed(hosts, tmp_path):
    """Its cable is cut: no connection is closed, and no packet comes. Each machine misses the
    other, and ends.
    """
    cluster = Cluster(hosts, tmp_path / "cut", restarts=0)
    first = wait_for_first(cluster)
    victim = "b" if first == "a" else "a"
    ip("-n", hosts[victim], "link", "set", cable_of(victim), "down")
    assert set(cluster.wait(60).values()) == {1}, cluster.printed()
    held, other = ((cluster.folder / f"{host}.txt").read_text() for host in hosts)
    assert "on another machine, has given no sign of life for 3" in held, cluster.printed()
    assert (
        "the machine that holds the rendezvous, 10.213.77.1:29533, has not answered for 30 seconds"
        in other
    )


def test_without_a_restart_left_both_end_soon(hosts, tmp_path):
    cluster = Cluster(hosts, tmp_path / "dies", restarts=0)
    victim = "b" if wait_for_first(cluster) == "a" else "a"
    os.kill(pid_of_rank(cluster.processes[victim].pid, 1), signal.SIGKILL)
    assert set(cluster.wait(60).values()) == {1}, cluster.printed()
    last = (cluster.folder / f"{victim}.txt").read_text().splitlines()[-1]
    assert last.startswith(
        "helpers.run.launch: process 1 of helpers.pretrain was killed by SIGKILL"
    )
