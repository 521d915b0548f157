"""Use the four notebooks in a real browser, as a learner would: `make browser`.

Each notebook is opened in JupyterLab and run with the preset smoke.
"""

import argparse
import os
import shutil
import sys
import time
from pathlib import Path

from playwright.sync_api import sync_playwright

from helpers.engine.files import ROOT
from helpers.run.folders import STAGES
from tools.browser.lab import Lab
from tools.browser.notebook import Notebook

BROWSERS = "chromium", "chromium-browser", "google-chrome", "google-chrome-stable"


def find_browser(named: str) -> str:
    """The path of a Chromium. Exits with one line where there is none."""
    found = shutil.which(named) if named else next(filter(None, map(shutil.which, BROWSERS)), None)
    if not found:
        where = named or ", ".join(BROWSERS)
        sys.exit(f"no browser ({where}): install Chromium, or make browser CHROMIUM=path")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.browser", description=__doc__)
    parser.add_argument("--chromium", default="", help="the browser's path")
    parser.add_argument("--notebooks", nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument("--out", type=Path, default=ROOT / "runs/browser")
    args = parser.parse_args()
    chromium = find_browser(args.chromium)
    shutil.rmtree(args.out, ignore_errors=True)
    args.out.mkdir(parents=True)
    lab = Lab(args.out / "lab", args.notebooks)
    faults = []
    try:
        with sync_playwright() as playwright:
            # a container's root has no sandbox
            sandbox = not hasattr(os, "getuid") or os.getuid() != 0
            browser = playwright.chromium.launch(executable_path=chromium, chromium_sandbox=sandbox)
            for stem in args.notebooks:
                start = time.monotonic()
                notebook = Notebook(lab, browser, stem)
                notebook.run_all()
                print(f"{stem}: ran in {time.monotonic() - start:.0f} s", flush=True)
                notebook.look_for_errors()
                notebook.close()
                faults += notebook.faults
            browser.close()
    finally:
        lab.close()
    print("\n".join(faults) or "no faults")
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
