"""The first lines of every notebook: find out where it runs, choose device and number format, open its run folder.

`course = setup("3-PPO")` returns a `Course`: settings, device and the folders through which the stages pass their
checkpoints, metrics and figures. Everything can be chosen from outside by environment variables, so that the same
notebook runs unchanged in JupyterLab, headless, on Colab and on Kaggle:

    RLHF_PRESET  smoke, cpu, ...   RLHF_TRACK  tldr, ...         RLHF_SEED     0, 1, 2, ...
    RLHF_OUT     run folder        RLHF_DEVICE cpu, cuda, mps    RLHF_DTYPE    float32, bfloat16, float16
    RLHF_THREADS CPU threads       RLHF_SOURCE embedded, local, hub   RLHF_DATA_DIR folder with rows (source local)
    RLHF_ADAPTER full, lora, qlora
"""

import importlib.util
import json
import logging
import math
import os
import platform
import random
import re
import subprocess
import sys
import time
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from helpers.config import AdapterConfig, default_source, load_config
from helpers.folders import NOTEBOOKS, ROOT, STAGES, default_out, plain, read_number, write_json
from helpers.only import watch_cells

NEEDED = ("transformers", "tokenizers", "safetensors", "tiktoken", "matplotlib", "ipywidgets", "rouge_score",
          "sacrebleu")  # fmt: skip
MAX_DPI = 90  # figures are committed with the notebooks: sharp enough to read, small enough to keep


@dataclass(frozen=True)
class Course:
    """Where one notebook runs, with which settings, and where its results go."""

    notebook: str  # "3-PPO"
    stage: str  # "ppo"
    preset: str
    track: str
    seed: int
    out: Path  # the run folder, shared by the four stages
    device: torch.device
    dtype: torch.dtype  # number format of the matrix products; weights stay float32
    threads: int
    where: str  # "local", "colab" or "kaggle"
    config: Any  # the stage's settings (helpers.config)
    source: str = "embedded"  # where rows come from: the embedded world, a "local" folder or the "hub"
    started: float = field(default_factory=time.perf_counter, repr=False)

    @cached_property
    def tokenizer(self) -> Any:
        """The run's tokenizer: the embedded world's, or for real rows GPT-2's or one made for this run."""
        from helpers.vocabulary import choose_tokenizer  # needs packages that setup() may have to install first

        vocabulary = load_config("pretrain", self.preset, self.track, source=self.source).vocabulary
        return choose_tokenizer(self.track, self.source, vocabulary, self.out / "tokenizer.json")

    def rows(self, kind: str, split: str, limit: int | None = None, room: int = 0) -> list:
        """The first `limit` records of a kind ("documents", "demonstrations", ...) and split ("train" or "heldout").

        room: tokens that must stay free behind a real prompt, for the response. Rows that can't be used are counted
        in a printed line. Raises SourceError or ValueError as `helpers.sources.load_track`.
        """
        from helpers.sources import load_track

        limits = None if self.source == "embedded" else self.limits(room)
        records, report = load_track(self.track, kind, split, self.source, limits, limit)
        if self.source != "embedded":
            print(report)
        return records

    def limits(self, room: int = 0) -> Any:
        """What fits the context, in tokens of this run's tokenizer (`helpers.rows.common.Limits`)."""
        from helpers.rows.common import Limits

        context = load_config("pretrain", self.preset, self.track, source=self.source).context
        return Limits(self.tokenizer.encode, context - room, context)

    def folder(self, stage: str | None = None) -> Path:
        """The checkpoint folder of a stage (default: of this one)."""
        stage = stage or self.stage
        if stage not in NOTEBOOKS:
            raise ValueError(f"no stage {stage!r}: choose from {', '.join(NOTEBOOKS)}")
        return self.out / "checkpoints" / stage

    @property
    def log(self) -> Path:
        """Where this stage's training writes the metrics of every step, as JSON lines."""
        return self.out / "logs" / f"{self.stage}.jsonl"

    def save_figure(self, fig: Any, name: str) -> None:
        """Write a matplotlib figure to `out/figures/<stage>-<name>.png`.

        Returns nothing and leaves the figure open, so that the cell that made it shows it exactly once.
        """
        folder = self.out / "figures"
        folder.mkdir(parents=True, exist_ok=True)
        slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
        fig.savefig(folder / f"{self.stage}-{slug}.png", dpi=min(fig.dpi, MAX_DPI), bbox_inches="tight",
                    facecolor="white", metadata={"Software": None})  # fmt: skip

    def record(self, **metrics: Any) -> None:
        """Merge results into `out/metrics/<stage>.json`, with the seconds this stage has taken so far.

        Names are those of report.json (`heldout_loss=`, `kl=`, ...; see helpers/report.py). Tensors and numpy
        scalars become plain numbers; a number that is not finite becomes null, and the report will say so.
        """
        path = self._metrics_path(self.stage)
        identity = {"stage": self.stage, "preset": self.preset, "track": self.track, "source": self.source,
                    "seed": self.seed}  # fmt: skip
        known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        if {key: known.get(key) for key in identity} != identity:
            known = {}  # left by other settings in the same folder
        seconds = round(time.perf_counter() - self.started, 1)
        write_json(path, {**known, **identity, "seconds": seconds, **plain(metrics)})

    def metrics(self, stage: str | None = None) -> dict[str, Any]:
        """What a stage has recorded; FileNotFoundError naming the notebook if it has recorded nothing yet."""
        stage = stage or self.stage
        path = self._metrics_path(stage)
        if not path.exists():
            raise FileNotFoundError(f"stage {stage!r} has recorded nothing yet: run {NOTEBOOKS[stage]}.ipynb first")
        return json.loads(path.read_text(encoding="utf-8"))

    def _metrics_path(self, stage: str) -> Path:
        self.folder(stage)  # refuses an unknown stage
        return self.out / "metrics" / f"{stage}.json"


