"""Whole courses of many seeds, and what docs/results.md says of them: `make evidence`.

    python -m benchmarks.evidence --tracks tldr,sentiment --seeds 0-9 --threads 1 --at-once 2

Every seed's four stages run as commands, in the run folder runs/evidence/TRACK-SEED. Two more
reward models are trained from the same SFT model, with other numbers of threads or in float32, so
that other rounding counts too. What a run folder holds is not run again, and a stage that was
stopped goes on where it stood. With --at-once, so many courses run side by side; the other reward
models, which may take several threads, follow one by one. The settings were chosen on seeds of 100
and more; the table is about 0 to 9.

It writes evidence.json and the table between the marks of docs/results.md. Runs of other seeds or
tracks that evidence.json already has stay, as long as the course's settings are the same. (Of the
rows and the code nothing is known: after a change there, begin with an empty file.)
"""

import argparse
import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import mean

import torch

from benchmarks.page import PAGE, write_table
from benchmarks.rounds import ROOT, cpu_name
from benchmarks.stages import run_stage, seed_range
from helpers.engine.hardware import choose_dtype
from helpers.rows.tracks import TRACKS
from helpers.run.folders import NOTEBOOKS
from helpers.run.presets import PRESETS, load_config
from helpers.run.report import read_metrics

RESULTS = ROOT / "benchmarks" / "evidence.json"


def jobs(tracks: list[str], seeds: range, threads: int) -> list[dict]:
    """{track, seed, threads, dtype} of each run. The first of three is a seed's whole course."""
    dtype = str(choose_dtype(torch.device("cpu"))).removeprefix("torch.")
    third = (3, dtype) if dtype == "float32" else (threads, "float32")
    variants = [(threads, dtype), (3 - threads, dtype), third]
    return [
        {"track": track, "seed": seed, "threads": number, "dtype": dtype}
        for track in tracks
        for seed in seeds
        for number, dtype in variants
    ]


def settings_of(preset: str, track: str) -> str:
    """A digest of the settings of the four stages: runs of different settings don't mix."""
    configs = [load_config(stage, preset, track) for stage in NOTEBOOKS]
    return hashlib.sha256(repr(configs).encode()).hexdigest()[:12]


def run_job(job: dict, whole: bool, folder: Path, preset: str, say: Callable) -> dict:
    """Run what is left of a job in its folder; returns the job with what its stages recorded.

    whole: the four stages, in folder/TRACK-SEED. Else the reward model alone, from that SFT model.
    """
    course = folder / "{track}-{seed}".format(**job)
    out, stages = course, list(NOTEBOOKS)
    if not whole:
        out = folder / "{track}-{seed}-{threads}-{dtype}".format(**job)
        stages = ["reward"]
        base = Path("checkpoints") / "sft"
        if not (out / base).exists():
            shutil.copytree(course / base, out / base)
    for stage in stages:
        run_stage(stage, {**job, "preset": preset, "out": out}, say)
    recorded = read_metrics(out)
    for values in recorded.values():
        values.pop("curves", None)
    about = {"cpu": cpu_name(), "torch": torch.__version__}
    about |= {"preset": preset, "settings": settings_of(preset, job["track"])}
    return {**job, "whole": whole, **about, **recorded}


def merged(runs: list[dict], path: Path, preset: str) -> list[dict]:
    """Those runs, and the runs of other seeds and tracks in the file that have today's settings."""
    old = json.loads(path.read_text(encoding="utf-8"))["runs"] if path.exists() else []
    new = {(run["track"], run["seed"]) for run in runs}
    others = [
        run
        for run in old
        if (run["track"], run["seed"]) not in new
        and run["preset"] == preset
        and run["settings"] == settings_of(preset, run["track"])
    ]
    return sorted(others + runs, key=lambda run: (list(TRACKS).index(run["track"]), run["seed"]))


def way(reward: dict) -> float:
    """How far a reward model has come from chance to the Bayes accuracy."""
    return (reward["accuracy"] - 0.5) / (reward["bayes_accuracy"] - 0.5)


