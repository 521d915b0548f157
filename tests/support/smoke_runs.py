"""The course as a learner starts it, in processes of its own, under the smoke preset."""

import json
import os
import subprocess
import sys

from helpers.engine.files import ROOT


def run_smoke(track, out, *command):
    """What a command prints; it must end well."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("RLHF_")}
    options = ["--preset", "smoke", "--track", track, "--seed", "0", "--out", str(out)]
    command = [sys.executable, "-m", *command, *options]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


def report_in(out):
    return json.loads((out / "report.json").read_text(encoding="utf-8"))
