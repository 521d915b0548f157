"""The presets: what a machine, a source of rows and a track change in helpers/config.py.

    smoke   to see that everything runs: minutes on an embedded world, one minute on real rows
    cpu     the course, on two CPU cores; its defaults are those of helpers/config.py
    t4      one T4 (or another GPU with 15 GB or more), GPT-2 124M, real rows
    t4x2    Kaggle's two T4s: the settings of t4, two processes share the very same batches
    h100    one GPU with 80 GB

On an embedded world the three GPU presets are the cpu settings: that is all there is to learn. On
real rows they start 1-SFT from GPT-2 (`init`), with its tokenizer (`vocabulary` 0); 0-Pretrain
trains a model of the same size for a lesson's time. They follow published settings: AdamW
throughout from GPT-2 on, a rate of 5e-5 for SFT, 1e-5 for the reward model and PPO.
"""

from dataclasses import replace

import torch

from helpers.config import CONFIGS, SOURCES
from helpers.rows.tracks import TRACKS

H100_MEMORY = 79e9  # bytes that a GPU "with 80 GB" has at least
GPU_PRESETS = ("t4", "t4x2", "h100")
PRESETS = ("cpu", "smoke", *GPU_PRESETS)
Differences = dict[str, dict]  # stage -> field -> value; "responses": of all stages that sample

# ---------------------------------------------------------------- embedded worlds

ADVICE = {
    "pretrain": dict(documents=12_000),
    "sft": dict(demonstrations=8_000),
    "reward": dict(comparisons=8_000),
}
EMBEDDED: dict[str, Differences] = {  # of a track
    "sentiment": {
        "pretrain": dict(documents=12_000, batch_size=32),
        "sft": dict(demonstrations=12_000),
        "reward": dict(comparisons=8_000),
    },
    "assistant": ADVICE,
    "instruct": ADVICE,
}
SMOKE: Differences = {  # on top, on every embedded world
    "pretrain": dict(documents=3_000, epochs=1.0),
    "sft": dict(demonstrations=2_000, eval_prompts=100),
    "reward": dict(comparisons=1_200, epochs=1.0, batch_size=16, eval_prompts=64, best_of=4),
    "ppo": dict(iterations=6, rollout_size=64, eval_prompts=100),
}
SMOKE_OF: dict[str, Differences] = {  # of a track, on top of that
    "sentiment": {"pretrain": dict(documents=2_000)}  # short, and soon learned
}

# ---------------------------------------------------------------- real rows: two cores

SMALL_GPT = dict(layers=6, channels=256, eval_documents=40)  # six million parameters
GENTLE = dict(epochs=2, muon_lr=1.3e-3, kl_coef=0.1)
SMALL_ROLLOUTS = GENTLE | dict(iterations=20, rollout_size=32, minibatch_size=16, value_lr=1e-3)
REAL_ADVICE: Differences = {
    "pretrain": SMALL_GPT | dict(context=256, documents=2_000),
    "sft": dict(demonstrations=6_000),
    "reward": dict(comparisons=6_000, lr=3e-3, muon_lr=1e-2),
    "ppo": SMALL_ROLLOUTS,
}
REAL: dict[str, Differences] = {  # preset cpu
    "tldr": {
        "pretrain": SMALL_GPT | dict(context=512, documents=2_600, batch_size=8),
        "sft": dict(demonstrations=100_000, copying_rows=8_000, adapt_epochs=3.0),
        "reward": dict(comparisons=100_000, epochs=2.0, lr=3e-3, muon_lr=1e-2),
        "ppo": SMALL_ROLLOUTS,
    },
    "sentiment": {
        "pretrain": SMALL_GPT | dict(context=128, documents=1_300, batch_size=32),
        "sft": dict(demonstrations=100_000, epochs=3.0, batch_size=32),
        "reward": dict(pointwise=True, comparisons=100_000, epochs=3.0, lr=3e-3, muon_lr=1e-2),
        "ppo": GENTLE | dict(iterations=40, rollout_size=64, minibatch_size=32),
        "responses": dict(response_tokens=48),
    },
    "assistant": REAL_ADVICE,
    "instruct": REAL_ADVICE,
}
SMOKE_REAL: Differences = {  # preset smoke, every track
    "pretrain": dict(layers=2, heads=2, channels=64, context=192, vocabulary=1024)
    | dict(documents=100, eval_documents=10),
    "sft": dict(demonstrations=320, eval_prompts=16),
    "reward": dict(comparisons=320, muon_lr=1e-2, best_of=2, eval_prompts=16),
    "ppo": dict(iterations=2, rollout_size=16, minibatch_size=8, eval_prompts=12),
    "responses": dict(response_tokens=24),
}
SMOKE_REAL_OF: dict[str, Differences] = {
    "tldr": {"sft": dict(copying_rows=64, adapt_epochs=0.2)},
    "sentiment": {"reward": dict(pointwise=True)},
}

# ---------------------------------------------------------------- real rows: GPUs

