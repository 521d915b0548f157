"""The surprise weight on real rows, with it and without, and PPO from the better reward model:

    python -m benchmarks.surprise --rows rows --tracks tldr,sentiment --seeds 0-2

On TL;DR comparisons and on the labels of SST-2 (`rows/`: data/README.md), preset `cpu`. Base and
SFT model are trained once a track, with the first seed; then reward models with the surprise weight
and as a scalar head alone, for every seed of head and batch order; then PPO from the kind that is
right more often on the held-out rows. Everything is in runs/surprise and is not run again.

It writes surprise.json and the table between the marks of docs/results.md.
"""

import argparse
import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.page import write_table
from benchmarks.rounds import ROOT, cpu_name
from benchmarks.stages import run_stage, seed_range
from helpers import reward
from helpers.engine.files import plain
from helpers.evaluation import ratio_ci95
from helpers.run.checkpoints import load_stage
from helpers.run.course import Course
from helpers.run.report import read_metrics
from helpers.run.setup import setup
from helpers.stages import reward as reward_stage
from helpers.stages.judge import set_apart
from helpers.stages.preferences import encode

RESULTS = ROOT / "benchmarks" / "surprise.json"
WITH, WITHOUT = "surprise weight", "head alone"


def train(kind: str, base: Path, options: dict) -> Course:
    """Train a reward model of that kind from a run folder's SFT model, unless it is there."""
    if not options["out"].exists():
        copied = options["out"].with_suffix(".partial")
        shutil.rmtree(copied, ignore_errors=True)
        shutil.copytree(base, copied, ignore=shutil.ignore_patterns("metrics", "snapshots"))
        copied.rename(options["out"])
    course = setup("2-RM-Training", **options)
    if kind == WITHOUT:
        course = replace(course, config=replace(course.config, surprise_weight=0.0))
    if not course.metrics_path().exists():
        reward_stage.run(course)
    return course


def right(course: Course) -> tuple[Tensor, list[str]]:
    """Whether the reward model of a run is right on each held-out row, (N,), and their prompts."""
    expected = {"stage": "reward", "track": course.track, "tokenizer": course.tokenizer}
    model, _ = load_stage(course.folder("reward"), **expected, device=course.device)
    tokenizer, context = course.tokenizer, model.gpt.config.context
    if course.config.pointwise:
        items = course.rows("labels", "heldout")
        texts = [reward.encode_labelled(item, tokenizer, context) for item in items]
        scores = reward.score_texts(model, texts, tokenizer.pad_id).cpu()
        labels = torch.tensor([item.label == 1 for item in items])
        metrics = course.metrics()  # scores were shifted and scaled for PPO: undo that
        positive = scores * metrics["std"] + metrics["mean"] > 0
        return (positive == labels).double(), [item.prompt + item.completion for item in items]
    items = course.rows("comparisons", "heldout")
    margins = reward.margins(model, encode(items, tokenizer, context), tokenizer.pad_id)
    return (margins > 0).double(), [item.prompt for item in items]


def interval(values: Tensor, groups: Sequence[str]) -> dict:
    """Mean and 95% interval of values (N,), bootstrapped over groups."""
    return {
        "mean": values.mean().item(),
        "ci95": ratio_ci95(values, torch.ones(len(values)), groups),
    }


def trained_on(course: Course) -> int:
    """How many rows a reward model learned from: those without the second judge's."""
    if course.config.pointwise:
        return len(course.rows("labels", "train", course.config.comparisons))
    return len(set_apart(course, course.rows("comparisons", "train", course.config.comparisons))[0])


def rival(course: Course) -> dict:
    """The cheapest rival, on the same rows: a bag of words for labels. For comparisons: always
    prefer the longer completion, or the shorter if that is right more often in training.
    """
    if course.config.pointwise:
        metrics = course.metrics()
        words = {key: metrics[f"bag_of_words_accuracy{key}"] for key in ("", "_ci95")}
        return {"what": "bag of words", "mean": words[""], "ci95": words["_ci95"]}
    wins = {}
    for split in ("train", "heldout"):
        items = course.rows("comparisons", split)
        longer = [len(item.chosen.split()) > len(item.rejected.split()) for item in items]
        wins[split] = torch.tensor(longer).double()
    which = "longer" if wins["train"].mean() >= 0.5 else "shorter"
    hits = wins["heldout"] if which == "longer" else 1 - wins["heldout"]
    return {"what": f"the {which} one", **interval(hits, [item.prompt for item in items])}


