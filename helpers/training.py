"""What the stages share: optimisers, learning-rate schedule, one training step, progress and the
metrics log.
"""

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from helpers.batching import ahead
from helpers.engine.accumulation import WHOLE, Parts
from helpers.engine.distributed import add_gradients, add_numbers, is_main
from helpers.engine.snapshots import Keeper, resumable
from helpers.engine.state import write_state
from helpers.muon import Muon


def schedule(step: int, steps: int, warmup: float = 0.05, decay: float = 0.4) -> float:
    """Factor on the learning rate: up in the first `warmup` share of the steps, flat, down to 0 in
    the last `decay`.

    Warmup-stable-decay (Hu et al. 2024, "MiniCPM", section 4). `step` counts from 0.
    """
    up = (step + 1) / max(1, round(warmup * steps))
    down = (steps - step) / max(1, round(decay * steps))
    return min(1.0, up, down)


def adamw_and_muon(
    model: nn.Module, lr: float, muon_lr: float, weight_decay: float
) -> list[torch.optim.Optimizer]:
    """AdamW for all weights that learn; but for the matrices of the blocks Muon, unless its rate is
    0.
    """
    matrices, others = [], []
    for name, parameter in model.named_parameters():
        in_block = ".h." in f".{name}" and parameter.dim() == 2
        if parameter.requires_grad:
            (matrices if in_block and muon_lr else others).append(parameter)
    group = {"params": others}  # a group may be empty, as when only matrices are not frozen
    adamw = torch.optim.AdamW(
        [group], lr=lr, betas=(0.9, 0.95), weight_decay=weight_decay, fused=True
    )
    return [adamw, Muon(matrices, lr=muon_lr, weight_decay=weight_decay)] if matrices else [adamw]


class Optimizers:
    """The optimisers of a model, which take their steps together: see `adamw_and_muon`."""

    def __init__(
        self, model: nn.Module, lr: float, muon_lr: float = 0.0, weight_decay: float = 0.0
    ):
        self.parts = adamw_and_muon(model, lr, muon_lr, weight_decay)
        self.peaks = [lr, muon_lr]
        self.parameters = [p for part in self.parts for p in part.param_groups[0]["params"]]
        self.products_in(torch.float32)

    def products_in(self, dtype: torch.dtype) -> None:
        """Multiply matrices in this number format: so does Muon then. With float16 a scaler makes
        losses larger before `backward` (`scaler.scale`), or small gradients would round to 0.
        """
        for part in self.parts[1:]:
            part.dtype = dtype
        self.scaler = torch.amp.GradScaler(
            self.parameters[0].device.type, enabled=dtype == torch.float16
        )

    def step(self, factor: float = 1.0, clip: float = 1.0) -> float:
        """One update at `factor` times the peak rates, gradients cut to norm `clip`; returns the
        norm before.

        Raises FloatingPointError, before any weight has changed, if a gradient is not finite. In
        float16 that is an
        overflow: the update is left out, and the next losses are made less large.
        """
        add_gradients(self.parameters)  # of all processes
        for part in self.parts:
            self.scaler.unscale_(part)
        norm = nn.utils.clip_grad_norm_(self.parameters, clip)
        finite = bool(norm.isfinite())
        if not finite and not (self.scaler.is_enabled() and self.scaler.get_scale() > 1e-6):
            raise FloatingPointError("the gradient is not finite")
        for part, peak in zip(self.parts, self.peaks, strict=False):
            part.param_groups[0]["lr"] = peak * factor
            if finite:
                part.step()
            part.zero_grad(set_to_none=True)
        # the scale: smaller after an overflow, larger after many steps without one
        self.scaler.update()
        return norm.item()

    def state_dict(self) -> dict:
        return {
            "parts": [part.state_dict() for part in self.parts],
            "scaler": self.scaler.state_dict(),
        }

    def load_state_dict(self, state: dict) -> None:
        for part, saved in zip(self.parts, state["parts"], strict=True):
            part.load_state_dict(saved)
        self.scaler.load_state_dict(state["scaler"])


def autocast(device: torch.device | str, dtype: torch.dtype):
    """Run matrix products in `dtype` (nothing changes for float32)."""
    device_type = torch.device(device).type
    return nullcontext() if dtype == torch.float32 else torch.autocast(device_type, dtype=dtype)


