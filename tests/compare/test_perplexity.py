"""Nats of responses against a plain loop, and perplexity by hand."""

import math

import pytest
import torch

from helpers.compare.perplexity import perplexity, perplexity_ci95, response_nats
from helpers.model import GPT, GPTConfig
from helpers.records import Prompt
from helpers.rows.embedded import load_tokenizer
from tests.support.tensors import shaken

PROMPTS = [
    Prompt(text)
    for text in ("POST: My dog barks.", "TL;DR:", "POST: I am tired of the door and of it all.")
]
TEXTS = [" The dog.", " A much longer answer that goes on for a while.", " x"]


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer()


@pytest.fixture
def model(tokenizer) -> GPT:
    return shaken(
        GPT(GPTConfig(tokenizer.vocab_size, context=64, layers=2, heads=2, channels=16)), 0.2
    )


def test_nats_are_those_of_one_token_after_the_other(model, tokenizer):
    ids = [tokenizer.encode(text) + [tokenizer.eos_id] for text in TEXTS]
    ids[2] = ids[2][:-1]  # one that never stopped
    expected = []
    for prompt, response in zip(PROMPTS, ids):
        read, total = tokenizer.encode(prompt.prompt), 0.0
        for token in response:
            total -= model(torch.tensor([read]))[0, -1].log_softmax(-1)[token].item()
            read = [*read, token]
        expected.append(total)
    for size in (1, 2, 3):
        nats, tokens = response_nats(model, tokenizer, PROMPTS, ids, batch_size=size)
        assert nats.tolist() == pytest.approx(expected, rel=1e-4)
        assert tokens.tolist() == [len(response) for response in ids]


def test_a_model_without_an_opinion_has_the_vocabulary_as_perplexity(tokenizer):
    model = GPT(GPTConfig(tokenizer.vocab_size, context=64, layers=1, heads=1, channels=8))
    torch.nn.init.zeros_(model.wte.weight)
    nats, tokens = response_nats(
        model, tokenizer, PROMPTS, [tokenizer.encode(text) for text in TEXTS]
    )
    assert perplexity(nats, tokens) == pytest.approx(tokenizer.vocab_size, rel=1e-4)


def test_perplexity_weighs_tokens_not_responses():
    nats, tokens = torch.tensor([math.log(2), 3 * math.log(8)]), torch.tensor([1, 3])
    assert perplexity(nats, tokens) == pytest.approx(2 ** ((1 + 9) / 4))
    low, high = perplexity_ci95(nats.repeat(50), tokens.repeat(50))
    assert 4 < low < perplexity(nats, tokens) < high < 8
    assert perplexity_ci95(nats[:1].repeat(9), tokens[:1].repeat(9)) == pytest.approx([2, 2])


def test_bad_rows_are_refused(model, tokenizer):
    with pytest.raises(ValueError, match="3 prompts, but 2 responses"):
        response_nats(model, tokenizer, PROMPTS, [[5], [6]])
    with pytest.raises(ValueError, match="row 1: the response has no token"):
        response_nats(model, tokenizer, PROMPTS[:2], [[5], []])
    with pytest.raises(ValueError, match="row 0: the prompt has no token"):
        response_nats(model, tokenizer, [Prompt("")], [[5]])
