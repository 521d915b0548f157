"""Puts the table of benchmarks/bench.json into docs/results.md: `python -m tools.bench_table`."""

import json

from benchmarks.page import write_table
from benchmarks.rounds import ROOT

ROWS = {
    "train_step_vs_transformers": ("training step, transformers' GPT-2 as it runs by default", 2.3),
    "train_step_same_dtype": ("training step, both in bfloat16 with AdamW", 1.3),
    "sampling_vs_generate": ("sampling, `generate()` with its cache by default", 3.0),
    "sampling_same_dtype": ("sampling, both in bfloat16", 1.6),
    "sft_step_vs_trl": ("SFT step, TRL by default", None),
    "reward_step_vs_trl": ("reward model step, TRL by default", None),
    "ppo_step_vs_trl": ("PPO iteration, TRL by default", 2.5),
    "ppo_step_same_optimizer": ("PPO iteration, both with AdamW", None),
    "two_processes_vs_one": ("two processes, against one", 1.6),
}


def cell(found: dict | str | None, size: str) -> str:
    """A ratio and its spread, such as "2.92 (2.82 to 3.75)"."""
    sizes = found["sizes"] if isinstance(found, dict) else {}
    if size not in sizes:
        return "" if sizes else "not run"
    kind = found["by"].split()[0]
    return "{} ({} to {})".format(sizes[size][kind], *sizes[size][f"{kind}_spread"])


def table(results: dict) -> str:
    """A Markdown table with a row for each comparison and a column for each size."""
    lines = ["| times as fast as | 4 x 128 | 6 x 256 | aim |", "|---|---|---|---|"]
    for name, (words, aim) in ROWS.items():
        cells = " | ".join(cell(results.get(name), size) for size in ("4x128", "6x256"))
        lines.append(f"| {words} | {cells} | {aim or ''} |")
    machine = results["machine"]
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    about = (
        f"{machine['cpu']}, {results['threads']} thread a process, {results['rounds']} "
        f"rounds; {versions}."
    )
    return "\n".join([*lines, "", about])


def main() -> None:
    written = table(json.loads((ROOT / "benchmarks/bench.json").read_text(encoding="utf-8")))
    print(written)
    write_table("bench", written)


if __name__ == "__main__":
    main()