GPT2_124M = dict(layers=12, heads=12, channels=768, vocabulary=0, lr=2e-3, muon_lr=1e-2)
ADAMW = dict(muon_lr=0.0)  # for weights that are trained already
LORA = dict(adapter_lr=2e-4)  # where RLHF_ADAPTER or the track asks for adapters
T4: Differences = {  # every track; micro_batch is what fits
    "pretrain": GPT2_124M
    | dict(documents=20_000, eval_documents=200, batch_size=32, micro_batch=8),
    "sft": ADAMW
    | LORA
    | dict(init="gpt2", batch_size=32, micro_batch=16, lr=5e-5, train_embeddings=False),
    "reward": ADAMW | dict(batch_size=32, micro_batch=16, lr=1e-5),
    "ppo": ADAMW
    | LORA
    | dict(iterations=150, rollout_size=32, minibatch_size=8, epochs=2)
    | dict(lr=1e-5, value_lr=1e-5, kl_coef=0.05),
}
H100: Differences = {  # on top of T4
    "pretrain": dict(documents=80_000, eval_documents=500, batch_size=64, micro_batch=32),
    "sft": dict(micro_batch=0, eval_prompts=1000),
    "reward": dict(batch_size=64, micro_batch=32, eval_prompts=1000),
    "ppo": dict(rollout_size=128, minibatch_size=32, eval_prompts=1000),
}
# Of a track, on both: whole data sets for one epoch where that is an hour or less on a T4. context:
# the longest prompt and response (prompts of 512 and summaries of 64 tokens in tldr).
GPU: dict[str, Differences] = {
    "tldr": {
        "pretrain": dict(context=576),
        "sft": dict(demonstrations=116_722),
        "reward": dict(comparisons=92_534),
    },
    "sentiment": {
        "pretrain": dict(context=128),
        "sft": dict(demonstrations=67_349, epochs=2.0, micro_batch=0),
        "reward": dict(pointwise=True, comparisons=67_349, micro_batch=0),
        "ppo": dict(rollout_size=128, minibatch_size=32, kl_coef=0.1),
        "responses": dict(response_tokens=48),
    },
    "assistant": {
        "pretrain": dict(context=512),
        "sft": dict(adapter="lora", rank=32, alpha=64.0, demonstrations=52_002, epochs=2.0),
        "reward": dict(comparisons=76_256),
        "responses": dict(response_tokens=128),
    },
    "instruct": {
        "pretrain": dict(context=512),
        "sft": dict(demonstrations=33_143, epochs=2.0),
        "reward": dict(comparisons=33_143),
        "responses": dict(response_tokens=128),
    },
}


def differences(preset: str, source: str, track: str, stage: str) -> dict:
    """The fields of a stage that differ from the defaults; later layers win over earlier ones."""
    if source == "embedded":
        layers = [EMBEDDED.get(track, {})]
        if preset == "smoke":
            layers += [SMOKE, SMOKE_OF.get(track, {})]
    elif preset == "cpu":
        layers = [REAL.get(track, {})]
    elif preset == "smoke":
        layers = [SMOKE_REAL, SMOKE_REAL_OF.get(track, {})]
    else:
        layers = [T4, H100 if preset == "h100" else {}, GPU[track]]
    fields: dict = {}
    for layer in layers:
        fields |= layer.get(stage, {})
        if stage != "pretrain":
            fields |= layer.get("responses", {})
    return fields


def load_config(
    stage: str, preset: str = "cpu", track: str = "tldr", seed: int = 0, source: str = "embedded"
):
    """The settings of a stage ("pretrain", "sft", "reward" or "ppo").

    Raises ValueError with the names to choose from for an unknown stage, preset, track or source.
    """
    names = {"stage": stage, "preset": preset, "track": track, "source": source}
    for (kind, name), valid in zip(names.items(), (CONFIGS, PRESETS, TRACKS, SOURCES)):
        if name not in valid:
            raise ValueError(f"no {kind} {name!r}: choose from {', '.join(valid)}")
    return replace(CONFIGS[stage](**differences(preset, source, track, stage)), seed=seed)


def choose_init(init: str | None, preset: str, track: str, source: str) -> str:
    """What 1-SFT starts from: `init`, else the preset's choice.

    Raises ValueError on an embedded world for anything but the run's own base model.
    """
    init = init or load_config("sft", preset, track, source=source).init
    if init != "pretrain" and source == "embedded":
        raise ValueError(
            f"init {init}: an embedded world has a tokenizer of its own, which these weights do "
            "not know; take real rows (RLHF_DATA_DIR or RLHF_SOURCE=hub) or init pretrain"
        )
    return init


def choose_preset(named: str | None, source: str, device: torch.device) -> tuple[str, str]:
    """The preset and the reason for it. A named one wins; embedded worlds take `cpu` everywhere."""
    if named:
        return named, ""
    if source == "embedded":
        return "cpu", ""
    if device.type != "cuda":
        return "cpu", "there is no CUDA device"
    gpu, count = torch.cuda.get_device_properties(device), torch.cuda.device_count()
    if torch.cuda.get_device_capability(device)[0] >= 8 and gpu.total_memory >= H100_MEMORY:
        return "h100", "a GPU with 80 GB"
    if count > 1:
        return "t4x2", f"{count} GPUs; training takes all"
    return "t4", "a GPU with less than 80 GB"
