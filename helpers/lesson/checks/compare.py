"""Whether a learner's results are the right ones, and how they differ."""

from typing import Any

import torch
from torch import Tensor

# absolute and relative; the cases are small numbers, a real mistake moves them by far more
TOLERANCE = 1e-4
MOST = 1_000_000  # numbers of a result that are read


def differences(results: list, expected: list) -> list[str]:
    """`difference` of each pair."""
    return [difference(got, right) for got, right in zip(results, expected, strict=True)]


def difference(got: Any, expected: Any) -> str:
    """How a result differs from the right one (tensors, numbers, texts and
    lists of them, tuples); empty if equal."""
    if got is None:
        return "it returns None, so a `return` may be missing"
    if isinstance(expected, tuple):
        if not isinstance(got, (tuple, list)) or len(got) != len(expected):
            return f"it should return {len(expected)} things"
        return next(filter(None, differences(got, expected)), "")
    if isinstance(expected, list) and all(isinstance(x, str) for x in expected):
        return list_difference(got, expected)
    if isinstance(expected, str):
        if not isinstance(got, str):
            return f"it returns a {type(got).__name__}, expected a text"
        return "" if got == expected else f"got {got!r}, expected {expected!r}"
    if isinstance(got, tuple):
        return f"it returns {len(got)} things, expected one"
    if isinstance(got, Tensor) and got.numel() > MOST:
        return f"the shape is {in_words(got.shape)}, which is far too large"
    try:
        a, b = numbers(got), numbers(expected)
        if a.shape != b.shape:
            return f"the shape is {in_words(a.shape)}, expected {in_words(b.shape)}"
        wrong = ~torch.isclose(a, b, rtol=TOLERANCE, atol=TOLERANCE, equal_nan=True)
        if not wrong.any():
            return ""
        where = tuple(wrong.nonzero()[0].tolist())
    except Exception:  # whatever it is: a sparse, a nested or a masked tensor, a generator ...
        return f"it returns a {type(got).__name__}, which does not read as numbers"
    at = f" at {list(where)}" if where else ""
    return f"got {a[where].item():.4g}{at}, expected {b[where].item():.4g}"


def in_words(shape: torch.Size) -> str:
    """A shape, as it is printed."""
    return str(tuple(shape)) if shape else "() (one number)"


def list_difference(got: Any, expected: list[str]) -> str:
    """How a list of texts differs from the right one; empty if equal."""
    if not isinstance(got, (list, tuple)):
        return f"it returns a {type(got).__name__}, expected a list"
    if len(got) != len(expected):
        return f"it returns {len(got)} items, expected {len(expected)}"
    pairs = enumerate(zip(got, expected, strict=True))
    wrong = [(i, a, b) for i, (a, b) in pairs if not isinstance(a, str) or a != b]
    return "got {1!r} at [{0}], expected {2!r}".format(*wrong[0]) if wrong else ""


def constant_factor(results: list, expected: list) -> float | None:
    """The c with results = c * expected throughout, if at least two numbers show one."""
    try:
        a, b = (torch.cat([numbers(x).flatten() for x in side]) for side in (results, expected))
    except Exception:  # texts, tuples
        return None
    if a.shape != b.shape or (b != 0).sum() < 2 or not torch.isfinite(torch.cat([a, b])).all():
        return None
    factor = (a @ b / (b @ b)).item()  # least squares; exact if there is such a factor
    exact = torch.allclose(a, factor * b, rtol=TOLERANCE, atol=TOLERANCE)
    return factor if factor and exact else None


def numbers(x: Any) -> Tensor:
    """A result as a tensor of 64-bit numbers. Raises TypeError or ValueError for what is none, and
    for far too many of them.
    """
    if isinstance(x, (list, tuple)) and any(hasattr(item, "shape") for item in x):
        return torch.stack([numbers(item) for item in x])  # of tensors or arrays
    if isinstance(x, Tensor):
        x = x.detach()
    tensor = torch.as_tensor(x)
    if tensor.is_complex():
        raise TypeError("complex numbers")
    if tensor.numel() > MOST:
        raise ValueError("too many numbers")
    return tensor.cpu().double()
