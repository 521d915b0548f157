"""How a "Your turn" cell is checked: an oracle, a few fixed cases, and the mistakes that people
really make. Task, hint and solution are in the notebooks.

A check prints one line, with an example under it if it recognises no mistake, and never raises, so
an untouched or a wrong exercise does not stop "Run All":

    check_gae(my_gae)    True: right; False: wrong, and the line says why; None: not attempted

The line of a right one also says how many exercises of the notebook are solved.

`Exercise` is for code the learner writes, `Prediction` for a number guessed before running a cell.
"""

import copy
import inspect
import math
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from helpers.lesson.checks.compare import constant_factor, difference, differences
from helpers.lesson.checks.limit import SECONDS, time_limit, told
from helpers.lesson.checks.own import ANYTHING, Function, Place, in_place_of, undisturbed
from helpers.model import GPT, GPTConfig
from helpers.run import answers

NOT_ATTEMPTED = "not attempted yet - moving on"
COPY = ": work on a copy (`clone()` of a tensor, `list()` of a list), others still need it."
SHOWN = 25  # numbers of an example that are printed
MARKS = {True: "✓", False: "✗", None: "○"}


@dataclass(frozen=True)
class Exercise:
    """A function to write, called `my_<name>` in the notebook.

    mistakes: {"name of the mistake. What to do about it.": a wrong version, or a list of them}. A
    wrong version is a function, or a dict of options with which the oracle makes this mistake.
    """

    name: str
    oracle: Function  # slow and obvious
    cases: dict[str, tuple]  # what is special about the case -> arguments
    mistakes: dict[str, dict | Function | list]
    place: Place | None = None  # of the library function that it can replace
    seconds: float = SECONDS  # that each case may take

    def __call__(self, function: Function) -> bool | None:
        """Compare `function` with the oracle on every case; print one line. True right, False
        wrong, None untouched.
        """
        right, text = self.judge(function)
        return report(self.name, right, text)

    def replaces(
        self, function: Function, library: Function, course: Any
    ) -> tuple[Function | None, str]:
        """(`function` in the place of a library function, ""); or (None, why not), with no reason
        for the untouched stub.
        """
        right, text = self.judge(function)
        if not right:
            return None, "" if right is None else text
        if reason := self.unfit(course):
            return None, reason
        return in_place_of(self.place, function, library, course.device, self.seconds)

    def unfit(self, course: Any) -> str:
        """Why a right solution cannot train this stage here; "" if it can."""
        return ""

    def judge(self, function: Function) -> tuple[bool | None, str]:
        """What `__call__` returns and prints."""
        if not callable(function):
            call = f"check_{self.name}(my_{self.name})"
            return False, f"pass the function itself, as in {call}, not its result."
        results = []
        for label, arguments in self.cases.items():
            given = copy.deepcopy(arguments)
            try:
                with undisturbed(), time_limit(self.seconds):
                    results.append(self.result(function, given))
            except ANYTHING as error:
                if is_untouched(error, function):
                    return None, NOT_ATTEMPTED
                what = told(error, f"on the case '{label}'")
                return False, what + failing_line(error, function) + shapes(function, arguments)
            if self.changed(given, arguments):
                changes = f"changes its input {changed_name(function, given, arguments)} in place"
                return False, f"{changes} (case '{label}')" + COPY
        diagnosis = self.diagnose(results)
        if diagnosis.startswith("wrong on the case"):
            diagnosis += self.example(function, results)
        return not diagnosis, diagnosis or "correct"

    def result(self, function: Function, given: tuple) -> Any:
        """What is compared with the oracle's."""
        return function(*given)

    def changed(self, given: tuple, arguments: tuple) -> bool:
        """Whether the function has changed its arguments, and should not have."""
        return any(map(differs, given, arguments))

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
        if factor is None or math.isclose(factor, 1, rel_tol=1e-3):  # 1: right but for its shape
            label, gap = next(
                (case, gap) for case, gap in zip(self.cases, gaps, strict=True) if gap
            )
            return f"wrong on the case '{label}': {gap}."
        if math.isclose(factor, -1, rel_tol=1e-3):
            return "every number has the wrong sign."
        return f"every number is {factor:.4g} times the right one."

    def example(self, function: Function, results: list) -> str:
        """What was given, expected and got on the first wrong case, on lines of their own."""
        expected = self.results_of(self.oracle)
        gaps = differences(results, expected)
        at = next(i for i, gap in enumerate(gaps) if gap)
        given = named(function, list(self.cases.values())[at])
        lines = {"given": "\n             ".join(f"{k} {short(v)}" for k, v in given.items())}
        lines |= {"expected": short(expected[at]), "got": short(results[at])}
        return "".join(f"\n    {name:<9}{line}" for name, line in lines.items())

    def wrong_versions(self, mistake: str) -> list[Callable[..., Any]]:
        """The functions that make a mistake."""
        wrong = self.mistakes[mistake]
        versions = wrong if isinstance(wrong, list) else [wrong]
        return [partial(self.oracle, **v) if isinstance(v, dict) else v for v in versions]

    def results_of(self, function: Callable[..., Any]) -> list:
        """What a function returns on each case."""
        cases = self.cases.values()
        return [self.result(function, copy.deepcopy(arguments)) for arguments in cases]


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
        if math.isnan(guess):
            return report(self.name, False, "the guess is nan, which is not a number.")
        if is_near(guess, self.answer, self.tolerance):
            exactly = f" ({self.answer:.4g})" if f"{guess:.4g}" != f"{self.answer:.4g}" else ""
            return report(self.name, True, f"{guess:.4g} is right{exactly}. {self.why}")
        for mistake, wrong in self.mistakes.items():
            if is_near(guess, wrong(self.answer) if callable(wrong) else wrong, self.tolerance):
                return report(self.name, False, mistake)
        distance = "close, but" if is_near(guess, self.answer, 0.25) else "far off:"
        side = "low" if guess < self.answer else "high"
        return report(self.name, False, f"{distance} {guess:.4g} is too {side}. The hint may help.")


