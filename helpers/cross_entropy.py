"""Cross-entropy from hidden states, without holding the logits of all tokens in memory at once.

With GPT-2's vocabulary the float32 logits of 8 x 1024 tokens take 1.6 GB, and their gradient as
much again. Here the tokens are processed in chunks: each computes its logits, its loss and its
gradients, and then frees the logits. The matrix products are as many as without chunks.

Shapes: N tokens, C channels, V vocabulary, n tokens of a chunk.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

NO_TARGET = -100  # as in F.cross_entropy
MAX_LOGITS = 2**26  # in memory at once, 4 bytes each
MIN_ROWS = 1024  # of a chunk, because smaller matrix products are slow


def token_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Mean of -log softmax(hidden weight^T)[target], in nats, over the targets that are not -100.

    hidden: (N, C); weight: (V, C); targets: (N,). Equal to F.cross_entropy on float32 logits, but
    in chunks if there are more than MAX_LOGITS of them. Under autocast the matrix products of
    training are in 16 bits and everything else is in float32. Without gradients, where the loss is
    a score, the logits are in float32 too.
    """
    if not torch.is_grad_enabled() and torch.is_autocast_enabled(hidden.device.type):
        with torch.autocast(hidden.device.type, enabled=False):
            return token_cross_entropy(hidden.float(), weight, targets)
    if len(hidden) * len(weight) <= MAX_LOGITS:
        return F.cross_entropy(F.linear(hidden, weight).float(), targets, ignore_index=NO_TARGET)
    rows = max(MIN_ROWS, MAX_LOGITS // len(weight))
    total = ChunkedCrossEntropy.apply(hidden, weight, targets, rows)
    return total / (targets != NO_TARGET).sum()


class ChunkedCrossEntropy(torch.autograd.Function):
    """The sum of the losses, in chunks of `rows` tokens; computes gradients in the forward pass."""

    @staticmethod
    def forward(ctx, hidden: Tensor, weight: Tensor, targets: Tensor, rows: int) -> Tensor:
        needs_grad = any(ctx.needs_input_grad)
        d_hidden = torch.empty_like(hidden) if needs_grad else None
        d_weight = torch.zeros_like(weight, dtype=torch.float32) if needs_grad else None
        total = torch.zeros((), device=hidden.device)
        for start in range(0, len(hidden), rows):
            chunk = slice(start, start + rows)
            logits = F.linear(hidden[chunk], weight)  # (n, V), in autocast's dtype
            logprobs = logits.float().log_softmax(dim=-1)  # (n, V)
            real = targets[chunk] != NO_TARGET
            target = torch.where(real, targets[chunk], 0)[:, None]  # (n, 1)
            total -= torch.where(real, logprobs.gather(1, target)[:, 0], 0.0).sum()
            if needs_grad:
                # The gradient of -logprobs[target]: the probabilities, minus 1 at the target.
                d_logits = logprobs.exp_()
                d_logits.scatter_add_(1, target, d_logits.new_full((1, 1), -1.0).expand_as(target))
                d_logits = d_logits.mul_(real[:, None]).to(logits.dtype)
                d_hidden[chunk] = d_logits @ weight.to(logits.dtype)
                d_weight += d_logits.T @ hidden[chunk].to(logits.dtype)
        if needs_grad:
            ctx.save_for_backward(d_hidden, d_weight)
        return total

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        d_hidden, d_weight = ctx.saved_tensors
        return gradient * d_hidden, gradient * d_weight, None, None
