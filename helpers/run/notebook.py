"""Execute one notebook without a browser: progress while it runs, a clear failure, clean outputs.

nbclient runs in a thread of its own. The main thread is then free to print progress while a long
cell trains, and to receive Ctrl-C and SIGTERM, which it passes on to the kernel: a training loop
there ends its step and saves.
"""

import asyncio
import contextlib
import os
import re
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from helpers.engine.files import write_text
from helpers.engine.snapshots import Signals

WIDGET = "application/vnd.jupyter.widget-view+json"
WIDGET_NOTE = "Interactive: run this cell in Jupyter, Colab or Kaggle to use the controls."
ARROW = re.compile(r"^-+> (\d+) (.*)$", re.MULTILINE)  # IPython's mark at the line that failed
LINE_END = re.compile(r"[\r\n]")
ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


@dataclass(eq=False)
class CellFailure(Exception):
    """A code cell raised, or the kernel died in it."""

    notebook: str
    number: int  # 1 for the first code cell
    total: int
    source: str
    error: str
    traceback: str
    executed: Any  # the notebook as far as it got

    def __str__(self) -> str:
        lines = self.source.strip().splitlines()
        head = "\n".join(f"    {line}" for line in lines[:6] + ["..."] * (len(lines) > 6))
        arrow = ARROW.search(self.traceback)
        line = f"line {arrow.group(1)}: {arrow.group(2).strip()}\n" if arrow else ""
        return (
            f"{self.notebook}.ipynb failed in code cell {self.number} of "
            f"{self.total}:\n{head}\n{line}{self.error}"
        )


class Interrupted(Exception):
    """A signal has ended a notebook; what was training has been saved."""

    def __init__(self, number: int, executed: Any):
        super().__init__(signal.Signals(number).name)
        self.number, self.executed = number, executed  # the notebook as far as it got


@dataclass
class Progress:
    """Where a running notebook is; written by the thread that executes, read by the main one."""

    notebook: str
    total: int  # code cells
    number: int = 0  # the running one, 1 for the first
    line: str = ""  # the last line that cell has printed
    line_at: float = 0.0  # when, by `time.perf_counter()`
    stopped: bool = False  # whether the running cell was told to end
    started: float = field(default_factory=time.perf_counter)

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.started


class NotebookError(ValueError):
    """A file that is no notebook, as after a merge with conflicts."""


def read_notebook(path: Path) -> Any:
    """A notebook as nbformat reads it (version 4); FileNotFoundError names it if it isn't there.
    Raises NotebookError, one line, for a damaged one.
    """
    import nbformat

    if not path.exists():
        raise FileNotFoundError(f"no notebook {path.name} in {path.parent.name or path.parent}/")
    text = path.read_bytes()
    try:
        return nbformat.reads(text.decode("utf-8"), as_version=4)
    except Exception:  # whatever nbformat raises: its own errors, AttributeError ...
        raise NotebookError(
            f"{path.name} is no valid notebook (left by a merge?): mend it, or take the course's "
            "again with `git checkout`"
        ) from None


def write_notebook(path: Path, notebook: Any) -> None:
    """Write a notebook atomically, in the form that keeps diffs small (LF, one space of indent)."""
    import nbformat

    write_text(path, nbformat.writes(notebook).rstrip("\n") + "\n")


def run_notebook(
    path: Path, cwd: Path, env: dict[str, str], tick: Callable[[Progress], None] | None = None
) -> Any:
    """Run all cells of a notebook in a fresh kernel of this Python; return the executed copy,
    cleaned.

    path: the notebook, not changed. cwd: the kernel's folder. env: the kernel's environment. tick:
    called about five times a second from the calling thread. Raises CellFailure, which holds the
    notebook as far as it got, and Interrupted after a signal; after a second Ctrl-C, which kills
    the kernel, KeyboardInterrupt.
    """
    client = make_client(read_notebook(path))
    cells = [cell for cell in client.nb.cells if cell.cell_type == "code" and cell.source.strip()]
    progress = Progress(path.stem, len(cells))
    watch(client, progress)
    errors: list[BaseException] = []

    def execute() -> None:
        try:
            asyncio.run(client.async_execute(cwd=str(cwd), env=env, cleanup_kc=True))
        except BaseException as error:  # handed to the calling thread
            errors.append(error)

    thread = threading.Thread(target=execute, daemon=True)
    try:
        with Signals() as signals:
            thread.start()
            while thread.is_alive():
                thread.join(0.2)
                if signals.received:
                    progress.stopped = progress.stopped or end_cell(client)
                elif tick:
                    tick(progress)
    except KeyboardInterrupt:
        stop_kernel(client, thread)
        raise
    if signals.received and errors:
        raise Interrupted(min(signals.received), clean(client.nb)) from None
    if errors:
        source = cells[progress.number - 1].source if progress.number else ""
        raise explain(errors[0], progress, source, clean(client.nb)) from None
    return clean(client.nb)


