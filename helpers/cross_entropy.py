"""Cross-entropy straight from hidden states, so that the logits of a whole batch never exist at
once.

For GPT-2's vocabulary the float32 logits of 8 x 1024 tokens take 1.6 GB, and their gradient as much
again. Here a chunk of rows gets its logits, its loss and, in the same go, its gradients; then the
chunk's logits are dropped. It takes no more products than the plain way. Shapes: N tokens, C
channels, V vocabulary, n tokens of a chunk.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

NO_TARGET = -100  # as in F.cross_entropy
AT_ONCE = (
    2**26
    # logits, of which each takes 4 bytes; a chunk has at least 1024 rows, as smaller products are
    # slow
)


def token_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Mean of -log softmax(hidden weight^T)[target], in nats, over the targets that are not -100.

    hidden (N, C), weight (V, C), targets (N,). The same as F.cross_entropy on float32 logits; in
    chunks when there are more than AT_ONCE logits. Under autocast the products are in 16 bits,
    everything between them in float32.
    """
    if len(hidden) * len(weight) <= AT_ONCE:
        return F.cross_entropy(F.linear(hidden, weight).float(), targets, ignore_index=NO_TARGET)
    total = ChunkedCrossEntropy.apply(hidden, weight, targets, max(1024, AT_ONCE // len(weight)))
    return total / (targets != NO_TARGET).sum()


class ChunkedCrossEntropy(torch.autograd.Function):
    """The sum instead of the mean, in chunks of so many rows. The gradients are worked out on the
    way forward.
    """

    @staticmethod
    def forward(ctx, hidden: Tensor, weight: Tensor, targets: Tensor, rows: int) -> Tensor:
        learns = any(ctx.needs_input_grad)
        d_hidden = torch.empty_like(hidden) if learns else None
        d_weight = torch.zeros_like(weight, dtype=torch.float32) if learns else None
        total = torch.zeros((), device=hidden.device)
        for start in range(0, len(hidden), rows):
            chunk = slice(start, start + rows)
            scores = F.linear(hidden[chunk], weight)  # (n, V), in autocast's dtype
            logprobs = scores.float().log_softmax(dim=-1)  # (n, V)
            real = targets[chunk] != NO_TARGET
            target = torch.where(real, targets[chunk], 0)[:, None]  # (n, 1)
            total -= torch.where(real, logprobs.gather(1, target)[:, 0], 0.0).sum()
            if learns:
                # of -logprobs[target]: the probabilities, less 1 at the target
                d_logits = logprobs.exp_()
                d_logits.scatter_add_(1, target, d_logits.new_full((1, 1), -1.0).expand_as(target))
                d_logits = d_logits.mul_(real[:, None]).to(scores.dtype)
                d_hidden[chunk] = d_logits @ weight.to(scores.dtype)
                d_weight += d_logits.T @ hidden[chunk].to(scores.dtype)
        if learns:
            ctx.save_for_backward(d_hidden, d_weight)
        return total

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        d_hidden, d_weight = ctx.saved_tensors
        return gradient * d_hidden, gradient * d_weight, None, None