def spread(values: Iterable[float], digits: int = 2) -> str:
    """Mean, and smallest to largest, such as "0.95 (0.91 to 0.98)"."""
    values = list(values)
    low, high = min(values), max(values)
    return f"{mean(values):.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def rows_of(runs: list[dict]) -> dict[str, str]:
    """{what: its spread over a track's runs}."""
    courses, rewards = [run for run in runs if run["whole"]], [run["reward"] for run in runs]
    ppo, sft = [run["ppo"] for run in courses], [run["sft"] for run in courses]
    rows = {"courses, reward models": f"{len(courses)}, {len(rewards)}"}
    for name, stage in (("pretraining", "pretrain"), ("SFT", "sft")):
        over = [run[stage]["heldout_loss"] / run[stage]["entropy_floor"] - 1 for run in courses]
        rows[f"{name}: loss over its floor, %"] = spread((100 * share for share in over), 1)
    rows["reward model: share of the way to Bayes"] = spread(map(way, rewards))
    if "accuracy_by_fact" in rewards[0]:
        worst = (min(reward["accuracy_by_fact"].values()) for reward in rewards)
        rows["reward model: accuracy on the fact that it reads worst"] = spread(worst)
    for t in ppo[0]["sft_gold_by_temperature"]:
        golds = (each["sft_gold_by_temperature"][t] for each in ppo)
        rows[f"gold reward of SFT, T = {t}"] = spread(golds)
    for t in ppo[0]["ppo_gold_by_temperature"]:
        golds = (each["ppo_gold_by_temperature"][t] for each in ppo)
        rows[f"gold reward of PPO, T = {t}"] = spread(golds)
    rows["gold reward of oracle PPO"] = spread(each["oracle_gold_reward"] for each in ppo)
    rows["highest gold reward"] = f"{ppo[0]['maximum_gold_reward']:.2f}"
    rows["share of the way from SFT to the highest"] = spread(e["share_of_maximum"] for e in ppo)
    rows["share of oracle PPO's gain"] = spread(each["share_of_oracle"] for each in ppo)
    rows["gain over SFT at its best temperature, lower end"] = spread(
        each["gain_over_cooled_sft_ci95"][0] for each in ppo
    )
    for flaw in ppo[0]["flaws"]:
        before = mean(each["flaws"][flaw] for each in sft)
        rows[f"{flaw.replace('_', ' ')}: of SFT {before:.2f}, of PPO"] = spread(
            each["flaws"][flaw] for each in ppo
        )
    rows["stop rate of PPO"] = spread((each["stop_rate"] for each in ppo), 3)
    rows["KL of PPO, nats"] = spread((each["kl"] for each in ppo), 1)
    rows["seconds of the four stages"] = spread(
        (sum(run[stage]["seconds"] for stage in NOTEBOOKS) for run in courses), 0
    )
    return rows


def table(results: dict) -> str:
    """A Markdown table with a column for each track: means, smallest and largest in brackets."""
    tracks = list(dict.fromkeys(run["track"] for run in results["runs"]))
    columns = [
        rows_of([run for run in results["runs"] if run["track"] == track]) for track in tracks
    ]
    lines = [f"| | {' | '.join(tracks)} |", "|---|" + "---|" * len(tracks)]
    for name in dict.fromkeys(name for column in columns for name in column):
        lines.append(f"| {name} | {' | '.join(column.get(name, '') for column in columns)} |")
    runs = results["runs"]
    machines = sorted({"{cpu}, torch {torch}, preset {preset}".format(**run) for run in runs})
    seeds = []
    for track in tracks:
        ran = sorted({run["seed"] for run in runs if run["track"] == track})
        seeds.append(f"{track} {', '.join(map(str, ran))}")
    return "\n".join([*lines, "", f"Seeds: {'; '.join(seeds)}. {'; '.join(machines)}."])


def write(results: dict, path: Path = RESULTS, page: Path = PAGE) -> None:
    """The JSON file, and the table in its place on the page."""
    path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    write_table("evidence", table(results), page)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tracks", default="tldr,sentiment,assistant,instruct")
    parser.add_argument("--seeds", default="0-9", help="first and last")
    parser.add_argument("--threads", type=int, choices=(1, 2), default=1)
    parser.add_argument("--at-once", type=int, default=1, help="courses that run side by side")
    parser.add_argument("--preset", default="cpu", choices=PRESETS)
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / "evidence")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    seeds = seed_range(options.seeds)
    done, start = [], time.monotonic()
    todo = jobs(options.tracks.split(","), seeds, options.threads)
    courses = todo[::3]

    def say(line: str) -> None:
        minutes = (time.monotonic() - start) / 60
        print(f"[{len(done)} of {len(todo)} runs, {minutes:.0f} min] {line}", flush=True)

    def run(job: dict) -> dict:
        done.append(run_job(job, job in courses, options.folder, options.preset, say))
        return done[-1]

    with ThreadPoolExecutor(options.at_once) as pool:
        runs = list(pool.map(run, courses))
    runs += [run(job) for job in todo if job not in courses]  # from the courses' SFT models
    results = {"runs": merged(runs, options.out, options.preset)}
    write(results, options.out)
    print(table(results))


if __name__ == "__main__":
    main()
