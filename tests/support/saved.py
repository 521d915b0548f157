"""Checkpoints for tests."""

from pathlib import Path

import torch

from helpers.model import GPT, GPTConfig, RewardModel
from helpers.run.checkpoints import save_stage


def save(folder: Path, model, tokenizer, stage: str = "sft", **facts) -> None:
    """Write a checkpoint; facts: those that matter to the test, the others are empty."""
    empty = dict(track="tldr", config={}, metrics={}, parent=None, data_fingerprint="")
    save_stage(folder, model, tokenizer, stage=stage, **empty | facts)


def save_random_course(folder: Path, tokenizer) -> None:
    """The SFT and reward checkpoints of a run folder: random models of one layer."""
    torch.manual_seed(0)
    gpt = GPT(GPTConfig(tokenizer.vocab_size, 192, 1, 2, 16))
    save(folder / "checkpoints" / "sft", gpt, tokenizer)
    save(folder / "checkpoints" / "reward", RewardModel(gpt), tokenizer, stage="reward")
