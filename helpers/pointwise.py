"""A reward model from labels instead of pairs: each text is good (1) or not (0). Track `sentiment`
learns this way.

The score is the log-odds of label 1: P(1) = sigmoid(score). A pair would say only which of two
scores is higher.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from helpers.batching import Batches, moved, right_pad
from helpers.config import RewardConfig
from helpers.cross_entropy import token_cross_entropy
from helpers.engine.accumulation import label_parts
from helpers.engine.snapshots import Keeper
from helpers.evaluation import bootstrap_ci95
from helpers.model import RewardModel, last_real_token
from helpers.pretrain import batch_plan
from helpers.rows.embedded import Labelled
from helpers.tokenizer import Tokenizer
from helpers.training import Optimizers, Progress, fit


def encode_labelled(item: Labelled, tokenizer: Tokenizer, context: int) -> list[int]:
    """Tokens of prompt, completion and end of text. Raises ValueError when they exceed the
    context.
    """
    row = tokenizer.encode(item.prompt) + tokenizer.encode(item.completion) + [tokenizer.eos_id]
    if len(row) > context:
        raise ValueError(
            f"a labelled text has {len(row)} tokens, more than the context of {context}"
        )
    return row


def label_loss(
    model: RewardModel, ids: Tensor, mask: Tensor, labels: Tensor, lm_coef: float
) -> tuple[Tensor, dict]:
    """Cross-entropy of the labels (B,) given the scores, plus `lm_coef` times the language-model
    loss on the texts.

    ids, mask (B, T), padded on the right. Returns the loss in nats and the metrics of the batch.
    """
    hidden = model.gpt.hidden(ids)  # (B, T, C)
    last = hidden[torch.arange(len(ids), device=ids.device), last_real_token(mask)]  # (B, C)
    scores = model.score(last).squeeze(1).float()  # (B,)
    loss = F.binary_cross_entropy_with_logits(scores, labels)
    metrics = {"label": loss.detach(), "accuracy": ((scores > 0) == (labels > 0.5)).float().mean()}
    if lm_coef:
        guessed = mask[:, 1:]
        loss = loss + lm_coef * token_cross_entropy(
            hidden[:, :-1][guessed], model.gpt.wte.weight, ids[:, 1:][guessed]
        )
    return loss, metrics


def train(
    model: RewardModel,
    rows: list[list[int]],
    labels: Sequence[int],
    config: RewardConfig,
    pad_id: int,
    dtype: torch.dtype = torch.float32,
    keeper: Keeper | None = None,
) -> list[dict]:
    """Train in place on encoded texts and their labels; returns the metrics of every step."""
    plan = batch_plan([len(row) for row in rows], config.batch_size, config.epochs, config.seed)
    device, known = model.score.weight.device, torch.tensor(labels, dtype=torch.float32)
    batches = Batches(
        plan,
        lambda index: (*right_pad([rows[i] for i in index], pad_id, multiple=16), known[index]),
    )
    optimizers = Optimizers(model, config.lr, config.muon_lr)

    def loss_of(model, part):
        *tensors, lm_coef = part
        return label_loss(model, *moved(tuple(tensors), device), lm_coef)

    progress, split = (
        Progress("labels", len(plan), keeper),
        label_parts(config.micro_batch, config.lm_coef),
    )
    return fit(model, batches, loss_of, optimizers, progress, dtype=dtype, split=split)


def measure(scores: Tensor, items: Sequence[Labelled]) -> dict:
    """Accuracy of scores (N,) on labels with its 95% interval, and the best possible one where the
    odds are known.
    """
    right = ((scores > 0) == torch.tensor([item.label == 1 for item in items])).float()
    metrics = {
        "accuracy": right.mean().item(),
        "accuracy_ci95": bootstrap_ci95(right),
        "labels": len(items),
    }
    if all(item.probability is not None for item in items):
        metrics["bayes_accuracy"] = sum(
            max(item.probability, 1 - item.probability) for item in items
        ) / len(items)
    return metrics
