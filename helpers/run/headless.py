"""Run the four notebooks in order, headless: `python -m helpers course --preset cpu --track tldr
--seed 0`.

The run folder (default runs/<preset>-<track>-seed<seed>) gets notebooks/ (executed copies),
checkpoints/, figures/, metrics/, report.json and report.html. However it ends before the report,
the same command goes on from there. Ends with 0, with 1 if a cell failed or the report lacks
something, with 2 for a setting that doesn't exist, with 75 when --stop-after has ended it, with 130
after Ctrl-C and 143 after SIGTERM.
"""

import argparse
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path

from helpers.engine.files import OUT_OF_TIME, ROOT, FolderInUse, discard, only_writer, write_json
from helpers.engine.hardware import choose_device
from helpers.engine.parser import Parser, SettingsError, user_path
from helpers.run.checkpoints import CheckpointError, check_parent, read_info
from helpers.run.folders import NOTEBOOKS, PARENTS, default_out, make_run_folder
from helpers.run.notebook import (
    CellFailure,
    Interrupted,
    NotebookError,
    run_notebook,
    write_notebook,
)
from helpers.run.options import add_settings
from helpers.run.presets import choose_init, choose_preset
from helpers.run.progress import Display
from helpers.run.report import ReportError, final_table, read_json, stages_done
from helpers.run.report_page import write_report
from helpers.run.settings import Settings, as_environment, read_settings
from helpers.run.unfinished import Unfinished

GOES_ON = "Stopped. The same command goes on from here; what was training has been saved."
# The settings that a notebook's kernel gets in its environment
PASSED_ON = [field.name for field in fields(Settings) if field.metadata.get("variable")]


def kernel_env(settings: Settings, out: Path | None = None) -> dict[str, str]:
    """The environment of a notebook's kernel: ours, with these settings."""
    env = {**os.environ, **as_environment(settings), "PYTHONHASHSEED": "0"}
    for name in ("MPLBACKEND", "JPY_SESSION_NAME"):  # of a notebook that this was started from
        env.pop(name, None)
    if out is not None:
        env["RLHF_OUT"] = str(out.resolve())
    env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), env.get("PYTHONPATH")]))
    return env


def run_course(settings: Settings, stages: Sequence[str], notebooks: Path) -> None:
    """Run the notebooks of these stages into the run folder; print progress and, once all stages
    have run, the final table. With all stages, those that an unfinished course has done are
    skipped. notebooks: the folder of 0-Pretrain.ipynb and so on.

    Raises SettingsError, CellFailure, ReportError, CheckpointError, Interrupted, KeyboardInterrupt.
    """
    out = Path(settings.out)
    for stage in [] if settings.resume else stages:
        discard(out / "snapshots" / stage)
    values = {name: getattr(settings, name) for name in PASSED_ON}
    course = Unfinished(out, notebooks, values, settings.resume)
    left = course.left(stages) if len(stages) == len(NOTEBOOKS) else stages
    if skipped := [NOTEBOOKS[stage] for stage in stages if stage not in left]:
        print(f"done already: {', '.join(skipped)} (--no-resume starts over)", flush=True)
    for stale in ("report.json", "report.html"):
        (out / stale).unlink(missing_ok=True)
    display = Display(settings.preset, settings.track, settings.source, left)
    started = time.perf_counter()
    for stage in left:
        rest = settings.stop_after  # of all notebooks together
        if rest is not None:
            rest = max(rest - (time.perf_counter() - started), 1.0)
        env = kernel_env(replace(settings, stop_after=rest), out)
        course.begin(stage)
        run_stage(stage, out, notebooks, env, display)
        course.end(stage)
    waiting = [stage for stage in NOTEBOOKS if stage not in stages_done(out)]
    if waiting and len(stages) < len(NOTEBOOKS):
        print(f"No report yet: {', '.join(waiting)} still to be run into this folder.")
        return
    for folder in sorted(out.glob("checkpoints/*/stage.json")):
        check_parent(folder.parent, read_info(folder.parent))
    report = write_report(out)
    course.forget()
    print(f"\n{final_table(report)}\n\nreport        {shown(out / 'report.html')}")


def run_stage(
    stage: str, out: Path, notebooks: Path, env: dict[str, str], display: Display
) -> None:
    """Run one notebook, save the executed copy (as far as it got), and record its seconds."""
    notebook, metrics = NOTEBOOKS[stage], out / "metrics" / f"{stage}.json"
    copy = out / "notebooks" / f"{notebook}.ipynb"
    for stale in (metrics, *(out / "figures").glob(f"{stage}-*.png")):
        stale.unlink(missing_ok=True)
    display.start(stage)
    try:
        executed = run_notebook(notebooks / f"{notebook}.ipynb", ROOT, env, display.tick)
    except (CellFailure, Interrupted) as stop:
        write_notebook(copy, stop.executed)
        raise
    write_notebook(copy, executed)
    seconds = display.finish(notebook, sum(cell.cell_type == "code" for cell in executed.cells))
    if metrics.exists():  # the whole notebook's time, with the start of its kernel
        write_json(metrics, {**read_json(metrics), "seconds": round(seconds, 1)})


