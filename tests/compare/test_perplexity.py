"""Nats of responses against a plain loop, and perplexity by hand."""

import math

import pytest
import torch

from helpers.compare.perplexity import perplexity, perplexity_ci95, response_nats
from helpers.model import GPT, GPTConfig
from helpers.records import Prompt
from helpers.rows.embedded import load_tokenizer
from tests.support.tensors import shaken

TOKENIZER = load_tokenizer()
TEXTS = ("POST: My dog barks.", "TL;DR:", "POST: I am tired of the door and of it all.")
PROMPTS = [Prompt(text) for text in TEXTS]
ANSWERS = (" The dog.", " A much longer answer that goes on for a while.", " x")
IDS = [TOKENIZER.encode(text) + [TOKENIZER.eos_id] for text in ANSWERS]
IDS[2].pop()  # one that never stopped


def model(layers: int = 2) -> GPT:
    return shaken(GPT(GPTConfig(TOKENIZER.vocab_size, 64, layers, heads=2, channels=16)), 0.2)


def test_nats_are_those_of_one_token_after_the_other():
    gpt, expected = model(), []
    for prompt, response in zip(TEXTS, IDS):
        read, total = TOKENIZER.encode(prompt), 0.0
        for token in response:
            total -= gpt(torch.tensor([read]))[0, -1].log_softmax(-1)[token].item()
            read = [*read, token]
        expected.append(total)
    for size in (1, 2, 3):
        nats, tokens = response_nats(gpt, TOKENIZER, PROMPTS, IDS, batch_size=size)
        assert nats.tolist() == pytest.approx(expected, rel=1e-4)
        assert tokens.tolist() == list(map(len, IDS))


def test_a_model_without_an_opinion_has_the_vocabulary_as_perplexity():
    gpt = model(layers=1)
    torch.nn.init.zeros_(gpt.wte.weight)
    nats_and_tokens = response_nats(gpt, TOKENIZER, PROMPTS, IDS)
    assert perplexity(*nats_and_tokens) == pytest.approx(TOKENIZER.vocab_size, rel=1e-4)


def test_perplexity_weighs_tokens_not_responses():
    nats, tokens = torch.tensor([math.log(2), 3 * math.log(8)]), torch.tensor([1, 3])
    assert perplexity(nats, tokens) == pytest.approx(2 ** ((1 + 9) / 4))
    low, high = perplexity_ci95(nats.repeat(50), tokens.repeat(50))
    assert 4 < low < perplexity(nats, tokens) < high < 8
    assert perplexity_ci95(nats[:1].repeat(9), tokens[:1].repeat(9)) == pytest.approx([2, 2])


@pytest.mark.parametrize(
    "prompts, ids, line",
    [
        (PROMPTS, [[5], [6]], "3 prompts, but 2 responses"),
        (PROMPTS[:2], [[5], []], "row 1: the response has no token"),
        ([Prompt("")], [[5]], "row 0: the prompt has no token"),
    ],
)
def test_bad_rows_are_refused(prompts, ids, line):
    with pytest.raises(ValueError, match=line):
        response_nats(model(), TOKENIZER, prompts, ids)
