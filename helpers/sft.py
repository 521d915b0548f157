"""Stage 1: supervised fine-tuning on demonstrations (taught in 1-SFT)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from helpers.batching import Batches, batch_plan, right_pad, rows_at_once
from helpers.config import SFTConfig
from helpers.cross_entropy import token_cross_entropy
from helpers.engine.loop import Loop
from helpers.model import GPT
from helpers.records import Demonstration
from helpers.tokenizer import Tokenizer
from helpers.training import Optimizers, autocast, schedule


def encode_demonstration(
    demonstration: Demonstration, tokenizer: Tokenizer, context: int
) -> tuple[list[int], int]:
    """Tokens of prompt + completion + EOS, and the number of prompt tokens.

    Prompt and completion are encoded separately, as in sampling, where the prompt is encoded alone.
    Raises ValueError if there are more tokens than the context has.
    """
    prompt = tokenizer.encode(demonstration.prompt)
    row = prompt + tokenizer.encode(demonstration.completion) + [tokenizer.eos_id]
    if len(row) > context:
        raise ValueError(
            f"a demonstration has {len(row)} tokens, more than the context of {context}"
        )
    return row, len(prompt)


def completion_masks(mask: Tensor, prompt_lengths: list[int]) -> Tensor:
    """True on completion tokens: the mask (B, T) of right-padded rows, minus each row's prompt."""
    positions = torch.arange(mask.size(1))  # (T,)
    return mask & (positions >= torch.tensor(prompt_lengths)[:, None])


def completion_nll(model: GPT, ids: Tensor, completion_mask: Tensor) -> Tensor:
    """Mean cross-entropy of the completion tokens, in nats: `losses.completion_loss`, but faster.

    ids, completion_mask: (B, T). The last MLP and the head run only at positions that predict a
    completion token. A summary is a quarter of its row, so three quarters of the (B, T, V) logits
    are never computed.
    """
    # Position t predicts token t + 1; the last position predicts nothing.
    predicts = F.pad(completion_mask[:, 1:], (0, 1))
    hidden = model.hidden(ids, keep=predicts)  # (completion tokens, C)
    return token_cross_entropy(hidden, model.wte.weight, ids[:, 1:][completion_mask[:, 1:]])


def demonstration_batches(
    rows: list[tuple[list[int], int]], batch_size: int, epochs: float, pad_id: int, seed: int
) -> Batches:
    """Batches (ids, completion mask) of rows with prompts of similar length, in an order fixed by
    the seed. (In batches of similar rows, short completions would weigh more than long ones.)

    rows: pairs of token ids and number of prompt tokens, as from `encode_demonstration`.
    """

    def make(index: list[int]) -> tuple[Tensor, Tensor]:
        ids, mask = right_pad([rows[i][0] for i in index], pad_id, multiple=16)
        return ids, completion_masks(mask, [rows[i][1] for i in index])

    return Batches(batch_plan([prompt for _, prompt in rows], batch_size, epochs, seed), make)


@torch.no_grad()
def heldout_completion_loss(
    model: GPT, rows, pad_id: int, dtype: torch.dtype = torch.float32
) -> float:
    """Mean loss over all completion tokens of the rows, in nats per token."""
    total, tokens, device = 0.0, 0, model.wte.weight.device
    at_once = rows_at_once([ids for ids, _ in rows], model.config.vocab_size)
    for ids, mask in demonstration_batches(rows, at_once, 1, pad_id, seed=0):
        with autocast(device, dtype):
            loss = completion_nll(model, ids.to(device), mask.to(device))
        total, tokens = total + loss.item() * mask.sum().item(), tokens + mask.sum().item()
    return total / tokens


def completion_counts(batch: tuple[Tensor, Tensor]) -> Tensor:
    """How many completion tokens each row of (ids, completion mask) has, (B,)."""
    return batch[1][:, 1:].sum(1)


def train(
    model: GPT, batches: Sequence[tuple[Tensor, Tensor]], config: SFTConfig, loop: Loop
) -> list[dict]:
    """Fine-tune in place on batches (ids, completion mask); returns the metrics of every step.

    Only parameters that require gradients are trained: all weights, or the adapters added before.
    """
    optimizers = Optimizers(model, *config.rates, loop.dtype)
    with loop.run(len(batches), model=model, optimizers=optimizers) as steps:
        for step in steps:  # from 0, or from where a stopped run left off
            batch = batches[step]
            for (ids, mask), share in loop.parts(batch, completion_counts, config.micro_batch):
                with loop.retry_smaller():  # if the memory runs out
                    with autocast(ids.device, loop.dtype):
                        loss = completion_nll(model, ids, mask)
                    optimizers.backward(share * loss)  # adds up to the batch's gradient
                    loop.add(share, loss=loss)
            metrics, rate = loop.means(), schedule(step, len(batches))
            norm = optimizers.step(rate)
            loop.log(**metrics, grad_norm=norm, rate=rate)
    return loop.history
