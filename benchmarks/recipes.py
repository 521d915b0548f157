"""Held-out loss against tokens: the best AdamW recipe and the fast one (Muon), on real prose, with
three seeds.

    RLHF_DATA_DIR=rows python -m benchmarks.recipes

A GPT-2 of 4 layers x 128 with a vocabulary of its own, of 4,096 tokens, reads prose/ or
fineweb-edu/ of that folder. AdamW's rate and schedule are chosen first, at half of the tokens. Then
both recipes train on N tokens, and the fast one on 0.6 N and 0.5 N as well, each with a schedule of
its own that ends there. The question: with what share of N does the fast recipe reach AdamW's loss?
Writes docs/recipes.json and docs/recipes.png; runs that are done stay in runs/recipes/.
"""

import argparse
import json
import math
import statistics
import time
from functools import partial
from pathlib import Path

import torch

from helpers.config import PretrainConfig
from helpers.engine.files import ROOT, write_json
from helpers.engine.hardware import choose_dtype
from helpers.model import GPT, GPTConfig
from helpers.pretrain import heldout_loss, next_token_loss, sinusoidal_start
from helpers.rows.build_shards import build
from helpers.rows.shards import ShardSet
from helpers.rows.vocabulary import choose_tokenizer
from helpers.training import Optimizers, autocast, schedule

TOKENS = 1_572_864  # N: 384 steps
SEEDS = (0, 1, 2)
SHARES = (1.0, 0.6, 0.5)  # of N, for the fast recipe
TARGET = 0.6
RATES = (1e-3, 2e-3, 4e-3, 8e-3)  # AdamW's, each with both schedules
CONTEXT, BATCH = 256, 16  # 4,096 tokens a step
HELDOUT, GLANCE, GLANCES = (
    200_000,
    40_000,
    8,
)  # tokens measured at the end, on the way, and how often that is
FAST = {
    "optimizer": "Muon",
    "lr": PretrainConfig.lr,
    "muon_lr": PretrainConfig.muon_lr,
    "schedule": "wsd",
}
WORK, OUT = ROOT / "runs" / "recipes", ROOT / "docs"


def cosine(step: int, steps: int, warmup: float = 0.05) -> float:
    """Factor on the rate: up as in `schedule`, then down to 0 along half a wave (Loshchilov and
    Hutter 2017).
    """
    rise = max(1, round(warmup * steps))
    return (
        (step + 1) / rise
        if step < rise
        else (1 + math.cos(math.pi * (step - rise) / (steps - rise))) / 2
    )


SCHEDULES = {"wsd": schedule, "cosine": cosine}


def train(
    shards: ShardSet, vocabulary: int, recipe: dict, tokens: int, seed: int, dtype: torch.dtype
) -> dict:
    """Train one model on so many tokens; returns the held-out loss at the end and on the way, and
    CPU seconds.
    """
    torch.manual_seed(seed)
    model = GPT(GPTConfig(vocabulary, CONTEXT, layers=4, heads=4, channels=128))
    sinusoidal_start(model)
    optimizers = Optimizers(model, recipe["lr"], recipe["muon_lr"])
    optimizers.products_in(dtype)
    steps = tokens // (BATCH * CONTEXT)
    measure = partial(heldout_loss, model, pad_id=0, dtype=dtype)
    few, curve, seconds = shards.heldout_rows(CONTEXT, GLANCE), [], 0.0
    for step in range(steps):
        start = time.process_time()
        with autocast("cpu", dtype):
            loss = next_token_loss(model, *shards.batch(step, BATCH, CONTEXT, seed))
        loss.backward()
        optimizers.step(SCHEDULES[recipe["schedule"]](step, steps))
        seconds += time.process_time() - start
        if (step + 1) * GLANCES // steps > step * GLANCES // steps:
            curve.append([(step + 1) * BATCH * CONTEXT, round(measure(few), 4)])
    end = measure(shards.heldout_rows(CONTEXT))
    return recipe | {
        "tokens": steps * BATCH * CONTEXT,
        "seed": seed,
        "heldout_loss": round(end, 4),
        "curve": curve,
        "cpu_seconds": round(seconds, 1),
    }


def remembered(path: Path, key: str, run) -> dict:
    """The result of `run()`, which is kept in a file, so that an interrupted benchmark goes on
    where it was.
    """
    done = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if key not in done:
        done[key] = run()
        write_json(path, done)
    print(f"{key}: {done[key]['heldout_loss']:.4f} ({done[key]['cpu_seconds']:.0f} s)", flush=True)
    return done[key]


