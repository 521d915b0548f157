"""The first lines of every notebook: find out where it runs, choose device and number format, open
its run folder.

`course = setup("3-PPO")` returns a `Course`: settings, device and the folders through which the
stages pass their checkpoints, metrics and figures. Everything can be chosen from outside by
environment variables, so that the same notebook runs unchanged in JupyterLab, headless, on Colab
and on Kaggle:

    RLHF_PRESET  smoke, cpu, ...   RLHF_TRACK  tldr, ...         RLHF_SEED     0, 1, 2, ... RLHF_OUT
    run folder        RLHF_DEVICE cpu, cuda, mps    RLHF_DTYPE    float32, bfloat16, float16
    RLHF_THREADS CPU threads       RLHF_SOURCE embedded, local, hub   RLHF_DATA_DIR folder with rows
    (source local) RLHF_ADAPTER full, lora, qlora RLHF_STOP_AFTER  e.g. 11h30m: stop by then, with
    the state saved     RLHF_RESUME   0: start over RLHF_SAVE_EVERY  e.g. 10m, between snapshots
    RLHF_SAVE_STEPS   e.g. 500, likewise RLHF_CHECKPOINTING, RLHF_COMPILE   1: less memory, or
    compiled blocks, in a stage's command (helpers/engine/hardware.py) RLHF_STEPS   a trial: stop
    after so many steps of the training RLHF_HAND_OVER   1: a stage's command ends once it has
    trained; its notebook's training cell takes that over RLHF_INIT    what 1-SFT starts from:
    pretrain, gpt2, another GPT-2's name, a folder, a .pt file
"""

