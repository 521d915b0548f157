"""Keep the notebooks in step with helpers/ and run them: `python -m tools.notebooks COMMAND`.

    sync  [NOTEBOOK ...]       refresh set-up cells and taught cells from helpers/
    check [NOTEBOOK ...]       list what is out of step or untidy; exit code 1 if anything is
    run   [NOTEBOOK ...]       execute in order with the cpu preset and save the outputs
    new   TEXT NOTEBOOK        make a notebook from text in jupytext's py:percent format
    text  NOTEBOOK [--full]    print a notebook as such text

A taught cell carries in its metadata where its text comes from: "source": "helpers/losses.py::gae".
Several names are separated by commas. NOTEBOOK is a file; without one, all notebooks: the four of
the course, then those in bonus/. In text, a taught cell is the line `# %%
source="helpers/losses.py::gae"`, the set-up cell `# %% tags=["setup"]`.
"""

import argparse
import copy
import hashlib
import sys
from pathlib import Path
from typing import Any

from helpers.engine.files import ROOT
from helpers.engine.parser import SettingsError
from helpers.run.folders import FILES, REPOSITORY, STAGES
from helpers.run.headless import kernel_env
from helpers.run.notebook import CellFailure, clean, read_notebook, run_notebook, write_notebook
from helpers.run.progress import Display
from helpers.run.settings import read_settings
from tools import hygiene
from tools.definitions import coverage, definition, same

# The first code cell of every notebook, the same in all but for the name. It finds the
# repository above the notebook's file, if Jupyter or papermill say where that is, else above the
# current folder, else in a data set that was added to a notebook on Kaggle; opened alone on Colab
# or Kaggle, it fetches it. Elsewhere that would be other code than the checkout's.
SETUP_CELL = f"""\
import os, subprocess, sys
from pathlib import Path

file = globals().get("PAPERMILL_INPUT_PATH") or os.environ.get("JPY_SESSION_NAME") or "x"
above = [*Path(file).resolve().parents, *Path("x").resolve().parents]
above += [p for n in (1, 2, 3) for p in Path("/kaggle/input").glob("/".join("*" * n))]
home = next((p for p in above if (p / "helpers/run").is_dir()), Path("rlhf-from-scratch").resolve())
if not (home / "helpers").is_dir():  # opened alone, on Colab or Kaggle: fetch the course
    hosts = {{"COLAB_RELEASE_TAG", "KAGGLE_KERNEL_RUN_TYPE"}}
    url = "{REPOSITORY}"
    assert hosts & {{*os.environ}}, f"no helpers/ beside this notebook: use a clone of {{url}}"
    hint = "switch Internet on (Kaggle: Settings), or add the repository as a data set"
    failed = subprocess.run(["git", "clone", "-q", "--depth", "1", url, home]).returncode
    assert not failed, f"{{url}} can't be fetched into {{home}}: {{hint}}"
sys.path.insert(0, str(home))
from helpers.run.setup import setup

course = setup("{{notebook}}")"""


def setup_cell(stem: str) -> str:
    """The set-up cell of the notebook `stem` ("3-PPO")."""
    return SETUP_CELL.replace("{notebook}", stem)


def wanted(cell: Any, stem: str, root: Path) -> str | None:
    """The text that a set-up or taught cell must have; None for any other. LookupError if the
    source is not there.
    """
    if cell.cell_type != "code":
        return None
    if "setup" in cell.metadata.get("tags", []):
        return setup_cell(stem)
    return definition(root, cell.metadata["source"]) if "source" in cell.metadata else None


def refresh(notebook: Any, stem: str, root: Path = ROOT) -> int:
    """Refresh a notebook's set-up and taught cells in place; return how many changed.

    A cell whose code has changed loses its outputs; one in which only comments changed keeps them.
    """
    changed = 0
    for number, cell in enumerate(notebook.cells, start=1):
        try:
            text = wanted(cell, stem, root)
        except LookupError as error:
            raise LookupError(f"{stem}.ipynb, cell {number}: {error}") from None
        if text is None or text == cell.source:
            continue
        if not same(cell.source, text):
            cell.outputs, cell.execution_count = [], None
        cell.source = text
        changed += 1
    return changed


def sync(paths: list[Path], root: Path = ROOT) -> None:
    """Refresh the notebooks' set-up and taught cells; write only those that changed."""
    for path in paths:
        notebook = read_notebook(path)
        changed = refresh(notebook, path.stem, root)
        if changed:
            write_notebook(path, notebook)
        print(f"{path.name}: {changed or 'no'} cell{'' if changed == 1 else 's'} refreshed")


def check(
    paths: list[Path], root: Path = ROOT, whole: bool = True, executed: bool = True
) -> list[str]:
    """All that is wrong with the notebooks, one line each: taught cells out of step, untidy outputs
    and, if `whole`, names taught twice or nowhere.
    """
    found = []
    notebooks = {path.name: read_notebook(path) for path in paths}
    for path in paths:
        for number, cell in enumerate(notebooks[path.name].cells, start=1):
            try:
                text = wanted(cell, path.stem, root)
            except LookupError as error:
                found.append(f"{path.name}: cell {number}: {error}")
                continue
            if text is not None and not same(cell.source, text):
                place = cell.metadata.get("source", "the set-up cell")
                found.append(
                    f"{path.name}: cell {number} differs from {place}: run `python -m "
                    "tools.notebooks sync`"
                )
        found += hygiene.problems(path, setup_cell(path.stem), executed)
        found += hygiene.lost_files(path, notebooks[path.name])
    return found + (coverage(root, notebooks) if whole else [])


