"""Use the four notebooks in a real browser, as a learner would: `make browser`.

Each is opened in JupyterLab and run with the preset smoke. Every control of every widget is moved,
and pairs are labelled by keyboard while the kernel is killed. What is wrong is listed. The
pictures, in a light and a dark theme, are for you to look at.
"""

import argparse
import os
import shutil
import sys
import time
from contextlib import closing
from pathlib import Path

from playwright.sync_api import sync_playwright

from helpers.engine.files import ROOT
from helpers.run.folders import STAGES
from helpers.run.notebook import read_notebook
from tools.browser import pictures
from tools.browser.controls import move_all, name_of
from tools.browser.lab import Lab
from tools.browser.labels import BEFORE, Labels
from tools.browser.notebook import Notebook

BROWSERS = "chromium", "chromium-browser", "google-chrome", "google-chrome-stable"


def find_browser(named: str) -> str:
    """The path of a Chromium. Exits with one line where there is none."""
    found = shutil.which(named) if named else next(filter(None, map(shutil.which, BROWSERS)), None)
    if not found:
        where = named or ", ".join(BROWSERS)
        sys.exit(f"no browser ({where}): install Chromium, or make browser CHROMIUM=path")
    return found


def widgets_of(cells: list) -> dict[int, str]:
    """{number of the cell: name of its widget}."""
    tagged = [i for i, cell in enumerate(cells) if "widget" in cell.metadata.get("tags", [])]
    return {i: name_of(cells[i].source) for i in tagged}


def find(cells: list, *texts: str) -> list[int]:
    """The first code cell with each text."""
    code = [(i, cell.source) for i, cell in enumerate(cells) if cell.cell_type == "code"]
    return [next(i for i, source in code if text in source) for text in texts]


def use(notebook: Notebook, out: Path) -> list[str]:
    """Run a notebook, move its controls, take its pictures; returns the times of its controls."""
    cells, times = read_notebook(ROOT / f"{notebook.stem}.ipynb").cells, []
    widgets = widgets_of(cells)
    labels = next((Labels(notebook, i) for i, name in widgets.items() if name == "label_pairs"), 0)
    if labels:
        # what comes before the first labels: set-up, imports, the held-out pairs
        first = find(cells, "setup(", "import torch", "heldout =", "own_labels.questions(")
        notebook.run_cells(*first, labels.index)
        labels.type_until(BEFORE)
        labels.kill_kernel()
    notebook.run_all()
    if labels:
        labels.go_on()
        after = find(cells, "own_labels.answers_of(", "own_labels.agrees(", "own_labels.learn(")
        notebook.run_cells(*after)
        for index in after[:2]:
            print("   ", notebook.output(index).replace("\n", "\n    "))
        if "of yours" not in notebook.output(after[0]):
            notebook.fault("the answers of the widget are not used")
    notebook.look_for_errors()
    for index, name in widgets.items():
        times += move_all(notebook, index, name)
    for theme in ("Light", "Dark"):
        notebook.set_theme(theme)
        pictures.of_widgets(notebook, widgets, theme.lower(), out)
        pictures.of_notebook(notebook, theme.lower(), out)
    return times


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.browser", description=__doc__)
    parser.add_argument("--chromium", default="", help="the browser's path")
    parser.add_argument("--notebooks", nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument("--out", type=Path, default=ROOT / "runs/browser")
    args = parser.parse_args()
    chromium = find_browser(args.chromium)
    whole = args.notebooks == list(STAGES)  # else it goes on with the checkpoints that are there
    shutil.rmtree(args.out if whole else args.out / "lab", ignore_errors=True)
    args.out.mkdir(parents=True, exist_ok=True)
    faults, times = [], []
    lab = Lab(args.out / "lab", args.out / "run", args.notebooks)
    with closing(lab), sync_playwright() as playwright:
        # a container's root has no sandbox
        sandbox = not hasattr(os, "getuid") or os.getuid() != 0
        browser = playwright.chromium.launch(executable_path=chromium, chromium_sandbox=sandbox)
        for stem in args.notebooks:
            start = time.monotonic()
            notebook = Notebook(lab, browser, stem)
            times += use(notebook, args.out)
            notebook.close()
            faults += notebook.faults
            print(f"{stem}: {time.monotonic() - start:.0f} s", flush=True)
        browser.close()
    report = "\n".join(["time from a move to all of its output", *times, "", "faults", *faults])
    (args.out / "report.txt").write_text(report + "\n", encoding="utf-8")
    print(report if faults else f"{report[: -len('faults')]}no faults")
    print(f"pictures and this report: {args.out}")
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