import json
import os
import platform
import re
import time
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from helpers.config import AdapterConfig, default_init, default_source, load_config
from helpers.engine.files import (
    NOTEBOOKS,
    ROOT,
    STAGES,
    default_out,
    discard,
    plain,
    read_number,
    seconds_of,
    write_json,
)
from helpers.engine.hardware import (
    choose_device,
    choose_dtype,
    choose_preset,
    choose_threads,
    keep_freed_memory,
)
from helpers.lesson.only_cells import watch_cells
from helpers.run.presets import GPU_PRESETS
from helpers.run.session import (
    find_place,
    quiet_libraries,
    require_packages,
    set_figure_style,
    set_seed,
)

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
    source: str = (
        "embedded"  # where rows come from: the embedded world, a "local" folder or the "hub"
    )
    init: str = "pretrain"  # what 1-SFT starts from (helpers/run/base_model.py)
    why: str = ""  # the preset was chosen, when it was not named
    reports: list[str] = field(
        default_factory=list, repr=False
    )  # which rows were read, and how many left out
    started: float = field(default_factory=time.perf_counter, repr=False)
    deadline: float | None = (
        None  # `time.perf_counter()` at which the session ends (RLHF_STOP_AFTER)
    )

    @cached_property
    def tokenizer(self) -> Any:
        """The run's tokenizer: the embedded world's, or for real rows GPT-2's or one made for this
        run.
        """
        from helpers.rows.vocabulary import choose_tokenizer
        from helpers.run.base_model import (
            OWN,
            base_tokenizer,
        )  # need packages that setup() may have to install first

        if self.init != OWN:
            return base_tokenizer(self.init)
        vocabulary = load_config("pretrain", self.preset, self.track, source=self.source).vocabulary
        return choose_tokenizer(self.track, self.source, vocabulary, self.out / "tokenizer.json")

    @property
    def init_name(self) -> str:
        """What `init` is called where others may read it: a name as it is, of a path its last
        part.
        """
        path = Path(self.init).expanduser()
        return path.name if path.exists() else self.init

    def rows(
        self, kind: str, split: str, limit: int | None = None, room: int | None = None
    ) -> list:
        """The first `limit` records of a kind ("documents", "demonstrations", ...) and split
        ("train" or "heldout").

        room: tokens that must stay free behind a real prompt, for the response or the completion;
        by default the stage's response_tokens. Rows that can't be used are counted in a printed
        line. Raises SourceError or ValueError as `helpers.rows.load.load_track`.
        """
        from helpers.rows.load import load_track

        room = getattr(self.config, "response_tokens", 0) if room is None else room
        limits = None if self.source == "embedded" else self.limits(room)
        records, report = load_track(self.track, kind, split, self.source, limits, limit)
        if str(report) not in self.reports:
            self.reports.append(str(report))
        if self.source != "embedded":
            print(report)
        return records

    def limits(self, room: int = 0) -> Any:
        """What fits the context, in tokens of this run's tokenizer
        (`helpers.rows.common.Limits`).
        """
        from helpers.rows.common import Limits

        context = load_config("pretrain", self.preset, self.track, source=self.source).context
        return Limits(self.tokenizer.encode, context - room, context)

    def folder(self, stage: str | None = None) -> Path:
        """The checkpoint folder of a stage (default: of this one)."""
        stage = stage or self.stage
        if stage not in NOTEBOOKS:
            raise ValueError(f"no stage {stage!r}: choose from {', '.join(NOTEBOOKS)}")
        return self.out / "checkpoints" / stage

    def keeper(self, name: str = "") -> Any:
        """Where a training run of this stage is logged and saved
        (`helpers.engine.snapshots.Keeper`).

        name: of a run that is not the stage's main one. A run goes on from its snapshots only with
        the settings and the checkpoints that it began with.
        """
        from helpers.engine.snapshots import Keeper
        from helpers.run.base_model import base_folder
        from helpers.run.checkpoints import checksum_of

        trial = read_number("RLHF_STEPS", 0, least=0)
        hand_over = os.environ.get("RLHF_HAND_OVER") == "1" and name in ("", self.stage)
        name = (name or self.stage) + ("-trial" if trial else "")
        parents = {"sft": [base_folder(self)], "ppo": [self.folder("sft"), self.folder("reward")]}
        parents["reward"] = [
            *parents["sft"],
            self.folder("sft"),
        ]  # the second judge starts from the base model
        settings = asdict(self.config) | {"track": self.track, "source": self.source}
        settings.pop("micro_batch", None)  # a matter of the machine, like its number format
        settings |= {
            f"checkpoint {path.name}": checksum_of(path) for path in parents.get(self.stage, ())
        }
        keeper = Keeper(
            self.out / "logs" / f"{name}.jsonl",
            self.snapshots / name,
            plain(settings),
            every=seconds_of(os.environ.get("RLHF_SAVE_EVERY") or "10m", "RLHF_SAVE_EVERY"),
            every_steps=read_number("RLHF_SAVE_STEPS", 0, least=0),
            deadline=self.deadline,
            limit=trial,
            hand_over=hand_over,
        )
        if os.environ.get("RLHF_RESUME") == "0":
            keeper.clear()
        return keeper

    @property
    def snapshots(self) -> Path:
        """Where the unfinished training runs of this stage are saved."""
        return self.out / "snapshots" / self.stage

    def forget_snapshots(self) -> None:
        """Remove what a stage has saved on its way, once its checkpoint is written."""
        discard(self.snapshots)

    def save_figure(self, fig: Any, name: str) -> None:
        """Write a matplotlib figure to `out/figures/<stage>-<name>.png`.

        Returns nothing and leaves the figure open, so that the cell that made it shows it exactly
        once.
        """
        folder = self.out / "figures"
        folder.mkdir(parents=True, exist_ok=True)
        slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
        fig.savefig(
            folder / f"{self.stage}-{slug}.png",
            dpi=min(fig.dpi, MAX_DPI),
            bbox_inches="tight",
            facecolor="white",
            metadata={"Software": None},
        )

    def record(self, **metrics: Any) -> None:
        """Merge results into `out/metrics/<stage>.json`, with the seconds this stage has taken so
        far.

        Names are those of report.json (`heldout_loss=`, `kl=`, ...; see helpers/run/report.py).
        Tensors and numpy scalars become plain numbers; a number that is not finite becomes null,
        and the report will say so.
        """
        path = self._metrics_path(self.stage)
        identity = {
            "stage": self.stage,
            "preset": self.preset,
            "track": self.track,
            "source": self.source,
            "seed": self.seed,
        }
        known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        if {key: known.get(key) for key in identity} != identity:
            known = {}  # left by other settings in the same folder
        seconds = round(time.perf_counter() - self.started, 1)
        write_json(path, {**known, **identity, "seconds": seconds, **plain(metrics)})

    def metrics(self, stage: str | None = None) -> dict[str, Any]:
        """What a stage has recorded; FileNotFoundError naming the notebook if it has recorded
        nothing yet.
        """
        stage = stage or self.stage
        path = self._metrics_path(stage)
        if not path.exists():
            raise FileNotFoundError(
                f"stage {stage!r} has recorded nothing yet: run {NOTEBOOKS[stage]}.ipynb first"
            )
        return json.loads(path.read_text(encoding="utf-8"))

    def _metrics_path(self, stage: str) -> Path:
        self.folder(stage)  # refuses an unknown stage
        return self.out / "metrics" / f"{stage}.json"


