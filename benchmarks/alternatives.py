"""Every method of bonus/4-Alternatives beside PPO, at equal samples and equal gradient steps:

    python -m benchmarks.alternatives --runs runs/evidence --seeds 0-9

From the SFT and reward models of finished courses on `tldr` (runs/evidence/tldr-SEED, as `make
evidence` leaves them), which also have PPO, the temperatures of SFT and the frontier. A run that is
finished is kept in the course's folder alternatives/ and not trained again. Writes
docs/alternatives.json, which the notebook draws, docs/alternatives.png, and the table between the
marks of docs/results.md. The settings of the methods were chosen on seeds of 100 and more.
"""

import argparse
import json
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from statistics import mean, median

import torch

from benchmarks.page import write_table
from benchmarks.rounds import ROOT, cpu_name
from benchmarks.stages import seed_range
from helpers import ppo
from helpers.alternatives import METHODS, train
from helpers.compare.ceiling import best_of_each_n
from helpers.compare.samples import Sampler
from helpers.compare.world import FRONTIER, N_MAX
from helpers.engine.files import plain, write_text
from helpers.engine.loop import Loop
from helpers.lesson import alternatives as lesson
from helpers.lesson.plots import alternatives as plots
from helpers.run.course import Course
from helpers.run.memory import state_bytes
from helpers.run.report import read_metrics
from helpers.run.setup import setup
from helpers.stages.ppo import load_models

NAMES = (*METHODS, lesson.AT_THE_END)
KEPT = ("score", "kl", "gold_reward", "gold_ci95", "stop_rate", "words", "flaws")
FIGURE = ROOT / "docs" / "alternatives.png"


def course_in(seed: int, folder: Path, preset: str) -> Course:
    """The finished course of a seed."""
    options = {"track": "tldr", "preset": preset, "seed": seed, "threads": 1}
    return setup("3-PPO", **options, out=folder / f"tldr-{seed}")


def run_method(name: str, course: Course) -> dict:
    """Train a policy with a method, and measure it on the held-out prompts of 3-PPO."""
    torch.manual_seed(course.seed)
    models, prompts = load_models(course, course.tokenizer), course.rows("prompts", "train")
    loop, start = Loop(f"{name}, seed {course.seed}", lines=1), time.process_time()
    if name == lesson.AT_THE_END:
        paid = replace(models, reward=lesson.PaidAtTheEnd(models.reward))
        history = ppo.train(paid, prompts, course.config, course.tokenizer, loop)
    else:
        models = lesson.without_value_model(models, models.policy)
        rollouts = lesson.rollouts_of(name, course, models, prompts)
        history = train(METHODS[name], models, rollouts, course.config, loop)
    seconds = time.process_time() - start
    heldout = course.rows("prompts", "heldout", course.config.eval_prompts)
    measured, _ = lesson.measure(course, models, heldout)
    curves = {key: [row[key] for row in history] for key in ("score", "kl", "length")}
    return {**measured, "cpu_seconds": seconds, "curves": curves}


def best_of_n(course: Course) -> dict:
    """Best of n by the reward model among samples of the SFT model."""
    models = load_models(course, course.tokenizer)
    prompts = course.rows("prompts", "heldout", FRONTIER)
    sampler = Sampler(models, course.tokenizer, prompts, course.config, course.sampling_dtype)
    samples = sampler.sample(models.reference, N_MAX)
    return best_of_each_n(samples, sampler.scores(samples), N_MAX)


def recorded_course(course: Course) -> list[dict]:
    """What the course has of its own: PPO, oracle PPO, SFT at its temperatures, the frontier."""
    metrics = read_metrics(course.out)["ppo"]
    rows = []
    for name, row in metrics["table"].items():
        if name.startswith(("SFT", "PPO", "oracle")):
            rows.append({"method": name, **{key: row[key] for key in KEPT}})
    return [*rows, {"method": "frontier", "curve": metrics["frontier"]}]


def run_seed(seed: int, folder: Path, preset: str, names: list[str]) -> list[dict]:
    """All methods of one seed, those that are not in the course's folder yet."""
    torch.set_num_threads(1)
    course = course_in(seed, folder, preset)
    rows = recorded_course(course)
    for name in (*names, "best of n"):
        file = course.out / "alternatives" / f"{name.replace(' ', '-')}.json"
        if not file.exists():
            found = (
                {"curve": best_of_n(course)} if name == "best of n" else run_method(name, course)
            )
            file.parent.mkdir(exist_ok=True)
            write_text(file, json.dumps(plain({"method": name, **found})) + "\n")
        rows.append(json.loads(file.read_text(encoding="utf-8")))
    return [{"seed": seed, **row} for row in rows]


