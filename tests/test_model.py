"""The model against transformers' GPT-2 and against itself: logits, positions, padding, what is
left out, options.
"""

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F

from helpers.batching import left_pad, right_pad
from helpers.generation import KVCache, sample
from helpers.model import GPT, GPTConfig, attend_explicit, token_positions
from helpers.run.checkpoints import from_transformers_state
from tests.support.tiny_models import ROWS, SIZES, tiny, transformers_twin

# ---------------------------------------------------------------- against transformers


@pytest.mark.parametrize("config", SIZES, ids=lambda c: f"{c.layers}x{c.channels}")
@pytest.mark.parametrize("attention", ["explicit", "sdpa"])
def test_logits_equal_transformers_in_both_directions(config, attention):
    ids, ours = torch.randint(0, config.vocab_size, (3, config.context)), tiny(config)
    ours.attention = attention
    with torch.no_grad():
        wanted = transformers_twin(ours)(ids).logits
        torch.testing.assert_close(ours(ids), wanted, atol=1e-4, rtol=1e-5)

    theirs = transformers_twin(ours, "sdpa")
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    back = from_transformers_state(config, theirs.state_dict())
    back.attention = attention
    with torch.no_grad():
        torch.testing.assert_close(back(ids), theirs(ids).logits, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("attention", ["explicit", "sdpa"])
def test_left_padded_logits_equal_transformers(attention):
    ours = tiny()
    ours.attention = attention
    ids, mask = left_pad(ROWS, 1)
    positions = (mask.long().cumsum(1) - mask.long()).clamp(min=0)
    with torch.no_grad():
        theirs = transformers_twin(ours)
        wanted = theirs(ids, attention_mask=mask.long(), position_ids=positions).logits
        torch.testing.assert_close(ours(ids, mask)[mask], wanted[mask], atol=1e-4, rtol=1e-5)


def test_init_is_gpt2s():
    torch.manual_seed(0)
    config = GPTConfig(vocab_size=500, context=64, layers=8, heads=4, channels=128)
    for name, weight in GPT(config).named_parameters():
        if name.endswith("bias"):
            assert (weight == 0).all(), name
        elif weight.dim() == 1:
            assert (weight == 1).all(), name
        else:
            std = 0.02 / math.sqrt(16) if name.endswith("c_proj.weight") else 0.02
            assert weight.std().item() == pytest.approx(std, rel=0.05), name


def test_parameter_counts_equal_the_published_and_transformers():
    with torch.device("meta"):  # no memory for the 124M weights
        assert GPT(GPTConfig()).num_parameters() == 124_439_808
    model = GPT(SIZES[2])
    assert model.num_parameters() == transformers_twin(model).num_parameters()


def test_the_first_loss_is_that_of_guessing():
    torch.manual_seed(0)
    ids = torch.randint(0, 300, (8, 48))
    loss = F.cross_entropy(GPT(SIZES[2])(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())
    assert loss.item() == pytest.approx(math.log(300), abs=0.05)


# ---------------------------------------------------------------- padding, positions, limits


def test_positions_count_the_real_tokens_before():
    _, mask = left_pad(ROWS, 1)
    assert token_positions(mask, mask).tolist() == [[0, 0, 0, 0, 0, 1, 2], [*range(7)], [0] * 7]
    assert token_positions(torch.zeros(2, 3)).tolist() == [[0, 1, 2]]
    assert token_positions(torch.zeros(2, 1), start=5).tolist() == [[5]]
    assert token_positions(mask[:, -1:], mask, start=6).tolist() == [[2], [6], [0]]


@pytest.mark.parametrize("pad", [left_pad, right_pad])
@pytest.mark.parametrize("attention", ["explicit", "sdpa"])
def test_padding_changes_nothing(pad, attention):
    model = tiny()
    model.attention = attention
    ids, mask = pad(ROWS, 1)
    logits = model(ids, mask)
    assert logits.isfinite().all()  # at the pads too, or gradients turn NaN
    for i, row in enumerate(ROWS):
        alone = model(torch.tensor([row]))[0]
        torch.testing.assert_close(logits[i][mask[i]], alone, atol=1e-5, rtol=1e-5)
    logits[mask].sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_without_a_mask_right_padding_changes_nothing_and_left_padding_does():
    model = tiny()
    ids, mask = right_pad(ROWS, 1)
    torch.testing.assert_close(model(ids)[mask], model(ids, mask)[mask], atol=1e-5, rtol=1e-5)
    ids, mask = left_pad(ROWS, 1)
    assert (model(ids)[mask] - model(ids, mask)[mask]).abs().max() > 0.1


def test_too_long_and_too_bare_inputs_are_named():
    model = tiny()
    with pytest.raises(ValueError, match="33 tokens.*context of 32"):
        model(torch.zeros(1, 33, dtype=torch.long))
    with pytest.raises(ValueError, match="40 tokens.*context of 32"):
        model(torch.zeros(1, 2, dtype=torch.long), position_ids=torch.tensor([[0, 39]]))
    with pytest.raises(ValueError, match="position_ids"):
        model(torch.zeros(1, 2, dtype=torch.long), torch.ones(1, 2, 2))


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"channels": 10, "heads": 4}, "channels .10. must be divisible by heads .4."),
        ({"layers": 0}, "layers.*0"),
        ({"vocab_size": 2.5}, "vocab_size.*2.5"),
    ],
)
def test_config_errors(sizes, message):
    with pytest.raises(ValueError, match=message):
        GPTConfig(**sizes)
    with pytest.raises(dataclasses.FrozenInstanceError):
        GPTConfig().layers = 3


