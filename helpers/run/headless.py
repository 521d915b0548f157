"""Run the four notebooks in order, headless: `python -m helpers.run.headless --preset cpu --track
tldr --seed 0`.

The run folder (default runs/<preset>-<track>-seed<seed>) gets notebooks/ (executed copies),
checkpoints/, figures/, metrics/, report.json and report.html. Ends with 0, with 1 if a cell failed
or the report lacks something, with 2 for a setting that doesn't exist, with 75 when RLHF_STOP_AFTER
has ended it and the same command goes on, with 130 after Ctrl-C.
"""

import argparse
import os
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from helpers.config import default_source, load_config
from helpers.engine.files import (
    NOTEBOOKS,
    OUT_OF_TIME,
    ROOT,
    default_out,
    read_number,
    seconds_of,
    whole_number,
    write_json,
)
from helpers.run.notebook import CellFailure, Progress, run_notebook, write_notebook
from helpers.run.report import ReportError, final_table, read_metrics
from helpers.run.report_page import write_report

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


def kernel_env(
    preset: str, track: str, seed: int, out: Path | None, source: str = "embedded"
) -> dict[str, str]:
    """The environment of a notebook's kernel: ours, plus the settings that `setup()` reads."""
    env = dict(os.environ)
    env.pop("MPLBACKEND", None)  # figures must reach the notebook
    env.update(
        RLHF_PRESET=preset,
        RLHF_TRACK=track,
        RLHF_SOURCE=source,
        RLHF_SEED=str(seed),
        PYTHONHASHSEED="0",
    )
    env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), env.get("PYTHONPATH")]))
    if out is not None:
        env["RLHF_OUT"] = str(out.resolve())
    return env


def run_course(
    preset: str,
    track: str,
    seed: int,
    out: Path,
    stages: Sequence[str] = tuple(NOTEBOOKS),
    notebooks: Path = ROOT,
    source: str = "embedded",
) -> dict | None:
    """Run the notebooks of these stages into the run folder `out`; print progress and, at the end,
    the final table.

    notebooks: the folder that holds 0-Pretrain.ipynb and so on. Returns the report, or None when
    stages are still to be run. Raises CellFailure, ReportError, KeyboardInterrupt.
    """
    out.mkdir(parents=True, exist_ok=True)
    for stale in ("report.json", "report.html"):
        (out / stale).unlink(missing_ok=True)
    display = Display(preset, track, source, stages)
    started = time.perf_counter()
    for stage in stages:
        env = kernel_env(preset, track, seed, out, source)
        if after := env.get("RLHF_STOP_AFTER"):  # of all notebooks together
            left = seconds_of(after, "RLHF_STOP_AFTER") - (time.perf_counter() - started)
            env["RLHF_STOP_AFTER"] = f"{max(left, 1):.0f}s"
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


class Parser(argparse.ArgumentParser):
    """A parser whose complaint is one line."""

    def error(self, message: str) -> None:
        self.exit(2, f"{message[0].upper()}{message[1:]}\n")


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line; a setting that doesn't exist ends the program with one line and exit
    code 2.
    """
    parser = Parser(
        prog="python -m helpers.run.headless",
        description="Run the four notebooks in order, headless.",
    )
    add = parser.add_argument
    add(
        "--preset",
        default=os.environ.get("RLHF_PRESET"),
        help="size: smoke, cpu, t4, ... (RLHF_PRESET; default cpu, "
        "or on real rows what suits the GPU)",
    )
    add(
        "--track",
        default=os.environ.get("RLHF_TRACK") or "tldr",
        help="data: tldr, ... (RLHF_TRACK)",
    )
    add(
        "--source",
        default=default_source(),
        help="rows: embedded, local (RLHF_DATA_DIR), hub (RLHF_SOURCE)",
    )
    add("--seed", help="0, 1, 2, ... (RLHF_SEED)")
    add(
        "--out",
        help="run folder (RLHF_OUT; default runs/<preset>-<track>-seed<seed>; -local or -hub "
        "after the track)",
    )
    add(
        "--stages",
        default=",".join(NOTEBOOKS),
        help="only these, with commas: pretrain,sft,reward,ppo",
    )
    add("--notebooks", type=Path, default=ROOT, help="folder of the notebooks")
    args = parser.parse_args(argv)
    try:
        args.preset = args.preset or suited_preset(args.source)
        args.seed = (
            read_number("RLHF_SEED", 0, least=0)
            if args.seed is None
            else whole_number(args.seed, "seed", 0)
        )
        check_settings(args.preset, args.track, args.seed, args.source)
        if after := os.environ.get("RLHF_STOP_AFTER"):
            seconds_of(after, "RLHF_STOP_AFTER")
    except ValueError as error:
        parser.error(str(error))
    wanted = [stage.strip() for stage in args.stages.split(",") if stage.strip()]
    unknown = [stage for stage in wanted if stage not in NOTEBOOKS]
    if unknown or not wanted:
        parser.error(
            f"no stage {', '.join(unknown) or 'given'}: choose from {', '.join(NOTEBOOKS)}"
        )
    args.stages = [stage for stage in NOTEBOOKS if stage in wanted]
    absent = [
        f"{NOTEBOOKS[stage]}.ipynb"
        for stage in args.stages
        if not (args.notebooks / f"{NOTEBOOKS[stage]}.ipynb").is_file()
    ]
    if absent:
        parser.error(f"no {', '.join(absent)} in {args.notebooks}")
    out = args.out or os.environ.get("RLHF_OUT")
    args.out = (
        Path(out) if out else ROOT / default_out(args.preset, args.track, args.seed, args.source)
    )
    return args


def suited_preset(source: str) -> str:
    """The preset when none is named: cpu, or for real rows the one that suits the hardware."""
    if source == "embedded":
        return "cpu"
    from helpers.engine.hardware import (
        choose_device,
        choose_preset,
    )  # loads torch, which nothing else here needs

    return choose_preset(source, choose_device())[0]


def check_settings(preset: str, track: str, seed: int, source: str) -> None:
    """Raise ValueError, with the valid names, for a preset, track or source that doesn't exist."""
    for stage in NOTEBOOKS:
        load_config(stage, preset=preset, track=track, seed=seed, source=source)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    args = parse(argv)
    print(
        f"RLHF from scratch: preset {args.preset}, track {args.track}, rows {args.source}, seed "
        f"{args.seed} -> "
        f"{shown(args.out)}"
    )
    try:
        run_course(
            args.preset, args.track, args.seed, args.out, args.stages, args.notebooks, args.source
        )
    except CellFailure as failure:
        if failure.error.startswith("Stopped: "):
            print(f"\n{failure.error.removeprefix('Stopped: ')}")
            return OUT_OF_TIME
        copy = shown(args.out / "notebooks" / f"{failure.notebook}.ipynb")
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


if __name__ == "__main__":
    sys.exit(main())
