"""What is compared, at which sizes: each function returns ratios with their spread, speeds and
memory.

Training: 16 rows of 256 tokens. By default: the course's step (bfloat16 products where the CPU has
them, Muon and AdamW, gradients clipped) against transformers' GPT-2 in float32. At equal dtype:
both under autocast, both with AdamW.

Sampling: 64 prompts of 64 to 128 tokens, padded on the left to 128, 48 new tokens for each. By
default: bfloat16 weights where the CPU has them against generate() in float32, both with a cache.
At equal dtype: both bfloat16.

SFT: rows of 192 prompt and 64 completion tokens, the loss on the completion. Reward: 16 pairs of a
prompt of 96 and completions of 32 tokens. PPO: 64 prompts of 32 to 64 tokens, 64 new tokens each,
four models, 2 epochs of 2 minibatches. Each against TRL's trainer as it runs by default: bfloat16
autocast for SFT and reward, and for PPO float32, which is what its trainer does whatever it is
told.
"""

import math

from benchmarks.rounds import Times, Worker, in_turns, ratio
from benchmarks.shapes import BATCH, COMPARED, CONTEXT

SAMPLED = {"rows": 64, "length": 128, "new": 48}
AGAINST_TRL = {
    "sft": {"completion": 64},
    "reward": {"prompt": 96, "completion": 32},
    "ppo": {"rows": 64, "prompt": 64, "new": 64, "minibatch": 32, "epochs": 2},
}


def turns(ways: dict[str, tuple], rounds: int, threads: int) -> dict[str, Times]:
    """The times of ways given as (module and function, arguments) or (the same, another python).

    Each way runs in three processes, one after the other: a process can be a tenth faster or slower
    than its twin for as long as it lives.
    """
    found = {}
    for _ in range(3):
        workers = {
            n: Worker(f"benchmarks.{way[0]}", way[1], threads, *way[2:]) for n, way in ways.items()
        }
        times = in_turns(workers, math.ceil(rounds / 3))
        found = {name: found[name] + times[name] if found else times[name] for name in ways}
    return found


def detail(times: dict[str, Times], tokens: int) -> dict:
    """Tokens a second and memory of every way."""
    return {
        "tokens_per_second": {name: taken.speed(tokens) for name, taken in times.items()},
        "megabytes": {name: taken.megabytes for name, taken in times.items()},
    }


def training(rounds: int, threads: int) -> dict[str, dict]:
    """`train_step_vs_transformers`, `train_step_same_dtype`, and `muon_step_vs_torch`: stacking
    alike matrices.
    """
    default, same, muon = {}, {}, {}
    for size in COMPARED:
        ways = {
            "ours": ("ours:training", {"size": size}),
            "ours, AdamW": ("ours:training", {"size": size, "dtype": "bfloat16", "muon": False}),
            "transformers": ("theirs:training", {"size": size}),
            "transformers, bfloat16": ("theirs:training", {"size": size, "dtype": "bfloat16"}),
        }
        times = turns(ways, rounds, threads)
        default[size] = ratio(times["transformers"], times["ours"]) | detail(times, BATCH * CONTEXT)
        same[size] = ratio(times["transformers, bfloat16"], times["ours, AdamW"])
        ways = {name: (f"{name}:muon", {"size": size}) for name in ("ours", "theirs")}
        times = turns(ways, 5 * rounds, threads)
        muon[size] = ratio(times["theirs"], times["ours"])
    return {
        "train_step_vs_transformers": default,
        "train_step_same_dtype": same,
        "muon_step_vs_torch": muon,
    }


def sampling(rounds: int, threads: int) -> dict[str, dict]:
    """`sampling_vs_generate`, `sampling_same_dtype`, and what the cache gives."""
    default, same, cache = {}, {}, {}
    for size in COMPARED:
        ways = {
            "ours": ("ours:sampling", SAMPLED | {"size": size}),
            "ours, bfloat16": ("ours:sampling", SAMPLED | {"size": size, "dtype": "bfloat16"}),
            "ours, float32": ("ours:sampling", SAMPLED | {"size": size, "dtype": "float32"}),
            "generate()": ("theirs:sampling", SAMPLED | {"size": size}),
            "generate(), bfloat16": (
                "theirs:sampling",
                SAMPLED | {"size": size, "dtype": "bfloat16"},
            ),
        }
        times = turns(ways, rounds, threads)
        default[size] = ratio(times["generate()"], times["ours"]) | detail(
            times, SAMPLED["rows"] * SAMPLED["new"]
        )
        same[size] = ratio(times["generate(), bfloat16"], times["ours, bfloat16"])
        same[f"{size} float32"] = ratio(times["generate()"], times["ours, float32"])
    ways = {
        str(use): ("ours:sampling", SAMPLED | {"size": "4x128", "use_cache": use})
        for use in (True, False)
    }
    times = turns(ways, min(rounds, 3), threads)
    cache["4x128"] = ratio(times["False"], times["True"])
    return {
        "sampling_vs_generate": default,
        "sampling_same_dtype": same,
        "sampling_cache_vs_none": cache,
    }


def against_trl(rounds: int, threads: int, python: str) -> dict[str, dict]:
    """`sft_step_vs_trl`, `reward_step_vs_trl`, `ppo_step_vs_trl` and `ppo_step_same_optimizer`.

    python: that of TRL's environment.
    """
    found = {f"{stage}_step_vs_trl": {} for stage in AGAINST_TRL} | {"ppo_step_same_optimizer": {}}
    for stage, arguments in AGAINST_TRL.items():
        for size in COMPARED:
            arguments = arguments | {"size": size}
            ways = {
                "ours": (f"ours:{stage}", arguments),
                "TRL": (f"trl_side:{stage}", arguments, python),
            }
            if stage == "ppo":
                ways["ours, AdamW"] = (f"ours:{stage}", arguments | {"muon": False})
            times = turns(ways, max(3, rounds // 2) if stage == "ppo" else rounds, threads)
            megabytes = {name: taken.megabytes for name, taken in times.items()}
            found[f"{stage}_step_vs_trl"][size] = ratio(times["TRL"], times["ours"]) | {
                "megabytes": megabytes
            }
            if stage == "ppo":
                found["ppo_step_same_optimizer"][size] = ratio(times["TRL"], times["ours, AdamW"])
    return found


def growth(rounds: int, threads: int) -> dict[str, dict]:
    """Our training step with more rows, longer rows and larger models: tokens a second and
    memory.
    """
    found = {}
    varied = {
        "rows": (4, 8, 16, 32),
        "length": (64, 128, 256, 512),
        "size": ("2x64", "4x128", "6x256", "8x384"),
    }
    for name, values in varied.items():
        ways = {
            str(value): ("ours:training", {"size": "4x128"} | {name: value}) for value in values
        }
        times = turns(ways, min(rounds, 3), threads)
        found[name] = {
            value: {
                "tokens_per_second": taken.speed(tokens_of(name, value)),
                "megabytes": taken.megabytes,
            }
            for value, taken in times.items()
        }
    return {"growth": found}


def tokens_of(name: str, value: str) -> int:
    """Tokens of a training step in which one thing was changed."""
    return (int(value) if name == "rows" else BATCH) * (int(value) if name == "length" else CONTEXT)
