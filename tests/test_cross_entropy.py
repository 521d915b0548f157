"""The chunked cross-entropy against PyTorch's on whole logits: the same numbers, and never a tensor
of all logits.
"""

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from helpers import cross_entropy
from helpers.cross_entropy import token_cross_entropy

N, C, V = 1500, 16, 100


@pytest.fixture
def chunked(monkeypatch):
    """Makes a batch of this size large: chunks of 1024 rows."""
    monkeypatch.setattr(cross_entropy, "MAX_LOGITS", 1024 * V)


def inputs(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    hidden, weight = (torch.randn(rows, C, generator=generator).requires_grad_() for rows in (N, V))
    targets = torch.randint(V, (N,), generator=generator)
    targets[::7] = -100
    return hidden, weight, targets


def plain(hidden, weight, targets):
    return F.cross_entropy(F.linear(hidden, weight).float(), targets)


def loss_and_gradients(function, hidden, weight, targets, scale: float = 1.0):
    loss = function(hidden, weight, targets)
    return loss.detach(), *(g / scale for g in torch.autograd.grad(scale * loss, (hidden, weight)))


def test_loss_and_gradients_equal_pytorch(chunked):
    for seed in range(3):
        wanted, found = (loss_and_gradients(f, *inputs(seed)) for f in (plain, token_cross_entropy))
        for a, b in zip(wanted, found, strict=True):
            torch.testing.assert_close(b, a, atol=1e-6, rtol=1e-5)
            assert b.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_under_autocast_it_is_as_good_as_the_plain_way(chunked, dtype):
    """Both are compared with float32; the scale is what float16's GradScaler would make the loss
    larger by.
    """
    exact = loss_and_gradients(plain, *inputs())

    def distances(function):
        with torch.autocast("cpu", dtype):
            found = loss_and_gradients(function, *inputs(), scale=1024.0)
        return [((a - b).norm() / b.norm()).item() for a, b in zip(found, exact, strict=True)]

    for ours, theirs in zip(distances(token_cross_entropy), distances(plain), strict=True):
        assert ours < max(1.5 * theirs, 1e-4)


def test_16_bit_weights_get_16_bit_gradients(chunked):
    hidden, weight, targets = inputs()
    hidden, weight = (x.detach().bfloat16().requires_grad_() for x in (hidden, weight))
    token_cross_entropy(hidden, weight, targets).backward()
    assert hidden.grad.dtype == weight.grad.dtype == torch.bfloat16


def test_the_mean_is_over_real_targets_and_nan_without_any(chunked):
    hidden, weight, targets = inputs()
    real = targets != -100
    wanted = plain(hidden[real], weight, targets[real])
    with torch.no_grad():  # nothing is kept for a backward pass
        torch.testing.assert_close(token_cross_entropy(hidden, weight, targets), wanted)
        assert token_cross_entropy(hidden, weight, torch.full_like(targets, -100)).isnan()


class Largest(TorchDispatchMode):
    """Remembers the most numbers that a tensor made within it has."""

    def __init__(self):
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(tensor, torch.Tensor):
                self.numbers = max(self.numbers, tensor.numel())
        return out


def test_the_logits_of_a_large_batch_never_exist_at_once(monkeypatch):
    for at_once, most in ((1024 * V, 1024 * V), (cross_entropy.MAX_LOGITS, N * V)):
        monkeypatch.setattr(cross_entropy, "MAX_LOGITS", at_once)
        with Largest() as seen:
            token_cross_entropy(*inputs()).backward()
        assert seen.numbers == most <= at_once
