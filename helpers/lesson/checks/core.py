"""How a "Your turn" cell is checked: an oracle, a few fixed cases, and the mistakes that people
really make. Task, hint and solution are in the notebooks.

A check prints one line and never raises, so an untouched or a wrong exercise does not stop "Run
All":

    check_gae(my_gae)    True: right; False: wrong, and the line says why; None: not attempted

`Exercise` is for code the learner writes, `Prediction` for a number guessed before running a cell.
"""

import copy
import math
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

# absolute and relative; the cases are small numbers, a real mistake moves them by far more
TOLERANCE = 1e-4
NOT_ATTEMPTED = "not attempted yet - moving on"
MARKS = {True: "✓", False: "✗", None: "○"}


@dataclass(frozen=True)
class Exercise:
    """A function to write, called `my_<name>` in the notebook.

    mistakes: {"name of the mistake. What to do about it.": a wrong version, or a list of them}. A
    wrong version is a function, or a dict of options with which the oracle makes this mistake.
    """

    name: str
    oracle: Callable[..., Any]  # slow and obvious
    cases: dict[str, tuple]  # what is special about the case -> arguments
    mistakes: dict[str, dict | Callable[..., Any] | list]

    def __call__(self, function: Callable[..., Any]) -> bool | None:
        """Compare `function` with the oracle on every case; print one line. True right, False
        wrong, None untouched.
        """
        if not callable(function):
            call = f"check_{self.name}(my_{self.name})"
            return report(
                self.name, False, f"pass the function itself, as in {call}, not its result."
            )
        results = []
        for label, arguments in self.cases.items():
            given = copy.deepcopy(arguments)
            try:
                results.append(function(*given))
            except Exception as error:
                if is_untouched(error):
                    return report(self.name, None, NOT_ATTEMPTED)
                first_line = (str(error).splitlines() or [""])[0]
                raises = f"raises {type(error).__name__} on the case '{label}': {first_line}"
                return report(self.name, False, raises)
            if difference(given, arguments):
                changes = f"changes its input in place (case '{label}')"
                return report(self.name, False, f"{changes}: work on a copy, others still need it.")
        diagnosis = self.diagnose(results)
        return report(self.name, not diagnosis, diagnosis or "right.")

    def diagnose(self, results: list) -> str:
        """Which mistake explains these results, one for each case? Empty if they are right."""
        expected = self.results_of(self.oracle)
        gaps = differences(results, expected)
        if not any(gaps):
            return ""
        for mistake in self.mistakes:
            for wrong in self.wrong_versions(mistake):
                if not any(differences(results, self.results_of(wrong))):
                    return mistake
        factor = constant_factor(results, expected)
        if factor is None:
            label, gap = next(
                (case, gap) for case, gap in zip(self.cases, gaps, strict=True) if gap
            )
            return f"wrong on the case '{label}': {gap}."
        if math.isclose(factor, -1, rel_tol=1e-3):
            return "every number has the wrong sign."
        return f"every number is {factor:.4g} times the right one."

    def wrong_versions(self, mistake: str) -> list[Callable[..., Any]]:
        """The functions that make a mistake."""
        wrong = self.mistakes[mistake]
        versions = wrong if isinstance(wrong, list) else [wrong]
        return [partial(self.oracle, **v) if isinstance(v, dict) else v for v in versions]

    def results_of(self, function: Callable[..., Any]) -> list:
        """What a function returns on each case."""
        return [function(*copy.deepcopy(arguments)) for arguments in self.cases.values()]


@dataclass(frozen=True)
class Prediction:
    """A number to guess before running a cell, called `my_<name>` in the notebook.

    mistakes: {"name of the mistake. What to do about it.": a wrong number, or a function of the
    right one}.
    """

    name: str
    answer: float
    why: str  # shown with the tick
    mistakes: dict[str, float | Callable[[float], float]]
    tolerance: float = 0.03  # relative; an absolute one where the answer is 0

    def __call__(self, guess: float | None) -> bool | None:
        """Say how near the guess is; print one line. True right, False wrong, None untouched."""
        if guess is None or guess is ...:
            return report(self.name, None, NOT_ATTEMPTED)
        try:
            guess = float(guess)
        except Exception:  # whatever it is
            kind = type(guess).__name__
            return report(self.name, False, f"the guess should be a number, this is a {kind}.")
        if is_near(guess, self.answer, self.tolerance):
            return report(self.name, True, f"{guess:.4g} is right ({self.answer:.4g}). {self.why}")
        for mistake, wrong in self.mistakes.items():
            if is_near(guess, wrong(self.answer) if callable(wrong) else wrong, self.tolerance):
                return report(self.name, False, mistake)
        distance = "close, but" if is_near(guess, self.answer, 0.25) else "far off:"
        side = "low" if guess < self.answer else "high"
        return report(self.name, False, f"{distance} {guess:.4g} is too {side}. The hint may help.")


def report(name: str, right: bool | None, text: str) -> bool | None:
    """Print the line of a check and return its result."""
    line = f"{MARKS[right]} my_{name}: {text}"
    try:
        print(line)
    except UnicodeEncodeError:  # a Windows pipe with an old code page
        print(line.encode("ascii", "replace").decode())
    return right


def is_near(a: float, b: float, tolerance: float) -> bool:
    """Whether a lies within a relative tolerance of b."""
    return abs(a - b) <= tolerance * (abs(b) or 1.0)


def is_untouched(error: Exception) -> bool:
    """Is it the stub's `raise NotImplementedError`, not PyTorch's for a missing kernel?"""
    if not isinstance(error, NotImplementedError):
        return False
    line = traceback.extract_tb(error.__traceback__)[-1].line or ""
    return not str(error) or "raise NotImplementedError" in line


def differences(results: list, expected: list) -> list[str]:
    """`difference` of each pair."""
    return [difference(got, right) for got, right in zip(results, expected, strict=True)]


def difference(got: Any, expected: Any) -> str:
    """How a result differs from the right one (tensors, numbers, texts, tuples); empty if equal."""
    if got is None:
        return "it returns None, so a `return` may be missing"
    if isinstance(expected, tuple):
        if not isinstance(got, (tuple, list)) or len(got) != len(expected):
            return f"it should return {len(expected)} things"
        return next(filter(None, differences(got, expected)), "")
    if isinstance(expected, str):
        if not isinstance(got, str):
            return f"it returns a {type(got).__name__}, expected a text"
        return "" if got == expected else f"got {got!r}, expected {expected!r}"
    try:
        a, b = numbers(got), numbers(expected)
    except Exception:  # whatever it is
        return f"it returns a {type(got).__name__}, which does not read as numbers"
    if a.shape != b.shape:
        return f"the shape is {tuple(a.shape)}, expected {tuple(b.shape)}"
    wrong = ~torch.isclose(a, b, rtol=TOLERANCE, atol=TOLERANCE, equal_nan=True)
    if not wrong.any():
        return ""
    where = tuple(wrong.nonzero()[0].tolist())
    at = f" at {list(where)}" if where else ""
    return f"got {a[where].item():.4g}{at}, expected {b[where].item():.4g}"


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
    """A result as a tensor of 64-bit numbers."""
    return torch.as_tensor(x).detach().cpu().double()


def randn(*shape: int, seed: int) -> Tensor:
    """Normal numbers for the cases, always the same ones; the global generator is left alone."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
