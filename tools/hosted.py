"""`make hosted`: the notebooks as on Colab and on Kaggle, opened alone, as far as one machine can.

For each platform: an environment with the versions that its image ships (of Python's packages; the
Python is this machine's, and torch its CPU build), an empty folder with nothing but the notebooks,
and the platform's environment variable. The set-up cell must fetch the repository (git is told that
GitHub is this checkout), the notebooks must run in order under `smoke`, and no package may have
been installed or changed by them.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from helpers.engine.files import ROOT
from helpers.run.folders import FILES, REPOSITORY, STAGES

TORCH = "torch==2.13.0"  # what is left out stands for the image's own: no CUDA here
COLAB = [  # googlecolab/backend-info, 2026-08-19
    "transformers==5.15.0",
    "tokenizers==0.22.2",
    "huggingface_hub==1.27.0",
    "safetensors",
    "tiktoken==0.14.0",
    "ipywidgets==7.7.1",
    "matplotlib==3.10.0",
    "numpy==2.1.3",
    "ipython==7.34.0",
    "ipykernel==6.17.1",
    "jinja2",
    "filelock",
]
KAGGLE = [  # Kaggle/docker-python, 2026-08-12: Colab's image, with newer widgets and JupyterLab
    *(name for name in COLAB if not name.startswith(("ipywidgets", "ipython", "ipykernel"))),
    "ipywidgets==8.1.5",
    "ipykernel",
    "jupyterlab",
]
PLATFORMS = {"COLAB_RELEASE_TAG": COLAB, "KAGGLE_KERNEL_RUN_TYPE": KAGGLE}
RUN = """
import sys, time
import nbformat
from nbclient import NotebookClient

for name in sys.argv[1:]:
    started = time.perf_counter()
    notebook = nbformat.read(name, as_version=4)
    NotebookClient(notebook, timeout=None, kernel_name="python3").execute()
    first = next(cell for cell in notebook.cells if cell.cell_type == "code")
    print(first.outputs[0].text.strip())
    print(f"{name}: no error, {time.perf_counter() - started:.0f} s", flush=True)
"""


def main() -> int:
    """Both platforms in turn; returns the exit code."""
    for variable, packages in PLATFORMS.items():
        with tempfile.TemporaryDirectory() as folder:
            if not play(variable, packages, Path(folder)):
                return 1
    return 0


def play(variable: str, packages: list[str], folder: Path) -> bool:
    """Run the notebooks as on the platform with this variable; print what happened."""
    print(f"\n{variable}: making the environment", flush=True)
    python = folder / "venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    install = [python, "-m", "pip", "install", "-qq", "--no-compile"]
    # nbclient stands for the page that executes the cells
    subprocess.run([*install, TORCH, *packages, "nbclient", "nbformat"], check=True)
    working = folder / "working"
    working.mkdir()
    for notebook in STAGES:
        shutil.copy(ROOT / FILES[notebook], working)
    before, started = frozen(python), time.perf_counter()
    git = {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_VALUE_0": REPOSITORY}
    git["GIT_CONFIG_KEY_0"] = f"url.{ROOT.as_uri()}.insteadOf"
    mine = {name: value for name, value in os.environ.items() if not name.startswith("RLHF_")}
    chosen = {"RLHF_PRESET": "smoke", "RLHF_THREADS": os.environ.get("RLHF_THREADS", "2")}
    path = f"{python.parent}{os.pathsep}{os.environ['PATH']}"
    env = mine | git | chosen | {variable: "x", "PATH": path, "JPY_SESSION_NAME": ""}
    names = [FILES[notebook] for notebook in STAGES]
    done = subprocess.run([python, "-c", RUN, *names], cwd=working, env=env)
    changed = sorted(set(frozen(python)) ^ set(before))
    minutes = (time.perf_counter() - started) / 60
    print(f"{variable}: {minutes:.1f} minutes, {len(changed)} packages changed {changed or ''}")
    return done.returncode == 0 and not changed


def frozen(python: Path) -> list[str]:
    """The packages of an environment, with their versions."""
    command = [python, "-m", "pip", "freeze", "--all"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.split("\n")


if __name__ == "__main__":
    sys.exit(main())
