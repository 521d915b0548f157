"""How a "Your turn" cell is checked: an oracle, a few fixed cases, and the mistakes that people
really make, by name.

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
from typing import Any, ClassVar

import torch
from torch import Tensor

# absolute and relative; the cases are small numbers, a real mistake moves them by far more
TOLERANCE = 1e-4
NOT_ATTEMPTED = "not attempted yet - moving on"
Mistakes = dict[
    str, tuple[Any, str]
]  # name -> (wrong function or number, or a list of variants; what to do about it)


@dataclass(frozen=True)
class _Task:
    """What both kinds share: the texts a notebook shows. `name` is the learner's name without
    "my_".
    """

    name: str
    difficulty: int  # 1 to 3
    minutes: int
    task: str  # markdown, one paragraph
    hint: str
    solution: str  # Python source that defines my_<name>
    mistakes: Mistakes

    kind: ClassVar[str] = ""

    def markdown(self) -> str:
        """The markdown cell above the stub: difficulty, minutes, task."""
        dots = "●" * self.difficulty + "○" * (3 - self.difficulty)
        unit = "minute" if self.minutes == 1 else "minutes"
        return f"**Your turn: {self.kind}** {dots} {self.minutes} {unit}\n\n{self.task}"

    def stub(self) -> str:
        """The code cell: something to fill in and its check."""
        raise NotImplementedError

    def answers(self) -> str:
        """The markdown cell below the stub: hint and solution, folded."""
        code = f"```python\n{self.solution.strip()}\n```"
        return _folded("Hint", self.hint) + "\n" + _folded("Solution", code + self._why())

    def cells(self) -> list[tuple[str, str]]:
        """The three notebook cells as (cell type, source): task, stub, hint and solution."""
        return [("markdown", self.markdown()), ("code", self.stub()), ("markdown", self.answers())]

    def variants(self, name: str) -> list:
        """The wrong versions that go by this name."""
        wrong = self.mistakes[name][0]
        return wrong if isinstance(wrong, list) else [wrong]

    def solve(self) -> Any:
        """Run the solution text and return what it defines (for tests)."""
        namespace: dict[str, Any] = {"torch": torch, "F": torch.nn.functional, "math": math}
        exec(self.solution, namespace)  # our own text, not the learner's
        return namespace[f"my_{self.name}"]

    def _why(self) -> str:
        return ""

    def _say(self, mark: str, text: str) -> None:
        line = f"{mark} my_{self.name}: {text}"
        try:
            print(line)
        except UnicodeEncodeError:  # a Windows pipe with an old code page
            print(line.encode("ascii", "replace").decode())


@dataclass(frozen=True)
class Exercise(_Task):
    """A function to write. `oracle` is the slow and obvious way; `mistakes` hold wrong versions of
    it.
    """

    signature: str  # "my_gae(rewards, values, mask, gamma, lam)"
    oracle: Callable[..., Any]
    cases: dict[str, tuple]  # what is special about the case -> arguments

    kind: ClassVar[str] = "implement"

    def stub(self) -> str:
        """The code cell: an empty function and its check. The semicolon keeps Jupyter from printing
        True or False.
        """
        return (
            f"def {self.signature}:\n    raise "
            f"NotImplementedError\n\n\ncheck_{self.name}(my_{self.name});"
        )

    def check(self, function: Callable[..., Any]) -> bool | None:
        """Compare `function` with the oracle on every case; print one line. True right, False
        wrong, None untouched.
        """
        if not callable(function):
            self._say(
                "✗",
                f"pass the function itself, as in check_{self.name}(my_{self.name}), not its "
                "result.",
            )
            return False
        results = []
        for label, arguments in self.cases.items():
            given = copy.deepcopy(arguments)
            try:
                results.append(function(*given))
            except Exception as error:
                if _is_untouched(error):
                    self._say("○", NOT_ATTEMPTED)
                    return None
                first_line = (str(error).splitlines() or [""])[0]
                self._say("✗", f"raises {type(error).__name__} on the case '{label}': {first_line}")
                return False
            if difference(given, arguments):
                self._say(
                    "✗",
                    f"changes its input in place (case '{label}'): work on a copy, others still "
                    "need it.",
                )
                return False
        diagnosis = self.diagnose(results)
        self._say("✗" if diagnosis else "✓", diagnosis or "right.")
        return not diagnosis

    def diagnose(self, results: list) -> str:
        """Which mistake explains these results, one for each case? Empty if there is none to
        explain.
        """
        expected = self._results(self.oracle)
        gaps = [difference(got, right) for got, right in zip(results, expected, strict=True)]
        if not any(gaps):
            return ""
        for name, (_, advice) in self.mistakes.items():
            for wrong in self.variants(name):
                outputs = self._results(wrong)
                if not any(
                    difference(got, same) for got, same in zip(results, outputs, strict=True)
                ):
                    return f"{name}. {advice}"
        label, gap = next((label, gap) for label, gap in zip(self.cases, gaps, strict=True) if gap)
        factor = constant_factor(results, expected)
        if factor is not None:
            what = (
                "has the wrong sign"
                if math.isclose(factor, -1, rel_tol=1e-3)
                else f"is {factor:.4g} times the right one"
            )
            return f"every number {what}."
        return f"wrong on the case '{label}': {gap}."

    def _results(self, function: Callable[..., Any]) -> list:
        return [function(*copy.deepcopy(arguments)) for arguments in self.cases.values()]


@dataclass(frozen=True)
class Prediction(_Task):
    """A number to guess before running a cell. `mistakes` hold wrong numbers, or functions of the
    right one.
    """

    answer: float
    why: str  # shown with the tick
    tolerance: float = 0.03  # relative; an absolute one where the answer is 0

    kind: ClassVar[str] = "predict"

    def stub(self) -> str:
        """The code cell: a guess to fill in and its check."""
        return f"my_{self.name} = None  # your guess\n\ncheck_{self.name}(my_{self.name});"

    def check(self, guess: float | None, answer: float | None = None) -> bool | None:
        """Say how near the guess is; print one line. answer: a number measured just now, in place
        of the stored one.
        """
        answer = self.answer if answer is None else float(answer)
        if guess is None or guess is ...:
            self._say("○", NOT_ATTEMPTED)
            return None
        try:
            guess = float(guess)
        except Exception:  # whatever it is
            self._say("✗", f"the guess should be a number, this is a {type(guess).__name__}.")
            return False
        if self._near(guess, answer, self.tolerance):
            self._say("✓", f"{guess:.4g} is right ({answer:.4g}). {self.why}")
            return True
        for name, (_, advice) in self.mistakes.items():
            for wrong in self.variants(name):
                if self._near(guess, wrong(answer) if callable(wrong) else wrong, self.tolerance):
                    self._say("✗", f"{name}. {advice}")
                    return False
        distance = "close, but" if self._near(guess, answer, 0.25) else "far off:"
        self._say(
            "✗",
            f"{distance} {guess:.4g} is too {'low' if guess < answer else 'high'}. The hint may "
            "help.",
        )
        return False

    @staticmethod
    def _near(a: float, b: float, tolerance: float) -> bool:
        return abs(a - b) <= tolerance * (abs(b) or 1.0)

    def _why(self) -> str:
        return f"\n\n{self.why}"


def difference(got: Any, expected: Any) -> str:
    """How `got` differs from `expected` (tensors, numbers, strings, tuples of them); empty if it
    does not.
    """
    if got is None:
        return "it returns None, so a `return` may be missing"
    if isinstance(expected, tuple):
        if not isinstance(got, (tuple, list)) or len(got) != len(expected):
            return f"it should return {len(expected)} things"
        return next(
            (gap for pair in zip(got, expected, strict=True) if (gap := difference(*pair))), ""
        )
    if isinstance(expected, str):
        if not isinstance(got, str):
            return f"it returns a {type(got).__name__}, expected a text"
        return "" if got == expected else f"got {got!r}, expected {expected!r}"
    try:
        a, b = _numbers(got), _numbers(expected)
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
    """The c with results = c * expected throughout, if there is one besides 1 and at least two
    numbers show it.
    """
    try:
        a, b = (torch.cat([_numbers(x).flatten() for x in side]) for side in (results, expected))
    except Exception:  # texts, tuples
        return None
    if (
        a.shape != b.shape
        or (b != 0).sum() < 2
        or not torch.isfinite(a).all()
        or not torch.isfinite(b).all()
    ):
        return None
    factor = (a @ b / (b @ b)).item()  # least squares; exact if there is such a factor
    return (
        factor if factor and torch.allclose(a, factor * b, rtol=TOLERANCE, atol=TOLERANCE) else None
    )


def randn(*shape: int, seed: int) -> Tensor:
    """Normal numbers for the cases, always the same ones; the global generator is left alone."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _numbers(x: Any) -> Tensor:
    return torch.as_tensor(x).detach().cpu().double()


def _is_untouched(error: Exception) -> bool:
    """Is it the stub's own `raise NotImplementedError`? (PyTorch raises that class too, for a
    missing kernel.)
    """
    if not isinstance(error, NotImplementedError):
        return False
    line = traceback.extract_tb(error.__traceback__)[-1].line or ""
    return not str(error) or "raise NotImplementedError" in line


def _folded(title: str, text: str) -> str:
    return f"<details><summary>{title}</summary>\n\n{text.strip()}\n\n</details>"
