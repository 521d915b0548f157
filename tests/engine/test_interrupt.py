"""Jupyter's stop button: the running step ends, the run is saved, and the same cell resumes it."""

import json
import queue
import time

from jupyter_client.manager import start_new_kernel

from helpers.engine.files import ROOT
from tests.support.runs import RUNS

CELL = """
import time
from pathlib import Path
import torch
from helpers import pretrain
from helpers.engine.snapshots import Snapshots
from tests.support.runs import RUNS
torch.set_num_threads(1)  # as in the tests' own process: sums depend on it
step = pretrain.schedule
pretrain.schedule = lambda *args: time.sleep(0.1) or step(*args)  # slow enough to be interrupted
try:
    history, _ = RUNS["pretrain"](0.01, Snapshots(Path({log!r}), Path({folder!r})))
finally:
    pretrain.schedule = step
"""


def outputs(client, request: str, until: str | None = None) -> str:
    """What a cell shows, prints and raises, up to its end or to a text."""
    text, end = "", time.monotonic() + 60
    while time.monotonic() < end:
        try:
            message = client.get_iopub_msg(timeout=1)
        except queue.Empty:
            continue
        if message["parent_header"].get("msg_id") != request:
            continue
        content = message["content"]
        table = content.get("data", {}).get("text/plain", "")  # the live table of the run
        text += table + content.get("text", "") + content.get("ename", "")
        if content.get("execution_state") == "idle" or (until and until in text):
            return text
    raise AssertionError(f"no end: {text}")


def test_the_stop_button_saves_and_the_cell_goes_on(tmp_path):
    expected, _ = RUNS["pretrain"](0.01, None)
    manager, client = start_new_kernel(cwd=str(ROOT))
    try:
        cell = CELL.format(log=str(tmp_path / "log.jsonl"), folder=str(tmp_path / "snapshots"))
        request = client.execute(cell)
        printed = outputs(client, request, until=" 3/14")
        manager.interrupt_kernel()
        printed += outputs(client, request)
        assert "stopping after this step" in printed and "saved; the same run goes on" in printed
        assert printed.endswith("KeyboardInterrupt")
        again = outputs(client, client.execute(cell))
        assert "pretrain: going on after step" in again and "Error" not in again
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    lines = (tmp_path / "log.jsonl").read_text(encoding="utf-8").splitlines()
    assert list(map(json.loads, lines)) == expected