def setup(notebook: str) -> Course:
    """Prepare one notebook and print in four lines what was found.

    notebook: "0-Pretrain", "1-SFT", "2-RM-Training" or "3-PPO". Raises ValueError, with the valid
    choices, for a notebook, preset, track, device or number format we don't know.
    """
    if notebook not in STAGES:
        raise ValueError(f"no notebook {notebook!r}: choose from {', '.join(STAGES)}")
    os.chdir(ROOT)  # a copy opened from another folder behaves like the notebook itself
    where = find_place()
    source = default_source()
    track = os.environ.get("RLHF_TRACK") or "tldr"
    require_packages(where, source, track)
    quiet_libraries()
    device = choose_device()
    preset, why = choose_preset(source, device)
    seed = read_number("RLHF_SEED", 0, least=0)
    config = load_config(STAGES[notebook], preset=preset, track=track, seed=seed, source=source)
    if adapter := os.environ.get("RLHF_ADAPTER"):
        AdapterConfig(adapter)  # refuses an unknown one, also in a stage that trains without
        config = replace(config, adapter=adapter) if isinstance(config, AdapterConfig) else config
    init = default_init(preset, track, source)
    config = replace(config, init=init) if hasattr(config, "init") else config
    out = ROOT / (
        os.environ.get("RLHF_OUT") or default_out(preset, track, seed, source)
    )  # an absolute RLHF_OUT wins

    threads = choose_threads()
    torch.set_num_threads(threads)
    keep_freed_memory()
    if (
        device.type == "cuda" and STAGES[notebook] != "ppo"
    ):  # there the ratio must start at exactly 1
        torch.set_float32_matmul_precision("high")  # TF32 for what stays in float32
    set_seed(seed)
    set_figure_style()
    watch_cells(track, source)
    course = Course(
        notebook,
        STAGES[notebook],
        preset,
        track,
        seed,
        out,
        device,
        choose_dtype(device),
        threads,
        where,
        config,
        source,
        init,
        why,
        deadline=read_deadline(),
    )
    print(summary(course))
    return course


def read_deadline() -> float | None:
    """When the session ends, by `time.perf_counter()`: RLHF_STOP_AFTER from now. Raises
    ValueError.
    """
    after = os.environ.get("RLHF_STOP_AFTER")
    return time.perf_counter() + seconds_of(after, "RLHF_STOP_AFTER") if after else None


def counted(course: Course) -> str:
    """For a GPU preset on real rows: the minutes and gigabytes that this stage was counted to
    take.
    """
    if course.source == "embedded" or course.preset not in GPU_PRESETS:
        return ""
    from helpers.run.expected import expected

    minutes, gigabytes = expected(course.preset, course.track)[course.stage]
    return f"; counted, not measured: {max(1, round(minutes))} minutes, {gigabytes:.0f} GB"


def summary(course: Course) -> str:
    """What setup() found, in four lines without absolute paths: they are committed with the
    outputs.
    """
    if course.device.type == "cuda":
        gpu = torch.cuda.get_device_properties(course.device)
        machine = f"{gpu.name}, {gpu.total_memory / 2**30:.0f} GB"
    elif course.device.type == "mps":
        machine = "Apple GPU"
    else:
        machine = f"CPU, {course.threads} thread{'s' if course.threads > 1 else ''}"
    chosen = f" (chosen: {course.why})" if course.why else ""
    start = f", from {course.init_name}" if course.init != "pretrain" else ""
    inside = course.out.is_relative_to(ROOT)
    folder = course.out.relative_to(ROOT).as_posix() if inside else f".../{course.out.name}"
    return (
        f"{course.notebook}: preset {course.preset}{chosen}, track {course.track}{start}, seed "
        f"{course.seed}\n"
        f"machine    {machine}, {str(course.dtype).removeprefix('torch.')} ({course.where})\n"
        f"software   Python {platform.python_version()}, torch {torch.__version__}\n"
        f"results in {folder}{counted(course)}"
    )