def make_client(notebook: Any) -> Any:
    """An nbclient whose kernel is this very Python, whatever kernels the machine has registered."""
    from jupyter_client import AsyncKernelManager
    from jupyter_client.kernelspec import KernelSpecManager
    from nbclient import NotebookClient

    # Without folders of kernels only the running Python's own is left. No time limit: training
    # cells are long. Widget state must be stored (without it nbclient fails with a KeyError as soon
    # as an `interact` prints); `clean` drops it afterwards.
    return NotebookClient(
        notebook,
        km=AsyncKernelManager(kernel_spec_manager=KernelSpecManager(kernel_dirs=[])),
        extra_arguments=["--log-level=ERROR"],
        timeout=None,
        record_timing=False,
        coalesce_streams=True,
        store_widget_state=True,
        shutdown_kernel="immediate",
    )


def watch(client: Any, progress: Progress) -> None:
    """Let `progress` follow the client: the running cell and the last line that it printed."""

    def on_cell_execute(cell: Any, cell_index: int) -> None:
        progress.number += 1
        progress.line, progress.line_at = "", time.perf_counter()

    process = client.process_message

    def process_message(message: dict, cell: Any, cell_index: int) -> Any:
        lines = [line for line in LINE_END.split(text_of(message)) if line.strip()]
        if lines:
            progress.line = ANSI.sub("", lines[-1].strip())
            progress.line_at = time.perf_counter()
        return process(message, cell, cell_index)

    client.on_cell_execute = on_cell_execute
    client.process_message = process_message


def text_of(message: dict) -> str:
    """The text that a kernel's message prints or displays; a picture's is no text."""
    content = message["content"]
    if message["msg_type"] == "stream":
        return content["text"]
    data = content.get("data", {})
    shows = message["msg_type"] in ("display_data", "update_display_data")
    return data.get("text/plain", "") if shows and "image/png" not in data else ""


def end_cell(client: Any) -> bool:
    """Ask the kernel to end: a training loop first saves. False while the kernel is starting.

    SIGTERM, because ipykernel ignores Ctrl-C between two cells.
    """
    process = getattr(getattr(client.km, "provisioner", None), "process", None)
    if process is None or client.kc is None:
        return False
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    return True


def stop_kernel(client: Any, thread: threading.Thread) -> None:
    """Stop the kernel with the processes it started (they share its group), then the thread."""
    process = getattr(getattr(client.km, "provisioner", None), "process", None)
    if process is not None and process.poll() is None:
        if hasattr(os, "killpg"):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(os.getpgid(process.pid), signal.SIGKILL)
        else:
            process.kill()
    thread.join(10)


def explain(error: BaseException, progress: Progress, source: str, executed: Any) -> BaseException:
    """An nbclient error as a CellFailure; any other error is returned as it is."""
    from nbclient.exceptions import CellExecutionError, DeadKernelError

    if isinstance(error, CellExecutionError):
        message, traceback = f"{error.ename}: {error.evalue}", ANSI.sub("", error.traceback)
    elif isinstance(error, DeadKernelError):
        message, traceback = "the kernel died: out of memory, or killed from outside", ""
    else:
        return error
    place = progress.notebook, progress.number, progress.total
    return CellFailure(*place, source, message, traceback, executed)


def clean(notebook: Any) -> Any:
    """Reduce an executed notebook, in place, to what a reader needs and every run repeats.

    Drops widget state, timings and the kernel's version; a widget's view, which nothing can draw
    without its kernel, becomes its static view and a line that says how to get the controls.
    """
    from nbformat import NotebookNode

    names = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
    notebook.metadata = NotebookNode(kernelspec=names, language_info={"name": "python"})
    for cell in notebook.cells:
        for key in ("execution", "collapsed", "scrolled", "ExecuteTime", "jupyter"):
            cell.metadata.pop(key, None)
        if "outputs" in cell:
            cell.outputs = [part for output in cell.outputs for part in without_widget(output)]
    return notebook


def without_widget(output: Any) -> list:
    """An output without a widget's view: the picture or the texts that came with it, and a line
    that says how to get the controls.
    """
    from nbformat import NotebookNode
    from nbformat.v4 import new_output

    data = output.get("data", {})
    if WIDGET not in data:
        return [output]
    static = {mime: data[mime] for mime in ("image/png", "text/html") if mime in data}
    output.data = NotebookNode({"text/plain": WIDGET_NOTE})
    return [new_output("display_data", static), output] if static else [output]
