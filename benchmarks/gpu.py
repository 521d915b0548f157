"""One prepared run for a machine with a GPU: `make gpu`, or `python -m benchmarks.gpu`.

    --rows DIR       real rows for the last section: prose/, sst2/ and gpt2-bpe/ (default: rows)
    --out FILE       where the results go, written after every line of them (default: gpu.json)
    --only NAMES     some of the sections; the rest stays as it is in FILE
    --minutes 9      for all sections together
    --dry            tiny models on the CPU, to see that everything runs

Each section (benchmarks/gpu_sections.py) runs in a process of its own with a time limit, so that
one that fails or hangs costs no other its results.
"""

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LIMITS = {  # seconds; "course" takes what is left
    "tests": 90,
    "training": 120,
    "sampling": 70,
    "stages": 90,
    "processes": 70,
    "course": 480,
}
RESULT = "RESULT "  # begins a line of a section's output that is a piece of its results


def run_section(name: str, seconds: float, arguments: list[str], save) -> dict:
    """Run one section; `save(results)` is called with what it has found so far, and what went
    wrong.
    """
    command = [
        sys.executable,
        "-u",
        "-m",
        "benchmarks.gpu_sections",
        name,
        "--seconds",
        f"{seconds:.0f}",
        *arguments,
    ]
    started, results, last = time.perf_counter(), {}, ""
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    stop = threading.Timer(seconds, end, [process])
    stop.start()
    try:
        for line in process.stdout:
            if line.startswith(RESULT):
                results |= json.loads(line.removeprefix(RESULT))
                save(results)
            else:
                last = line.strip() or last
                print(line, end="", flush=True)
    except KeyboardInterrupt:
        end(process)
        raise SystemExit(130) from None
    code = process.wait()
    out_of_time = not stop.is_alive() and time.perf_counter() - started >= seconds
    stop.cancel()
    if code:
        results["failed"] = f"stopped after {seconds:.0f} s" if out_of_time else last
    results["seconds"] = round(time.perf_counter() - started, 1)
    save(results)
    return results


def end(process: subprocess.Popen) -> None:
    """Kill a section with all that it has started."""
    os.killpg(process.pid, 9)


def table(results: dict) -> str:
    """The results as lines: the section, what was measured, and its figures."""
    lines = []
    for section, found in results.items():
        if not isinstance(found, dict):
            lines.append(f"{section}: {found}")
            continue
        for name, value in found.items():
            figures = value
            if isinstance(value, dict):
                figures = "  ".join(f"{key} {figure}" for key, figure in value.items())
            lines.append(f"{section:10} {name:34} {figures}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description="Everything once on a GPU."
    )
    parser.add_argument(
        "--rows", type=Path, default=ROOT / "rows", help="real rows for the section `course`"
    )
    parser.add_argument("--out", type=Path, default=Path("gpu.json"), help="where the results go")
    parser.add_argument(
        "--only", nargs="+", choices=LIMITS, default=list(LIMITS), help="the rest stays as it is"
    )
    parser.add_argument("--minutes", type=float, default=9.0, help="for all sections together")
    parser.add_argument("--dry", action="store_true", help="tiny models on the CPU")
    options = parser.parse_args()
    deadline = time.perf_counter() + 60 * options.minutes
    arguments = ["--rows", str(options.rows.resolve())] + (["--dry"] if options.dry else [])
    results = json.loads(options.out.read_text()) if options.out.exists() else {}

    def save(name: str, found: dict) -> None:
        results[name] = found
        options.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")

    failed = []
    for name in options.only:
        limit = LIMITS[name] * (4 if options.dry else 1)  # a busy CPU is no GPU machine
        left = min(limit, deadline - time.perf_counter())
        if left < 10:
            save(name, {"skipped": "no time left"})
            continue
        print(f"---- {name} (at most {left:.0f} s)", flush=True)
        found = run_section(name, left, arguments, lambda part, name=name: save(name, part))
        failed += [name] if "failed" in found else []
    print(f"\n{table(results)}")
    sys.exit(f"failed: {', '.join(failed)}" if failed else 0)


if __name__ == "__main__":
    main()