def measure_all(tokens: int, seeds: tuple[int, ...], dtype: torch.dtype) -> dict:
    """Every run of the benchmark; returns what docs/recipes.json holds."""
    tokenizer = choose_tokenizer("tldr", "local", 4096, WORK / "tokenizer.json")
    lines = build(
        WORK / "shards",
        2 * tokens,
        tokenizer,
        source="local",
        heldout_tokens=HELDOUT,
        shard_tokens=10**6,
    )
    print(*lines, sep="\n")
    shards = ShardSet(WORK / "shards", tokenizer)

    def result(recipe: dict, share: float, seed: int) -> dict:
        key = (
            f"{recipe['optimizer']} {recipe['lr']:g} {recipe['schedule']}, {share:g} x "
            f"{tokens:,}, seed {seed}"
        )
        run = partial(
            train, shards, tokenizer.vocab_size, recipe, round(share * tokens), seed, dtype
        )
        return remembered(WORK / "runs.json", key, run)

    sweep = [
        result({"optimizer": "AdamW", "lr": rate, "muon_lr": 0.0, "schedule": name}, 0.5, seeds[0])
        for rate in RATES
        for name in SCHEDULES
    ]
    best = min(sweep, key=lambda run: run["heldout_loss"])
    adamw = {name: best[name] for name in FAST}
    runs = [result(adamw, 1.0, seed) for seed in seeds]
    runs += [result(FAST, share, seed) for share in SHARES for seed in seeds]
    reached = [share for share in SHARES if gap(runs, share, tokens) <= 0]
    return {
        "model": "4 layers x 128, vocabulary 4096",
        "rows": shards.manifest.made_from["data"],
        "dtype": str(dtype),
        "tokens": tokens,
        "tokens_a_step": BATCH * CONTEXT,
        "heldout_tokens": HELDOUT,
        "adamw_sweep": [
            {name: value for name, value in run.items() if name != "curve"} for run in sweep
        ],
        "summary": summary(runs),
        "gaps": {f"{share:g}": round(gap(runs, share, tokens), 4) for share in SHARES},
        "share_reached": min(reached, default=None),
        "target_share": TARGET,
        "runs": runs,
    }


def losses(runs: list[dict], optimizer: str, tokens: int) -> list[float]:
    """Held-out losses of an optimiser's runs of (about) so many tokens, one a seed."""
    return [
        run["heldout_loss"]
        for run in runs
        if run["optimizer"] == optimizer and abs(run["tokens"] - tokens) < BATCH * CONTEXT
    ]


def gap(runs: list[dict], share: float, tokens: int) -> float:
    """Mean loss of the fast recipe at this share of the tokens, minus AdamW's at all of them: 0 or
    less is reached.
    """
    mean = statistics.mean
    return mean(losses(runs, FAST["optimizer"], round(share * tokens))) - mean(
        losses(runs, "AdamW", tokens)
    )


def summary(runs: list[dict]) -> list[dict]:
    """Mean and standard deviation over the seeds, for each recipe and number of tokens."""
    found = []
    for optimizer, tokens in dict.fromkeys((run["optimizer"], run["tokens"]) for run in runs):
        values = losses(runs, optimizer, tokens)
        deviation = round(statistics.stdev(values), 4) if len(values) > 1 else None
        found.append(
            {
                "optimizer": optimizer,
                "tokens": tokens,
                "mean": round(statistics.mean(values), 4),
                "sd": deviation,
            }
        )
    return found


def draw(results: dict, path: Path) -> None:
    """The figure: a line a run, a dot where its schedule ends, AdamW's mean loss at its end as a
    level.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(7, 4))
    labels = {
        "AdamW": "AdamW, best of the sweep",
        "Muon": "Muon + AdamW (the fast recipe), three budgets",
    }
    for run in results["runs"]:
        colour = "tab:gray" if run["optimizer"] == "AdamW" else "tab:blue"
        label = labels.pop(run["optimizer"], None)
        x, y = zip(*((tokens / 1e6, loss) for tokens, loss in run["curve"]))
        axis.plot(x, y, color=colour, alpha=0.6, linewidth=1, label=label)
        axis.plot(x[-1], y[-1], "o", color=colour, markersize=4)
    level = [run["curve"][-1][1] for run in results["runs"] if run["optimizer"] == "AdamW"]
    axis.axhline(statistics.mean(level), color="tab:gray", linestyle=":", linewidth=1)
    axis.set(
        xlabel="tokens read, in millions",
        ylabel=f"loss on the first {GLANCE:,} held-out tokens",
        title=f"{results['model']}: {len(level)} seeds",
    )
    axis.legend(frameon=False, loc="upper right")
    figure.savefig(path, dpi=90, bbox_inches="tight")
    plt.close(figure)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=TOKENS, help="N (default: %(default)s)")
    parser.add_argument(
        "--seeds", type=int, default=len(SEEDS), help="how many (default: %(default)s)"
    )
    parser.add_argument(
        "--out", type=Path, default=OUT, help="for recipes.json and recipes.png (default: docs)"
    )
    args = parser.parse_args()
    torch.set_num_threads(1)
    results = measure_all(args.tokens, SEEDS[: args.seeds], choose_dtype(torch.device("cpu")))
    write_json(args.out / "recipes.json", results)
    draw(results, args.out / "recipes.png")
    for row in results["summary"]:
        print(
            f"{row['optimizer']:6} {row['tokens']:>10,} tokens  {row['mean']:.4f} (sd {row['sd']})"
        )
    reached = results["share_reached"]
    print(f"AdamW's loss at N is reached with {reached} N (target: {TARGET} N or less)")
    raise SystemExit(reached is None or reached > TARGET)


if __name__ == "__main__":
    main()
