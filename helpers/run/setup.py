"""The first lines of every notebook and of every stage's command: find out where it runs, choose
device and number format, open the run folder.

`course = setup("3-PPO")` returns a `Course`: settings, device and the folders through which the
stages pass their checkpoints, metrics and figures. Everything can be chosen from outside
(helpers/run/settings.py), so that the same notebook runs unchanged in JupyterLab, headless, on
Colab and on Kaggle.
"""

import json
import os
import platform
import re
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from helpers.config import AdapterConfig
from helpers.engine.files import ROOT, discard, plain, write_json
from helpers.engine.hardware import (
    choose_device,
    choose_dtype,
    choose_threads,
    keep_freed_memory,
    set_memory_options,
)
from helpers.engine.loop import Loop
from helpers.engine.snapshots import Keeper
from helpers.run.folders import NOTEBOOKS, PARENTS, STAGES, default_out
from helpers.run.presets import GPU_PRESETS, choose_init, choose_preset, load_config
from helpers.run.session import (
    find_place,
    quiet_libraries,
    require_packages,
    set_figure_style,
    set_seed,
)
from helpers.run.settings import Settings, read_settings

MAX_DPI = 90  # figures are committed with the notebooks: sharp enough to read, small enough to keep
PRETRAINED = "pretrain"  # the init that means the checkpoint of 0-Pretrain


@dataclass(frozen=True)
class Course:
    """Where one notebook runs, with which settings, and where its results go."""

    notebook: str  # "3-PPO"
    stage: str  # "ppo"
    settings: Settings  # what was chosen from outside
    preset: str
    track: str
    seed: int
    source: str  # where rows come from: the "embedded" world, a "local" folder or the "hub"
    init: str  # what 1-SFT starts from (helpers/run/base_model.py)
    out: Path  # the run folder, shared by the four stages
    device: torch.device
    dtype: torch.dtype  # number format of the matrix products; weights stay float32
    threads: int
    platform: str  # "local", "colab" or "kaggle"
    config: Any  # the stage's settings (helpers.config)
    preset_reason: str = ""  # why the preset was chosen, when it was not named
    row_reports: list[str] = field(default_factory=list, repr=False)  # which rows were read
    started: float = field(default_factory=time.perf_counter, repr=False)

    # ------------------------------------------------------------ rows

    @property
    def data_dir(self) -> Path | None:
        """The folder with rows of source "local"."""
        named = self.settings.data_dir
        return Path(named).expanduser() if named else None

    @cached_property
    def tokenizer(self) -> Any:
        """The run's tokenizer: the embedded world's, or for real rows GPT-2's or one made for this
        run.
        """
        from helpers.rows.vocabulary import base_tokenizer, choose_tokenizer  # setup() may install

        if self.init != PRETRAINED:
            return base_tokenizer(self.init, self.data_dir)
        size = self.config_of("pretrain").vocabulary
        path = self.out / "tokenizer.json"
        return choose_tokenizer(self.track, self.source, size, path, self.data_dir)

    def config_of(self, stage: str) -> Any:
        """The settings that a stage of this run has by its preset."""
        return load_config(stage, self.preset, self.track, self.seed, self.source)

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
        where = self.source, limits, limit, self.data_dir
        records, report = load_track(self.track, kind, split, *where)
        if str(report) not in self.row_reports:
            self.row_reports.append(str(report))
        if self.source != "embedded":
            print(report)
        return records

    def limits(self, room: int = 0) -> Any:
        """What fits the context, in tokens of this run's tokenizer
        (`helpers.rows.common.Limits`).
        """
        from helpers.rows.common import Limits

        context = self.config_of("pretrain").context
        return Limits(self.tokenizer.encode, context - room, context)

    # ------------------------------------------------------------ training

    @property
    def sampling_dtype(self) -> torch.dtype:
        """The number format of the weights while texts are sampled: that of the matrix products on
        a CPU, where 16 bits are faster and move a small model's distribution hardly at all. GPT-2's
        logits are so large that 16 bits would show: a GPU, where they gain little, samples in
        float32.
        """
        return self.dtype if self.device.type == "cpu" else torch.float32

    def prepare(self, gpt: Any) -> None:
        """Have a GPT trained with the memory and speed options of the settings."""
        set_memory_options(gpt, self.settings.checkpointing, self.settings.compile)

    def loop(
        self,
        name: str = "",
        title: str = "",
        watch: Callable[[list[dict]], None] | None = None,
        **settings: Any,
    ) -> Loop:
        """The bookkeeping of a training run of this stage, which is logged and saved.

        name: of a run that is not the stage's main one. title: of its progress lines, by default
        its name. watch: called with the history after every step. settings: that a run must share
        with the one that it goes on from, beside the stage's.
        """
        keeper = self.keeper(name)
        keeper = replace(keeper, settings=keeper.settings | plain(settings))
        title = title or name or self.stage
        return Loop(title, self.dtype, keeper, watch)

    def keeper(self, name: str = "") -> Keeper:
        """Where a training run of this stage is logged and saved. A run goes on from its snapshots
        only with the settings and the checkpoints that it began with.
        """
        from helpers.run.checkpoints import checksum_of

        chosen = self.settings
        trial = chosen.steps
        hand_over = chosen.hand_over and name in ("", self.stage)
        name = (name or self.stage) + ("-trial" if trial else "")
        settings = asdict(self.config) | {"track": self.track, "source": self.source}
        settings.pop("micro_batch", None)  # a matter of the machine, like its number format
        for parent in PARENTS[self.stage]:
            path = self.base_folder if parent == "base" else self.folder(parent)
            settings[f"checkpoint {path.name}"] = checksum_of(path)
        keeper = Keeper(
            self.out / "logs" / f"{name}.jsonl",
            self.snapshots / name,
            plain(settings),
            every=chosen.save_every,
            every_steps=chosen.save_steps,
            deadline=self.deadline,
            limit=trial,
            hand_over=hand_over,
        )
        if not chosen.resume:
            keeper.clear()
        return keeper

    @property
    def deadline(self) -> float | None:
        """`time.perf_counter()` at which the session ends."""
        after = self.settings.stop_after
        return self.started + after if after else None

    # ------------------------------------------------------------ results

    def folder(self, stage: str | None = None) -> Path:
        """The checkpoint folder of a stage (default: of this one)."""
        stage = stage or self.stage
        if stage not in NOTEBOOKS:
            raise ValueError(f"no stage {stage!r}: choose from {', '.join(NOTEBOOKS)}")
        return self.out / "checkpoints" / stage

    @property
    def base_folder(self) -> Path:
        """Where the base model is kept: 0-Pretrain's checkpoint, or checkpoints/base for weights
        from elsewhere.
        """
        own = self.init == PRETRAINED
        return self.folder("pretrain") if own else self.out / "checkpoints" / "base"

    @property
    def judge_folder(self) -> Path:
        """The second judge's checkpoint: beside those of the stages."""
        return self.folder("reward").with_name("judge")

    @property
    def snapshots(self) -> Path:
        """Where the unfinished training runs of this stage are saved."""
        return self.out / "snapshots" / self.stage

    @property
    def init_name(self) -> str:
        """What `init` is called where others may read it: a name as it is, of a path its last
        part.
        """
        path = Path(self.init).expanduser()
        return path.name if path.exists() else self.init

    def finish(
        self,
        model: Any,
        metrics: dict,
        *,
        parent: Path | None,
        data_fingerprint: str,
        adapter: Any = None,
        **recorded: Any,
    ) -> None:
        """The end of every stage: write its checkpoint, delete its snapshots, record its metrics.

        parent: the checkpoint folder that it was trained from. adapter: what was merged into the
        model. recorded: what goes into the record but not into the checkpoint, such as curves.
        """
        from helpers.run.checkpoints import save_stage

        save_stage(
            self.folder(),
            model,
            self.tokenizer,
            stage=self.stage,
            track=self.track,
            config=self.facts(),
            metrics=plain(metrics),
            parent=parent,
            data_fingerprint=data_fingerprint,
            adapter=adapter,
        )
        discard(self.snapshots)
        self.record(**metrics, **recorded)

    def facts(self) -> dict:
        """What a checkpoint keeps of what made it: the settings, the base model, the rows read."""
        run = {"preset": self.preset, "source": self.source, "init": self.init_name}
        return asdict(self.config) | run | {"rows": list(self.row_reports)}

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