def compare(track: str, seeds: range, folder: Path, options: dict) -> dict:
    """Everything about one track: both kinds of reward model, their difference, and PPO."""
    base = folder / track
    options = options | {"track": track}
    for stage in ("pretrain", "sft"):
        run_stage(stage, options | {"seed": seeds[0], "out": base})
    record: dict = {"track": track, "seeds": list(seeds), "cpu": cpu_name()}
    record["torch"] = torch.__version__
    accuracy, courses = {}, {}
    for kind in (WITH, WITHOUT):
        each = []
        for seed in seeds:
            out = folder / f"{track}-{kind.replace(' ', '-')}-{seed}"
            course = train(kind, base, options | {"seed": seed, "out": out})
            hits, groups = right(course)
            each.append(hits)
            courses.setdefault(kind, course)  # the first seed's
        accuracy[kind] = torch.stack(each).mean(0)  # (N,): over the seeds
        record[kind] = interval(accuracy[kind], groups)
        record[kind]["by_seed"] = [hits.mean().item() for hits in each]
    record["difference"] = interval(accuracy[WITH] - accuracy[WITHOUT], groups)
    record["rows"] = len(groups)
    course = courses[WITH]
    record["trained_on"] = trained_on(course)
    record["rival"] = rival(course)
    better = max((WITH, WITHOUT), key=lambda kind: record[kind]["mean"])
    out = courses[better].out
    run_stage("ppo", options | {"seed": seeds[0], "out": out})
    metrics = read_metrics(out)["ppo"]
    keep = ("judge_accuracy", "judge_accuracy_ci95", "judge_gain", "judge_gain_ci95")
    keep += ("score_gain", "score_gain_ci95", "table")
    record["ppo"] = {"from": better} | {key: metrics[key] for key in keep if key in metrics}
    return record


def text(numbers: dict, digits: int = 3) -> str:
    """A mean and its interval, such as "0.587 [0.489, 0.685]"."""
    low, high = (f"{bound:.{digits}f}" for bound in numbers["ci95"])
    return f"{numbers['mean']:.{digits}f} [{low}, {high}]"


def with_interval(row: dict, key: str) -> dict:
    """A number of a record and its interval, as `text` takes them."""
    return {"mean": row[key], "ci95": row[f"{key}_ci95"]}


def table(tracks: list[dict]) -> str:
    """Markdown: a column for each track."""
    rows: dict[str, list[str]] = {}

    def add(name: str, value: str) -> None:
        rows.setdefault(name, []).append(value)

    for record in tracks:
        ppo, by = record["ppo"], record["ppo"]["table"]
        add("trained on, held out", f"{record['trained_on']:,}, {record['rows']:,}")
        add("accuracy with the surprise weight", text(record[WITH]))
        add("of a scalar head alone", text(record[WITHOUT]))
        add("difference", text(record["difference"]))
        add("cheapest rival", f"{record['rival']['what']}: {text(record['rival'])}")
        add("PPO learns from", f"the {ppo['from']}")
        add("accuracy of the second judge", text(with_interval(ppo, "judge_accuracy")))
        for name in ("SFT", "SFT, greedy", "best of 8", "PPO", "PPO, greedy"):
            if name in by:
                add(f"second judge on {name}", text(with_interval(by[name], "judge"), 2))
        add("PPO over SFT, by the second judge", text(with_interval(ppo, "judge_gain"), 2))
        add("by the reward model, SFT deviations", text(with_interval(ppo, "score_gain"), 2))
        add("KL, nats per response", text(with_interval(by["PPO"], "kl"), 1))
        add("stop rate", text(with_interval(by["PPO"], "stop_rate")))
    lines = [f"| | {' | '.join(record['track'] for record in tracks)} |"]
    lines += ["|---|" + "---|" * len(tracks)]
    lines += [f"| {name} | {' | '.join(cells)} |" for name, cells in rows.items()]
    first = tracks[0]
    seeds = ", ".join(map(str, first["seeds"]))
    return "\n".join([*lines, "", f"Seeds {seeds}. {first['cpu']}, torch {first['torch']}."])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=Path, required=True, help="the folder rows/")
    parser.add_argument("--tracks", default="tldr,sentiment")
    parser.add_argument("--seeds", default="0-2", help="first and last")
    parser.add_argument("--preset", default="cpu", choices=("cpu", "smoke"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / "surprise")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    seeds = seed_range(args.seeds)
    options = {"data_dir": args.rows.resolve(), "threads": args.threads}
    options["preset"] = args.preset
    folder = args.folder.resolve()
    tracks = [compare(track, seeds, folder, options) for track in args.tracks.split(",")]
    args.out.write_text(json.dumps(plain(tracks), indent=1) + "\n", encoding="utf-8")
    write_table("surprise", table(tracks))
    print(table(tracks))


if __name__ == "__main__":
    main()
