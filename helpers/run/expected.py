"""What a GPU preset will take, in minutes and gigabytes: counted, not measured. `python -m
helpers budget`.

Minutes are floating-point operations over a stated throughput, plus a stated time for each sampled
token's step. They are for weighing one preset against another; the progress lines of a run tell the
truth.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from helpers.engine.parser import Parser
from helpers.model import GPTConfig
from helpers.rows.tracks import TRACKS
from helpers.run.memory import matrices, ppo_bytes, training_bytes
from helpers.run.presets import load_config


@dataclass(frozen=True)
class Machine:
    """What one GPU is taken to do with a GPT-2 124M in plain PyTorch."""

    half: float  # operations a second with 16-bit products: a fifth of the peak
    single: float  # and in float32, as PPO computes
    step: float  # seconds that a step of sampling takes at least: starting some hundred kernels
    memory: float  # gigabytes
    gpus: int = 1  # that share the training; sampling and measuring take one


# A fifth of a T4's 65 TFLOP/s is 16,000 tokens a second, about what popboat1's run on two of them
# comes to for each.
T4, H100 = Machine(13e12, 4e12, 0.015, 15), Machine(200e12, 100e12, 0.010, 80)
MACHINES = {"t4": T4, "t4x2": replace(T4, gpus=2), "h100": H100}
# Mean tokens by GPT-2's tokenizer on some hundred rows of each kind: prompt, completion, other
# completion of a pair.
LENGTHS = {
    "tldr": (345, 35, 35),
    "sentiment": (5, 18, 0),
    "assistant": (24, 56, 330),
    "instruct": (44, 116, 71),
}
LONGEST_PROMPT = {"sentiment": 16}  # where that is not what the context leaves beside the response
DOCUMENT = 1000  # tokens of a FineWeb-Edu document


def expected(preset: str, track: str) -> dict[str, tuple[float, float]]:
    """{stage: (minutes, gigabytes)} of a GPU preset on real rows. Raises ValueError for a preset
    without a GPU.
    """
    if preset not in MACHINES:
        raise ValueError(
            f"nothing is counted for preset {preset!r}: choose from {', '.join(MACHINES)}"
        )
    made = {
        stage: load_config(stage, preset, track, source="hub")
        for stage in ("pretrain", "sft", "reward", "ppo")
    }
    machine, pretrain = MACHINES[preset], made["pretrain"]
    own = GPTConfig(50258, pretrain.context, pretrain.layers, pretrain.heads, pretrain.channels)
    gpt2 = GPTConfig(50258, 1024)
    seconds = {
        "pretrain": pretrain_seconds(machine, own, pretrain),
        "sft": sft_seconds(machine, gpt2, made["sft"], track),
        "reward": reward_seconds(machine, gpt2, made["reward"], track),
        "ppo": ppo_seconds(
            machine, gpt2, made["ppo"], rollout_length(made, track), made["reward"].best_of
        ),
    }
    memory = stage_bytes(own, gpt2, made, track)
    return {stage: (seconds[stage] / 60, memory[stage] / 1e9) for stage in seconds}


def operations(
    model: GPTConfig, tokens: float, guessed: float, length: float, training: bool
) -> float:
    """Of one pass over tokens in rows of a length: two a weight and token, and attention; three
    times that to learn.
    """
    attention = 2 * model.layers * model.channels * length  # half of the keys, on average
    forward = (
        tokens * (2 * matrices(model) + attention) + guessed * 2 * model.vocab_size * model.channels
    )
    return (3 if training else 1) * forward


def sampling_seconds(
    machine: Machine, model: GPTConfig, prompts: int, length: int, new: int, rows: int = 128
) -> float:
    """Sample `new` tokens behind so many prompts, `rows` at a time."""
    steps = -(-prompts // rows) * new
    return (
        steps * machine.step
        + operations(model, prompts * length, prompts * new, length, False) / machine.single
    )


def pretrain_seconds(machine: Machine, model: GPTConfig, config) -> float:
    """Each token is guessed."""
    tokens = config.documents * config.epochs * DOCUMENT
    return operations(model, tokens, tokens, config.context, True) / machine.half / machine.gpus


def sft_seconds(machine: Machine, model: GPTConfig, config, track: str) -> float:
    """Completions are guessed, prompts read."""
    prompt, completion, _ = LENGTHS[track]
    rows, length = config.demonstrations * config.epochs, prompt + completion
    learning = operations(model, rows * length, rows * completion, length, True) / machine.half
    measuring = sampling_seconds(
        machine, model, config.eval_prompts, length, config.response_tokens
    )
    return learning / machine.gpus + measuring


def reward_seconds(machine: Machine, model: GPTConfig, config, track: str) -> float:
    """A row is a pair, or for labels one text."""
    prompt, completion, other = LENGTHS[track]
    length = prompt + completion + (0 if config.pointwise else other)
    rows = config.comparisons * config.epochs
    guessed = rows * (length - prompt) if config.lm_coef else 0
    learning = operations(model, rows * length, guessed, length, True) / machine.half
    measuring = sampling_seconds(
        machine, model, config.eval_prompts, length, config.response_tokens
    )
    return learning / machine.gpus + measuring


def rollout_length(made: dict, track: str) -> int:
    """Tokens of the longest prompt and response."""
    context, new = made["pretrain"].context, made["ppo"].response_tokens
    return LONGEST_PROMPT.get(track, context - new) + new


def ppo_seconds(machine: Machine, model: GPTConfig, config, length: int, best_of: int) -> float:
    """Rollouts, padded to a length; four models read them, two learn; then the policies side by
    side.
    """
    rows, new = config.rollout_size, config.response_tokens
    share = rows // machine.gpus  # of each rollout
    once = sampling_seconds(machine, model, share, length - new, new, share)
    read = 4 * operations(
        model, share * length, share * new / 2, length, False
    )  # two of them with logits
    learn = config.epochs * 2 * operations(model, share * length, share * new / 2, length, True)
    samples = config.eval_prompts * (3 + best_of)
    measuring = sampling_seconds(machine, model, samples, length - new, new)
    return config.iterations * (once + (read + learn) / machine.single) + measuring


def stage_bytes(own: GPTConfig, gpt2: GPTConfig, made: dict, track: str) -> dict[str, int]:
    """The memory of each stage at its longest rows."""
    pretrain, sft, reward, ppo = made["pretrain"], made["sft"], made["reward"], made["ppo"]
    at_once = {
        stage: config.micro_batch or config.batch_size
        for stage, config in made.items()
        if stage != "ppo"
    }
    context, new = pretrain.context, sft.response_tokens
    pair = (
        context if reward.pointwise else context + new
    )  # the rejected completion stands behind the chosen one
    own_tokens = at_once["pretrain"] * context
    return {
        "pretrain": training_bytes(own, own_tokens, own_tokens, 16, pretrain.muon_lr > 0),
        "sft": training_bytes(
            gpt2, at_once["sft"] * context, at_once["sft"] * new, 16, sft.muon_lr > 0
        ),
        "reward": training_bytes(gpt2, at_once["reward"] * pair, 0, 16, reward.muon_lr > 0),
        "ppo": ppo_bytes(gpt2, ppo, rollout_length(made, track)),
    }


def main(argv: Sequence[str] | None = None) -> None:
    """`python -m helpers budget`: all GPU presets."""
    Parser(
        prog="python -m helpers budget", description="Minutes and memory, counted, of GPU presets."
    ).parse_args(argv)
    print("counted, not measured        pretrain          sft       reward          ppo   together")
    for preset in MACHINES:
        for track in TRACKS:
            found = expected(preset, track)
            cells = "".join(f"{minutes:6.0f} min{gb:4.0f}" for minutes, gb in found.values())
            print(
                f"{preset:5} {track:10} min, GB {cells}{sum(m for m, _ in found.values()):8.0f} min"
            )
