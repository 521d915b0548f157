"""Over-optimisation of reward models that learned from few and from many comparisons:

    python -m benchmarks.overoptimisation --runs runs/evidence --seeds 0-9

From the SFT models of finished courses on `tldr` (runs/evidence/tldr-SEED, as `make evidence`
leaves them): reward models from 500, 2,000 and 8,000 comparisons, with the surprise weight and
with a scalar head alone. Then PPO without a penalty against each, in the short, fast settings of
3-PPO's last experiment, and best of n. Against the scalar head from 2,000 comparisons also with
what is said to help: a KL penalty, the worst of three reward models, a score without length. A
seed that is finished is kept in its course's folder. Writes docs/overoptimisation.json and the
table between the marks of docs/results.md.
"""

import argparse
import copy
import json
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import mean

import torch

from benchmarks.page import write_table
from benchmarks.rounds import ROOT, cpu_name
from benchmarks.stages import seed_range
from helpers.compare.ceiling import best_of_each_n
from helpers.compare.samples import Sampler
from helpers.engine.files import plain, write_text
from helpers.engine.loop import Loop
from helpers.evaluation import respond
from helpers.lesson import overoptimisation as lesson
from helpers.lesson.peaks import RECORDED
from helpers.lesson.penalty import fast_settings
from helpers.model import GPT, RewardModel
from helpers.ppo import train
from helpers.reward import score_responses
from helpers.rollouts import Models, mean_kl
from helpers.run.checkpoints import load_stage
from helpers.run.course import Course
from helpers.run.setup import setup

KEPT = ("kl", "score", "gold", "length")
POSTS, SAMPLED, N_MAX = 200, 24, 64  # held-out posts of a policy; of best of n, and its largest n
PENALTY = 0.1  # the KL coefficient of the cure


def run_ppo(course: Course, sft: GPT, reward, value: RewardModel, kl_coef: float = 0.0) -> dict:
    """A short PPO run against a reward model: its curves, and its policy on held-out posts."""
    policy = copy.deepcopy(sft).requires_grad_(True)
    value = copy.deepcopy(value).requires_grad_(True)
    value.surprise_weight.requires_grad_(False)  # only the head's values are read
    models = Models(policy, sft, reward, value)
    config = fast_settings(course.config, kl_coef, smoke=course.preset == "smoke")
    prompts = course.rows("prompts", "train")
    history = train(models, prompts, config, course.tokenizer, Loop("PPO", lines=1))
    curves = {key: [row[key] for row in history] for key in KEPT}
    return {"curves": curves, **measured(course, policy, sft)}


def measured(course: Course, policy: GPT, sft: GPT) -> dict:
    """A policy on held-out posts."""
    posts = course.rows("prompts", "heldout", POSTS)
    sampling = {"max_new_tokens": course.config.response_tokens, "seed": course.seed + 1}
    responses = respond(policy, course.tokenizer, posts, **sampling)
    return {
        "gold": responses.gold.mean().item(),
        "kl": mean_kl(policy, sft, course.tokenizer, responses),
        "words": responses.words,
        "flaws": responses.flaws(),
    }


