"""`python -m benchmarks`: ours against peers, side by side in one run; see benchmarks/bench.json.

    --with-trl     also against TRL, in an environment of its own (.venv-trl, made when it is not
                   there; or the python that TRL_PYTHON names)
    --rounds 9     turns of each way, in three processes
    --threads 1    per process; with one thread CPU time and wall time mean the same when nothing
                   else runs
    --only NAMES   some of training, sampling, trl, growth, processes; the rest stays as it is in
                   bench.json

A ratio is how many times as long the other one takes, by CPU time, at the medians; the spread is
that of the rounds. The smallest ratio of the sizes stands at the top of an entry. What is compared
is described in benchmarks/comparisons.py; `python -m tools.bench_table` writes the table into
docs/results.md.
"""

import json
import os
import platform
import subprocess
import sys
import venv
from importlib.metadata import version

import torch

from benchmarks import comparisons, processes
from benchmarks.rounds import ROOT, cpu_name
from helpers.engine.hardware import cpu_has_bfloat16, physical_cores
from helpers.engine.parser import Parser

TRL = "1.12.0"  # the last one with PPO
WITHOUT_TRL = (
    "sft_step_vs_trl",
    "reward_step_vs_trl",
    "ppo_step_vs_trl",
    "ppo_step_same_optimizer",
)
PARTS = ("training", "sampling", "trl", "growth", "processes")
RESULTS = ROOT / "benchmarks" / "bench.json"


def trl_python(make: bool) -> str | None:
    """The python of TRL's environment; made first if it is asked for and missing. None: do
    without.
    """
    named = os.environ.get("TRL_PYTHON")
    if named:
        return named
    folder = ROOT / ".venv-trl"
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if make and not python.exists():
        print(f"making {folder.name} with TRL {TRL}", flush=True)
        venv.create(folder, with_pip=True)
        install = [python, "-m", "pip", "install", "-qq", "--disable-pip-version-check"]
        torch_wheel = f"torch=={torch.__version__.partition('+')[0]}"
        subprocess.run(
            [*install, torch_wheel, "--index-url", "https://download.pytorch.org/whl/cpu"],
            check=True,
        )
        subprocess.run([*install, f"trl=={TRL}", "-c", ROOT / "constraints.txt"], check=True)
    return str(python) if make else None


def machine() -> dict:
    """What the figures depend on."""
    return {
        "cpu": cpu_name(),
        "cores": physical_cores(),
        "fast_bfloat16": cpu_has_bfloat16(),
        "system": platform.system(),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": version("transformers"),
            "trl": TRL,
        },
    }


def with_smallest(sizes: dict[str, dict]) -> dict:
    """An entry with the smallest of its sizes' ratios on top: by CPU time where there is one."""
    kind = "cpu" if all("cpu" in found for found in sizes.values()) else "wall"
    least = min(sizes.values(), key=lambda found: found[kind])
    return {
        "ratio": least[kind],
        "spread": least[f"{kind}_spread"],
        "by": f"{kind} time",
        "sizes": sizes,
    }


def main() -> None:
    parser = Parser(prog="python -m benchmarks", description="Ours against peers.")
    parser.add_argument(
        "--with-trl", action="store_true", help="also against TRL, in an environment of its own"
    )
    parser.add_argument("--rounds", type=int, default=9, help="turns of each way")
    parser.add_argument("--threads", type=int, default=1, help="of each process")
    parser.add_argument(
        "--only", nargs="+", choices=PARTS, default=PARTS, help="the rest stays as it is"
    )
    asked = parser.parse_args()
    if min(asked.rounds, asked.threads) < 1:
        parser.error("--rounds and --threads must be 1 or more")
    python = trl_python(asked.with_trl)
    work = {
        "training": lambda: comparisons.training(asked.rounds, asked.threads),
        "sampling": lambda: comparisons.sampling(asked.rounds, asked.threads),
        "trl": lambda: (
            comparisons.against_trl(asked.rounds, asked.threads, python) if python else {}
        ),
        "growth": lambda: comparisons.growth(asked.rounds, asked.threads),
        "processes": lambda: processes.measure(3),
    }
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    results |= {"machine": machine(), "threads": asked.threads, "rounds": asked.rounds}
    for part in asked.only:
        print(f"{part} ...", flush=True)
        for name, found in work[part]().items():
            results[name] = with_smallest(found) if name != "growth" else found
            if "ratio" in results[name]:
                entry = results[name]
                print(
                    f"  {name} {entry['ratio']} ({entry['spread'][0]} to {entry['spread'][1]}), "
                    f"{entry['by']}"
                )
        for name in WITHOUT_TRL if part == "trl" else ():
            results.setdefault(name, "not run")
        RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
