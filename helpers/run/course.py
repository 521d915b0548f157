"""What a notebook or a stage's command calls `course`: its settings and device, and the folders
through which the stages pass their checkpoints, metrics and figures.
"""

import re
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from helpers.engine.files import discard, only_writer, plain, tell, write_json
from helpers.engine.hardware import set_memory_options
from helpers.engine.loop import Loop
from helpers.engine.snapshots import Snapshots, discard_older
from helpers.records import fingerprint
from helpers.run import answers
from helpers.run.folders import BONUS, NOTEBOOKS, PARENTS
from helpers.run.presets import load_config
from helpers.run.report import IDENTITY, ReportError, read_json, summary
from helpers.run.report_page import write_report
from helpers.run.settings import Settings, data_folder

# The rows whose fingerprint a resumed run must have in common with the run it goes on from
TRAINS_ON = {
    "pretrain": ("documents",),
    "sft": ("demonstrations",),
    "reward": ("comparisons", "labels"),
    "ppo": ("prompts",),
}
MAX_DPI = 90  # figures are committed with the notebooks: sharp enough to read, small enough to keep
FEW = 300  # records to learn from; with fewer, what a notebook asserts may not hold
PRETRAINED = "pretrain"  # the init that means the checkpoint of 0-Pretrain


@dataclass(frozen=True)
class Course:
    """Where one notebook runs, with which settings, and where its results go."""

    notebook: str  # "3-PPO"
    stage: str  # "ppo"; of a bonus notebook, the stage whose settings it has
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
    # of the training rows that were read, by kind: their number and their fingerprint
    rows_read: dict[str, tuple[int, str]] = field(default_factory=dict, repr=False)
    # records by what they were asked for with, but documents, which may fill the memory
    rows_kept: dict[tuple, list] = field(default_factory=dict, repr=False)
    # the number formats of each training run; more than one if it was resumed in another
    dtypes: dict[str, list[str]] = field(default_factory=dict, repr=False)
    warnings: list[str] = field(default_factory=list, repr=False)  # of `expect`
    # the exercises whose solution trains this stage, and for each the function that does: of `use`
    own_functions: list[str] = field(default_factory=list, repr=False)
    used: dict[str, Callable] = field(default_factory=dict, repr=False)
    started: float = field(default_factory=time.perf_counter, repr=False)

    # ------------------------------------------------------------ rows
    # Imports inside methods: setup() may have to install these packages first.

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizer of the embedded world; for real rows GPT-2's or one made for this run."""
        from helpers.rows.vocabulary import base_tokenizer, choose_tokenizer

        data_dir = data_folder(self.settings)
        if self.init != PRETRAINED:
            return base_tokenizer(self.init, data_dir)
        size, path = self.config_of("pretrain").vocabulary, self.out / "tokenizer.json"
        return choose_tokenizer(self.track, self.source, size, path, data_dir)

    def config_of(self, stage: str) -> Any:
        """The settings that a stage of this run has by its preset."""
        return load_config(stage, self.preset, self.track, self.seed, self.source)

    def rows(
        self, kind: str, split: str, limit: int | None = None, room: int | None = None
    ) -> list:
        """The first `limit` records of a kind ("documents", ...) and split ("train", "heldout").

        room: tokens that must stay free behind a real prompt, by default the stage's
        response_tokens. Rows that can't be used are counted in a printed line. Asked for again,
        they are not read again. Raises SourceError or ValueError as `helpers.rows.load.load_track`.
        """
        from helpers.rows.load import load_track

        real = self.source != "embedded"
        room = getattr(self.config, "response_tokens", 0) if room is None else room
        asked = kind, split, limit, room
        if asked in self.rows_kept:
            return list(self.rows_kept[asked])
        limits = self.limits(room) if real else None
        where = self.source, limits, limit, data_folder(self.settings)
        records, report = load_track(self.track, kind, split, *where)
        if split == "train" and len(records) >= self.rows_read.get(kind, (0, ""))[0]:
            self.rows_read[kind] = len(records), fingerprint(records)
        if kind != "documents":
            self.rows_kept[asked] = list(records)
        if str(report) not in self.row_reports:
            self.row_reports.append(str(report))
        if real:
            print(report)
        if real and split == "train" and len(records) < min(limit or FEW, FEW):
            print(
                f"Few {kind}: with fewer than {FEW} an example in {self.notebook} may fail; "
                f"`python -m helpers {self.stage}` runs with any number"
            )
        return records

    def limits(self, room: int = 0) -> Any:
        """What fits the context, in tokens of this run's tokenizer."""
        from helpers.rows.common import Limits

        context = self.config_of("pretrain").context
        return Limits(self.tokenizer.encode, context - room, context)

    # ------------------------------------------------------------ training

    @property
    def sampling_dtype(self) -> torch.dtype:
        """The number format of the weights while texts are sampled.

        On a CPU that of the matrix products: 16 bits are faster and hardly change a small model's
        distribution. On a GPU float32: GPT-2's logits are so large that 16 bits would show.
        """
        return self.dtype if self.device.type == "cpu" else torch.float32

    def prepare(self, gpt: Any) -> None:
        """Set a GPT's memory and speed options as the settings ask."""
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
        its name. watch: called with the history after every step. settings: further ones that must
        be the same when the run is resumed.
        """
        snapshots = self.snapshots(name)
        snapshots = replace(snapshots, settings=snapshots.settings | plain(settings))
        loop = Loop(title or name or self.results, self.dtype, snapshots, watch)
        self.dtypes[name or self.results] = loop.dtypes
        return loop

    def snapshots(self, name: str = "") -> Snapshots:
        """Where a training run is logged and saved, with what a resumed run must have in common
        with it: settings, tokenizer, training rows, checkpoints. Raises CheckpointError for a
        damaged one.
        """
        from helpers.run.checkpoints import check_replaceable, checksum_of

        check_replaceable(self.folder())  # before the training, not after it

        chosen, run = self.settings, name or self.results
        settings = asdict(self.config) | {"track": self.track, "source": self.source}
        settings.pop("micro_batch", None)  # depends on the machine, like its number format
        settings["tokenizer"] = self.tokenizer.fingerprint[:12]
        kinds = TRAINS_ON[self.stage]
        if getattr(self.config, "adapt_epochs", 0):  # 1-SFT's, of the base model
            kinds += ("documents",)
        for kind in kinds:
            if kind in self.rows_read:
                settings[f"fingerprint of the {kind}"] = self.rows_read[kind][1][:12]
        for parent in PARENTS[self.stage]:
            path = self.base_folder if parent == "base" else self.folder(parent)
            settings[f"checkpoint {path.name}"] = checksum_of(path)
        file = f"{run}-trial" if chosen.steps else run
        snapshots = Snapshots(
            self.out / "logs" / f"{file}.jsonl",
            self.snapshots_folder / file,
            plain(settings),
            every=chosen.save_every,
            every_steps=chosen.save_steps,
            deadline=self.deadline,
            limit=chosen.steps,
            hand_over=chosen.hand_over and run == self.stage,
            run_folder=self.out,
            own_threads=bool(chosen.threads),
        )
        if not chosen.resume:
            snapshots.clear()
        return snapshots

    @property
    def deadline(self) -> float | None:
        """`time.perf_counter()` at which the session ends."""
        after = self.settings.stop_after
        return self.started + after if after else None

    def use(self, mine: Callable, library: Callable, check: Any) -> Callable:
        """A learner's function in the place of the library's, if it is right; else the library's.

            gae = course.use(my_gae, gae, check_gae)

        check: the exercise's. The function must also give the library's results and gradients on
        this device. One printed line says which was chosen and why; none if `mine` is the untouched
        stub. Where the choice is another than before, an unfinished training starts over.
        """
        library = getattr(library, "replaces", library)  # when the cell runs again
        function, reason = check.replaces(mine, library, self)
        chosen = mine if function else library
        before = self.used.get(check.name, chosen)
        self.used[check.name] = chosen
        others = [name for name in self.own_functions if name != check.name]
        self.own_functions[:] = [*others, check.name] if function else others
        if function:
            print(f"✓ my_{check.name} takes the place of {library.__name__}")
        elif reason:
            why = reason.splitlines()[0]
            print(f"✗ my_{check.name} does not take the place of {library.__name__}: {why}")
        if code_of(chosen) != code_of(before) and self.snapshots_folder.exists():
            discard(self.snapshots_folder)
            print(f"  Another {library.__name__} than before: the training starts over.")
        return function or library

    def trained_with(self) -> str:
        """How many of the functions in the training are the learner's, in words."""
        return f"{len(self.own_functions)} of {len(self.used)} functions are yours"

    # ------------------------------------------------------------ results

    def folder(self, stage: str | None = None) -> Path:
        """The checkpoint folder of a stage (default: of this one)."""
        return self.out / "checkpoints" / self.known(stage)

    @property
    def results(self) -> str:
        """The name under which results are kept: the stage, or a bonus notebook's own."""
        return self.notebook.lower() if self.notebook in BONUS else self.stage

    def known(self, stage: str | None) -> str:
        """A stage's name (default: this one's). Raises ValueError for one that doesn't exist."""
        if stage and stage not in NOTEBOOKS:
            raise ValueError(f"no stage {stage!r}: choose from {', '.join(NOTEBOOKS)}")
        return stage or self.results

    @property
    def base_folder(self) -> Path:
        """The base model's checkpoint: 0-Pretrain's, or checkpoints/base for other weights."""
        pretrained = self.folder("pretrain")
        return pretrained if self.init == PRETRAINED else pretrained.with_name("base")

    @property
    def judge_folder(self) -> Path:
        """The second judge's checkpoint."""
        return self.folder("reward").with_name("judge")

    @property
    def snapshots_folder(self) -> Path:
        """Where the unfinished training runs of this stage are saved."""
        return self.out / "snapshots" / self.results

    @property
    def init_name(self) -> str:
        """`init` without the folders of a path: others may read it."""
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
        """The end of every stage: write its checkpoint, record its metrics, delete its snapshots.

        parent: the checkpoint folder that it was trained from. adapter: what was merged into the
        model. recorded: what goes into the record but not into the checkpoint, such as curves.
        Raises OSError, with the last snapshot kept, when the checkpoint can't be written.
        """
        from helpers.run.checkpoints import save_stage

        def save() -> None:
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

        with only_writer(self.out):
            try:
                save()
            except OSError:  # the disk may be full: delete all snapshots but the last one
                discard_older(self.snapshots_folder)
                save()
            self.record(**metrics, **recorded)
            discard(self.snapshots_folder)

    def facts(self) -> dict:
        """What a checkpoint records of its making: the settings, the base model, the rows read, the
        number formats.
        """
        run = {"preset": self.preset, "source": self.source, "init": self.init_name}
        read = {"rows": list(self.row_reports), "dtypes": dict(self.dtypes)}
        return asdict(self.config) | run | read

    def save_figure(self, fig: Any, name: str) -> None:
        """Write a matplotlib figure to `out/figures/<stage>-<name>.png`.

        Leaves the figure open, so that the cell that made it shows it exactly once.
        """
        slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
        path = self.out / "figures" / f"{self.results}-{slug}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        look = {"dpi": min(fig.dpi, MAX_DPI), "bbox_inches": "tight", "facecolor": "white"}
        fig.savefig(path, metadata={"Software": None}, **look)

    def record(self, **metrics: Any) -> None:
        """Merge results into `out/metrics/<stage>.json`, with the seconds this stage has taken and
        its threads.

        Names are those of report.json (`heldout_loss=`, `kl=`, ...; see helpers/run/report.py). A
        number that is not finite becomes null, and the report will name it.
        """
        path = self.metrics_path()
        identity = {name: getattr(self, name) for name in ("stage", *IDENTITY)}
        try:
            recorded = read_json(path) if path.exists() else {}
        except ReportError as error:
            tell(f"{error}; writing it anew")
            recorded = {}
        if {name: recorded.get(name) for name in identity} != identity:
            recorded = {}  # left by other settings in the same folder
        cost = {"seconds": round(time.perf_counter() - self.started, 1), "threads": self.threads}
        found = {**cost, "warnings": self.warnings, "own_functions": self.own_functions}
        found |= plain(metrics)
        write_json(path, {**recorded, **identity, **found})

    @property
    def typical(self) -> bool:
        """Whether the results should come near those of docs/results.md: in an embedded world, at
        full size.
        """
        return self.source == "embedded" and self.preset != "smoke"

    def expect(self, holds: bool, advice: str) -> None:
        """Where a `typical` run falls short, say so and put it into the report; the lesson goes on.

        advice: what fell short, and what to do.
        """
        if self.typical and not holds:
            print(f"WARNING: {advice}")
            self.warnings.append(advice)
            self.record()

    def progress(self) -> None:
        """Print which exercises are solved, in this session or by answers kept in my/."""
        print(answers.overview(answers.FOLDER))

    def report(self) -> None:
        """Write the run's report.json and report.html; print a line for each stage. Before all four
        have been run with these settings, print what is missing.
        """
        try:
            lines = summary(write_report(self.out))
        except ReportError as error:
            print(f"no report yet: {error}")
            return
        print(f"{lines}\n\nreport        report.html in the run folder {self.out.name}/")

    def metrics(self, stage: str | None = None) -> dict[str, Any]:
        """What a stage has recorded. FileNotFoundError, naming the notebook, if nothing yet;
        ReportError for a damaged file.
        """
        path = self.metrics_path(stage)
        if not path.exists():
            remedy = f"run {NOTEBOOKS.get(path.stem, self.notebook)}.ipynb first"
            raise FileNotFoundError(f"stage {path.stem!r} has recorded nothing yet: {remedy}")
        return read_json(path)

    def metrics_path(self, stage: str | None = None) -> Path:
        """Where a stage records its results."""
        return self.out / "metrics" / f"{self.known(stage)}.json"


def code_of(function: Callable) -> Any:
    """What tells two functions apart: the code, which is equal when a cell has only run again."""
    return getattr(function, "__code__", function)