# ---------------------------------------------------------------- only some vectors


@pytest.mark.parametrize("attention", ["explicit", "sdpa"])
@pytest.mark.parametrize("mask", [None, torch.tensor([[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]])])
@pytest.mark.parametrize("cached", [0, 3])
def test_the_last_vector_alone_is_that_of_the_whole_pass(attention, mask, cached):
    model = tiny()
    model.attention = attention
    ids, cache = torch.randint(97, (2, 6)), None
    if cached:
        cache = KVCache(model, 2, 8)
        model.hidden(ids[:, :cached], None if mask is None else mask[:, :cached], cache=cache)
    last = model.hidden(ids[:, cached:], mask, cache=cache, last_only=True)
    torch.testing.assert_close(last, model.hidden(ids, mask)[:, -1:])


def test_only_the_last_token_asks_in_the_last_block(monkeypatch):
    model, asked = tiny(), []

    def watched(q, k, v, bias):
        asked.append((q.size(2), k.size(2)))
        return attend_explicit(q, k, v, bias)

    monkeypatch.setattr("helpers.model.choose_attention", lambda name, device: watched)
    model.hidden(torch.randint(97, (2, 6)), last_only=True)
    assert asked == [(6, 6)] * (model.config.layers - 1) + [(1, 6)]


def test_what_hides_keys_has_the_number_format_of_the_products():
    model, mask = tiny(), torch.tensor([[0, 1, 1]])
    seen = []
    model.h[0].attn.register_forward_pre_hook(lambda module, given: seen.append(given[1].dtype))
    with torch.autocast("cpu", torch.bfloat16):
        model.hidden(torch.randint(97, (1, 3)), mask)
    model.hidden(torch.randint(97, (1, 3)), mask)
    model.bfloat16().hidden(torch.randint(97, (1, 3)), mask)
    assert seen == [torch.bfloat16, torch.float32, torch.bfloat16]


# ---------------------------------------------------------------- options


def gradients(model: GPT, ids: torch.Tensor) -> list[torch.Tensor]:
    model.zero_grad()
    F.cross_entropy(model(ids)[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).backward()
    return [parameter.grad.clone() for parameter in model.parameters()]


def test_checkpointing_keeps_less_and_gives_the_same_gradients():
    model, ids = tiny(SIZES[2]), torch.randint(0, 300, (2, 48))

    def gradients_and_kept_numbers() -> tuple[list[torch.Tensor], int]:
        kept: list[int] = []

        def keep(tensor):
            kept.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            return gradients(model, ids), sum(kept)

    wanted, many = gradients_and_kept_numbers()
    model.checkpointing = True
    found, few = gradients_and_kept_numbers()
    assert all(torch.equal(a, b) for a, b in zip(wanted, found, strict=True))
    assert few < many / 3


def test_compiled_blocks_give_the_same_gradients_and_still_sample():
    """Each block is one graph. It is traced but not turned into machine code, which would take a
    minute.
    """
    model, ids = tiny(SIZES[0]), torch.randint(2, 61, (2, 16))
    settings = dict(max_new_tokens=6, eos_id=0, pad_id=1, temperature=0)
    wanted = gradients(model, ids)
    written = sample(model, ids, torch.ones_like(ids), **settings).ids
    for block in model.h:
        block.compile(backend="aot_eager", fullgraph=True)
    for found in (gradients(model, ids), gradients(model, ids)):
        for a, b in zip(wanted, found, strict=True):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)
    assert torch.equal(sample(model, ids, torch.ones_like(ids), **settings).ids, written)
