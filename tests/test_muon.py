"""Muon against torch.optim.Muon and against itself in float64."""

import copy

import pytest
import torch
from torch import nn

from helpers.muon import Muon, orthogonal

SHAPES = [(8, 8), (24, 8), (8, 32), (24, 8), (8, 8), (32, 8)]


@pytest.mark.parametrize(("momentum", "weight_decay"), [(0.95, 0.0), (0.5, 0.1)])
def test_steps_are_those_of_torch(momentum, weight_decay):
    """In bfloat16 ours come no less near to those of exact products than torch's do."""
    torch.manual_seed(0)
    ours = [nn.Parameter(torch.randn(shape)) for shape in SHAPES]
    theirs, exact, start = (copy.deepcopy(ours) for _ in range(3))
    settings = dict(lr=0.02, momentum=momentum, weight_decay=weight_decay)
    optimizers = [Muon(ours, **settings), torch.optim.Muon(theirs, **settings)]
    optimizers.append(Muon(exact, **settings))
    optimizers[2].dtype = torch.float64
    for _ in range(6):
        for mine, other, best in zip(ours, theirs, exact):
            mine.grad = torch.randn_like(mine)
            other.grad, best.grad = mine.grad.clone(), mine.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    off = {"ours": 0.0, "torch's": 0.0, "moved": 0.0}
    for mine, other, best, before in zip(ours, theirs, exact, start):
        off["ours"] += (mine - best).norm().item()
        off["torch's"] += (other - best).norm().item()
        off["moved"] += (best - before).norm().item()
    assert off["torch's"] < 0.03 * off["moved"] and off["ours"] < 1.2 * off["torch's"], off


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_gradients_of_any_size_are_made_orthogonal_in_other_formats(dtype):
    """Tiny gradients and huge ones, which float16 could not hold, give the direction that float64
    gives.
    """
    torch.manual_seed(0)
    G = torch.randn(3, 16, 40) * torch.tensor([1e-12, 1.0, 1e9])[:, None, None]
    found, exact = orthogonal(G, dtype=dtype), orthogonal(G.double(), dtype=torch.float64)
    assert found.dtype == dtype and found.isfinite().all()
    assert (found - exact).norm() < {torch.float16: 0.02, torch.float32: 1e-4}[dtype] * exact.norm()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_a_step_multiplies_in_the_format_asked_for(dtype):
    matrix = nn.Parameter(torch.zeros(8, 12))
    matrix.grad = torch.randn(8, 12)
    muon = Muon([matrix], lr=1.0, momentum=0.0)
    muon.dtype = dtype
    muon.step()
    for one in (torch.float16, torch.bfloat16, torch.float32):
        update = orthogonal(matrix.grad[None], dtype=one)[0].float()
        assert torch.equal(matrix, -update) == (one == dtype)


def test_a_matrix_without_a_gradient_stays():
    moving, still = nn.Parameter(torch.randn(4, 4)), nn.Parameter(torch.randn(4, 4))
    before = still.detach().clone()
    moving.grad = torch.randn(4, 4)
    Muon([moving, still], lr=0.1, weight_decay=0.5).step()
    assert torch.equal(still, before)


def test_a_matrix_of_zeros_gives_no_step():
    assert torch.equal(orthogonal(torch.zeros(1, 4, 4)), torch.zeros(1, 4, 4, dtype=torch.bfloat16))


def test_what_is_no_matrix_is_refused():
    with pytest.raises(ValueError, match=r"not for a tensor of shape \(4,\)"):
        Muon([nn.Parameter(torch.zeros(4))], lr=0.1)
