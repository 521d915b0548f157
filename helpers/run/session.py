"""The Python session of a notebook: where it runs, the packages it needs, its seed, the manners of
its libraries.
"""

import importlib.util
import logging
import os
import random
import subprocess
import sys
from pathlib import Path

import torch

NEEDED = ["transformers", "tokenizers", "safetensors", "tiktoken", "matplotlib"]
PACKAGES = {"rouge_score": "rouge-score", "sklearn": "scikit-learn"}  # where pip's name differs


def find_platform() -> str:
    """ "kaggle", "colab" or "local". Kaggle first: its image is built from Colab's."""
    if "KAGGLE_KERNEL_RUN_TYPE" in os.environ:
        return "kaggle"
    if "COLAB_RELEASE_TAG" in os.environ or "google.colab" in sys.modules:
        return "colab"
    return "local"


def require_packages(hosted_by: str, source: str = "embedded", track: str = "tldr") -> None:
    """Install what a hosted notebook lacks (usually nothing); on a machine of one's own, raise
    ModuleNotFoundError with the command to run.
    """
    needed = [*NEEDED]
    if "ipykernel" in sys.modules:
        needed += ["ipywidgets"]
    if source == "hub":
        needed += ["datasets"]
    if source != "embedded":
        needed += ["sklearn"]  # the second judge, and win rates at equal lengths
    if source != "embedded" and track != "sentiment":
        needed += ["rouge_score", "sacrebleu"]  # only sentiment's rows have no references
    missing = [
        PACKAGES.get(name, name) for name in needed if importlib.util.find_spec(name) is None
    ]
    if missing and hosted_by == "local":
        raise ModuleNotFoundError(
            f"{', '.join(missing)} not found: run `pip install -r requirements.txt` "
            "or start with `make lab`, then restart the kernel"
        )
    if missing:
        subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", *missing], check=True)


def quiet_libraries() -> None:
    """Keep libraries' progress bars and start-up notes out of the committed outputs."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # "building the font cache"
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)


def set_seed(seed: int) -> None:
    """Seed the random generators of Python, torch (all devices) and, if it is loaded, numpy."""
    random.seed(seed)
    torch.manual_seed(seed)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(seed)


def set_figure_style() -> None:
    """One look for all figures. Importing pyplot first lets the notebook's defaults come before."""
    import matplotlib.pyplot as plt

    plt.style.use(Path(__file__).with_name("figures.mplstyle"))
