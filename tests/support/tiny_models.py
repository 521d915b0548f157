"""A small GPT and rows of several lengths, for tests."""

import torch

from helpers.model import GPT, GPTConfig
from helpers.run.checkpoints import to_transformers_state

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


def transformers_twin(model: GPT, attention: str = "eager"):
    """transformers' GPT-2 with the same weights, for which EOS is 0 and PAD is 1."""
    from transformers import GPT2Config, GPT2LMHeadModel

    size = model.config
    sizes = dict(n_positions=size.context, n_layer=size.layers, n_head=size.heads)
    sizes |= dict(vocab_size=size.vocab_size, n_embd=size.channels, attn_implementation=attention)
    twin = GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=0, eos_token_id=0, pad_token_id=1))
    missing, extra = twin.load_state_dict(to_transformers_state(model), strict=False)
    assert missing in ([], ["lm_head.weight"]) and not extra  # the head is tied to wte
    twin.tie_weights()
    return twin.eval()
