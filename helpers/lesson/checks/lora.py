"""Exercises of 1-SFT's section on LoRA and QLoRA: the adapter's product, how much it learns,
rounding to 4 bits.
"""

from functools import partial

import torch
from torch import Tensor

from helpers.lesson.checks.core import Exercise, Prediction, randn
from helpers.quantization import NF4


def _lora(
    x: Tensor, W: Tensor, A: Tensor, B: Tensor, alpha: float, rank=True, base=True, adapter=True
) -> Tensor:
    rows = []
    for vector in x:
        low = torch.stack([row @ vector for row in A])
        added = torch.stack([row @ low for row in B]) * (alpha / len(A) if rank else alpha)
        rows.append((W @ vector if base else 0) + (added if adapter else 0))
    return torch.stack(rows)


LORA = Exercise(
    name="lora",
    difficulty=2,
    minutes=5,
    signature="my_lora(x, W, A, B, alpha)",
    task="`x` is `(N, in)`, `W` `(out, in)`, `A` `(r, in)`, `B` `(out, r)`. Return what a layer "
    "with an adapter gives, "
    "`(N, out)`: $W x + \\frac{\\alpha}{r} B A x$ for each row of `x`, without making the matrix "
    "$B A$.",
    hint="`x @ A.T` is `(N, r)`. What takes that to `(N, out)`?",
    solution="""
def my_lora(x, W, A, B, alpha):
    low = x @ A.T  # (N, r)
    return x @ W.T + alpha / A.size(0) * low @ B.T  # (N, out)
""",
    oracle=_lora,
    cases={
        "rank 2": (
            randn(3, 5, seed=1),
            randn(4, 5, seed=2),
            randn(2, 5, seed=3),
            randn(4, 2, seed=4),
            6.0,
        ),
        "rank 1": (
            randn(2, 3, seed=5),
            randn(3, 3, seed=6),
            randn(1, 3, seed=7),
            randn(3, 1, seed=8),
            0.5,
        ),
    },
    mistakes={
        "alpha not divided by the rank": (
            partial(_lora, rank=False),
            "The factor is alpha / r: so a larger rank can be tried without another learning rate.",
        ),
        "the frozen weight forgotten": (
            partial(_lora, base=False),
            "The adapter adds to W x; it doesn't replace it.",
        ),
        "the adapter forgotten": (partial(_lora, adapter=False), "This is W x alone."),
    },
)

LORA_SIZE = Prediction(
    name="lora_size",
    difficulty=1,
    minutes=2,
    task="In GPT-2 124M the layer `c_attn` has 768 inputs and 2,304 outputs. How many numbers "
    "does an adapter of rank "
    "8 train there?",
    hint="A is (r, in) and B is (out, r).",
    solution="my_lora_size = 8 * 768 + 2304 * 8",
    answer=8.0 * (768 + 2304),
    tolerance=0.001,
    why="One in 72 of the numbers of the weight itself.",
    mistakes={
        "that is the whole weight": (768.0 * 2304, "The weight is frozen: count A and B."),
        "B forgotten": (8.0 * 768, "This is A alone."),
        "A forgotten": (8.0 * 2304, "This is B alone."),
        "multiplied instead of added": (
            8.0 * 768 * 2304,
            "A has r x in numbers, B has out x r: they are added.",
        ),
    },
)


def _round_nf4(block: Tensor, values: Tensor, scale=True, back=True, down=False) -> Tensor:
    rounded = []
    absmax = max(abs(number) for number in block.tolist()) if scale else 1.0
    for number in block.tolist():
        allowed = (
            [value for value in values.tolist() if value <= number / absmax]
            if down
            else values.tolist()
        )
        nearest = min(allowed or values.tolist(), key=lambda value: abs(value - number / absmax))
        rounded.append(nearest * absmax if back else nearest)
    return torch.tensor(rounded)


ROUND_NF4 = Exercise(
    name="round_nf4",
    difficulty=2,
    minutes=6,
    signature="my_round_nf4(block, values)",
    task="`block` is `(n,)`, one block of a weight; `values` is `(16,)`, from -1 to 1. Divide the "
    "block by its "
    "largest absolute value, replace each number by the nearest of the values, multiply again. "
    "Return the rounded "
    "block `(n,)`.",
    hint="`(scaled[:, None] - values).abs()` is `(n, 16)`: the distance of each number to each "
    "value.",
    solution="""
def my_round_nf4(block, values):
    absmax = block.abs().max()
    codes = (block[:, None] / absmax - values).abs().argmin(dim=1)  # (n,), 0 to 15
    return values[codes] * absmax
""",
    oracle=_round_nf4,
    cases={
        "large numbers": (3 * randn(24, seed=1), torch.tensor(NF4)),
        "small numbers": (0.02 * randn(24, seed=2), torch.tensor(NF4)),
    },
    mistakes={
        "not multiplied again": (
            partial(_round_nf4, back=False),
            "The values lie between -1 and 1; multiply by the block's largest absolute value at "
            "the end.",
        ),
        "not divided first": (
            partial(_round_nf4, scale=False),
            "Without the division small weights all become 0, and large ones all become 1 or -1.",
        ),
        "rounded down": (partial(_round_nf4, down=True), "Take the nearest value, above or below."),
    },
)

EXERCISES = [LORA, LORA_SIZE, ROUND_NF4]

check_lora = LORA.check
check_lora_size = LORA_SIZE.check
check_round_nf4 = ROUND_NF4.check
