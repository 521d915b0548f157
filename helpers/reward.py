"""Stage 2: a reward model from comparisons, or from labels (taught in 2-RM-Training)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from helpers.batching import Batches, batch_plan, right_pad
from helpers.config import RewardConfig
from helpers.cross_entropy import token_cross_entropy
from helpers.engine.loop import Loop
from helpers.engine.transfer import moved
from helpers.evaluation import Responses, respond
from helpers.losses import bradley_terry_loss
from helpers.model import GPT, RewardModel, last_real_token
from helpers.records import Comparison, Labelled, Prompt
from helpers.tokenizer import Tokenizer
from helpers.training import Optimizers, autocast, schedule


@dataclass(frozen=True)
class Pair:
    """Token ids of a comparison: the prompt, and the two completions with their EOS."""

    prompt: list[int]
    chosen: list[int]
    rejected: list[int]

    def __len__(self) -> int:
        return len(self.prompt) + len(self.chosen) + len(self.rejected)


def encode_comparison(comparison: Comparison, tokenizer: Tokenizer, context: int) -> Pair:
    """Encode a comparison. Raises ValueError if prompt + longer completion exceed the context."""
    texts = (comparison.prompt, comparison.chosen, comparison.rejected)
    prompt, chosen, rejected = (tokenizer.encode(text) for text in texts)
    pair = Pair(prompt, chosen + [tokenizer.eos_id], rejected + [tokenizer.eos_id])
    longest = len(prompt) + max(len(pair.chosen), len(pair.rejected))
    if longest > context:
        raise ValueError(f"a comparison has {longest} tokens, more than the context of {context}")
    return pair


@dataclass(frozen=True)
class PairBatch:
    """B pairs as right-padded rows [prompt, chosen, rejected]: the prompt is computed only once."""

    ids: Tensor  # (B, T)
    attention_mask: Tensor  # (B, T, T): neither completion attends to the other
    positions: Tensor  # (B, T): both completions start at the same position
    ends: Tensor  # (B, 2): index of the last token of chosen and of rejected
    targets: Tensor  # (B, T): the next token, -100 except within a completion


def pair_batch(pairs: list[Pair], pad_id: int) -> PairBatch:
    """Arrange pairs in rows with a shared prompt."""
    rows = [pair.prompt + pair.chosen + pair.rejected for pair in pairs]
    ids, mask = right_pad(rows, pad_id, multiple=16)
    P = torch.tensor([len(pair.prompt) for pair in pairs])[:, None]  # (B, 1)
    A = torch.tensor([len(pair.chosen) for pair in pairs])[:, None]  # (B, 1)
    t = torch.arange(ids.size(1))  # (T,)
    part = (t >= P).long() + (t >= P + A).long()  # (B, T): 0 prompt, 1 chosen, 2 rejected or pad

    # A token attends to the prompt and to its own completion; the model adds the causal mask.
    attention_mask = (part[:, None] == 0) | (part[:, None] == part[:, :, None])
    positions = torch.where(part == 2, t - A, t) * mask
    last = mask.sum(1, keepdim=True) - 1
    ends = torch.cat([P + A - 1, last], dim=1)

    # A target must be in the same completion as the token that predicts it.
    in_completion = (part > 0) & mask
    predicted = in_completion[:, 1:] & (part[:, 1:] == part[:, :-1])
    targets = torch.full_like(ids, -100)
    targets[:, :-1] = torch.where(predicted, ids[:, 1:], -100)
    return PairBatch(ids, attention_mask, positions, ends, targets)


def score_pairs(model: RewardModel, batch: PairBatch) -> tuple[Tensor, Tensor, Tensor]:
    """Scores of chosen and rejected, (B,) each, and the hidden states (B, T, C)."""
    hidden = model.gpt.hidden(batch.ids, batch.attention_mask, batch.positions)
    # Each completion's score is read at its last token.
    index = batch.ends[:, :, None].expand(-1, -1, hidden.size(-1))  # (B, 2, C)
    scores = model.score(hidden.gather(1, index)).squeeze(-1).float()  # (B, 2)
    return scores[:, 0], scores[:, 1], hidden


def reward_loss(
    model: RewardModel, batch: PairBatch, lm: bool = True
) -> tuple[Tensor, Tensor, Tensor]:
    """Bradley-Terry loss, language-model loss on the completions (0 unless `lm`), and accuracy.

    The language-model loss is a mean over tokens, the others are means over pairs. It gives a
    denser learning signal: a comparison is one bit for 60 tokens, their text is much more.
    """
    chosen, rejected, hidden = score_pairs(model, batch)
    pairwise = bradley_terry_loss(chosen, rejected)
    accuracy = (chosen > rejected).float().mean()
    if not lm:
        return pairwise, torch.zeros_like(pairwise), accuracy
    predicts = batch.targets >= 0
    weight, targets = model.gpt.wte.weight, batch.targets[predicts]
    return pairwise, token_cross_entropy(hidden[predicts], weight, targets), accuracy


def comparison_batches(pairs: list[Pair], config: RewardConfig, pad_id: int) -> Batches:
    """Batches (`PairBatch`) of pairs of similar length, in an order fixed by the seed."""
    lengths = [len(pair) for pair in pairs]
    plan = batch_plan(lengths, config.batch_size, config.epochs, config.seed)
    return Batches(plan, lambda index: pair_batch([pairs[i] for i in index], pad_id))


def pair_counts(batch: PairBatch) -> Tensor:
    """Each row's weight in the two means of the loss, (B, 2): 1 pair, and its number of targets."""
    tokens = (batch.targets >= 0).sum(1)
    return torch.stack([torch.ones_like(tokens), tokens], dim=1)