def train_seed(course: Course) -> list[dict]:
    """All runs of a seed."""
    same = {"track": course.track, "tokenizer": course.tokenizer, "device": course.device}
    sft = load_stage(course.folder("sft"), stage="sft", **same)[0].requires_grad_(False)
    prompts = course.rows("prompts", "train")
    posts = course.rows("prompts", "heldout", SAMPLED)
    samples = Sampler(Models(sft, sft, None, None), course.tokenizer, posts, course.config).sample(
        sft, N_MAX
    )
    lengths, start = torch.tensor([len(ids) for ids in samples.ids]), measured(course, sft, sft)
    rows, heads = [], {}
    for surprise in (True, False):
        for size in lesson.SIZES:
            model, accuracy = lesson.train_reward_model(course, sft, prompts, size, surprise)
            scores = score_responses(model, course.tokenizer, samples).cpu()
            within = scores.view(-1, N_MAX) - scores.view(-1, N_MAX).mean(1, keepdim=True)
            words = lengths.view(-1, N_MAX).float()
            words = words - words.mean(1, keepdim=True)
            about = {"surprise": surprise, "size": size, "accuracy": accuracy, "cure": ""}
            about["best_of_n"] = best_of_each_n(samples, scores, N_MAX)
            about["slope"] = lesson.slope_of(within.flatten(), words.flatten())
            rows.append(about | run_ppo(course, sft, model, model))
            heads[surprise, size] = model, about
    model, about = heads[False, 2_000]
    others = [
        lesson.train_reward_model(course, sft, prompts, 2_000, False, seed)[0] for seed in (1, 2)
    ]
    cures = {
        "KL penalty": (model, PENALTY),
        "worst of three": (lesson.Worst([model, *others]), 0.0),
        "without length": (lesson.WithoutLength(model, about["slope"]), 0.0),
    }
    for cure, (reward, kl_coef) in cures.items():
        rows.append(about | {"cure": cure} | run_ppo(course, sft, reward, model, kl_coef))
    return [{"seed": course.seed, "sft": start, **row} for row in rows]


def run_seed(seed: int, folder: Path, preset: str) -> list[dict]:
    """The runs of a seed, from its course's folder if they are there."""
    torch.set_num_threads(1)
    options = {"track": "tldr", "preset": preset, "seed": seed, "threads": 1}
    course = setup("3-PPO", **options, out=folder / f"tldr-{seed}")
    file = course.out / "overoptimisation.json"
    if not file.exists():
        write_text(file, json.dumps(plain(train_seed(course))) + "\n")
    return json.loads(file.read_text(encoding="utf-8"))


def table(rows: list[dict]) -> str:
    """Markdown: a row for each reward model and remedy, means over the seeds."""
    heads = "| reward model | comparisons | remedy | accuracy | gold reward | KL | words |"
    lines = [heads, "|---" * 7 + "|"]
    starts = list({run["seed"]: run["sft"] for run in rows}.values())
    lines.append(f"| (SFT) | | | | {spread(starts, 'gold')} | 0 | {average(starts, 'words')} |")
    for surprise, size, cure in dict.fromkeys(map(kind_of, rows)):
        some = [run for run in rows if kind_of(run) == (surprise, size, cure)]
        name = "with the surprise weight" if surprise else "scalar head"
        accuracy = "" if cure else f"{mean(run['accuracy'] for run in some):.3f}"
        numbers = [accuracy, spread(some, "gold"), average(some, "kl"), average(some, "words")]
        lines.append(f"| {name} | {size:,} | {cure} | {' | '.join(numbers)} |")
    seeds = sorted({row["seed"] for row in rows})
    return "\n".join([*lines, "", f"Seeds {', '.join(map(str, seeds))}. {cpu_name()}."])


def kind_of(run: dict) -> tuple[bool, int, str]:
    """What a run was against: with the surprise weight, comparisons, remedy."""
    return run["surprise"], run["size"], run["cure"]


def average(some: list[dict], key: str) -> str:
    """The mean, rounded."""
    return f"{mean(run[key] for run in some):.0f}"


def spread(some: list[dict], key: str) -> str:
    """Mean, and smallest to largest."""
    values = [run[key] for run in some]
    return f"{mean(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "evidence")
    parser.add_argument("--seeds", default="0-9", help="first and last")
    parser.add_argument("--preset", default="cpu", choices=("cpu", "smoke"))
    parser.add_argument("--at-once", type=int, default=1, help="seeds side by side")
    parser.add_argument("--out", type=Path, default=RECORDED)
    args = parser.parse_args()
    jobs = [(seed, args.runs, args.preset) for seed in seed_range(args.seeds)]
    with ProcessPoolExecutor(args.at_once) as pool:
        rows = [row for part in pool.map(run_seed, *zip(*jobs)) for row in part]
    write_text(args.out, json.dumps({"cpu": cpu_name(), "runs": rows}) + "\n")
    if args.out == RECORDED:
        write_table("overoptimisation", table(rows))
    print(table(rows))


if __name__ == "__main__":
    main()
