"""Sampling: the cache changes nothing, padding changes nothing, the draw follows the softmax, and
it stops as told.
"""

import copy
import math
from types import SimpleNamespace

import pytest
import torch

from helpers.batching import left_pad
from helpers.generation import KVCache, draw, in_dtype, keep_top_k, keep_top_p, next_token, sample
from helpers.lora import add_lora
from helpers.model import GPT, GPTConfig
from helpers.quantization import quantize_model
from tests.support.live_memory import LiveBytes
from tests.support.tiny_models import transformers_twin

EOS, PAD = 0, 1
CONFIG = GPTConfig(vocab_size=50, context=40, layers=2, heads=4, channels=32)
PROMPTS = [[5, 6, 7], [8, 9, 10, 11, 12, 13, 14], [15], [16, 17]]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def model() -> GPT:
    torch.manual_seed(0)
    model = GPT(CONFIG)
    # larger than at the start, so that logits differ by more than rounding
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.25)
    return model


def run(model, prompts=PROMPTS, **settings):
    return sample(
        model, *left_pad(prompts, PAD), **dict(max_new_tokens=20, eos_id=EOS, pad_id=PAD) | settings
    )


# ---------------------------------------------------------------- whole responses


@pytest.mark.parametrize("attention", ["explicit", "sdpa"])
@pytest.mark.parametrize(
    "settings", [{}, {"temperature": 0}, {"temperature": 0.7, "top_k": 20, "top_p": 0.9}]
)
def test_the_cache_changes_no_token(model, attention, settings):
    model.attention = attention
    for seed in range(3):
        cached, full = (
            run(model, generator=seeded(seed), use_cache=c, **settings) for c in (True, False)
        )
        for name in ("ids", "mask", "stopped"):
            assert torch.equal(getattr(cached, name), getattr(full, name))


def test_cached_vectors_equal_those_of_one_forward(model):
    ids, mask = left_pad(PROMPTS, PAD)
    cache, parts = KVCache(model, batch=4, size=7), []
    for start, end in ((0, 3), (3, 4), (4, 7)):  # several tokens after the first few, too
        parts.append(model.hidden(ids[:, start:end], mask[:, :end], cache=cache))
        assert cache.length == end
    torch.testing.assert_close(
        torch.cat(parts, dim=1)[mask], model.hidden(ids, mask)[mask], atol=1e-5, rtol=1e-5
    )
    with pytest.raises(ValueError, match="41 tokens"):
        model.hidden(torch.zeros(4, 34, dtype=torch.long), cache=cache)


def test_greedy_responses_equal_transformers_generate(model):
    ids, mask = left_pad(PROMPTS, PAD)
    options = dict(do_sample=False, max_new_tokens=20, suppress_tokens=[PAD], pad_token_id=PAD)
    wanted = transformers_twin(model).generate(ids, attention_mask=mask.long(), **options)
    assert torch.equal(run(model, temperature=0).ids, wanted[:, ids.size(1) :])


@pytest.mark.parametrize("use_cache", [True, False])
def test_leaving_the_batch_early_changes_no_token(model, use_cache):
    prompts = [[i, i + 1] for i in range(2, 34)]
    whole = run(model, prompts, generator=seeded(), use_cache=use_cache, drop_every=20)
    assert 1 < whole.mask.sum(1).unique().numel(), "rows must end at different times"
    for drop_every in (1, 3, 8):
        some = run(model, prompts, generator=seeded(), use_cache=use_cache, drop_every=drop_every)
        for name in ("ids", "mask", "stopped"):
            assert torch.equal(getattr(some, name), getattr(whole, name))


def test_a_response_depends_on_its_own_random_numbers_only(model):
    numbers = torch.rand(20, 4, generator=seeded()).T  # as sample draws them itself
    together = run(model, uniforms=numbers)
    assert torch.equal(together.ids, run(model, generator=seeded()).ids)
    for i, prompt in enumerate(PROMPTS):
        alone = run(model, [prompt], uniforms=numbers[i : i + 1].double())
        length = alone.ids.size(1)
        assert torch.equal(together.ids[i, :length], alone.ids[0])
        assert not together.mask[i, length:].any()
    with pytest.raises(ValueError, match=r"shape \(4, 20\).*not \(20, 4\)"):
        run(model, uniforms=numbers.T)