def setup(notebook: str, **options: Any) -> Course:
    """Prepare one notebook or stage and print in four lines what was found.

    notebook: "0-Pretrain", "1-SFT", "2-RM-Training" or "3-PPO". options: settings by name
    (`helpers.run.settings.Settings`), which win over environment variables. Raises ValueError, with
    the valid choices, for a notebook, setting or device that does not exist.
    """
    if notebook not in STAGES:
        raise ValueError(f"no notebook {notebook!r}: choose from {', '.join(STAGES)}")
    os.chdir(ROOT)  # a copy opened from another folder behaves like the notebook itself
    settings, where = read_settings(options), find_place()
    require_packages(where, settings.source, settings.track)
    quiet_libraries()
    course = make_course(notebook, settings, where)
    torch.set_num_threads(course.threads)
    keep_freed_memory()
    if (
        course.device.type == "cuda" and course.stage != "ppo"
    ):  # whose ratio must start at exactly 1
        torch.set_float32_matmul_precision("high")  # TF32 for what stays in float32
    set_seed(course.seed)
    set_figure_style()
    print(summary(course))
    return course


def make_course(notebook: str, settings: Settings, where: str) -> Course:
    """What the settings and the machine come to."""
    stage, track, seed, source = STAGES[notebook], settings.track, settings.seed, settings.source
    device = choose_device(settings.device)
    preset, reason = choose_preset(settings.preset, source, device)
    config = load_config(stage, preset, track, seed, source)
    if settings.adapter and isinstance(config, AdapterConfig):
        config = replace(config, adapter=settings.adapter)
    init = choose_init(settings.init, preset, track, source)
    config = replace(config, init=init) if hasattr(config, "init") else config
    return Course(
        notebook,
        stage,
        settings,
        preset,
        track,
        seed,
        source,
        init,
        out=ROOT / (settings.out or default_out(preset, track, seed, source)),  # absolute: as it is
        device=device,
        dtype=choose_dtype(device, settings.dtype),
        threads=choose_threads(settings.threads),
        platform=where,
        config=config,
        preset_reason=reason,
    )


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
    chosen = f" (chosen: {course.preset_reason})" if course.preset_reason else ""
    start = f", from {course.init_name}" if course.init != "pretrain" else ""
    inside = course.out.is_relative_to(ROOT)
    folder = course.out.relative_to(ROOT).as_posix() if inside else f".../{course.out.name}"
    return (
        f"{course.notebook}: preset {course.preset}{chosen}, track {course.track}{start}, seed "
        f"{course.seed}\n"
        f"machine    {machine}, {str(course.dtype).removeprefix('torch.')} ({course.platform})\n"
        f"software   Python {platform.python_version()}, torch {torch.__version__}\n"
        f"results in {folder}{counted(course)}"
    )
