"""Every setting of every stage: one frozen dataclass a stage. Their defaults are the preset `cpu`."""

import os
from dataclasses import dataclass, replace

from helpers.presets import PRESETS, TRACKS, differences

SOURCES = ("embedded", "local", "hub")  # where rows come from: the track's own world, a folder, the Hugging Face Hub


@dataclass(frozen=True)
class PretrainConfig:
    """0-Pretrain: a GPT-2 from random weights on documents."""

    layers: int = 4
    heads: int = 4
    channels: int = 128  # width
    context: int = 256  # tokens: longest document, or prompt and response together
    vocabulary: int = 4096  # tokens of the vocabulary made from real rows (embedded worlds have their own); 0: GPT-2's
    documents: int = 16_000  # training documents, each read `epochs` times
    eval_documents: int = 500  # held-out documents for the loss
    epochs: float = 1.0
    batch_size: int = 16  # documents a step
    micro_batch: int = 0  # of these, how many the memory holds at once (0: all); the step stays the same
    lr: float = 1e-2  # AdamW: embeddings, norms, biases
    muon_lr: float = 2e-2  # Muon: matrices of the blocks
    seed: int = 0

    def __post_init__(self) -> None:
        if self.context % 16:
            raise ValueError(f"context must be a multiple of 16, which batches are padded to, not {self.context}")


@dataclass(frozen=True)
class SFTConfig:
    """1-SFT: the base model learns the completion of a prompt from demonstrations."""

    init: str = "pretrain"  # the base model: 0-Pretrain's, or "gpt2", a folder, a .pt file (helpers/base.py)
    demonstrations: int = 12_000
    epochs: float = 1.0
    batch_size: int = 16  # demonstrations a step
    micro_batch: int = 0  # of these, how many the memory holds at once (0: all)
    lr: float = 3e-3
    muon_lr: float = 1e-2
    response_tokens: int = 64  # longest sampled response
    eval_prompts: int = 500  # held-out prompts that are sampled and judged
    seed: int = 0


@dataclass(frozen=True)
class RewardConfig:
    """2-RM-Training: the SFT model with a scalar head learns which of two completions annotators prefer."""

    comparisons: int = 15_000
    epochs: float = 1.0
    batch_size: int = 32  # pairs a step: to see that two words are the same takes a steady gradient
    micro_batch: int = 0  # of these, how many the memory holds at once (0: all)
    lr: float = 3e-3
    muon_lr: float = 1e-2
    pointwise: bool = False  # learn from single texts with labels (records "labels") instead of pairs
    lm_coef: float = 0.5  # weight of the language-model loss on both completions, beside the pairwise loss
    best_of: int = 8  # samples a prompt for best-of-n
    response_tokens: int = 64
    eval_prompts: int = 500
    seed: int = 0


@dataclass(frozen=True)
class PPOConfig:
    """3-PPO: the policy learns from the reward model's scores, held near the SFT model by a KL penalty."""

    iterations: int = 22
    rollout_size: int = 64  # prompts, with one response each, an iteration
    minibatch_size: int = 32  # responses a gradient step
    epochs: int = 2  # times that each rollout is used
    lr: float = 1e-3
    muon_lr: float = 2e-3
    value_lr: float = 1e-3
    value_muon_lr: float = 2e-3
    kl_coef: float = 0.3  # weight of the per-token KL penalty in the reward (score units per nat)
    gamma: float = 1.0
    lam: float = 0.95
    clip_range: float = 0.2  # of the probability ratio
    value_clip: float = 0.2  # in score units
    missing_eos_score: float = -3.0  # replaces the score of a response that never ended
    response_tokens: int = 64
    eval_prompts: int = 500
    seed: int = 0


CONFIGS = {"pretrain": PretrainConfig, "sft": SFTConfig, "reward": RewardConfig, "ppo": PPOConfig}

def default_source() -> str:
    """Where rows come from unless a call says so: RLHF_SOURCE, else "local" if RLHF_DATA_DIR is set, or "embedded"."""
    return os.environ.get("RLHF_SOURCE") or ("local" if os.environ.get("RLHF_DATA_DIR") else "embedded")


def load_config(stage: str, preset: str = "cpu", track: str = "tldr", seed: int = 0, source: str = "embedded"):
    """The settings of a stage ("pretrain", "sft", "reward" or "ppo").

    Raises ValueError with the names to choose from for an unknown stage, preset, track or source.
    """
    asked = (
        ("stage", stage, CONFIGS),
        ("preset", preset, PRESETS),
        ("track", track, TRACKS),
        ("source", source, SOURCES),
    )
    for what, name, names in asked:
        if name not in names:
            raise ValueError(f"no {what} {name!r}: choose from {', '.join(names)}")
    return replace(CONFIGS[stage](**differences(preset, source, track, stage)), seed=seed)


def default_init(preset: str, track: str, source: str) -> str:
    """What 1-SFT starts from: RLHF_INIT, else the preset's. Raises ValueError on an embedded world for GPT-2."""
    init = os.environ.get("RLHF_INIT", "").strip() or load_config("sft", preset, track, source=source).init
    if init != "pretrain" and source == "embedded":
        raise ValueError(
            f"RLHF_INIT={init}: an embedded world has a tokenizer of its own, which these weights don't know; take "
            "real rows (RLHF_DATA_DIR or RLHF_SOURCE=hub) or RLHF_INIT=pretrain"
        )
    return init