def setup(notebook: str) -> Course:
    """Prepare one notebook and print in four lines what was found.

    notebook: "0-Pretrain", "1-SFT", "2-RM-Training" or "3-PPO".
    Raises ValueError, with the valid choices, for a notebook, preset, track, device or number format we don't know.
    """
    if notebook not in STAGES:
        raise ValueError(f"no notebook {notebook!r}: choose from {', '.join(STAGES)}")
    os.chdir(ROOT)  # a copy opened from another folder behaves like the notebook itself
    where = find_place()
    require_packages(where)
    quiet_libraries()
    preset = os.environ.get("RLHF_PRESET") or "cpu"
    track = os.environ.get("RLHF_TRACK") or "tldr"
    seed = read_number("RLHF_SEED", 0, least=0)
    source = default_source()
    config = load_config(STAGES[notebook], preset=preset, track=track, seed=seed, source=source)
    if adapter := os.environ.get("RLHF_ADAPTER"):
        AdapterConfig(adapter)  # refuses an unknown one, also in a stage that trains without
        config = replace(config, adapter=adapter) if isinstance(config, AdapterConfig) else config
    out = ROOT / (os.environ.get("RLHF_OUT") or default_out(preset, track, seed, source))  # an absolute RLHF_OUT wins

    threads = choose_threads()
    torch.set_num_threads(threads)
    device = choose_device()
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")  # TF32 for what stays in float32
    set_seed(seed)
    set_figure_style()
    watch_cells(track, source)
    course = Course(notebook, STAGES[notebook], preset, track, seed, out, device, choose_dtype(device), threads,
                    where, config, source)  # fmt: skip
    print(summary(course))
    return course


def find_place() -> str:
    """ "kaggle", "colab" or "local". Kaggle first: its image is built from Colab's and carries the same marks."""
    if "KAGGLE_KERNEL_RUN_TYPE" in os.environ:
        return "kaggle"
    if "COLAB_RELEASE_TAG" in os.environ or "google.colab" in sys.modules:
        return "colab"
    return "local"


def require_packages(where: str) -> None:
    """Install what a hosted notebook lacks (usually nothing); at home say in one line what to install."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing and where == "local":
        raise ModuleNotFoundError(f"{', '.join(missing)} not found: run `pip install -r requirements.txt` "
                                  "or start with `make lab`, then restart the kernel")  # fmt: skip
    if missing:
        subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", *missing], check=True)


def quiet_libraries() -> None:
    """Keep libraries' progress bars and start-up notes out of the committed outputs."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)  # "building the font cache"


def choose_device() -> torch.device:
    """CUDA where there is one, else the CPU. Apple's mps only on request: RLHF_DEVICE=mps."""
    wanted = os.environ.get("RLHF_DEVICE", "").strip().lower()
    found = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not wanted:
        return torch.device("cuda" if found["cuda"] else "cpu")
    kind = wanted.split(":")[0]
    if not found.get(kind):
        raise ValueError(f"RLHF_DEVICE={wanted}: not available, choose from {', '.join(k for k in found if found[k])}")
    return torch.device(wanted)


