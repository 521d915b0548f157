"""What the training loops share: the learning-rate schedule, the optimisers, mixed precision."""

from contextlib import nullcontext

import torch
from torch import Tensor, nn

from helpers.engine.distributed import add_gradients
from helpers.muon import Muon


def schedule(step: int, steps: int, warmup: float = 0.05, decay: float = 0.4) -> float:
    """Warmup-stable-decay: the factor on the learning rate at a step, counted from 0.

    It rises linearly during the first `warmup` share of the steps, is 1, and falls linearly to 0
    during the last `decay` share.
    Source: Hu et al. 2024, "MiniCPM", section 4.
    """
    up = (step + 1) / max(1, round(warmup * steps))
    down = (steps - step) / max(1, round(decay * steps))
    return min(1.0, up, down)


def adamw_and_muon(model: nn.Module, lr: float, muon_lr: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the blocks, AdamW for all other trainable weights.

    With muon_lr 0, AdamW takes the matrices too.
    """
    matrices, others = [], []
    for name, parameter in model.named_parameters():
        in_block = ".h." in f".{name}" and parameter.dim() == 2
        if parameter.requires_grad:
            (matrices if in_block and muon_lr else others).append(parameter)
    group = {"params": others}  # unlike a bare list, a group may be empty: only matrices train
    adamw = torch.optim.AdamW([group], lr=lr, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
    return [adamw, Muon(matrices, lr=muon_lr)] if matrices else [adamw]


class Optimizers:
    """The optimisers of a model (see `adamw_and_muon`), stepped together.

    dtype: of the matrix products, Muon's included. With float16 the loss is scaled up before the
    backward pass, because small gradients would round to 0.
    """

    def __init__(
        self, model: nn.Module, lr: float, muon_lr: float = 0.0, dtype: torch.dtype = torch.float32
    ):
        self.optimizers = adamw_and_muon(model, lr, muon_lr)
        self.peak_lrs = [lr, muon_lr]
        groups = [optimizer.param_groups[0] for optimizer in self.optimizers]
        self.parameters = [parameter for group in groups for parameter in group["params"]]
        for muon in self.optimizers[1:]:
            muon.dtype = dtype
        device = self.parameters[0].device.type
        self.scaler = torch.amp.GradScaler(device, enabled=dtype == torch.float16)

    def backward(self, loss: Tensor) -> None:
        """Compute the gradients of a loss and add them to the accumulated ones."""
        self.scaler.scale(loss).backward()

    def step(self, factor: float = 1.0, clip: float = 1.0) -> float:
        """Update the weights at `factor` times the peak learning rates.

        Gradients are clipped to norm `clip`; returns the norm before clipping. Raises
        FloatingPointError, before any weight has changed, if a gradient is not finite. In float16
        this is an overflow: the update is skipped, and the loss is scaled less from then on.
        """
        add_gradients(self.parameters)  # sum over all processes
        # Unscale first: clipping needs the true gradients.
        for optimizer in self.optimizers:
            self.scaler.unscale_(optimizer)
        norm = nn.utils.clip_grad_norm_(self.parameters, clip)
        finite = bool(norm.isfinite())
        if not finite:
            can_scale_less = self.scaler.is_enabled() and self.scaler.get_scale() > 1e-6
            if not can_scale_less:
                raise FloatingPointError("the gradient is not finite")
        for optimizer, peak in zip(self.optimizers, self.peak_lrs, strict=False):
            optimizer.param_groups[0]["lr"] = peak * factor
            if finite:
                optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.scaler.update()  # lowers the scale after an overflow, raises it after many good steps
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
    """For `with`: run matrix products in `dtype`; float32 changes nothing."""
    device_type = torch.device(device).type
    return nullcontext() if dtype == torch.float32 else torch.autocast(device_type, dtype=dtype)
