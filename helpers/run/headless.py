"""Run the four notebooks in order, headless: `python -m helpers course --preset cpu --track tldr
--seed 0`.

The run folder (default runs/<preset>-<track>-seed<seed>) gets notebooks/ (executed copies),
checkpoints/, figures/, metrics/, report.json and report.html. Ends with 0, with 1 if a cell failed
or the report lacks something, with 2 for a setting that doesn't exist, with 75 when --stop-after
has ended it and the same command goes on, with 130 after Ctrl-C.
"""

import argparse
import os
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path

from helpers.engine.files import OUT_OF_TIME, ROOT, write_json
from helpers.engine.hardware import choose_device
from helpers.engine.parser import Parser
from helpers.run.folders import NOTEBOOKS, default_out
from helpers.run.notebook import CellFailure, Progress, run_notebook, write_notebook
from helpers.run.options import add_settings
from helpers.run.presets import choose_preset
from helpers.run.report import ReportError, final_table, read_metrics
from helpers.run.report_page import write_report
from helpers.run.settings import Settings, read_settings

# What a notebook's kernel is told, in its environment: every setting that has a variable
PASSED_ON = [field.name for field in fields(Settings) if field.metadata.get("variable")]
# Seconds each notebook takes on two CPU cores, on the default track's embedded world, and what part
# of that the whole course takes on the others. Only proportions matter once the first notebook has
# run.
EXPECTED = {
    "smoke": {"pretrain": 75, "sft": 50, "reward": 30, "ppo": 45},
    "cpu": {"pretrain": 78, "sft": 72, "reward": 84, "ppo": 82},
}
PART = {"tldr": 1.0, "sentiment": 0.42, "assistant": 0.64, "instruct": 0.64}
HEARTBEAT = 20  # seconds between progress lines where output is not a terminal


class Display:
    """Progress with an ETA for the whole course: one live line on a terminal, a line now and then
    elsewhere.
    """

    def __init__(self, preset: str, track: str, source: str, stages: Sequence[str]):
        self.known = (
            preset in EXPECTED and source == "embedded"
        )  # on real rows it is a matter of their number
        seconds = EXPECTED[preset] if self.known else {}
        self.expected = {stage: PART[track] * seconds.get(stage, 60.0) for stage in stages}
        self.done: dict[str, float] = {}  # stage: seconds it took
        self.stage = ""
        self.terminal = sys.stdout.isatty()
        self.started = self.printed = 0.0  # when the notebook began, when the last line was printed
        self.width = 0

    def start(self, stage: str) -> None:
        self.stage = stage
        self.started = self.printed = time.perf_counter()

    def left(self, seconds: float) -> float | None:
        """Seconds that remain when the running notebook has run for `seconds`; None while we can't
        know.
        """
        if not self.done and not self.known:
            return None
        # this machine's speed, against the table, from the notebooks that are done
        speed = (
            sum(self.done.values()) / sum(self.expected[s] for s in self.done) if self.done else 1.0
        )
        ahead = sum(
            self.expected[stage]
            for stage in self.expected
            if stage not in self.done and stage != self.stage
        )
        running = 0.0 if self.stage in self.done else speed * self.expected[self.stage] - seconds
        return max(running, 0.0) + speed * ahead

    def tick(self, progress: Progress) -> None:
        """Show where the running notebook is (called a few times a second)."""
        now = time.perf_counter()
        if now - self.printed < (0.5 if self.terminal else HEARTBEAT):
            return
        self.printed = now
        eta = self.left(progress.seconds)
        text = (
            f"{self.head(progress.notebook)} cell {progress.number}/{progress.total}  "
            f"{clock(progress.seconds)}"
        )
        text += "" if eta is None else f"  ETA {clock(eta)}"
        self.show(f"{text}  | {progress.line}"[:160] if progress.line else text, live=True)

    def finish(self, notebook: str, cells: int) -> float:
        """Show that the running notebook is done; return the seconds it took."""
        seconds = self.done[self.stage] = time.perf_counter() - self.started
        rest = f"  ETA {clock(self.left(0) or 0)}" if len(self.done) < len(self.expected) else ""
        self.stage = ""
        self.show(f"{self.head(notebook)} done, {cells} cells in {clock(seconds)}{rest}")
        return seconds

    def head(self, notebook: str) -> str:
        place = len(self.done) + (1 if self.stage else 0)
        return f"[{place}/{len(self.expected)}] {notebook:<13}"

    def show(self, text: str, live: bool = False) -> None:
        if not self.terminal:
            print(text, flush=True)
            return
        text = text[: shutil.get_terminal_size().columns - 1]
        print("\r" + text.ljust(self.width), end="" if live else "\n", flush=True)
        self.width = len(text) if live else 0


def clock(seconds: float) -> str:
    """Seconds as m:ss."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def kernel_env(settings: Settings, out: Path | None = None) -> dict[str, str]:
    """The environment of a notebook's kernel: ours, with these settings."""
    env = {name: value for name, value in os.environ.items() if name != "MPLBACKEND"}
    for name in PASSED_ON:
        value = getattr(settings, name)
        if value is not None:
            env[f"RLHF_{name.upper()}"] = f"{value:.0f}s" if name == "stop_after" else str(value)
    if out is not None:
        env["RLHF_OUT"] = str(out.resolve())
    path = os.pathsep.join(filter(None, [str(ROOT), env.get("PYTHONPATH")]))
    return env | {"PYTHONPATH": path, "PYTHONHASHSEED": "0"}


