"""Our GPT is the GPT-2 of transformers: random weights of several sizes, there and back; pipelines
open our folders.
"""

import re

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    pipeline,
)

from helpers.model import GPT, GPTConfig, RewardModel
from helpers.reward import Text, score_texts
from helpers.rows.embedded import load_tokenizer
from helpers.run.checkpoints import to_transformers_state
from helpers.run.import_weights import load_gpt2
from tests.support.saved import save

SIZES = [  # vocabulary, context, layers, heads, channels
    (50, 8, 1, 1, 8),
    (97, 33, 2, 3, 48),
    (263, 64, 3, 2, 64),
    (500, 128, 12, 12, 96),
    (1536, 100, 4, 8, 128),
]


def shaken(model: torch.nn.Module) -> torch.nn.Module:
    """Weights large enough for sharp attention, and biases and gains other than 0 and 1."""
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, mean=0.1, std=0.2)
    return model.eval()


def theirs(size) -> GPT2LMHeadModel:
    names = ("vocab_size", "n_positions", "n_layer", "n_head", "n_embd")
    return shaken(GPT2LMHeadModel(GPT2Config(**dict(zip(names, size)))))


@torch.no_grad()
def check_equal(ours: GPT, model: GPT2LMHeadModel, size) -> None:
    """Logits of whole rows, for both ways to attend, and of a row behind pads on its left."""
    vocabulary, context = size[:2]
    ids = torch.randint(vocabulary, (3, context))
    expected = model(ids).logits
    scale = expected.abs().max()
    for attention in ("explicit", "sdpa"):
        ours.attention = attention
        torch.testing.assert_close(ours(ids), expected, atol=1e-5 * scale.item(), rtol=1e-4)
    mask = torch.ones_like(ids)
    mask[0, : context // 2] = 0
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    padded = model(ids, attention_mask=mask, position_ids=positions).logits[0, context // 2 :]
    torch.testing.assert_close(
        ours(ids, mask)[0, context // 2 :], padded, atol=1e-5 * scale.item(), rtol=1e-4
    )


@pytest.mark.parametrize("size", SIZES)
def test_transformers_weights_in_our_model(size, tmp_path):
    model = theirs(size)
    model.save_pretrained(tmp_path)
    ours = load_gpt2(tmp_path)
    assert ours.config == GPTConfig(*size)
    check_equal(ours, model, size)


@pytest.mark.parametrize("size", SIZES)
def test_our_weights_in_transformers_model(size):
    ours, model = shaken(GPT(GPTConfig(*size))), theirs(size)
    missing, unexpected = model.load_state_dict(to_transformers_state(ours), strict=False)
    assert missing == ["lm_head.weight"] and not unexpected  # tied to wte
    check_equal(ours, model, size)


# ---------------------------------------------------------------- folders


def saved(folder, stage: str):
    """A model saved with the tokenizer of the embedded world."""
    tokenizer = load_tokenizer("tldr")
    gpt = GPT(GPTConfig(tokenizer.vocab_size, 64, 2, 2, 32))
    model = shaken(RewardModel(gpt) if stage == "reward" else gpt)
    if stage == "reward":
        model.head_mean.fill_(0.7)
        model.logprob_mean.fill_(-31.5)
    save(folder, model, tokenizer, stage)
    return model, tokenizer


@pytest.mark.parametrize("stage", ["base", "pretrain", "sft", "ppo"])
def test_the_pipeline_writes_what_our_model_would(tmp_path, stage):
    model, tokenizer = saved(tmp_path / stage, stage)
    generate = pipeline("text-generation", model=str(tmp_path / stage), device="cpu")
    prompt = "TITLE: Should I get a dog?\n\nTL;DR:"
    (written,) = generate(prompt, max_new_tokens=8, do_sample=False, return_full_text=False)
    ids = tokenizer.encode(prompt)
    prompt_tokens = len(ids)
    with torch.no_grad():
        while len(ids) < prompt_tokens + 8 and ids[-1] != tokenizer.eos_id:
            ids.append(model(torch.tensor([ids]))[0, -1].argmax().item())
    special = (tokenizer.eos_id, tokenizer.pad_id)
    response = tokenizer.decode([id_ for id_ in ids[prompt_tokens:] if id_ not in special])
    assert written["generated_text"] == response
    opened = AutoModelForCausalLM.from_pretrained(tmp_path / stage)
    assert opened.config.architectures == ["GPT2LMHeadModel"]


def test_the_lines_of_the_model_card_score_as_our_reward_model_does(tmp_path, monkeypatch):
    """transformers alone, from the saved folder: the head, the causal model, and config.json."""
    folder = tmp_path / "reward"
    model, tokenizer = saved(folder, "reward")
    monkeypatch.chdir(folder)
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text("utf-8"), re.S)
    for completion in (" My sister keeps losing my umbrella.", " No."):
        names = {"prompt": "TITLE: My sister\n\nTL;DR:", "completion": completion}
        exec(code, names)
        ids = tokenizer.encode(completion) + [tokenizer.eos_id]
        text = Text(tokenizer.encode(names["prompt"]), ids)
        ours = score_texts(model, [text], tokenizer.pad_id)
        assert names["score"].item() == pytest.approx(ours.item(), abs=1e-4)
    assert AutoModelForSequenceClassification.from_pretrained(folder).num_labels == 1
