"""What the stages share: optimisers, learning-rate schedule, one training step, progress and the metrics log."""

import json
import math
import time
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from helpers.muon import Muon


def schedule(step: int, steps: int, warmup: float = 0.05, decay: float = 0.4) -> float:
    """Factor on the learning rate: up in the first `warmup` share of the steps, flat, down to 0 in the last `decay`.

    Warmup-stable-decay (Hu et al. 2024, "MiniCPM", section 4). `step` counts from 0.
    """
    up = (step + 1) / max(1, round(warmup * steps))
    down = (steps - step) / max(1, round(decay * steps))
    return min(1.0, up, down)


class Optimizers:
    """Muon for the weight matrices of the blocks, AdamW for everything else (embeddings, norms, biases, heads).

    muon_lr = 0 trains everything with AdamW at `lr`. Frozen weights are left out.
    """

    def __init__(self, model: nn.Module, lr: float, muon_lr: float = 0.0, weight_decay: float = 0.0):
        matrices, others = [], []
        for name, parameter in model.named_parameters():
            in_block = ".h." in f".{name}" and parameter.dim() == 2
            if parameter.requires_grad:
                (matrices if in_block and muon_lr else others).append(parameter)
        group = {"params": others}  # a group may be empty, as when only matrices are not frozen
        self.parts = [torch.optim.AdamW([group], lr=lr, betas=(0.9, 0.95), weight_decay=weight_decay, fused=True)]
        if matrices:
            self.parts.append(Muon(matrices, lr=muon_lr, weight_decay=weight_decay))
        self.peaks = [lr, muon_lr]
        self.parameters = matrices + others

    def step(self, factor: float = 1.0, clip: float = 1.0, scaler: torch.amp.GradScaler | None = None) -> float:
        """One update at `factor` times the peak rates, gradients cut to norm `clip`; returns the norm before.

        scaler: what made the loss larger for float16; gradients that overflowed are dropped, without an update.
        """
        scaled = scaler is not None and scaler.is_enabled()
        for optimizer in self.parts if scaled else ():
            scaler.unscale_(optimizer)
        norm = nn.utils.clip_grad_norm_(self.parameters, clip)
        for optimizer, peak in zip(self.parts, self.peaks, strict=False):
            for group in optimizer.param_groups:
                group["lr"] = peak * factor
            if norm.isfinite() or not scaled:
                optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        if scaled:
            scaler.update()  # smaller after an overflow, larger after many steps without one
        return norm.item()


def autocast(device: torch.device | str, dtype: torch.dtype):
    """Run matrix products in `dtype` (nothing changes for float32)."""
    device_type = torch.device(device).type
    return nullcontext() if dtype == torch.float32 else torch.autocast(device_type, dtype=dtype)


class Progress:
    """Prints a line of metrics now and then with the time left, and keeps every step in a JSON-lines file."""

    def __init__(self, title: str, steps: int, log: Path | None = None, lines: int = 10):
        self.title, self.steps, self.every = title, steps, max(1, steps // lines)
        self.history: list[dict[str, float]] = []
        self.start = time.perf_counter()
        self.file = None
        if log is not None:
            log.parent.mkdir(parents=True, exist_ok=True)
            self.file = log.open("w", encoding="utf-8")

    def update(self, **metrics: float) -> None:
        """Record the metrics of one step (numbers only)."""
        self.history.append({"step": len(self.history) + 1, **metrics})
        done = len(self.history)
        if self.file:
            row = {name: value if math.isfinite(value) else None for name, value in self.history[-1].items()}
            self.file.write(json.dumps(row) + "\n")  # JSON knows no NaN
            self.file.flush()
        if done % self.every == 0 or done in (1, self.steps):
            seconds = time.perf_counter() - self.start
            left = seconds / done * (self.steps - done)
            numbers = "  ".join(f"{name} {value:.3g}" for name, value in metrics.items())
            print(f"{self.title} {done:>4}/{self.steps}  {numbers}  [{seconds:.0f}s, {left:.0f}s left]", flush=True)
        if self.file and done == self.steps:
            self.file.close()


def fit(
    model: nn.Module,
    batches: Iterable,
    loss_of: Callable[..., tuple[Tensor, dict[str, float]]],
    optimizers: Optimizers,
    progress: Progress,
    *,
    dtype: torch.dtype = torch.float32,
    split: Callable[[Any], list[tuple[Any, float]]] | None = None,
) -> list[dict[str, float]]:
    """Train on each batch once: loss, gradients, update. Returns the metrics of every step.

    `loss_of(model, batch)` returns a scalar loss and extra metrics. `split(batch)` cuts a batch that the memory can't
    hold into parts with their shares of the loss: gradients add up. Raises FloatingPointError if the loss is not
    finite.
    """
    device = next(model.parameters()).device
    scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)  # keeps small gradients from being 0
    for step, batch in enumerate(batches):
        seen: dict[str, float] = {}
        for part, share in split(batch) if split else [(batch, 1.0)]:
            with autocast(device, dtype):
                loss, metrics = loss_of(model, part)
            if not torch.isfinite(loss):
                where = f"{progress.title}: the loss is {loss.item()} at step {step + 1}"
                raise FloatingPointError(f"{where}; lower the rate.")
            scaler.scale(share * loss).backward()
            for name, value in {"loss": loss.item(), **metrics}.items():
                seen[name] = seen.get(name, 0.0) + share * value
        factor = schedule(step, progress.steps)
        norm = optimizers.step(factor, scaler=scaler)
        progress.update(**seen, grad_norm=norm, rate=factor)
    return progress.history
