"""Exercises of 1b-Adapters: the adapter's product, its size, rounding to 4 bits."""

import torch
from torch import Tensor

from helpers.lesson.checks.core import Exercise, Prediction, randn
from helpers.quantization import NF4


def _lora(
    x: Tensor,
    W: Tensor,
    A: Tensor,
    B: Tensor,
    alpha: float,
    factor=lambda alpha, r: alpha / r,
    base=True,
    adapter=True,
) -> Tensor:
    rows = []
    for vector in x:
        low = torch.stack([row @ vector for row in A])
        added = torch.stack([row @ low for row in B]) * factor(alpha, len(A))
        rows.append((W @ vector if base else 0) + (added if adapter else 0))
    return torch.stack(rows)


def _lora_case(N: int, n_in: int, n_out: int, r: int, alpha: float, seed: int) -> tuple:
    shapes = (N, n_in), (n_out, n_in), (r, n_in), (n_out, r)  # x, W, A, B
    return *(randn(*shape, seed=seed + i) for i, shape in enumerate(shapes)), alpha


check_lora = Exercise(
    "lora",
    _lora,
    cases={
        "rank 2": _lora_case(3, 5, 4, r=2, alpha=6.0, seed=1),
        "rank 1": _lora_case(2, 3, 3, r=1, alpha=0.5, seed=5),
    },
    mistakes={
        "alpha not divided by the rank. The factor is alpha / r: so a larger rank can be tried "
        "without another learning rate.": {"factor": lambda alpha, r: alpha},
        "alpha forgotten. The adapter's part is multiplied by alpha / r.": [
            {"factor": lambda alpha, r: 1.0},
            {"factor": lambda alpha, r: 1 / r},
        ],
        "the frozen weight forgotten. The adapter adds to W x; it doesn't replace it.": {
            "base": False
        },
        "the adapter forgotten. This is W x alone.": {"adapter": False},
        "divided by the inputs. The rank is the number of rows of A: A.size(0).": (
            lambda x, W, A, B, alpha: _lora(x, W, A, B, alpha * len(A) / A.size(1))
        ),
    },
)

check_lora_size = Prediction(
    "lora_size",
    answer=8.0 * (768 + 2304),
    tolerance=0.001,
    why="One in 72 of the numbers of the weight itself.",
    mistakes={
        "that is the whole weight. The weight is frozen: count A and B.": 768.0 * 2304,
        "B forgotten. This is A alone.": 8.0 * 768,
        "A forgotten. This is B alone.": 8.0 * 2304,
        "multiplied instead of added. A has r x in numbers, B has out x r: they are added.": (
            8.0 * 768 * 2304
        ),
    },
)


def _round_nf4(block: Tensor, values: Tensor, scale=True, back=True, down=False) -> Tensor:
    rounded = []
    absmax = max(abs(number) for number in block.tolist()) if scale else 1.0
    for number in block.tolist():
        allowed = [x for x in values.tolist() if x <= number / absmax or not down]
        nearest = min(allowed or values.tolist(), key=lambda x: abs(x - number / absmax))
        rounded.append(nearest * absmax if back else nearest)
    return torch.tensor(rounded)


check_round_nf4 = Exercise(
    "round_nf4",
    _round_nf4,
    cases={
        "large numbers": (3 * randn(24, seed=1), torch.tensor(NF4)),
        "small numbers": (0.02 * randn(24, seed=2), torch.tensor(NF4)),
    },
    mistakes={
        "not multiplied again. The values lie between -1 and 1; multiply by the block's largest "
        "absolute value at the end.": {"back": False},
        "not divided first. Without the division small weights all become 0, and large ones all "
        "become 1 or -1.": {"scale": False},
        "rounded down. Take the nearest value, above or below.": {"down": True},
        "the largest number. Divide by the largest absolute value: block.abs().max().": (
            lambda block, values: (
                block.max() * values[(block[:, None] / block.max() - values).abs().argmin(1)]
            )
        ),
    },
)
