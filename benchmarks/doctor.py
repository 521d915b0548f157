"""Does the doctor name what is wrong? Every ailment of the clinic on the courses of some seeds:

    python -m benchmarks.doctor --runs runs/evidence --seeds 0-9

From the SFT and reward models of finished runs on `tldr` (runs/evidence/tldr-SEED, as `make
evidence` leaves them): a short PPO run with each ailment and a healthy one, about half a minute of
one core each. Their histories are kept in runs/doctor, so that a second call goes on where the
first stopped. Then the doctor reads them, and all healthy logs of runs/evidence. Writes
benchmarks/doctor.json and the table between the marks of docs/results.md.
"""

import argparse
import json
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from benchmarks.page import write_table
from benchmarks.rounds import ROOT, cpu_name
from benchmarks.stages import seed_range
from helpers.doctor.diagnosis import diagnose
from helpers.doctor.findings import ranked
from helpers.engine.files import plain, write_json
from helpers.lesson.clinic import AILMENTS, run_clinic
from helpers.run.setup import setup

RECORD = ROOT / "benchmarks" / "doctor.json"
HEALTHY = "(healthy)"
NOTHING = "nothing"
# What the PPOTrainer of TRL logs, under our names; its `val/ratio` is our `ratio`.
TRL = {"step", "score", "kl", "entropy", "clip_fraction", "ratio", "approx_kl"}
TRL |= {"value_loss"}


def history_of(seed: int, ailment: str, runs: Path, kept: Path) -> list[dict]:
    """The history of a short run, trained unless it is kept already."""
    path = kept / str(seed) / f"{ailment.strip('()').replace(' ', '-')}.json"
    if not path.exists():
        options = {"track": "tldr", "preset": "cpu", "seed": seed, "threads": 1}
        course = setup("3-PPO", out=runs / f"tldr-{seed}", **options)
        history = run_clinic(course, "" if ailment == HEALTHY else ailment)
        write_json(path, plain(history))
        print(f"seed {seed}: {ailment}", flush=True)
    return json.loads(path.read_text(encoding="utf-8"))


def as_trl(row: dict) -> dict:
    """What TRL logs of a row; it has the penalty instead of the coefficient."""
    return {
        **{key: row[key] for key in row if key in TRL},
        "penalty": -row.get("kl_coef", math.nan) * row["kl"],
    }


def judged(seed: int, ailment: str, history: list[dict]) -> dict:
    """What the doctor says about a history."""
    findings = diagnose(history)
    first = findings[0] if findings else None
    with_trl = diagnose([as_trl(row) for row in history])
    return {
        "seed": seed,
        "ailment": ailment,
        "first": first.ailment if first else NOTHING,
        "sure": first.sure if first else "",
        "named": ranked(findings),
        "named_with_trl": ranked(with_trl),
        "evidence": [finding.evidence for finding in findings],
    }


def healthy_logs(runs: Path) -> list[dict]:
    """What the doctor says about the logs of finished courses, of both PPO runs of each."""
    logs = sorted([*runs.glob("*/logs/ppo.jsonl"), *runs.glob("*/logs/oracle.jsonl")])
    return [{"log": f"{log.parts[-3]} {log.stem}", "named": ranked(diagnose(log))} for log in logs]


def share(rows: list[dict], right: Callable[[dict], bool]) -> str:
    """How many of the rows are right."""
    return f"{sum(map(right, rows))} of {len(rows)}"


def among_three(key: str) -> Callable[[dict], bool]:
    """Whether the ailment of a row is one of the first three in a list of it."""
    return lambda row: row["ailment"] in row[key][:3]


def table(rows: list[dict], healthy: list[dict]) -> str:
    """Markdown: a row for each ailment; what the doctor named first, and how often."""
    heads = "| ailment | named first | right | among the first three | with TRL's columns alone |"
    lines = [heads, "|---" * 5 + "|"]
    for ailment in (HEALTHY, *AILMENTS):
        some = [row for row in rows if row["ailment"] == ailment]
        if not some:
            continue
        firsts = Counter(row["first"] for row in some).most_common()
        named = ", ".join(f"{name} {count}" for name, count in firsts)
        wanted = NOTHING if ailment == HEALTHY else ailment
        first = share(some, lambda row, wanted=wanted: row["first"] == wanted)
        three = share(some, among_three("named"))
        trl = share(some, among_three("named_with_trl"))
        if wanted == NOTHING:
            three, trl = "", share(some, lambda row: not row["named_with_trl"])
        lines.append(f"| {ailment} | {named} | {first} | {three} | {trl} |")
    ill = [row for row in rows if row["ailment"] != HEALTHY]
    first = share(ill, lambda row: row["first"] == row["ailment"])
    three, trl = (share(ill, among_three(key)) for key in ("named", "named_with_trl"))
    lines.append(f"| all ailments | | {first} | {three} | {trl} |")
    seeds = ", ".join(map(str, sorted({row["seed"] for row in rows})))
    silent = share(healthy, lambda log: not log["named"])
    lines += ["", f"Seeds {seeds}. Silent about {silent} healthy logs. {cpu_name()}."]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "evidence")
    parser.add_argument("--seeds", default="0-9", help="first and last")
    every = [HEALTHY, *AILMENTS]
    parser.add_argument("--ailments", nargs="*", default=every, choices=every, help="some of them")
    parser.add_argument("--kept", type=Path, default=ROOT / "runs" / "doctor")
    parser.add_argument("--out", type=Path, default=RECORD)
    args = parser.parse_args()
    healthy, rows = healthy_logs(args.runs), []
    for seed in seed_range(args.seeds):
        for ailment in args.ailments:
            history = history_of(seed, ailment, args.runs.absolute(), args.kept.absolute())
            rows.append(judged(seed, ailment, history))
            write_json(args.out, {"cpu": cpu_name(), "runs": rows, "healthy": healthy})
    if args.out == RECORD:
        write_table("doctor", table(rows, healthy))
    print(table(rows, healthy))


if __name__ == "__main__":
    main()
