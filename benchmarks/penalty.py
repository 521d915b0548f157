"""What the reward model and the KL penalty each do for PPO, for the last experiment of 3-PPO:

    python -m benchmarks.penalty --runs runs/evidence --seeds 0-2

From the SFT and reward models of finished runs on `tldr` (runs/evidence/tldr-SEED, as `make
evidence` leaves them): a weak reward model for each seed; then PPO with either reward model and
every coefficient, all with the same short settings. Writes docs/penalty.json, which the notebook
draws, and the table between the marks of docs/results.md.
"""

import argparse
import copy
import json
from pathlib import Path

from benchmarks.page import write_table
from benchmarks.rounds import ROOT, cpu_name
from benchmarks.stages import seed_range
from helpers.engine.files import plain, write_text
from helpers.engine.loop import Loop
from helpers.evaluation import bootstrap_ci95, respond
from helpers.lesson.penalty import RECORDED, fast_settings, runs_of, weak_reward_model
from helpers.ppo import train
from helpers.reward import score_responses
from helpers.rollouts import Models
from helpers.run.checkpoints import load_stage
from helpers.run.setup import setup

COEFFICIENTS = (0.0, 0.02, 0.05, 0.1, 0.2, 0.5)
POSTS = 200  # held out, on which a policy is measured
KEPT = ("kl", "score", "gold", "length", "entropy")


def measured(course, policy, reward, posts) -> dict:
    """Gold reward, score and flaws of a policy's responses to held-out posts, and a few texts."""
    sampling = {"max_new_tokens": course.config.response_tokens, "seed": course.seed + 1}
    responses = respond(policy, course.tokenizer, posts, **sampling)
    gold = responses.gold
    return {
        "gold": gold.mean().item(),
        "gold_ci95": bootstrap_ci95(gold),
        "gold_std": gold.std().item(),
        "score": score_responses(reward, course.tokenizer, responses).mean().item(),
        "flaws": responses.flaws(),
        "texts": [text.strip() for text in responses.texts[:3]],
    }


def train_all(seed: int, folder: Path, coefficients: tuple[float, ...], preset: str) -> list[dict]:
    """Both reward models with every coefficient, for one seed."""
    options = {"track": "tldr", "preset": preset, "seed": seed, "out": folder, "threads": 1}
    course = setup("3-PPO", **options)
    same = {"track": "tldr", "tokenizer": course.tokenizer, "device": course.device}
    sft, good = (load_stage(course.folder(s), stage=s, **same)[0] for s in ("sft", "reward"))
    for model in (sft, good):
        model.requires_grad_(False)
    room = {"room": course.config.response_tokens}
    prompts = course.rows("prompts", "train", **room)
    posts = course.rows("prompts", "heldout", POSTS, **room)
    weak = weak_reward_model(course, sft, prompts)
    rows = []
    for name, reward in (("good", good), ("weak", weak)):
        before = measured(course, sft, reward, posts)
        for coefficient in coefficients:
            value = copy.deepcopy(reward).requires_grad_(True)
            policy = copy.deepcopy(sft).requires_grad_(True)
            models = Models(policy, sft, reward, value)
            config = fast_settings(course.config, coefficient, smoke=preset == "smoke")
            loop = Loop(f"{name}, kl_coef {coefficient:g}", lines=2)
            history = train(models, prompts, config, course.tokenizer, loop)
            curves = {key: [row[key] for row in history] for key in KEPT}
            after = measured(course, policy, reward, posts)
            about = {"seed": seed, "reward_model": name, "kl_coef": coefficient}
            rows.append(about | {"curves": curves, "sft": before, "policy": after})
    return rows


def table(rows: list[dict]) -> str:
    """Markdown: a row for each reward model and coefficient, its seeds beside one another."""
    seeds = sorted({row["seed"] for row in rows})
    start = {row["seed"]: row["sft"]["gold"] for row in rows}
    lines = [
        "| reward model | KL coefficient | gold reward | score | KL, nats |",
        "|---|---|---|---|---|",
    ]
    lines += [f"| (SFT) | | {', '.join(f'{start[seed]:.2f}' for seed in seeds)} | | 0 |"]
    for name in ("good", "weak"):
        for coefficient in sorted({row["kl_coef"] for row in rows}):
            some = runs_of({"runs": rows}, name, coefficient)
            gold = ", ".join(f"{run['policy']['gold']:.2f}" for run in some)
            score = ", ".join(f"{run['policy']['score']:.2f}" for run in some)
            kl = ", ".join(f"{run['curves']['kl'][-1]:.0f}" for run in some)
            lines.append(f"| {name} | {coefficient:g} | {gold} | {score} | {kl} |")
    return "\n".join([*lines, "", f"Seeds {', '.join(map(str, seeds))}. {cpu_name()}."])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "evidence")
    parser.add_argument("--seeds", default="0-2", help="first and last")
    parser.add_argument("--coefficients", default=",".join(f"{c:g}" for c in COEFFICIENTS))
    parser.add_argument("--preset", default="cpu", choices=("cpu", "smoke"))
    parser.add_argument("--out", type=Path, default=RECORDED)
    args = parser.parse_args()
    coefficients = tuple(map(float, args.coefficients.split(",")))
    rows = []
    for seed in seed_range(args.seeds):
        rows += train_all(seed, args.runs / f"tldr-{seed}", coefficients, args.preset)
        record = {"cpu": cpu_name(), "posts": POSTS, "runs": plain(rows)}
        write_text(args.out, json.dumps(record, indent=None) + "\n")
    if args.out == RECORDED:
        write_table("penalty", table(rows))
    print(table(rows))


if __name__ == "__main__":
    main()