def train(
    model: RewardModel, batches: Sequence[PairBatch], config: RewardConfig, loop: Loop
) -> list[dict]:
    """Train in place on batches of pairs; returns the metrics of every step."""
    optimizers = Optimizers(model, config.lr, config.muon_lr, loop.dtype)
    with loop.run(len(batches), model=model, optimizers=optimizers) as steps:
        for step in steps:  # from 0, or from where a stopped run left off
            for batch, shares in loop.parts(batches[step], pair_counts, config.micro_batch):
                pair_share, token_share = shares
                with loop.retry_smaller():  # if the memory runs out
                    with autocast(batch.ids.device, loop.dtype):
                        pairwise, lm, accuracy = reward_loss(model, batch, lm=config.lm_coef > 0)
                    loss = pair_share * pairwise + config.lm_coef * token_share * lm
                    optimizers.backward(loss)
                    loop.add(1.0, loss=loss)
                    loop.add(pair_share, pairwise=pairwise, accuracy=accuracy)
            metrics, rate = loop.means(), schedule(step, len(batches))
            norm = optimizers.step(rate)
            loop.log(**metrics, grad_norm=norm, rate=rate)
    return loop.history


@torch.no_grad()
def margins(model: RewardModel, pairs: list[Pair], pad_id: int, batch_size: int = 50) -> Tensor:
    """Score of chosen minus score of rejected for each pair, (N,), in the order of `pairs`."""
    differences, device = torch.empty(len(pairs)), model.score.weight.device
    for index in batch_plan([len(pair) for pair in pairs], batch_size, 1, seed=0):
        batch = moved(pair_batch([pairs[i] for i in index], pad_id), device)
        chosen, rejected, _ = score_pairs(model, batch)
        differences[index] = (chosen - rejected).cpu()
    return differences


def score_responses(
    model: RewardModel, tokenizer: Tokenizer, responses: Responses, batch_size: int = 64
) -> Tensor:
    """The reward model's score of each response, exactly as it was sampled (N,)."""
    prompts = [tokenizer.encode(prompt.prompt) for prompt in responses.prompts]
    rows = [prompt + response for prompt, response in zip(prompts, responses.ids, strict=True)]
    return score_rows(model, rows, tokenizer.pad_id, batch_size)


@torch.no_grad()
def score_rows(
    model: RewardModel, rows: list[list[int]], pad_id: int, batch_size: int = 64
) -> Tensor:
    """The score of each text, given as token ids, (N,): read at its last token."""
    scores, device = torch.empty(len(rows)), model.score.weight.device
    for index in batch_plan([len(row) for row in rows], batch_size, 1, seed=0):
        ids, mask = right_pad([rows[i] for i in index], pad_id, multiple=16)
        scores[index] = model(ids.to(device), mask.to(device)).cpu()
    return scores


def accuracy(margin: Tensor) -> float:
    """Share of pairs whose chosen completion scores higher; a tie is wrong."""
    return (margin > 0).float().mean().item()


def bayes_accuracy(comparisons: Sequence[Comparison]) -> float:
    """Expected accuracy of the best possible reward model.

    It always chooses the completion that annotators are more likely to prefer.
    """
    return sum(max(c.probability, 1 - c.probability) for c in comparisons) / len(comparisons)


def accuracy_by_kind(margin: Tensor, comparisons: Sequence[Comparison]) -> dict[str, float]:
    """Accuracy on each kind of pair."""
    rows: dict[str, list[int]] = {}
    for i, comparison in enumerate(comparisons):
        rows.setdefault(comparison.kind, []).append(i)
    return {kind: accuracy(margin[rows[kind]]) for kind in sorted(rows)}


