"""The processes that a launched command has started: for tests that kill one of them."""

import time
from pathlib import Path

import psutil


def pid_of_rank(pid: int, rank: int, seconds: float = 180.0) -> int:
    """The process id of a rank under the command `pid`, as soon as there is one; TimeoutError after
    so many seconds.
    """
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        for process in psutil.Process(pid).children(recursive=True):
            try:
                if process.environ().get("RANK") == str(rank):
                    return process.pid
            except psutil.Error:
                continue  # it has just ended
        time.sleep(0.05)
    raise TimeoutError(f"no process of rank {rank} under {pid}")


def wait_for_lines(lines: int, *paths: Path, seconds: float = 180.0) -> None:
    """Wait until one of the files has so many lines; TimeoutError after so many seconds."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if any(path.exists() and path.read_bytes().count(b"\n") >= lines for path in paths):
            return
        time.sleep(0.05)
    raise TimeoutError(f"fewer than {lines} lines in {', '.join(map(str, paths))}")
