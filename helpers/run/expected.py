"""Minutes and gigabytes that a GPU preset will take, counted, not measured: `python -m helpers
budget`. They are for weighing one preset against another.

Minutes are floating-point operations over a stated throughput, plus a stated time for each step of
sampling.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from helpers.engine.parser import Parser
from helpers.model import GPTConfig
from helpers.rows.tracks import TRACKS
from helpers.run.folders import NOTEBOOKS
from helpers.run.memory import (
    LOGIT,
    matrices,
    ppo_notebook_bytes,
    sampling_bytes,
    state_bytes,
    training_bytes,
)
from helpers.run.presets import load_config


@dataclass(frozen=True)
class Machine:
    """What one GPU is taken to do with a GPT-2 124M in plain PyTorch."""

    half: float  # operations per second with 16-bit products: a fifth of the peak
    single: float  # and in float32 without TF32, as PPO computes: half of the peak
    step: float  # seconds of one sampling step, at least: the launch of some hundred kernels
    memory: float  # gigabytes
    gpus: int = 1  # that share the training; sampling and measuring take one


# A fifth of a T4's 65 TFLOP/s is 16,000 tokens per second, as popboat1's run on two T4s shows. In
# float32 the peaks are 8.1 TFLOP/s and, without TF32, 67 TFLOP/s.
T4, H100 = Machine(13e12, 4e12, 0.015, 15), Machine(200e12, 33e12, 0.010, 80)
MACHINES = {"t4": T4, "t4x2": replace(T4, gpus=2), "h100": H100}
# Mean GPT-2 tokens of prompt, completion and a pair's other completion, on some hundred rows.
LENGTHS = {
    "tldr": (345, 35, 35),
    "sentiment": (5, 18, 0),
    "assistant": (24, 56, 330),
    "instruct": (44, 116, 71),
}
LONGEST_PROMPT = {"sentiment": 16}  # where that is not what the context leaves beside the response
DOCUMENT = 1000  # tokens of a FineWeb-Edu document
GPT2 = GPTConfig(50258, 1024)


def expected(preset: str, track: str) -> dict[str, tuple[float, float]]:
    """{stage: (minutes, gigabytes)} of a GPU preset on real rows; ValueError for other presets."""
    if preset not in MACHINES:
        raise ValueError(
            f"nothing is counted for preset {preset!r}: choose from {', '.join(MACHINES)}"
        )
    configs = {stage: load_config(stage, preset, track, source="hub") for stage in NOTEBOOKS}
    seconds, memory = stage_seconds(MACHINES[preset], configs, track), stage_bytes(configs, track)
    return {stage: (seconds[stage] / 60, memory[stage] / 1e9) for stage in NOTEBOOKS}


def pretrained_config(config) -> GPTConfig:
    """The sizes of 0-Pretrain's model."""
    return GPTConfig(50258, config.context, config.layers, config.heads, config.channels)


def longest_rollout(configs: dict, track: str) -> int:
    """Tokens of the longest prompt and response."""
    context, new = configs["pretrain"].context, configs["ppo"].response_tokens
    return LONGEST_PROMPT.get(track, context - new) + new


# ---------------------------------------------------------------- time


def operations(
    model: GPTConfig, tokens: float, predicted: float, length: float, training: bool
) -> float:
    """Of one pass over tokens in rows of a length, of which `predicted` get logits: two per weight
    and token, and attention; three times that to learn.
    """
    attention = 2 * model.layers * model.channels * length  # half of the keys, on average
    logits = predicted * 2 * model.vocab_size * model.channels
    return (3 if training else 1) * (tokens * (2 * matrices(model) + attention) + logits)