def normalise_on(
    model: RewardModel,
    policy: GPT,
    tokenizer: Tokenizer,
    prompts: list[Prompt],
    config: RewardConfig,
    dtype: torch.dtype | None = None,
) -> tuple[float, float]:
    """Normalise the reward model once: SFT samples then have mean score 0, standard deviation 1.

    Returns the mean and standard deviation before. dtype: in which the policy samples, by default
    its weights'.
    Source: Ziegler et al. 2019, section 2.2.
    """
    sampling = {"max_new_tokens": config.response_tokens, "seed": config.seed + 1}
    responses = respond(policy, tokenizer, prompts, **sampling, dtype=dtype)
    scores = score_responses(model, tokenizer, responses)
    mean, std = scores.mean().item(), scores.std().item()
    model.normalise(mean, std)
    return mean, std


# ---------------------------------------------------------------- labels instead of pairs


def encode_labelled(item: Labelled, tokenizer: Tokenizer, context: int) -> list[int]:
    """Tokens of prompt + completion + EOS. Raises ValueError if they exceed the context."""
    row = tokenizer.encode(item.prompt) + tokenizer.encode(item.completion) + [tokenizer.eos_id]
    if len(row) > context:
        raise ValueError(
            f"a labelled text has {len(row)} tokens, more than the context of {context}"
        )
    return row


def label_loss(
    model: RewardModel, ids: Tensor, mask: Tensor, labels: Tensor, lm: bool = True
) -> tuple[Tensor, Tensor, Tensor]:
    """Cross-entropy of the labels, language-model loss on the texts (0 unless `lm`), and accuracy.

    The score is the log-odds of label 1. The language-model loss is a mean over tokens, the others
    are means over texts. ids, mask: (B, T), padded on the right; labels: (B,).
    """
    hidden = model.gpt.hidden(ids)  # (B, T, C)
    last = hidden[torch.arange(len(ids), device=ids.device), last_real_token(mask)]  # (B, C)
    scores = model.score(last).squeeze(1).float()  # (B,)
    loss = F.binary_cross_entropy_with_logits(scores, labels)
    accuracy = ((scores > 0) == (labels > 0.5)).float().mean()
    if not lm:
        return loss, torch.zeros_like(loss), accuracy
    predicted = mask[:, 1:]
    states, targets = hidden[:, :-1][predicted], ids[:, 1:][predicted]  # (tokens, C), (tokens,)
    return loss, token_cross_entropy(states, model.gpt.wte.weight, targets), accuracy


def label_batches(
    rows: list[list[int]], labels: Sequence[int], config: RewardConfig, pad_id: int
) -> Batches:
    """Batches (ids, mask, labels) of texts of similar length, in an order fixed by the seed."""
    all_labels = torch.tensor(labels, dtype=torch.float32)
    plan = batch_plan([len(row) for row in rows], config.batch_size, config.epochs, config.seed)

    def make(index: list[int]) -> tuple[Tensor, Tensor, Tensor]:
        ids, mask = right_pad([rows[i] for i in index], pad_id, multiple=16)
        return ids, mask, all_labels[index]

    return Batches(plan, make)


def text_counts(batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """Each row's weight in the two means of the loss, (B, 2): 1 text, and its number of targets."""
    tokens = batch[1][:, 1:].sum(1)
    return torch.stack([torch.ones_like(tokens), tokens], dim=1)


def train_on_labels(
    model: RewardModel, batches: Sequence[tuple], config: RewardConfig, loop: Loop
) -> list[dict]:
    """Train in place on batches of labelled texts; returns the metrics of every step."""
    optimizers = Optimizers(model, config.lr, config.muon_lr, loop.dtype)
    with loop.run(len(batches), model=model, optimizers=optimizers) as steps:
        for step in steps:
            for batch, shares in loop.parts(batches[step], text_counts, config.micro_batch):
                text_share, token_share = shares
                with loop.retry_smaller():
                    with autocast(loop.device, loop.dtype):
                        label, lm, accuracy = label_loss(model, *batch, lm=config.lm_coef > 0)
                    loss = text_share * label + config.lm_coef * token_share * lm
                    optimizers.backward(loss)
                    loop.add(1.0, loss=loss)
                    loop.add(text_share, label=label, accuracy=accuracy)
            metrics, rate = loop.means(), schedule(step, len(batches))
            norm = optimizers.step(rate)
            loop.log(**metrics, grad_norm=norm, rate=rate)
    return loop.history