def choose_dtype(device: torch.device) -> torch.dtype:
    """The number format for matrix products on this device.

    CUDA: bfloat16 from compute capability 8.0 on, float16 below (a T4 has no bfloat16 units although it can emulate
    them). CPU: bfloat16 where AVX512-BF16 or AMX multiplies it in hardware, else float32.
    """
    formats = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    wanted = os.environ.get("RLHF_DTYPE", "").strip().lower()
    if wanted:
        if wanted not in formats:
            raise ValueError(f"RLHF_DTYPE={wanted}: choose from {', '.join(formats)}")
        return formats[wanted]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.get_device_capability(device)[0] >= 8 else torch.float16
    if device.type == "cpu" and cpu_has_bfloat16():
        return torch.bfloat16
    return torch.float32


def cpu_has_bfloat16() -> bool:
    """True if this CPU multiplies bfloat16 in hardware and a small product comes out right."""
    # These probes are not public and came one by one with new versions of torch; without one the answer is no.
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    try:
        if not any(getattr(torch.cpu, name, lambda: False)() for name in probes):
            return False
        a = torch.linspace(-1, 1, 64 * 64).reshape(64, 64)  # no random numbers: seeds must not depend on the CPU
        product = (a.bfloat16() @ a.bfloat16()).float()
        return bool((product - a @ a).abs().max() < 0.2)
    except RuntimeError:
        return False


def choose_threads() -> int:
    """Physical cores, at most 8: a small GPT gains nothing from hyperthreads. RLHF_THREADS or OMP_NUM_THREADS win."""
    for name in ("RLHF_THREADS", "OMP_NUM_THREADS"):
        if os.environ.get(name):
            return read_number(name, 1, least=1)
    return max(1, min(8, physical_cores()))


def physical_cores() -> int:
    """Cores that this process may use; hyperthreads of one core count once."""
    if hasattr(os, "sched_getaffinity"):  # Linux
        cores = set()
        for cpu in os.sched_getaffinity(0):
            siblings = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
            cores.add(siblings.read_text().strip() if siblings.exists() else str(cpu))
        return max(1, min(len(cores), cpu_quota()))
    if sys.platform == "darwin":
        answer = subprocess.run(["sysctl", "-n", "hw.physicalcpu"], capture_output=True, text=True)
        return int(answer.stdout) if answer.stdout.strip().isdigit() else os.cpu_count() or 1
    return max(1, (os.cpu_count() or 2) // 2)


def cpu_quota() -> int:
    """The number of CPUs a container may use (cgroup version 2 or 1); a large number where there is no limit."""
    group = Path("/sys/fs/cgroup")
    for names in (["cpu.max"], ["cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us"]):
        if all((group / name).exists() for name in names):
            quota, period = " ".join((group / name).read_text() for name in names).split()[:2]
            if quota not in ("max", "-1"):
                return max(1, math.ceil(int(quota) / int(period)))
    return 1024


def set_seed(seed: int) -> None:
    """Seed every random generator that the course uses: Python's and torch's (all devices), and numpy if loaded."""
    random.seed(seed)
    torch.manual_seed(seed)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(seed)


def set_figure_style() -> None:
    """One quiet look for all figures. Importing pyplot first lets the notebook's own defaults go before ours."""
    try:
        import matplotlib.pyplot as plt
    except ImportError:
        return
    colours = ["#2f6f8f", "#d1703c", "#5b8c5a", "#8a5a9b", "#b8a13c", "#6b6f76"]
    plt.rcParams.update({
        "figure.dpi": 84, "savefig.dpi": 84, "figure.figsize": (7.2, 3.2), "figure.constrained_layout.use": True,
        "figure.facecolor": "white", "axes.prop_cycle": plt.cycler(color=colours), "axes.spines.top": False,
        "axes.spines.right": False, "axes.grid": True, "grid.color": "#e6e6e2", "grid.linewidth": 0.8,
        "axes.axisbelow": True, "axes.titlesize": 11, "axes.titlelocation": "left", "font.size": 10,
        "legend.frameon": False, "lines.linewidth": 1.8, "image.cmap": "viridis",
    })  # fmt: skip


def summary(course: Course) -> str:
    """What setup() found, in four lines without absolute paths: they are committed with the outputs."""
    if course.device.type == "cuda":
        gpu = torch.cuda.get_device_properties(course.device)
        machine = f"{gpu.name}, {gpu.total_memory / 2**30:.0f} GB"
    elif course.device.type == "mps":
        machine = "Apple GPU"
    else:
        machine = f"CPU, {course.threads} thread{'s' if course.threads > 1 else ''}"
    inside = course.out.is_relative_to(ROOT)
    folder = course.out.relative_to(ROOT).as_posix() if inside else f".../{course.out.name}"
    return (
        f"{course.notebook}: preset {course.preset}, track {course.track}, seed {course.seed}\n"
        f"machine    {machine}, {str(course.dtype).removeprefix('torch.')} ({course.where})\n"
        f"software   Python {platform.python_version()}, torch {torch.__version__}\n"
        f"results in {folder}"
    )
