"""Muon: an optimiser whose update moves every direction of a weight matrix by the same amount.

It takes the same steps as torch.optim.Muon, which processes one matrix after the other. Here all
matrices of one shape are stacked and processed together: on a CPU this takes a sixth less time with
4 layers of 128 channels, and the same time with 6 of 256 (`make bench`). Taught in 0-Pretrain.

Shapes: N matrices of m x n.
"""

from collections import defaultdict

import torch
from torch import Tensor, nn


def orthogonal(G: Tensor, steps: int = 5, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """Orthogonalise G (N, m, n) approximately, in `dtype`: same directions, singular values near 1.

    Newton-Schulz iteration: each step maps a singular value s to a s + b s^3 + c s^5.
    Source: Jordan et al. 2024, "Muon".
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    # Transpose tall matrices, so that X X^T is as small as possible.
    tall = G.size(1) > G.size(2)
    X = G.mT if tall else G
    # Divide by the Frobenius norm: the iteration needs singular values of at most 1.
    X = (X / X.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)).to(dtype)
    for _ in range(steps):
        A = X @ X.mT
        P = torch.baddbmm(A, A, A, beta=b, alpha=c)  # b A + c A A
        X = torch.baddbmm(X, P, X, beta=a)  # a X + P X
    return X.mT if tall else X


class Muon(torch.optim.Optimizer):
    """Momentum with orthogonalised updates. Raises ValueError for a parameter that is not 2-D.

    The attribute `dtype` is that of the products in `orthogonal`: 16 bits are precise enough.
    """

    def __init__(
        self,
        matrices: list[nn.Parameter],
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
    ):
        super().__init__(matrices, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        self.dtype = torch.bfloat16
        for matrix in matrices:
            if matrix.dim() != 2:
                raise ValueError(
                    f"Muon is for matrices, not for a tensor of shape {tuple(matrix.shape)}"
                )

    @torch.no_grad()
    def step(self) -> None:
        """One update of every matrix that has a gradient."""
        for group in self.param_groups:
            lr, momentum = group["lr"], group["momentum"]
            by_shape = defaultdict(list)
            for matrix in group["params"]:
                if matrix.grad is not None:
                    by_shape[matrix.shape].append(matrix)
            for (m, n), matrices in by_shape.items():
                means = torch.stack([self.mean(matrix, momentum) for matrix in matrices])
                updates = orthogonal(means, dtype=self.dtype)  # (N, m, n)
                # The entries of a tall orthogonal matrix are small, so it gets a higher rate.
                rate = lr * max(1, m / n) ** 0.5
                for matrix, update in zip(matrices, updates, strict=True):
                    matrix.mul_(1 - lr * group["weight_decay"])
                    matrix.add_(update, alpha=-rate)

    def mean(self, matrix: nn.Parameter, momentum: float) -> Tensor:
        """Update the running mean of the gradients and return its Nesterov look-ahead."""
        mean = self.state[matrix].setdefault("mean", torch.zeros_like(matrix))
        mean.lerp_(matrix.grad, 1 - momentum)
        return matrix.grad.lerp(mean, momentum)