def run_course(
    settings: Settings, out: Path, stages: Sequence[str] = tuple(NOTEBOOKS), notebooks: Path = ROOT
) -> dict | None:
    """Run the notebooks of these stages into the run folder `out`; print progress and, at the end,
    the final table.

    notebooks: the folder that holds 0-Pretrain.ipynb and so on. Returns the report, or None when
    stages are still to be run. Raises CellFailure, ReportError, KeyboardInterrupt.
    """
    out.mkdir(parents=True, exist_ok=True)
    for stale in ("report.json", "report.html"):
        (out / stale).unlink(missing_ok=True)
    display = Display(settings.preset, settings.track, settings.source, stages)
    started = time.perf_counter()
    for stage in stages:
        left = settings.stop_after  # of all notebooks together
        if left is not None:
            left = max(left - (time.perf_counter() - started), 1.0)
        env = kernel_env(replace(settings, stop_after=left), out)
        run_stage(stage, out, notebooks, env, display)
    waiting = [stage for stage in NOTEBOOKS if stage not in read_metrics(out)]
    if waiting and len(stages) < len(NOTEBOOKS):
        print(f"No report yet: {', '.join(waiting)} still to be run into this folder.")
        return None
    report = write_report(out)
    print(f"\n{final_table(report)}\n\nreport        {shown(out / 'report.html')}")
    return report


def run_stage(
    stage: str, out: Path, notebooks: Path, env: dict[str, str], display: Display
) -> None:
    """Run one notebook, keep the executed copy (as far as it got), and note the seconds it took."""
    notebook = NOTEBOOKS[stage]
    (out / "metrics" / f"{stage}.json").unlink(missing_ok=True)
    for figure in (out / "figures").glob(f"{stage}-*.png"):
        figure.unlink()
    display.start(stage)
    try:
        executed = run_notebook(notebooks / f"{notebook}.ipynb", ROOT, env, display.tick)
    except CellFailure as failure:
        write_notebook(out / "notebooks" / f"{notebook}.ipynb", failure.executed)
        raise
    write_notebook(out / "notebooks" / f"{notebook}.ipynb", executed)
    seconds = display.finish(notebook, sum(cell.cell_type == "code" for cell in executed.cells))
    recorded = read_metrics(out).get(stage)
    if recorded is not None:  # the whole notebook's time, with the start of its kernel
        write_json(out / "metrics" / f"{stage}.json", {**recorded, "seconds": round(seconds, 1)})


def shown(path: Path) -> str:
    """A path relative to where we are, if it lies below."""
    here = Path.cwd()
    path = path.resolve()
    return path.relative_to(here).as_posix() if path.is_relative_to(here) else str(path)


def parse(argv: Sequence[str] | None) -> tuple[argparse.Namespace, Settings]:
    """Read the command line; a setting that does not exist ends the program with one line and exit
    code 2.
    """
    parser = Parser(
        prog="python -m helpers course", description="The four notebooks in order, headless."
    )
    add_settings(parser, PASSED_ON)
    parser.add_argument(
        "--stages",
        default=",".join(NOTEBOOKS),
        help="only these, with commas: pretrain,sft,reward,ppo",
    )
    parser.add_argument("--notebooks", type=Path, default=ROOT, help="folder of the notebooks")
    args = parser.parse_args(argv)
    try:
        settings = read_settings({name: getattr(args, name) for name in PASSED_ON})
        device = choose_device(settings.device)
        preset = choose_preset(settings.preset, settings.source, device)[0]
        settings = replace(settings, preset=preset)
    except ValueError as error:
        parser.error(str(error))
    wanted = [stage.strip() for stage in args.stages.split(",") if stage.strip()]
    unknown = [stage for stage in wanted if stage not in NOTEBOOKS]
    if unknown or not wanted:
        parser.error(
            f"no stage {', '.join(unknown) or 'given'}: choose from {', '.join(NOTEBOOKS)}"
        )
    args.stages = [stage for stage in NOTEBOOKS if stage in wanted]
    names = [f"{NOTEBOOKS[stage]}.ipynb" for stage in args.stages]
    absent = [name for name in names if not (args.notebooks / name).is_file()]
    if absent:
        parser.error(f"no {', '.join(absent)} in {args.notebooks}")
    out = settings.out or ROOT / default_out(preset, settings.track, settings.seed, settings.source)
    return args, replace(settings, out=str(Path(out).resolve()))


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    args, settings = parse(argv)
    out = Path(settings.out)
    print(
        f"RLHF from scratch: preset {settings.preset}, track {settings.track}, rows "
        f"{settings.source}, seed {settings.seed} -> {shown(out)}"
    )
    try:
        run_course(settings, out, args.stages, args.notebooks)
    except CellFailure as failure:
        if failure.error.startswith("Stopped: "):
            print(f"\n{failure.error.removeprefix('Stopped: ')}")
            return OUT_OF_TIME
        copy = shown(out / "notebooks" / f"{failure.notebook}.ipynb")
        print(f"\n{failure}\nThe notebook as far as it got: {copy}", file=sys.stderr)
        return 1
    except ReportError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(
            "\nStopped. What earlier notebooks made is kept; --stages continues from there.",
            file=sys.stderr,
        )
        return 130
    return 0
