"""A run folder with small random models, for tests of the demo."""

from pathlib import Path

import torch

from helpers.model import GPT, GPTConfig, RewardModel
from helpers.rows.embedded import load_tokenizer
from tests.support.saved import save

STAGES = ("pretrain", "sft", "reward", "ppo")


def make_run(folder: Path, track: str = "tldr", stages=STAGES) -> Path:
    """Write the checkpoints of these stages; returns the folder."""
    tokenizer = load_tokenizer(track)
    config = {"source": "embedded", "preset": "smoke", "seed": 0, "response_tokens": 24}
    parent = None
    for number, stage in enumerate(STAGES):
        if stage not in stages:
            continue
        torch.manual_seed(number)
        model = GPT(GPTConfig(tokenizer.vocab_size, context=128, layers=1, heads=2, channels=16))
        with torch.no_grad():  # fresh models are nearly alike: make them differ
            for parameter in model.parameters():
                parameter.mul_(8.0)
            model.ln_f.bias.copy_(0.2 * model.wte.weight[tokenizer.eos_id])  # some answers end
        place = folder / "checkpoints" / stage
        model = RewardModel(model) if stage == "reward" else model
        save(place, model, tokenizer, stage, track=track, config=config, parent=parent)
        parent = folder / "checkpoints" / ("sft" if stage == "reward" else stage)
        parent = parent if parent.exists() else None
    return folder
