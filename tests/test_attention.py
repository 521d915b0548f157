"""Attention against its definition and the fused kernel: values, gradients, what is hidden."""

import math

import pytest
import torch
import torch.nn.functional as F

from helpers.model import attend_explicit, attend_sdpa, causal_mask, choose_attention, mask_to_bias
from tests.support.tiny_models import tiny


def random_qkv(T: int, S: int) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(T + S)
    return tuple(torch.randn(2, 3, n, 8, requires_grad=True) for n in (T, S, S))


def by_loops(q, k, v, mask):
    """Attention from its definition, one query at a time. mask (B, T, S)."""
    out = torch.zeros_like(q)
    for b in range(q.size(0)):
        for t in range(q.size(2)):
            seen = mask[b, t].nonzero().flatten()
            for h in range(q.size(1)):
                weights = F.softmax(k[b, h, seen] @ q[b, h, t] / math.sqrt(q.size(-1)), dim=0)
                out[b, h, t] = weights @ v[b, h, seen]
    return out


@pytest.mark.parametrize("attend", [attend_explicit, attend_sdpa])
@pytest.mark.parametrize(("T", "S"), [(1, 1), (2, 2), (7, 7), (8, 8), (1, 6), (3, 9)])
@pytest.mark.parametrize("padded", [False, True])
def test_attention_equals_its_definition(attend, T, S, padded):
    q, k, v = random_qkv(T, S)
    shown = torch.ones(2, S)
    if padded and S > T:
        shown[0, :2] = 0
    elif padded:
        shown[0, S - 1 :] = 0  # the last query is then a pad, which sees itself too
    bias = mask_to_bias(causal_mask(T, S, shown), q.dtype) if padded else None
    wanted = by_loops(q, k, v, causal_mask(T, S, shown)[:, 0])
    torch.testing.assert_close(attend(q, k, v, bias), wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("T", [2, 5, 16])
def test_explicit_and_sdpa_have_equal_gradients(T):
    q, k, v = random_qkv(T, T)
    out = torch.randn(2, 3, T, 8)
    explicit = torch.autograd.grad(attend_explicit(q, k, v), (q, k, v), out)
    fused = torch.autograd.grad(attend_sdpa(q, k, v), (q, k, v), out)
    torch.testing.assert_close(explicit, fused, atol=1e-5, rtol=1e-5)


def test_causal_mask_by_hand():
    assert causal_mask(2, 3).int().tolist() == [[1, 1, 0], [1, 1, 1]]
    padded = causal_mask(3, 3, torch.tensor([[0, 1, 1]]))
    # a pad first: it sees itself, nobody else sees it
    assert padded.shape == (1, 1, 3, 3)
    assert padded[0, 0].int().tolist() == [[1, 0, 0], [0, 1, 0], [0, 1, 1]]


def test_hidden_keys_get_minus_infinity_and_others_nothing():
    bias = mask_to_bias(torch.tensor([[True, False]]), torch.bfloat16)
    assert bias.tolist() == [[0.0, -math.inf]] and bias.dtype == torch.bfloat16


def test_attention_names():
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert choose_attention("auto", cpu) is attend_explicit is choose_attention("explicit", cpu)
    assert choose_attention("auto", gpu) is attend_sdpa is choose_attention("sdpa", cpu)
    with pytest.raises(ValueError, match="auto.*'flash'"):
        choose_attention("flash", cpu)


@pytest.mark.parametrize("attention", ["explicit", "sdpa"])
def test_bfloat16_autocast_trains_and_stays_close(attention):
    model = tiny()
    model.attention = attention
    ids = torch.randint(0, 97, (2, 32))
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(ids)
    assert logits.dtype == torch.float32
    logits.square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert (logits - model(ids)).abs().mean() < 0.02 * logits.abs().mean()
