"""A small GPT and rows of several lengths, for tests."""

import torch

from helpers.model import GPT, GPTConfig

SIZES = [
    GPTConfig(vocab_size=61, context=24, layers=1, heads=1, channels=8),
    GPTConfig(vocab_size=97, context=32, layers=2, heads=4, channels=32),
    GPTConfig(vocab_size=300, context=48, layers=4, heads=3, channels=48),
]
ROWS = [[5, 6, 7], [8, 9, 10, 11, 12, 13, 14], [15]]


def tiny(config: GPTConfig = SIZES[1], seed: int = 0) -> GPT:
    """A GPT with every weight random, biases and gains too, so that none can be forgotten."""
    torch.manual_seed(seed)
    model = GPT(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, mean=0.05, std=0.2)
    return model
