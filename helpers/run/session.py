"""The Python session of a notebook: where it runs, the packages it needs, its seed, its libraries'
manners.
"""

import importlib.util
import logging
import os
import random
import subprocess
import sys

import torch

NEEDED = ("transformers", "tokenizers", "safetensors", "tiktoken", "matplotlib")
NEEDED_IN_NOTEBOOKS = ("ipywidgets",)
NEEDED_FOR_THE_HUB = ("datasets",)
NEEDED_FOR_REAL_ROWS = ("sklearn",)  # the judge of sentiment, and win rates at equal lengths
NEEDED_FOR_REFERENCES = ("rouge_score", "sacrebleu")  # only sentiment's rows have none
PACKAGES = {"rouge_score": "rouge-score", "sklearn": "scikit-learn"}  # where pip's name differs


def find_place() -> str:
    """ "kaggle", "colab" or "local". Kaggle first: its image is built from Colab's and carries the
    same marks.
    """
    if "KAGGLE_KERNEL_RUN_TYPE" in os.environ:
        return "kaggle"
    if "COLAB_RELEASE_TAG" in os.environ or "google.colab" in sys.modules:
        return "colab"
    return "local"


def require_packages(where: str, source: str = "embedded", track: str = "tldr") -> None:
    """Install what a hosted notebook lacks (usually nothing); at home say in one line what to
    install.
    """
    needed = NEEDED
    needed += NEEDED_IN_NOTEBOOKS if "ipykernel" in sys.modules else ()
    needed += NEEDED_FOR_THE_HUB if source == "hub" else ()
    needed += NEEDED_FOR_REAL_ROWS if source != "embedded" else ()
    needed += NEEDED_FOR_REFERENCES if source != "embedded" and track != "sentiment" else ()
    missing = [
        PACKAGES.get(name, name) for name in needed if importlib.util.find_spec(name) is None
    ]
    if missing and where == "local":
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
    logging.getLogger("matplotlib.font_manager").setLevel(
        logging.ERROR
    )  # "building the font cache"


def set_seed(seed: int) -> None:
    """Seed every random generator that the course uses: Python's and torch's (all devices), and
    numpy if loaded.
    """
    random.seed(seed)
    torch.manual_seed(seed)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(seed)


def set_figure_style() -> None:
    """One quiet look for all figures. Importing pyplot first lets the notebook's own defaults go
    before ours.
    """
    try:
        import matplotlib.pyplot as plt
    except ImportError:
        return
    colours = ["#2f6f8f", "#d1703c", "#5b8c5a", "#8a5a9b", "#b8a13c", "#6b6f76"]
    plt.rcParams.update(
        {
            "figure.dpi": 84,
            "savefig.dpi": 84,
            "figure.figsize": (7.2, 3.2),
            "figure.constrained_layout.use": True,
            "figure.facecolor": "white",
            "axes.prop_cycle": plt.cycler(color=colours),
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "grid.color": "#e6e6e2",
            "grid.linewidth": 0.8,
            "axes.axisbelow": True,
            "axes.titlesize": 11,
            "axes.titlelocation": "left",
            "font.size": 10,
            "legend.frameon": False,
            "lines.linewidth": 1.8,
            "image.cmap": "viridis",
        }
    )