def report(name: str, right: bool | None, text: str) -> bool | None:
    """Print the line of a check and return its result."""
    line = f"{MARKS[right]} my_{name}: {text}{answers.count(name, right is True)}"
    try:
        print(line)
    except UnicodeEncodeError:  # a Windows pipe with an old code page
        print(line.encode("ascii", "replace").decode())
    return right


def failing_line(error: BaseException, function: Function) -> str:
    """Where in the learner's own function an error arose: " (line 3: ...)"; "" if unknown."""
    code = getattr(function, "__code__", None)
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if code and (f.filename, f.name) == (code.co_filename, code.co_name)]
    if not own or not own[-1].line:
        return ""
    return f"\n    in line {own[-1].lineno - code.co_firstlineno + 1} of it: {own[-1].line}"


def shapes(function: Function, given: tuple) -> str:
    """The shapes of the arguments, which most errors of PyTorch are about; "" without tensors."""
    sizes = [
        f"{name} {tuple(x.shape) if isinstance(x, Tensor) else short(x)}"
        for name, x in named(function, given).items()
    ]
    tensors = any(isinstance(x, Tensor) for x in given)
    return f"\n    shapes   {', '.join(sizes)}" if tensors else ""


def differs(given: Any, argument: Any) -> bool:
    """Whether an argument has changed; functions and models may."""
    return not callable(argument) and bool(difference(given, argument))


def changed_name(function: Function, given: tuple, arguments: tuple) -> str:
    """The name of the first argument that a function has changed."""
    names = named(function, given)
    return next(n for n, x in zip(names, arguments, strict=True) if differs(names[n], x))


def named(function: Function, given: tuple) -> dict[str, Any]:
    """{parameter: argument} of a call; numbered where the function does not name each."""
    try:
        names = list(inspect.signature(function).bind(*given).arguments)
    except (TypeError, ValueError):
        names = []
    if len(names) != len(given):
        names = [f"argument {i}" for i in range(1, len(given) + 1)]
    return dict(zip(names, given, strict=True))


def short(value: Any) -> str:
    """A value in a few words: small tensors and lists in full, the shape of larger ones, the type
    of what cannot be printed.
    """
    try:
        return in_full_or_shape(value)
    except Exception:  # whatever it is: a sparse, a nested or a masked tensor, an endless list ...
        return f"a {type(value).__name__}"


def in_full_or_shape(value: Any) -> str:
    """What `short` returns of a value that can be printed."""
    if isinstance(value, Tensor):
        if value.numel() > SHOWN:
            return f"of shape {tuple(value.shape)}"
        return str(round_all(value.tolist()))
    if isinstance(value, tuple) and any(isinstance(x, Tensor) for x in value):
        return ", ".join(map(short, value))
    if callable(value):
        return getattr(value, "__name__", type(value).__name__)
    text = repr(round_all(value) if isinstance(value, (list, float)) else value)
    return text if len(text) <= 10 * SHOWN else f"{text[: 10 * SHOWN]} ..."


def round_all(value: Any) -> Any:
    """Numbers in a list of lists with three digits behind the point, True and False as 1 and 0."""
    if isinstance(value, list):
        return [round_all(x) for x in value]
    if isinstance(value, bool):
        return int(value)
    return round(value, 3) if isinstance(value, float) else value


def is_near(a: float, b: float, tolerance: float) -> bool:
    """Whether a lies within a relative tolerance of b."""
    return abs(a - b) <= tolerance * (abs(b) or 1.0)


def is_untouched(error: BaseException, function: Function) -> bool:
    """Is it this stub's own `raise NotImplementedError`, not that of another stub that it calls, or
    PyTorch's for a missing kernel?
    """
    if not isinstance(error, NotImplementedError):
        return False
    frames = list(traceback.walk_tb(error.__traceback__))
    code = getattr(function, "__code__", None)
    if code is not None and frames[-1][0].f_code is not code:
        return False
    line = traceback.extract_tb(error.__traceback__)[-1].line or ""
    return not str(error) or "raise NotImplementedError" in line


def randn(*shape: int, seed: int) -> Tensor:
    """Normal numbers for the cases, always the same ones; the global generator is left alone."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def tiny_gpt() -> GPT:
    """A GPT with random weights, always the same: vocabulary of 5, context of 8."""
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        return GPT(GPTConfig(5, 8, layers=1, heads=2, channels=8))
