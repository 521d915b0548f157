"""A learner's training loop in the place of the library's.

The learner's loop sees batches, a model and an optimiser, and yields what it measured after every
step. Around it are the schedule, the snapshots and the log of the library's loop.
"""

import copy
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from helpers.config import AdapterConfig
from helpers.engine.loop import Loop
from helpers.lesson.checks.own import Function
from helpers.model import RewardModel
from helpers.ppo import start_training
from helpers.rollouts import Models
from helpers.training import Optimizers, autocast

# token ids of three texts, for tiny models: (B, T)
IDS = torch.tensor([[1, 2, 3, 4, 2, 1], [4, 3, 1, 2, 2, 0], [2, 2, 1, 3, 0, 0]])


class PlainOptimizer:
    """`Optimizers` with the calls that a plain loop makes; `step` follows the schedule, whatever
    factor it is given.
    """

    def __init__(self, optimizers: Optimizers):
        self.optimizers = optimizers
        self.factor = 1.0  # on the learning rates
        self.norm = 0.0  # of the last gradient

    def zero_grad(self, set_to_none: bool = True) -> None:
        for parameter in self.optimizers.parameters:
            parameter.grad = None

    def backward(self, loss: Tensor) -> None:
        self.optimizers.backward(loss)

    def step(self, factor: float = 1.0) -> None:
        self.norm = self.optimizers.step(self.factor)


def supervised(mine: Function, library: Function) -> Function:
    """`mine(model, batches, optimizer)`, which yields its loss, or (loss, accuracy), after every
    step, as the loop `train` of a stage.
    """

    def train(model: nn.Module, batches: Any, config: Any, loop: Loop) -> list[dict]:
        schedule = schedule_of(library)
        rates = config.rates if isinstance(config, AdapterConfig) else (config.lr, config.muon_lr)
        optimizers = Optimizers(model, *rates, loop.dtype)
        optimizer = PlainOptimizer(optimizers)

        def batches_left(steps: Iterator[int]) -> Iterator[Any]:
            for step in steps:
                optimizer.factor = schedule(step, len(batches))
                for batch, _ in loop.parts(batches[step]):  # one part: the whole batch
                    yield batch

        with (
            loop.run(len(batches), model=model, optimizers=optimizers) as steps,
            autocast(loop.device, loop.dtype),
        ):
            for measured in mine(model, batches_left(steps), optimizer):
                numbers = numbers_of(measured)
                numbers = numbers if isinstance(numbers, list) else [numbers]
                loop.add(1.0, **dict(zip(("loss", "accuracy"), numbers, strict=False)))
                loop.log(**loop.means(), grad_norm=optimizer.norm, rate=optimizer.factor)
        finished(loop, len(batches))
        return loop.history

    return train


def reinforcement(mine: Function, library: Function) -> Function:
    """`mine(models, run, prompts, config, tokenizer)`, which yields the metrics of every iteration,
    as PPO's `train`.
    """

    def train(models: Models, prompts: list, config: Any, tokenizer: Any, loop: Loop) -> list[dict]:
        run, schedule = start_training(models, config), schedule_of(library)
        state = {"policy": models.policy, "value": models.value, **vars(run)}
        policy, value = PlainOptimizer(run.policy_optimizer), PlainOptimizer(run.value_optimizer)
        plain = replace(run, policy_optimizer=policy, value_optimizer=value)
        with loop.run(config.iterations, **state) as iterations:
            left = replace(config, iterations=config.iterations - len(loop.history))
            measured = mine(models, plain, prompts, left, tokenizer)
            for iteration in iterations:
                policy.factor = value.factor = schedule(iteration, config.iterations)
                metrics = next(measured, None)
                if metrics is None:
                    break
                loop.log(**metrics)
        finished(loop, config.iterations)
        return loop.history

    return train


def numbers_of(measured: Any) -> Any:
    """What a loop has yielded after a step: a number, or a list of several. They may come as
    tensors, as an array, or in a dict.
    """
    if isinstance(measured, dict):
        measured = [*measured.values()]
    if hasattr(measured, "tolist"):  # torch tensors, numpy scalars and arrays
        measured = measured.tolist()
    if not isinstance(measured, (list, tuple)):
        return measured
    numbers = [numbers_of(x) for x in measured]
    return numbers[0] if len(numbers) == 1 else numbers


def schedule_of(library: Function) -> Function:
    """The schedule that a loop of the library reads; in a notebook it may be the learner's."""
    return library.__globals__["schedule"]


def finished(loop: Loop, steps: int) -> None:
    """Raises RuntimeError if a loop ended before its last step."""
    if len(loop.history) < steps:
        done = len(loop.history)
        raise RuntimeError(f"the loop ended after {done} of {steps} steps, without a `yield` each")


def log_and_models(train: Function, arguments: list, learns: tuple[int, ...]) -> dict[str, list]:
    """What a short training run logs, and the models that it leaves."""
    arguments = copy.deepcopy(arguments)
    history = train(*arguments, Loop("trial", lines=0))
    rows = [torch.tensor([*row.values()]) for row in history]
    logged = "log, written at each `yield` after a step,"
    return {logged: rows, "trained model": outputs_of(arguments)}


@torch.no_grad()
def outputs_of(arguments: tuple | list) -> list[Tensor]:
    """What the models among the arguments of a loop say about `IDS`. (Not their weights: those that
    do not matter, like the bias of the keys, have gradients of rounding errors, and Adam's steps
    are as large for these as for any other.)
    """
    models: list[nn.Module] = []
    for argument in arguments:
        if isinstance(argument, Models):
            models += [argument.policy, argument.value, argument.reference, argument.reward]
        elif isinstance(argument, nn.Module):
            models.append(argument)
    mask = torch.ones_like(IDS, dtype=torch.bool)
    return [
        model(*(x.to(next(model.parameters()).device) for x in inputs))
        for model in models
        for inputs in [(IDS, mask, mask) if isinstance(model, RewardModel) else (IDS,)]
    ]


def needs_the_library(course: Any) -> str:
    """Why a plain loop cannot train this stage here; "" if it can."""
    config = course.config
    size = getattr(config, "minibatch_size", 0) or config.batch_size
    if 0 < config.micro_batch < size:
        return "with these settings the batches do not fit in memory at once, and it takes no parts"
    if course.dtype == torch.float16 and course.stage != "ppo":
        return "this GPU computes in float16, where the loss must be scaled before `backward`"
    return ""
