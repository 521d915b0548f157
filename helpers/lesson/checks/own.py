"""A learner's function in the place of the library's: `course.use(my_gae, gae, check_gae)`."""

import copy
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from helpers.lesson.checks.compare import TOLERANCE, numbers
from helpers.lesson.checks.limit import SECONDS, TookTooLong, time_limit, told
from helpers.rollouts import Models

Function = Callable[..., Any]
# A learner's code may do anything: whatever it raises must not stop the notebook.
ANYTHING = (Exception, SystemExit, TookTooLong)


def as_it_is(mine: Function, library: Function) -> Function:
    """Both functions take and return the same."""
    return mine


def results_and_gradients(
    function: Function, arguments: list, learns: tuple[int, ...]
) -> dict[str, list]:
    """What a function returns, as a list, and the gradients of its sum."""
    arguments = copy.deepcopy(arguments)
    inputs = [arguments[i].requires_grad_() for i in learns]
    for argument in arguments:
        inputs += argument.parameters() if isinstance(argument, nn.Module) else []
    result = function(*arguments)
    results = list(result) if isinstance(result, (tuple, list)) else [result]
    learned = [x.sum() for x in results if isinstance(x, Tensor) and x.requires_grad]
    if not learned:
        return {"result": results, "gradient": []}
    gradients = torch.autograd.grad(sum(learned), inputs, allow_unused=True)
    gradients = [torch.zeros(()) if g is None else g for g in gradients]
    return {"result": results, "gradient": gradients}


@dataclass(frozen=True)
class Place:
    """How a function from an exercise takes the place of a library function.

    adapt: (mine, library) -> a function that takes and returns what the library's does. cases:
    arguments of the library function; on each, both functions must have equal outcomes. learns:
    which of these arguments carry a gradient, beside the weights of a model. on_cpu: training calls
    it with tensors on the CPU, wherever the model is. outcome: (function, arguments, learns) ->
    what is compared, {what it is: tensors or numbers}.
    """

    cases: tuple[tuple, ...]
    adapt: Callable[[Function, Function], Function] = as_it_is
    learns: tuple[int, ...] = ()
    on_cpu: bool = False
    outcome: Callable[[Function, list, tuple[int, ...]], dict[str, list]] = results_and_gradients


def in_place_of(
    place: Place,
    mine: Function,
    library: Function,
    device: torch.device | str = "cpu",
    seconds: float = SECONDS,
) -> tuple[Function | None, str]:
    """(`mine` as training calls it, ""); or (None, why not), where it raises, needs too many
    seconds, or its outcome is not the library's.
    """
    device = torch.device("cpu" if place.on_cpu else device)
    function = with_signature_of(library, place.adapt(mine, library), device)
    for arguments in place.cases:
        given = [on_device(argument, device) for argument in arguments]
        try:
            expected = place.outcome(library, given, place.learns)
            with missing(library), time_limit(seconds):
                got = place.outcome(function, given, place.learns)
            for what, theirs in expected.items():
                if reason := unlike(got[what], theirs):
                    return None, f"its {what} {reason}"
        except CallsItself:
            return None, f"it calls {library.__name__} itself, which it is to replace"
        except ANYTHING as error:
            return None, told(error, f"on {device}")
    return function, ""


class CallsItself(BaseException):
    """A learner's function calls the library function whose place it would take."""


@contextmanager
def missing(library: Function) -> Iterator[None]:
    """Where a library function is defined, its name raises CallsItself: in training it would be the
    name of the learner's function, and a call from there would never end.
    """

    def itself(*arguments: Any, **named: Any) -> None:
        raise CallsItself

    names, name = library.__globals__, library.__name__
    defined = names.get(name, library)
    names[name] = itself
    try:
        yield
    finally:
        names[name] = defined


def with_signature_of(library: Function, function: Function, device: torch.device) -> Function:
    """`function` with the names and defaults of the library's parameters, undisturbed. What it
    creates is on the device.
    """
    signature = inspect.signature(library)

    def placed(*arguments: Any, **named: Any) -> Any:
        bound = signature.bind(*arguments, **named)
        bound.apply_defaults()
        with undisturbed(), nullcontext() if device.type == "cpu" else device:
            return function(*bound.args)

    placed.replaces = library
    return placed


@contextmanager
def undisturbed() -> Iterator[None]:
    """What a learner's code does to PyTorch's global settings is undone."""
    learning, dtype = torch.is_grad_enabled(), torch.get_default_dtype()
    device = torch.get_default_device()
    try:
        with torch.random.fork_rng([]):
            yield
    finally:
        torch.set_grad_enabled(learning)
        torch.set_default_dtype(dtype)
        if torch.get_default_device() != device:  # setting it slows every call down
            torch.set_default_device(device)


def on_device(argument: Any, device: torch.device) -> Any:
    """A copy of an argument, with its tensors on the device."""
    argument = copy.deepcopy(argument)
    if isinstance(argument, Models):
        return argument.on_two(device, device)
    return argument.to(device) if isinstance(argument, (Tensor, nn.Module)) else argument


def unlike(ours: list, theirs: list) -> str:
    """How a list of tensors and numbers differs from the library's; "" if it does not, up to
    rounding.
    """
    if len(ours) != len(theirs):
        return "differs from the library's"
    for x, y in zip(ours, theirs, strict=True):
        if isinstance(y, Tensor) and not isinstance(x, Tensor):
            return f"is a {type(x).__name__}; training needs a tensor"
        if isinstance(y, Tensor) and (x.dtype == torch.bool) != (y.dtype == torch.bool):
            return f"has the type {x.dtype}; training needs {y.dtype}"
        a, b = numbers(x), numbers(y)
        close = {"rtol": TOLERANCE, "atol": TOLERANCE, "equal_nan": True}
        if a.shape != b.shape or not torch.allclose(a, b, **close):
            return "differs from the library's"
    return ""
