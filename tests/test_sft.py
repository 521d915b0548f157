"""Stage 1: demonstrations as rows, only the completion is learned, what is measured."""

import pytest
import torch

from helpers.batching import right_pad
from helpers.config import SFTConfig
from helpers.engine.loop import Loop
from helpers.evaluation import respond
from helpers.model import GPT, GPTConfig
from helpers.records import Demonstration
from helpers.rows.embedded import load_rows
from helpers.sft import (
    completion_masks,
    completion_nll,
    demonstration_batches,
    encode_demonstration,
    heldout_completion_loss,
    train,
)
from helpers.stages.adapters import add_adapters
from helpers.stages.sft import measure
from helpers.training import schedule
from tests.support.tensors import shaken, with_large_logits

PAD = 1
CONFIG = GPTConfig(vocab_size=40, context=32, layers=2, heads=2, channels=16)


def test_demonstrations_are_encoded_as_they_will_be_sampled(tokenizer):
    for demonstration in load_rows("demonstrations", "heldout", limit=50):
        row, prompt = encode_demonstration(demonstration, tokenizer, 256)
        assert row[:prompt] == tokenizer.encode(demonstration.prompt)
        # the completion starts with its space, so that encoding both at once gives the same tokens
        both = tokenizer.encode(demonstration.prompt + demonstration.completion)
        assert row == [*both, tokenizer.eos_id]


def test_a_word_that_goes_on_in_the_completion_is_not_merged(tokenizer):
    """When sampling the prompt's tokens are given, so a completion cannot join the last of them."""
    halves = Demonstration("my sis", "ter")
    row, prompt = encode_demonstration(halves, tokenizer, 256)
    assert row == [*tokenizer.encode("my sis"), *tokenizer.encode("ter"), tokenizer.eos_id]
    assert prompt == len(tokenizer.encode("my sis"))
    assert row[:-1] != tokenizer.encode("my sister")


def test_a_demonstration_that_is_too_long_is_one_line(tokenizer):
    demonstration = Demonstration("Post. TL;DR:", " word" * 30)
    length = len(encode_demonstration(demonstration, tokenizer, 1000)[0])
    assert len(encode_demonstration(demonstration, tokenizer, length)[0]) == length
    says = f"{length} tokens, more than the context of {length - 1}$"
    with pytest.raises(ValueError, match=says):
        encode_demonstration(demonstration, tokenizer, length - 1)


def test_training_learns_the_completion_and_not_the_prompt(capsys):
    generator = torch.Generator().manual_seed(0)
    rows = []
    # the completion repeats the first token of a random prompt twice, then ends
    for _ in range(32):
        prompt = torch.randint(2, 40, (6,), generator=generator).tolist()
        rows.append((prompt + [prompt[0] % 4 + 2] * 2 + [0], 6))
    config = SFTConfig(batch_size=8, epochs=25, lr=1e-2, muon_lr=2e-2, seed=0)
    model, loop = GPT(CONFIG), Loop("toy")
    batches = demonstration_batches(rows, config.batch_size, config.epochs, PAD, config.seed)
    history = train(model, batches, config, loop)
    assert history is loop.history and len(history) == 100
    assert history[-1]["loss"] < 0.3 < 2 < history[0]["loss"]
    assert [row["rate"] for row in history] == [schedule(step, 100) for step in range(100)]
    ids, mask = right_pad([row for row, _ in rows], PAD)
    prompt_only = mask & ~completion_masks(mask, [6] * 32)
    # random prompts: nobody tried to guess them
    assert completion_nll(model, ids, prompt_only).item() > 3


def test_adapters_learn_at_their_own_rate(capsys):
    """What was frozen stays; the rate is the adapters', and Muon has no part in it."""
    config = SFTConfig(adapter="lora", rank=2, adapter_lr=1e-3, batch_size=4, epochs=3)
    model = shaken(GPT(CONFIG))
    add_adapters(model, config)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    rows = [(torch.randint(2, 40, (9,)).tolist(), 4) for _ in range(12)]
    train(model, demonstration_batches(rows, 4, 3, PAD, 0), config, Loop("toy"))
    moved = {n for n, w in model.state_dict().items() if not torch.equal(w, before[n])}
    assert moved == {n for n in before if "lora_" in n or n == "wte.weight"}


def test_measure_gives_the_heldout_loss_with_its_interval(tokenizer):
    heldout = load_rows("demonstrations", "heldout", limit=30)
    model = GPT(GPTConfig(tokenizer.vocab_size, context=256, layers=1, heads=2, channels=16))
    config, prompts = SFTConfig(response_tokens=2), load_rows("prompts", "heldout", limit=3)
    responses = respond(model, tokenizer, prompts, max_new_tokens=2, seed=0)
    metrics = measure(model, tokenizer, heldout, responses, config)
    rows = [encode_demonstration(item, tokenizer, 256) for item in heldout]
    assert metrics["heldout_loss"] == pytest.approx(
        heldout_completion_loss(model, rows, tokenizer.pad_id), rel=1e-5
    )
    low, high = metrics["heldout_loss_ci95"]
    assert low < metrics["heldout_loss"] < high
    # the interval draws prompts: four times the same rows say no more than once
    repeated = measure(model, tokenizer, heldout * 4, responses, config)["heldout_loss_ci95"]
    assert repeated == pytest.approx([low, high], rel=1e-4)
    assert metrics["stop_rate"] == responses.stop_rate
    tokens = sum(len(row) - prompt for row, prompt in rows)
    floor = -sum(item.logprob for item in heldout) / tokens
    assert metrics["entropy_floor"] == pytest.approx(floor)


def test_heldout_loss_has_float32_logits_under_autocast():
    """Token by token, as in a mean the roundings would cancel."""
    model = with_large_logits(shaken(GPT(CONFIG)))
    for ids in torch.randint(2, 40, (30, 9)).tolist():
        exact = heldout_completion_loss(model, [(ids, 8)], PAD)
        for dtype in (torch.bfloat16, torch.float16):
            found = heldout_completion_loss(model, [(ids, 8)], PAD, dtype)
            assert found == pytest.approx(exact, abs=0.03)