def kept_bytes(course: Course, name: str) -> int:
    """Weights, gradients and optimiser states that a method keeps, counted."""
    sizes, muon = load_models(course, course.tokenizer).policy.config, course.config.muon_lr > 0
    frozen = state_bytes(sizes, muon=False, trained=False)
    policy, value = state_bytes(sizes, muon), state_bytes(sizes, muon=False)
    if name == "PPO":
        return policy + value + 2 * frozen
    return policy + (1 if name == lesson.OFFLINE else 2) * frozen


def seconds_of(name: str, course: Course) -> float:
    """Processor time of two iterations of a method, or of PPO."""
    models, prompts = load_models(course, course.tokenizer), course.rows("prompts", "train")
    config, loop = replace(course.config, iterations=2), Loop(name, lines=0)
    if name == "PPO":
        start = time.process_time()
        ppo.train(models, prompts, config, course.tokenizer, loop)
        return time.process_time() - start
    models = lesson.without_value_model(models, models.policy)
    rollouts = lesson.rollouts_of(name, course, models, prompts)
    start = time.process_time()
    train(METHODS[name], models, rollouts, config, loop)
    return time.process_time() - start


def costs(course: Course, rounds: int = 3) -> dict[str, dict]:
    """Each method's time for a response, over PPO's in the same round (the median of the rounds),
    and its memory.
    """
    torch.set_num_threads(1)
    names = ("PPO", *METHODS)
    times = [{name: seconds_of(name, course) for name in names} for _ in range(rounds)]
    return {
        name: {
            "time_over_ppo": median(row[name] / row["PPO"] for row in times),
            "bytes": kept_bytes(course, name),
        }
        for name in names
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "evidence")
    parser.add_argument("--seeds", default="0-9", help="first and last")
    parser.add_argument("--methods", nargs="*", default=NAMES)
    parser.add_argument("--preset", default="cpu", choices=("cpu", "smoke"))
    parser.add_argument("--at-once", type=int, default=1, help="seeds side by side")
    parser.add_argument("--out", type=Path, default=lesson.RECORDED)
    args = parser.parse_args()
    if unknown := sorted({*args.methods} - {*NAMES}):
        parser.error(f"no method {unknown[0]!r}: choose from {'; '.join(NAMES)}")
    seeds = seed_range(args.seeds)
    jobs = [(seed, args.runs, args.preset, args.methods) for seed in seeds]
    with ProcessPoolExecutor(args.at_once) as pool:
        rows = [row for part in pool.map(run_seed, *zip(*jobs)) for row in part]
    record = {"cpu": cpu_name(), "runs": rows}
    record["costs"] = costs(course_in(seeds[0], args.runs, args.preset))
    write_text(args.out, json.dumps(record) + "\n")
    if args.out == lesson.RECORDED and args.preset == "cpu":
        figure = plots.methods_figure(*lesson.figure_data(record))
        figure.savefig(FIGURE, dpi=110, bbox_inches="tight")
        write_table("alternatives", table(record))
    print(table(record))


def table(record: dict) -> str:
    """Markdown: a row for each method, means over the seeds, smallest and largest in brackets."""
    flaws = list(lesson.runs_of(record, "PPO")[0]["flaws"])
    heads = ["method", "gold reward", "KL, nats", "score", "stop rate", "time", "MB"]
    heads += [flaw.replace("_", " ") for flaw in flaws]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for name in dict.fromkeys(run["method"] for run in record["runs"] if "flaws" in run):
        some, cost = lesson.runs_of(record, name), record["costs"].get(name)
        spreads = (spread([run[key] for run in some]) for key in ("gold_reward", "kl", "score"))
        stop = f"{mean(run['stop_rate'] for run in some):.3f}"
        price = [f"{cost['time_over_ppo']:.2f}", f"{cost['bytes'] / 1e6:.1f}"] if cost else ["", ""]
        shares = (f"{mean(run['flaws'][flaw] for run in some):.2f}" for flaw in flaws)
        lines.append(f"| {' | '.join([name, *spreads, stop, *price, *shares])} |")
    seeds = sorted({run["seed"] for run in record["runs"]})
    return "\n".join([*lines, "", f"Seeds {', '.join(map(str, seeds))}. {record['cpu']}."])


def spread(values: list[float]) -> str:
    """Mean, and smallest to largest."""
    return f"{mean(values):.2f} ({min(values):.2f} to {max(values):.2f})"


if __name__ == "__main__":
    main()
