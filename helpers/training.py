"""What the stages' loops share: the learning-rate schedule, the optimisers, the number format."""

from contextlib import nullcontext

import torch
from torch import Tensor, nn

from helpers.engine.distributed import add_gradients
from helpers.muon import Muon


def schedule(step: int, steps: int, warmup: float = 0.05, decay: float = 0.4) -> float:
    """Factor on the learning rate: up in the first `warmup` share of the steps, flat, down to 0 in
    the last `decay`.

    Warmup-stable-decay (Hu et al. 2024, "MiniCPM", section 4). `step` counts from 0.
    """
    up = (step + 1) / max(1, round(warmup * steps))
    down = (steps - step) / max(1, round(decay * steps))
    return min(1.0, up, down)


def adamw_and_muon(model: nn.Module, lr: float, muon_lr: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the blocks, unless its rate is 0, and AdamW for all other weights
    that learn.
    """
    matrices, others = [], []
    for name, parameter in model.named_parameters():
        in_block = ".h." in f".{name}" and parameter.dim() == 2
        if parameter.requires_grad:
            (matrices if in_block and muon_lr else others).append(parameter)
    group = {"params": others}  # a group may be empty, as when only matrices are not frozen
    adamw = torch.optim.AdamW([group], lr=lr, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
    return [adamw, Muon(matrices, lr=muon_lr)] if matrices else [adamw]


class Optimizers:
    """The optimisers of a model, which take their steps together: see `adamw_and_muon`.

    dtype: the number format of the matrix products. Muon multiplies in it too; with float16 losses
    are scaled up before the backward pass, or small gradients would round to 0.
    """

    def __init__(
        self, model: nn.Module, lr: float, muon_lr: float = 0.0, dtype: torch.dtype = torch.float32
    ):
        self.optimizers = adamw_and_muon(model, lr, muon_lr)
        self.peak_lrs = [lr, muon_lr]
        self.parameters = [p for one in self.optimizers for p in one.param_groups[0]["params"]]
        for muon in self.optimizers[1:]:
            muon.dtype = dtype
        device = self.parameters[0].device.type
        self.scaler = torch.amp.GradScaler(device, enabled=dtype == torch.float16)

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a loss to those that are there."""
        self.scaler.scale(loss).backward()

    def step(self, factor: float = 1.0, clip: float = 1.0) -> float:
        """One update at `factor` times the peak rates, gradients cut to norm `clip`; returns the
        norm before.

        Raises FloatingPointError, before any weight has changed, if a gradient is not finite. In
        float16 that is an overflow: the update is skipped, and the next losses are scaled less.
        """
        add_gradients(self.parameters)  # of all processes
        for optimizer in self.optimizers:
            self.scaler.unscale_(optimizer)
        norm = nn.utils.clip_grad_norm_(self.parameters, clip)
        finite = bool(norm.isfinite())
        if not finite and not (self.scaler.is_enabled() and self.scaler.get_scale() > 1e-6):
            raise FloatingPointError("the gradient is not finite")
        for optimizer, peak in zip(self.optimizers, self.peak_lrs, strict=False):
            optimizer.param_groups[0]["lr"] = peak * factor
            if finite:
                optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.scaler.update()  # smaller after an overflow, larger after many steps without one
        return norm.item()

    def state_dict(self) -> dict:
        return {
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "scaler": self.scaler.state_dict(),
        }

    def load_state_dict(self, state: dict) -> None:
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.scaler.load_state_dict(state["scaler"])


def autocast(device: torch.device | str, dtype: torch.dtype):
    """Run matrix products in `dtype` (nothing changes for float32)."""
    device_type = torch.device(device).type
    return nullcontext() if dtype == torch.float32 else torch.autocast(device_type, dtype=dtype)