def shown(path: Path) -> str:
    """A path relative to the current folder, if it lies below."""
    path, here = path.resolve(), Path.cwd()
    return path.relative_to(here).as_posix() if path.is_relative_to(here) else str(path)


def parse(argv: Sequence[str] | None) -> tuple[argparse.Namespace, Settings]:
    """Read the command line; a bad setting ends the program with one line and exit code 2."""
    parser = Parser(
        prog="python -m helpers course", description="The four notebooks in order, headless."
    )
    add_settings(parser, [*PASSED_ON, "resume"])
    every_stage = ",".join(NOTEBOOKS)
    parser.add_argument("--stages", default=every_stage, help=f"only these: {every_stage}")
    parser.add_argument("--notebooks", type=user_path, default=ROOT, help="folder of the notebooks")
    args = parser.parse_args(argv)
    try:
        settings = read_settings({name: getattr(args, name) for name in [*PASSED_ON, "resume"]})
        device = choose_device(settings.device)
        preset = choose_preset(settings.preset, settings.source, device)[0]
    except (SettingsError, ValueError) as error:
        parser.error(str(error))
    named = [stage.strip() for stage in args.stages.split(",") if stage.strip()]
    unknown = [stage for stage in named if stage not in NOTEBOOKS]
    if unknown or not named:
        parser.error(
            f"no stage {', '.join(unknown) or 'given'}: choose from {', '.join(NOTEBOOKS)}"
        )
    args.stages = [stage for stage in NOTEBOOKS if stage in named]
    names = [f"{NOTEBOOKS[stage]}.ipynb" for stage in args.stages]
    missing = [name for name in names if not (args.notebooks / name).is_file()]
    if missing:
        parser.error(f"no {', '.join(missing)} in {args.notebooks}")
    out = settings.out or ROOT / default_out(preset, settings.track, settings.seed, settings.source)
    settings = replace(settings, preset=preset, out=str(Path(out).resolve()))
    try:
        make_run_folder(Path(settings.out))
        if args.notebooks == ROOT:  # notebooks of one's own may need no checkpoints
            check_order(args.stages, settings)
    except (SettingsError, ValueError) as error:
        parser.error(str(error))
    return args, settings


def check_order(stages: Sequence[str], settings: Settings) -> None:
    """Raise ValueError if a stage needs another one that is neither named nor done."""
    init = choose_init(settings.init, settings.preset, settings.track, settings.source)
    out = Path(settings.out)
    done = {path.name for path in out.glob("checkpoints/*")} | {*stages_done(out)}
    for stage in stages:
        needed = ["pretrain" if parent == "base" else parent for parent in PARENTS[stage]]
        for parent in needed:
            if parent not in done and (parent != "pretrain" or init == "pretrain"):
                raise ValueError(
                    f"{NOTEBOOKS[stage]} needs the checkpoint of {NOTEBOOKS[parent]}, which "
                    f"{shown(out)} lacks: name {parent} among the --stages too"
                )
        done.add(stage)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    args, settings = parse(argv)
    out = Path(settings.out)
    print(
        f"RLHF from scratch: preset {settings.preset}, track {settings.track}, rows "
        f"{settings.source}, seed {settings.seed} -> {shown(out)}",
        flush=True,
    )
    try:
        with only_writer(out, "course"):
            run_course(settings, args.stages, args.notebooks)
    except CellFailure as failure:
        return failed(failure, out)
    except (ReportError, CheckpointError, FolderInUse, NotebookError, OSError) as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    except (Interrupted, KeyboardInterrupt) as stop:
        print(f"\n{GOES_ON}", file=sys.stderr)
        return 128 + getattr(stop, "number", signal.SIGINT)
    return 0


def failed(failure: CellFailure, out: Path) -> int:
    """Say why a notebook did not end; returns the exit code. A training that was stopped, by its
    session's end or by a signal to its kernel, is no failure.
    """
    kind, _, message = failure.error.partition(": ")
    if kind == "Stopped":
        print(f"\n{message}")
        return OUT_OF_TIME
    if kind == "KeyboardInterrupt" or (kind == "SystemExit" and message in ("129", "143")):
        print(f"\n{GOES_ON}", file=sys.stderr)
        return int(message or 128 + signal.SIGINT)
    copy = shown(out / "notebooks" / f"{failure.notebook}.ipynb")
    print(f"\n{failure}\nThe notebook as far as it got: {copy}", file=sys.stderr)
    return 1