class Progress:
    """Prints a line of metrics now and then with the time left, and keeps every step in a
    JSON-lines file.

    With a keeper the run is saved now and then, and goes on from there when it is started again.
    """

    def __init__(self, title: str, steps: int, keeper: Keeper | None = None, lines: int = 10):
        self.title, self.steps, self.every = title, steps, max(1, steps // lines)
        self.keeper = keeper
        self.history: list[dict[str, float]] = []
        self.start, self.resumed = (
            time.perf_counter(),
            0,
        )  # when, and after which step, this process began

    def update(self, **metrics: float) -> None:
        """Record the metrics of one step (numbers only)."""
        self.history.append({"step": len(self.history) + 1, **metrics})
        done = len(self.history)
        if not is_main():
            return
        if self.keeper:
            self.write_log(self.history[-1:], "w" if done == 1 else "a")
        if done % self.every == 0 or done in (self.resumed + 1, self.steps):
            seconds = time.perf_counter() - self.start
            left = seconds / (done - self.resumed) * (self.steps - done)
            numbers = "  ".join(f"{name} {value:.3g}" for name, value in metrics.items())
            print(
                f"{self.title} {done:>4}/{self.steps}  {numbers}  [{seconds:.0f}s, {left:.0f}s "
                "left]",
                flush=True,
            )

    def steps_left(self, **parts: Any):
        """For `with`: gives the numbers of the steps to take, from 0 or from where `parts` were
        last saved.
        """
        return resumable(self.title, self.steps, self.keeper, {**parts, "progress": self})

    @contextmanager
    def guard(self, batch: Any) -> Iterator[None]:
        """Says at which step a number was not finite, and keeps the batch that led to it."""
        try:
            yield
        except FloatingPointError as error:
            step, kept = len(self.history) + 1, ""
            if self.keeper and is_main():
                folder = self.keeper.log.with_name(f"{self.keeper.log.stem}-batch-of-step-{step}")
                write_state(
                    folder, {"step": step, "batch": vars(batch) if hasattr(batch, "ids") else batch}
                )
                kept = f" Its batch is kept in {folder}."
            raise FloatingPointError(
                f"{self.title}: {error} at step {step}; lower the rate.{kept}"
            ) from None

    def state_dict(self) -> dict:
        return {"history": self.history}

    def load_state_dict(self, state: dict) -> None:
        self.history[:] = state["history"]
        self.start, self.resumed = time.perf_counter(), len(self.history)
        if self.keeper and is_main():
            self.write_log(self.history, "w")

    def write_log(self, rows: list[dict[str, float]], mode: str) -> None:
        """Put steps into the log, a line each: into a new one (mode "w"), or behind those that are
        there ("a").
        """
        self.keeper.log.parent.mkdir(parents=True, exist_ok=True)
        with self.keeper.log.open(mode, encoding="utf-8") as file:
            for row in rows:
                known = {
                    name: value if math.isfinite(value) else None for name, value in row.items()
                }
                file.write(json.dumps(known) + "\n")  # JSON knows no NaN


def batch_gradients(
    model: nn.Module,
    batch: Any,
    loss_of: Callable,
    optimizers: Optimizers,
    dtype: torch.dtype,
    split: Parts,
) -> dict[str, float]:
    """Gradients of a batch's loss, part by part: they add up. Returns the batch's loss and metrics,
    of all processes.

    Parts get smaller when the memory runs out. Raises FloatingPointError if the loss is not finite.
    """
    device = next(model.parameters()).device

    def backward(part: Any, share: float) -> dict[str, Any]:
        with autocast(device, dtype):
            loss, metrics = loss_of(model, part)
        optimizers.scaler.scale(share * loss).backward()
        return {"loss": loss.detach(), **metrics}

    seen = split.add_up(batch, backward, again=model.zero_grad)
    numbers = torch.stack(
        [torch.as_tensor(value, device=device) for value in seen.values()]
    ).tolist()
    found = dict(zip(seen, add_numbers(numbers), strict=True))
    if not math.isfinite(found["loss"]):
        raise FloatingPointError(f"the loss is {found['loss']}")
    return found


def fit(
    model: nn.Module,
    batches: Sequence,
    loss_of: Callable[..., tuple[Tensor, dict]],
    optimizers: Optimizers,
    progress: Progress,
    *,
    dtype: torch.dtype = torch.float32,
    split: Parts = WHOLE,
) -> list[dict[str, float]]:
    """Train on each batch once: loss, gradients, update. Returns the metrics of every step.

    `loss_of(model, batch)` returns a scalar loss and extra metrics. `split` cuts a batch into parts
    with their shares of the loss: for the memory, and for several processes. Raises
    FloatingPointError if a number is not finite.
    """
    optimizers.products_in(dtype)
    batches = ahead(batches, next(model.parameters()).device)
    with progress.steps_left(model=model, optimizers=optimizers) as steps:
        for step in steps:
            batch, factor = batches[step], schedule(step, progress.steps)
            with progress.guard(batch):
                seen = batch_gradients(model, batch, loss_of, optimizers, dtype, split)
                norm = optimizers.step(factor)
            progress.update(**seen, grad_norm=norm, rate=factor)
    return progress.history
