"""Signs of life between processes, over a real store."""

import subprocess
import sys
import textwrap
import threading
from datetime import timedelta

import pytest
from torch.distributed import TCPStore

from helpers.engine.files import ROOT
from helpers.engine.heartbeat import heartbeat


@pytest.fixture
def store():
    """A store that another process can reach."""
    return TCPStore(
        "127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=20)
    )


def process(store, patience: float, code: str) -> subprocess.Popen:
    """Process 0 of two on two machines: runs some code while it watches process 1."""
    place = {
        "RANK": "0",
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port),
    }
    program = f"""
        import os, time
        os.environ |= {place!r}
        from helpers.engine import heartbeat as watching
        watching.EVERY, watching.PATIENCE = 0.05, {patience}
        with watching.heartbeat():
            {code}
        print("done", flush=True)
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    return subprocess.Popen(
        command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def test_a_silent_process_ends_the_others(store):
    with process(store, 1.0, "time.sleep(60)") as watcher:
        printed, errors = watcher.communicate(timeout=50)
    assert watcher.returncode == 1 and printed == ""
    assert errors.startswith(
        "process 1, on another machine, has given no sign of life for 1 seconds"
    )


def test_one_that_gives_signs_of_life_is_waited_for(store):
    with process(store, 10.0, "time.sleep(2)") as watcher:
        beats = 0
        while watcher.poll() is None:
            beats = store.add("alive/1", 1)
        printed, errors = watcher.communicate(timeout=50)
    assert (watcher.returncode, printed, errors) == (0, "done\n", "") and beats > 1
    assert store.add("alive/0", 0) > 5, "it gave signs of its own"


def test_a_store_that_is_gone_counts_as_silence():
    master = """
        import time
        from torch.distributed import TCPStore
        store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        print(store.port, flush=True)
        time.sleep(60)
    """
    command = [sys.executable, "-c", textwrap.dedent(master)]
    with subprocess.Popen(command, text=True, stdout=subprocess.PIPE) as holder:
        try:
            port = int(holder.stdout.readline())
            with process(
                type("Store", (), {"port": port}), 1.5, "print('in', flush=True); time.sleep(60)"
            ) as watcher:
                assert watcher.stdout.readline() == "in\n"
                holder.kill()
                _, errors = watcher.communicate(timeout=50)
        finally:
            holder.kill()
    assert watcher.returncode == 1
    assert "has given no sign of life" in errors and "Traceback" not in errors


def test_on_one_machine_nobody_watches(monkeypatch):
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    before = threading.active_count()
    with heartbeat():
        assert threading.active_count() == before