def sampling_seconds(
    machine: Machine, prompts: int, length: int, new: int, rows: int = 128
) -> float:
    """Sample `new` tokens behind so many prompts, `rows` at a time."""
    steps = -(-prompts // rows) * new
    work = operations(GPT2, prompts * length, prompts * new, length, False)
    return steps * machine.step + work / machine.single


def stage_seconds(machine: Machine, configs: dict, track: str) -> dict[str, float]:
    """The time of each stage: training, shared by the GPUs, then measuring on one."""
    pretrain, sft, reward, ppo = (configs[stage] for stage in NOTEBOOKS)
    prompt, completion, other = LENGTHS[track]
    other = 0 if reward.pointwise else other
    length, pair = prompt + completion, prompt + completion + other
    tokens, rows = pretrain.documents * pretrain.epochs * DOCUMENT, sft.demonstrations * sft.epochs
    pairs = reward.comparisons * reward.epochs
    pair_logits = pairs * (pair - prompt) if reward.surprise_weight else 0
    training = {
        "pretrain": operations(pretrained_config(pretrain), tokens, tokens, pretrain.context, True),
        "sft": operations(GPT2, rows * length, rows * completion, length, True),
        "reward": operations(GPT2, pairs * pair, pair_logits, pair, True),
    }
    seconds = {stage: work / machine.half / machine.gpus for stage, work in training.items()}
    seconds["sft"] += sampling_seconds(machine, sft.eval_prompts, length, sft.response_tokens)
    seconds["reward"] += sampling_seconds(
        machine, reward.eval_prompts, pair, reward.response_tokens
    )
    seconds["ppo"] = ppo_seconds(machine, ppo, longest_rollout(configs, track), reward.best_of)
    return seconds


def ppo_seconds(machine: Machine, config, length: int, best_of: int) -> float:
    """Rollouts, padded to a length; four models read them, two learn; then the measuring."""
    new, share = config.response_tokens, config.rollout_size // machine.gpus
    rollout = sampling_seconds(machine, share, length - new, new, share)
    sizes = GPT2, share * length, share * new / 2, length  # two of four models compute logits
    work = 4 * operations(*sizes, False) + config.epochs * 2 * operations(*sizes, True)
    measuring = sampling_seconds(machine, config.eval_prompts * (3 + best_of), length - new, new)
    return config.iterations * (rollout + work / machine.single) + measuring


# ---------------------------------------------------------------- memory


def stage_bytes(configs: dict, track: str) -> dict[str, int]:
    """The memory of each notebook at its longest rows: of the training, and of the other models
    that it holds (1-SFT: base and one without EOS; 2-RM-Training: SFT and a weak reward model), or
    of the sampling at its end.
    """
    pretrain, sft, reward, ppo = (configs[stage] for stage in NOTEBOOKS)
    context, new = pretrain.context, sft.response_tokens
    pair = context if reward.pointwise else context + new  # the rejected completion comes last
    scored = context if reward.pointwise else 2 * new  # tokens whose log-probability is read
    pretrained, one = pretrained_config(pretrain), state_bytes(GPT2, False, trained=False)
    measuring = 4 * one + sampling_bytes(GPT2, longest_rollout(configs, track))

    def training(model: GPTConfig, config, length: int, predicted: int) -> int:
        rows = config.micro_batch or config.batch_size
        return training_bytes(model, rows * length, rows * predicted, 16, config.muon_lr > 0)

    logits = LOGIT * (reward.micro_batch or reward.batch_size) * scored * GPT2.vocab_size
    return {
        "pretrain": training(pretrained, pretrain, context, context),
        "sft": max(training(GPT2, sft, context, new) + 2 * one, measuring),
        "reward": max(training(GPT2, reward, pair, 0) + logits + 2 * one, measuring),
        "ppo": max(ppo_notebook_bytes(GPT2, ppo, reward, longest_rollout(configs, track)).values()),
    }


def main(argv: Sequence[str] | None = None) -> None:
    """`python -m helpers budget`: all GPU presets."""
    text = "Minutes and memory, counted, of GPU presets."
    Parser(prog="python -m helpers budget", description=text).parse_args(argv)
    print("counted, not measured        pretrain          sft       reward          ppo   together")
    for preset in MACHINES:
        for track in TRACKS:
            counts = expected(preset, track).values()
            cells = "".join(f"{minutes:6.0f} min{gigabytes:4.0f}" for minutes, gigabytes in counts)
            total = sum(minutes for minutes, _ in counts)
            print(f"{preset:5} {track:10} min, GB {cells}{total:8.0f} min")
