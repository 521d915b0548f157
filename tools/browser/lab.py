"""JupyterLab on this machine alone, over copies of the notebooks and with settings of its own."""

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import psutil

from helpers.engine.files import ROOT

SETTINGS = {
    "apputils-extension/themes": {"theme": "JupyterLab Light"},
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    "notebook-extension/tracker": {"windowingMode": "none"},  # every cell is on the page
}


class Lab:
    """A server on a free port of 127.0.0.1, with a random token.

    folder: a new one below the repository, with copies of the notebooks `stems`, which are opened
    there. run: their run folder. Close it at the end, also after an error.
    """

    def __init__(self, folder: Path, run: Path, stems: list[str]):
        self.run, notebooks = run, folder / "notebooks"
        notebooks.mkdir(parents=True)
        for stem in stems:
            shutil.copy(ROOT / f"{stem}.ipynb", notebooks)
        for name, setting in SETTINGS.items():
            path = folder / f"settings/@jupyterlab/{name}.jupyterlab-settings"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(setting), encoding="utf-8")
        self.token, self.log = secrets.token_hex(24), folder / "jupyterlab.log"
        own = {f"JUPYTER_{name}_DIR": str(folder / name.lower()) for name in ("CONFIG", "RUNTIME")}
        own |= {
            f"JUPYTERLAB_{name}_DIR": str(folder / name.lower())
            for name in ("SETTINGS", "WORKSPACES")
        }
        own |= {"JUPYTER_TOKEN": self.token, "RLHF_PRESET": "smoke", "RLHF_OUT": str(run)}
        options = ["--no-browser", "--ServerApp.ip=127.0.0.1", "--ServerApp.port=0"]
        options += [f"--ServerApp.root_dir={notebooks}"]
        if hasattr(os, "getuid") and os.getuid() == 0:
            options.append("--allow-root")
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "jupyterlab", *options],
                env=os.environ | own,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self.url = self.wait_for_address(folder / "runtime")

    def wait_for_address(self, runtime: Path, seconds: float = 60) -> str:
        """The address, as soon as the server answers."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and self.process.poll() is None:
            for path in runtime.glob(f"jpserver-{self.process.pid}.json"):
                try:
                    self.url = json.loads(path.read_text())["url"].rstrip("/")
                    self.ask("/api/status")
                    return self.url
                except (ValueError, urllib.error.URLError):
                    pass  # it is being written, or not yet listening
            time.sleep(0.2)
        self.close()
        raise RuntimeError(f"JupyterLab has not started: see {self.log}")

    def ask(self, path: str, method: str = "GET") -> list | dict | None:
        """What the server's REST interface answers."""
        header = {"Authorization": f"token {self.token}"}
        request = urllib.request.Request(self.url + path, method=method, headers=header)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.loads(answer.read() or b"null")

    def session(self) -> dict | None:
        """The session of the notebook that is open; there is one at a time."""
        return next(iter(self.ask("/api/sessions")), None)

    def idle(self) -> bool:
        session = self.session()
        return bool(session) and session["kernel"]["execution_state"] == "idle"

    def kill_kernel(self) -> None:
        """SIGKILL, as when memory runs out. The server starts the kernel again by itself."""
        kernel = self.session()["kernel"]["id"]
        for process in psutil.Process(self.process.pid).children(recursive=True):
            if kernel in " ".join(process.cmdline()):
                process.kill()
                return
        raise RuntimeError("the kernel's process is not there")

    def end_session(self) -> None:
        if session := self.session():
            self.ask(f"/api/sessions/{session['id']}", "DELETE")

    def close(self) -> None:
        """End the server, and with it the kernels."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
