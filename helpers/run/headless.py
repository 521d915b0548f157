"""Run the four notebooks in order, headless: `python -m helpers course --preset cpu --track tldr
--seed 0`.

The run folder (default runs/<preset>-<track>-seed<seed>) gets notebooks/ (executed copies),
checkpoints/, figures/, metrics/, report.json and report.html. Ends with 0, with 1 if a cell failed
or the report lacks something, with 2 for a setting that doesn't exist, with 75 when --stop-after
has ended it and the same command goes on, with 130 after Ctrl-C.
"""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path

from helpers.engine.files import OUT_OF_TIME, ROOT, write_json
from helpers.engine.hardware import choose_device
from helpers.engine.parser import Parser, SettingsError
from helpers.run.folders import NOTEBOOKS, PARENTS, default_out, make_run_folder
from helpers.run.notebook import CellFailure, run_notebook, write_notebook
from helpers.run.options import add_settings, as_options
from helpers.run.presets import choose_init, choose_preset
from helpers.run.progress import Display
from helpers.run.report import ReportError, final_table, read_metrics
from helpers.run.report_page import write_report
from helpers.run.settings import Settings, as_environment, read_settings

# The settings that a notebook's kernel gets in its environment
PASSED_ON = [field.name for field in fields(Settings) if field.metadata.get("variable")]


def kernel_env(settings: Settings, out: Path | None = None) -> dict[str, str]:
    """The environment of a notebook's kernel: ours, with these settings."""
    env = {**os.environ, **as_environment(settings), "PYTHONHASHSEED": "0"}
    env.pop("MPLBACKEND", None)
    if out is not None:
        env["RLHF_OUT"] = str(out.resolve())
    env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), env.get("PYTHONPATH")]))
    return env


def run_course(settings: Settings, out: Path, stages: Sequence[str], notebooks: Path) -> None:
    """Run the notebooks of these stages into the run folder `out`; print progress and, once all
    stages have run, the final table. notebooks: the folder of 0-Pretrain.ipynb and so on.

    Raises CellFailure, ReportError, KeyboardInterrupt.
    """
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
        return
    report = write_report(out)
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
    except CellFailure as failure:
        write_notebook(copy, failure.executed)
        raise
    write_notebook(copy, executed)
    seconds = display.finish(notebook, sum(cell.cell_type == "code" for cell in executed.cells))
    if metrics.exists():  # the whole notebook's time, with the start of its kernel
        write_json(metrics, {**read_metrics(out)[stage], "seconds": round(seconds, 1)})


def chosen(settings: Settings) -> dict:
    """The settings that differ from their defaults, by name."""
    values = {name: getattr(settings, name) for name in PASSED_ON}
    values["out"] = shown(Path(settings.out))
    if settings.stop_after is not None:
        values["stop_after"] = f"{settings.stop_after:.0f}s"
    return {name: v for name, v in values.items() if v != getattr(Settings, name)}


def shown(path: Path) -> str:
    """A path relative to the current folder, if it lies below."""
    path, here = path.resolve(), Path.cwd()
    return path.relative_to(here).as_posix() if path.is_relative_to(here) else str(path)


def parse(argv: Sequence[str] | None) -> tuple[argparse.Namespace, Settings]:
    """Read the command line; a bad setting ends the program with one line and exit code 2."""
    parser = Parser(
        prog="python -m helpers course", description="The four notebooks in order, headless."
    )
    add_settings(parser, PASSED_ON)
    every_stage = ",".join(NOTEBOOKS)
    parser.add_argument("--stages", default=every_stage, help=f"only these: {every_stage}")
    parser.add_argument("--notebooks", type=Path, default=ROOT, help="folder of the notebooks")
    args = parser.parse_args(argv)
    try:
        settings = read_settings({name: getattr(args, name) for name in PASSED_ON})
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
    except ValueError as error:
        parser.error(str(error))
    return args, settings


def check_order(stages: Sequence[str], settings: Settings) -> None:
    """Raise ValueError if a stage needs another one that is neither named nor done."""
    init = choose_init(settings.init, settings.preset, settings.track, settings.source)
    out = Path(settings.out)
    done = {path.name for path in out.glob("checkpoints/*")} | read_metrics(out).keys()
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
        left = [stage for stage in args.stages if stage not in read_metrics(out)]
        again = f"python -m helpers course {' '.join(as_options(chosen(settings)))}"
        print(
            f"\nStopped. The results of earlier notebooks stay. To continue from there:\n"
            f"{again} --stages {','.join(left or args.stages)}",
            file=sys.stderr,
        )
        return 130
    return 0