def run(
    paths: list[Path], preset: str = "cpu", track: str = "tldr", out: Path | None = None
) -> None:
    """Execute the notebooks in order and save each with its outputs. Raises CellFailure; the file
    is then unchanged.
    """
    env = kernel_env(read_settings({"preset": preset, "track": track}), out)
    display = Display(
        preset, track, "embedded", [STAGES.get(path.stem, path.stem) for path in paths]
    )
    for path in paths:
        display.start(STAGES.get(path.stem, path.stem))
        executed = run_notebook(path, ROOT, env, display.tick)
        write_notebook(path, executed)
        display.finish(path.stem, sum(cell.cell_type == "code" for cell in executed.cells))


def to_text(notebook: Any, full: bool = False) -> str:
    """A notebook in jupytext's py:percent format; set-up and taught cells without their text unless
    `full`.
    """
    import jupytext  # imported here: only `new` and `text` need it

    notebook = copy.deepcopy(notebook)
    for cell in notebook.cells:
        if not full and ("source" in cell.metadata or "setup" in cell.metadata.get("tags", [])):
            cell.source = ""
    filters = {"notebook_metadata_filter": "-all", "cell_metadata_filter": "all"}
    notebook.metadata = {"jupytext": filters}
    return jupytext.writes(notebook, fmt="py:percent")


def from_text(text: str, stem: str) -> Any:
    """The notebook of a py:percent text, without outputs and without the text of its set-up and
    taught cells.

    Cell ids follow from the cells' text, so that the same text gives the same file. Raises
    ValueError for cell metadata other than source and tags.
    """
    import jupytext

    notebook = jupytext.reads(text, fmt="py:percent")
    seen: dict[str, int] = {}
    for number, cell in enumerate(notebook.cells, start=1):
        cell.metadata.pop("lines_to_next_cell", None)
        if unknown := cell.metadata.keys() - {"source", "tags"}:
            raise ValueError(
                f"cell {number}: {', '.join(sorted(unknown))} after '# %%': only source and tags "
                "are known"
            )
        key = f"{cell.cell_type}:{cell.metadata.get('source') or cell.source}"
        seen[key] = seen.get(key, 0) + 1
        cell.id = hashlib.sha256(f"{stem}:{key}:{seen[key]}".encode()).hexdigest()[:8]
    return clean(notebook)


def new(text: Path, path: Path, root: Path = ROOT) -> None:
    """Make a notebook from py:percent text. Outputs of an older version are kept if no code has
    changed.
    """
    notebook = from_text(text.read_text(encoding="utf-8"), path.stem)
    refresh(notebook, path.stem, root)
    kept = path.exists() and keep_outputs(read_notebook(path), notebook)
    write_notebook(path, notebook)
    print(
        f"{path.name}: {len(notebook.cells)} cells, outputs "
        f"{'kept' if kept else 'to be made: run it'}"
    )


def keep_outputs(old: Any, fresh: Any) -> bool:
    """Move outputs from `old` to `fresh` if both have the same code cells; say whether they had."""
    before, after = (
        [cell for cell in notebook.cells if cell.cell_type == "code"] for notebook in (old, fresh)
    )
    if [cell.source for cell in before] != [cell.source for cell in after]:
        return False
    for source, target in zip(before, after):
        target.outputs, target.execution_count = source.outputs, source.execution_count
    return True


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.notebooks", description=__doc__.splitlines()[0]
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("sync", "check", "run"):
        commands.add_parser(name).add_argument("notebooks", nargs="*", type=Path)
    commands.choices["check"].add_argument(
        "--no-outputs", action="store_true", help="leave outputs and counts aside"
    )
    commands.choices["run"].add_argument("--preset", default="cpu")
    commands.choices["run"].add_argument(
        "--out", type=Path, help="run folder (default runs/<preset>-tldr-seed0)"
    )
    commands.add_parser("new").add_argument("text", type=Path)
    commands.choices["new"].add_argument("notebook", type=Path)
    commands.add_parser("text").add_argument("notebook", type=Path)
    commands.choices["text"].add_argument(
        "--full", action="store_true", help="with the text of taught cells"
    )
    args = parser.parse_args(argv)
    try:
        return act(args)
    except (LookupError, ValueError, OSError, SettingsError, CellFailure) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped; the running notebook is unchanged.", file=sys.stderr)
        return 130


def act(args: argparse.Namespace) -> int:
    """Do what the command line asks for."""
    whole = not getattr(args, "notebooks", None)
    paths = [ROOT / file for file in FILES.values()] if whole else args.notebooks
    if args.command == "sync":
        sync(paths)
    elif args.command == "check":
        found = check(paths, whole=whole, executed=not args.no_outputs)
        print("\n".join(found) or f"{len(paths)} notebooks in order")
        return bool(found)
    elif args.command == "run":
        run(paths, preset=args.preset, out=args.out)
    elif args.command == "new":
        new(args.text, args.notebook)
    else:
        sys.stdout.write(to_text(read_notebook(args.notebook), args.full))
    return 0


if __name__ == "__main__":
    sys.exit(main())