def test_one_seed_gives_one_response_and_no_gradient(model):
    first, again, other = (run(model, generator=seeded(seed)).ids for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert first.shape != other.shape or not torch.equal(first, other)
    assert all(p.grad is None for p in model.parameters())


def test_a_prompt_may_fill_the_context_to_the_last_token(model):
    assert run(model, [[3] * 20], eos_id=-1).ids.shape == (1, 20)
    with pytest.raises(ValueError, match="21 and 20 new tokens do not fit the context of 40"):
        run(model, [[3] * 21])


def test_sampling_under_autocast_keeps_its_cache_in_16_bits(model):
    with torch.autocast("cpu", torch.bfloat16):
        assert KVCache(model, 1, 4).data[0].dtype == torch.bfloat16
        assert run(model, generator=seeded()).ids.shape[0] == 4
    assert KVCache(model, 1, 4).data[0].dtype == torch.float32


def test_sampling_in_16_bits_reads_rounded_weights_and_leaves_the_model_alone(model):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    rounded = copy.deepcopy(model).bfloat16()
    for use_cache in (True, False):
        fast = run(model, generator=seeded(), dtype=torch.bfloat16, use_cache=use_cache)
        assert torch.equal(fast.ids, run(rounded, generator=seeded(), use_cache=use_cache).ids)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert in_dtype(model, torch.float32) is model
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("adapter", ["lora", "qlora"])
def test_a_model_with_adapters_samples_in_16_bits(model, adapter):
    if adapter == "qlora":
        quantize_model(model)
    add_lora(model, rank=2, alpha=4.0)
    fast = run(model, temperature=0, dtype=torch.bfloat16, max_new_tokens=4)
    agree = (fast.ids == run(model, temperature=0, max_new_tokens=4).ids).float().mean()
    assert agree > 0.5 and model.wte.weight.dtype == torch.float32


# ---------------------------------------------------------------- stops and pads


class Scripted:
    """Stands in for a model: the row with prompt [2 + i] writes script[i], one token after the
    other.
    """

    def __init__(self, script: list[list[int]]):
        self.config = SimpleNamespace(context=99)
        self.script, self.sizes = torch.tensor(script), []  # of the batches that it was given

    def hidden(self, ids, attention_mask, cache=None, last_only=False):
        self.sizes.append(len(ids))
        return self.script[ids[:, 0] - 2, ids.size(1) - 1][:, None]  # (b, 1) the token to write

    def logits(self, hidden):
        logits = torch.full((len(hidden), 10), -50.0)
        logits[range(len(hidden)), hidden] = 50.0
        logits[:, PAD] = 1000.0  # it would love to write pads
        return logits


def test_responses_end_with_their_end_of_text():
    model = Scripted([[5, EOS, 6, 7, 8], [5, 6, 7, 8, 9], [EOS, 5, 5, 5, 5]])
    out = run(model, [[2], [3], [4]], max_new_tokens=5, use_cache=False)
    assert out.ids.tolist() == [[5, EOS, PAD, PAD, PAD], [5, 6, 7, 8, 9], [EOS, PAD, PAD, PAD, PAD]]
    assert out.mask.sum(1).tolist() == [2, 5, 1]
    assert out.mask[:, 0].all() and out.mask.dtype == torch.bool
    assert out.stopped.tolist() == [True, False, True]


def test_finished_rows_leave_the_batch_and_sampling_ends_with_the_last():
    script = [[5, EOS, 6, 7, 8], [EOS, 6, 7, 8, 9], [5, 5, 5, EOS, 7]]
    for drop_every, sizes in ((1, [3, 2, 1, 1]), (2, [3, 3, 1, 1]), (8, [3, 3, 3, 3, 3])):
        model = Scripted(script)
        out = run(model, [[2], [3], [4]], max_new_tokens=5, use_cache=False, drop_every=drop_every)
        assert out.ids.tolist() == [[5, EOS, PAD, PAD], [EOS, PAD, PAD, PAD], [5, 5, 5, EOS]]
        assert out.stopped.all() and model.sizes == sizes


def test_end_of_text_in_the_prompt_does_not_stop_the_response():
    asked = {"max_new_tokens": 2, "use_cache": False, "drop_every": 1}
    out = run(Scripted([[9, 5, 6]]), [[2, EOS]], **asked)
    assert out.ids.tolist() == [[5, 6]] and not out.stopped.any()


# ---------------------------------------------------------------- one token


def test_draws_follow_the_softmax():
    logits = torch.tensor([0.0, 1.0, -torch.inf, 2.0, -1.0])
    tokens = draw(logits.expand(200_000, 5), torch.rand(200_000, generator=seeded()))
    shares = torch.bincount(tokens, minlength=5) / len(tokens)
    # about four standard errors
    torch.testing.assert_close(shares, logits.softmax(0), atol=0.004, rtol=0)
    assert shares[2] == 0


@pytest.mark.parametrize(
    "u", [0.0, 1 - 2**-24, 1 - 2**-53]
)  # the smallest, the largest float32 and float64
def test_the_ends_of_the_range_draw_possible_tokens(u):
    logits = torch.randn(64, 3000, generator=seeded())
    logits[:, [0, 1, -2, -1]] = -torch.inf
    tokens = draw(logits, torch.full((64,), u, dtype=torch.float64))
    assert logits.gather(1, tokens[:, None]).isfinite().all()


def test_unlikely_tokens_of_a_large_vocabulary_can_be_drawn():
    """Each of 50,256 tokens has a probability of 2^-30, after one that has the rest: near 1 the
    float32 numbers lie 64 times as far apart.
    """
    logits = torch.full((1, 50_257), -30 * math.log(2))
    logits[0, 0] = math.log1p(-50_256 * 2**-30)
    wanted = torch.arange(20_000, 20_200)
    u = 1 - (50_256.5 - wanted.double()) * 2**-30  # the middle of each one's part of [0, 1)
    tokens = draw(logits.expand(200, -1), u)
    assert (tokens.diff() == 1).all()
    assert (tokens - wanted).abs().max() <= 64  # the first token's probability is rounded


@pytest.mark.parametrize("k", [1, 3, 49, 50, 99])
def test_top_k_equals_transformers(k):
    from transformers import TopKLogitsWarper

    logits = torch.randn(8, 50, generator=seeded())
    assert torch.equal(keep_top_k(logits, k), TopKLogitsWarper(k)(None, logits))


@pytest.mark.parametrize("p", [1e-6, 0.1, 0.5, 0.9, 0.999, 1.0])
def test_top_p_equals_transformers(p):
    from transformers import TopPLogitsWarper

    logits = 3 * torch.randn(8, 50, generator=seeded())
    assert torch.equal(keep_top_p(logits, p), TopPLogitsWarper(p)(None, logits))


def test_top_p_by_hand():
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()
    for p, kept in ((0.4, 1), (0.6, 2), (0.9, 3), (0.96, 4), (1.0, 4)):
        assert keep_top_p(logits, p).isfinite().sum() == kept
    alike = torch.zeros(1, 4)  # the first two hold exactly half, so a third is one too many
    assert keep_top_p(alike, 0.5).isfinite().sum() == 2


def test_top_k_comes_before_top_p_as_in_transformers():
    logits, u = torch.tensor([[0.4, 0.3, 0.2, 0.1]]).log(), torch.tensor([0.99])
    assert next_token(logits, u, top_p=0.5).item() == 1  # the first two hold 0.7
    assert next_token(logits, u, top_k=2, top_p=0.5).item() == 0  # of two the first holds 4 / 7


def test_the_temperature_comes_before_top_p_as_in_transformers():
    """At temperature 2 the first token holds 0.55, at temperature 1 it holds 0.69."""
    logits, u = torch.tensor([[0.69, 0.2, 0.06, 0.05]]).log(), torch.tensor([0.99])
    assert next_token(logits, u, temperature=1.0, top_p=0.6).item() == 0
    assert next_token(logits, u, temperature=2.0, top_p=0.6).item() == 1


def test_temperature_sharpens_and_zero_is_greedy():
    logits = torch.tensor([[0.0, 1.0]]).expand(50_000, 2)
    u = torch.rand(50_000, generator=seeded())
    assert (next_token(logits, u, 0) == 1).all()
    for temperature in (0.5, 1.0, 2.0):
        share = next_token(logits, u, temperature).float().mean().item()
        assert share == pytest.approx(1 / (1 + math.exp(-1 / temperature)), abs=0.01)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": -1}, "temperature.*-1"),
        ({"temperature": float("nan")}, "temperature.*nan"),
        ({"top_p": 0}, "top_p.*0"),
        ({"top_p": 1.5}, "top_p.*1.5"),
        ({"top_k": -1}, "top_k.*-1"),
        ({"max_new_tokens": 0}, "max_new_tokens.*0"),
        ({"pad_id": EOS}, "pad token must not be the end of text"),
        ({"prompts": [[4], []]}, "row 1 is empty"),
    ],
)
def test_bad_requests_are_named(model, settings, message):
    with pytest.raises(ValueError, match=message):
        run(model, **settings)


def test_dropping_rows_copies_one_layer_at_a_time():
    model = GPT(GPTConfig(vocab_size=40, context=64, layers=8, heads=2, channels=16))
    with LiveBytes() as memory:
        cache = KVCache(model, 32, 64)
        whole = memory.live
        cache.keep(torch.arange(32) < 31)
    assert whole == sum(layer.nbytes for layer in cache.data) * 32 / 31
    assert memory.peak < whole * (1 + 1.1 / 8)
