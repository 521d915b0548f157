"""What tests of the lesson share: no windows, the tokenizer, a model, a rollout, some rows."""

import matplotlib
import pytest
import torch

from helpers import rollouts
from helpers.losses import gae
from helpers.model import GPT, GPTConfig
from helpers.rows.embedded import load_rows, load_tokenizer

matplotlib.use("Agg")


@pytest.fixture(scope="session")
def tokenizer():
    return load_tokenizer()


@pytest.fixture(scope="session")
def prompts():
    return load_rows("prompts", "heldout", limit=4)


@pytest.fixture(scope="session")
def comparisons():
    return load_rows("comparisons", "heldout", limit=30)


@pytest.fixture(scope="session")
def demonstration():
    return load_rows("demonstrations", "heldout", limit=1)[0]


@pytest.fixture
def model(tokenizer):
    """A small model. A fresh one's attention is nearly even: its heads are made to differ to the
    eye.
    """
    model = GPT(GPTConfig(tokenizer.vocab_size, context=64, layers=2, heads=2, channels=16))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(8.0)
    return model


@pytest.fixture
def rollout(tokenizer):
    """Two made-up responses, of 5 and of 3 tokens, after a prompt of 2."""
    texts = [" My boss is loud?", " No."]
    rows = [tokenizer.encode(text) + [tokenizer.eos_id] for text in texts]
    R = max(map(len, rows))
    ids = torch.tensor([[5, 6, *row, *[tokenizer.pad_id] * (R - len(row))] for row in rows])
    mask = ids != tokenizer.pad_id
    logprobs, ref, values = (torch.randn(2, R) for _ in range(3))
    advantages, returns = gae(torch.randn(2, R), values, mask[:, 2:])
    earned = torch.randn(2, R) * mask[:, 2:]
    return rollouts.Rollout(
        batch=rollouts.Batch(ids, mask, 2),
        scores=earned.sum(1),
        earned=earned,
        stopped=torch.tensor([True, True]),
        logprobs=logprobs,
        ref_logprobs=ref,
        values=values,
        advantages=advantages,
        returns=returns,
        entropy=torch.rand(2, R),
    )
