"""Stage 2: a reward model from comparisons, or from labels (taught in 2-RM-Training)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from helpers.batching import Batches, batch_plan, right_pad
from helpers.config import RewardConfig
from helpers.engine.loop import Loop
from helpers.engine.transfer import moved
from helpers.evaluation import Responses, respond
from helpers.losses import bradley_terry_loss
from helpers.model import GPT, RewardModel
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
    part: Tensor  # (B, T): 1 on the chosen completion, 2 on the rejected one, 0 elsewhere
    predictors: Tensor  # (B, T): index of the token that predicts each token of a completion
    ends: Tensor  # (B, 2): index of the last token of chosen and of rejected


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

    # The first tokens of both completions are predicted by the last one of the prompt.
    predictors = torch.where(t == P + A, P - 1, t - 1)
    return PairBatch(ids, attention_mask, positions, part * mask, predictors, ends)


def score_pairs(model: RewardModel, batch: PairBatch) -> tuple[Tensor, Tensor]:
    """Scores of chosen and rejected, (B,) each."""
    hidden = model.gpt.hidden(batch.ids, batch.attention_mask, batch.positions)  # (B, T, C)
    # The head reads each completion's last token.
    index = batch.ends[:, :, None].expand(-1, -1, hidden.size(-1))  # (B, 2, C)
    heads = model.head(hidden.gather(1, index))  # (B, 2)
    # The log-probability of each completion is the sum over its N tokens in the batch.
    row, token = batch.part.nonzero(as_tuple=True)  # (N,)
    predicts = hidden[row, batch.predictors[row, token]]  # (N, C)
    logprobs = model.gpt.logprobs(predicts, batch.ids[row, token])  # (N,)
    completion = 2 * row + batch.part[row, token] - 1  # (N,): which of the 2 B
    sums = logprobs.new_zeros(heads.numel()).index_add(0, completion, logprobs)
    scores = model.combine(heads, sums.view_as(heads))  # (B, 2)
    return scores[:, 0], scores[:, 1]


def reward_loss(model: RewardModel, batch: PairBatch) -> tuple[Tensor, Tensor]:
    """Bradley-Terry loss and accuracy, means over pairs."""
    chosen, rejected = score_pairs(model, batch)
    return bradley_terry_loss(chosen, rejected), (chosen > rejected).float().mean()


def comparison_batches(pairs: list[Pair], config: RewardConfig, pad_id: int) -> Batches:
    """Batches (`PairBatch`) of pairs of similar length, in an order fixed by the seed."""
    lengths = [len(pair) for pair in pairs]
    plan = batch_plan(lengths, config.batch_size, config.epochs, config.seed)
    return Batches(plan, lambda index: pair_batch([pairs[i] for i in index], pad_id))


def train(
    model: RewardModel, batches: Sequence[PairBatch], config: RewardConfig, loop: Loop
) -> list[dict]:
    """Train in place on batches of pairs; returns the metrics of every step."""
    optimizers = Optimizers(model, config.lr, config.muon_lr, loop.dtype)
    with loop.run(len(batches), model=model, optimizers=optimizers) as steps:
        for step in steps:  # from 0, or from where a stopped run left off
            for batch, share in loop.parts(batches[step], size=config.micro_batch):
                with loop.retry_smaller():  # if the memory runs out
                    with autocast(batch.ids.device, loop.dtype):
                        loss, accuracy = reward_loss(model, batch)
                    optimizers.backward(share * loss)
                    loop.add(share, loss=loss, accuracy=accuracy)
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
        chosen, rejected = score_pairs(model, batch)
        differences[index] = (chosen - rejected).cpu()
    return differences


@dataclass(frozen=True)
class Text:
    """Token ids of a prompt and its completion; the EOS belongs to the completion."""

    prompt: list[int]
    completion: list[int]

    def __len__(self) -> int:
        return len(self.prompt) + len(self.completion)


def text_batch(texts: list[Text], pad_id: int) -> tuple[Tensor, Tensor, Tensor]:
    """Ids, attention mask and completion mask of texts, (B, T) each, padded on the right."""
    ids, mask = right_pad([text.prompt + text.completion for text in texts], pad_id, multiple=16)
    starts = torch.tensor([len(text.prompt) for text in texts])[:, None]  # (B, 1)
    return ids, mask, mask & (torch.arange(ids.size(1)) >= starts)


def texts_of(responses: Responses, tokenizer: Tokenizer) -> list[Text]:
    """Responses as texts to score, exactly as they were sampled."""
    prompts = [tokenizer.encode(prompt.prompt) for prompt in responses.prompts]
    return [Text(*parts) for parts in zip(prompts, responses.ids, strict=True)]


def score_responses(
    model: RewardModel, tokenizer: Tokenizer, responses: Responses, batch_size: int = 64
) -> Tensor:
    """The reward model's score of each response, exactly as it was sampled (N,)."""
    return score_texts(model, texts_of(responses, tokenizer), tokenizer.pad_id, batch_size)


def score_texts(model: RewardModel, texts: list[Text], pad_id: int, batch_size: int = 64) -> Tensor:
    """The score of each text's completion, (N,)."""
    return model.combine(*heads_and_logprobs(model, texts, pad_id, batch_size)).detach()


@torch.no_grad()
def heads_and_logprobs(
    model: RewardModel, texts: list[Text], pad_id: int, batch_size: int = 64
) -> tuple[Tensor, Tensor]:
    """The two things that a score is made from: the head's value and the completion's
    log-probability, (N,) each, on the model's device.
    """
    device = model.score.weight.device
    both = torch.empty(2, len(texts), device=device)
    for index in batch_plan([len(text) for text in texts], batch_size, 1, seed=0):
        batch = text_batch([texts[i] for i in index], pad_id)
        heads, logprobs = model.head_and_logprobs(*moved(batch, device))
        both[:, index] = torch.stack([heads, logprobs.sum(1)])
    return both[0], both[1]


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
    texts = texts_of(responses, tokenizer)
    return model.normalise(*heads_and_logprobs(model, texts, tokenizer.pad_id))


# ---------------------------------------------------------------- labels instead of pairs


def encode_labelled(item: Labelled, tokenizer: Tokenizer, context: int) -> Text:
    """Encode a labelled text. Raises ValueError if it exceeds the context."""
    completion = tokenizer.encode(item.completion) + [tokenizer.eos_id]
    text = Text(tokenizer.encode(item.prompt), completion)
    if len(text) > context:
        raise ValueError(
            f"a labelled text has {len(text)} tokens, more than the context of {context}"
        )
    return text


def label_loss(
    model: RewardModel, ids: Tensor, mask: Tensor, completion_mask: Tensor, labels: Tensor
) -> tuple[Tensor, Tensor]:
    """Cross-entropy of the labels, and accuracy, means over texts.

    The score is the log-odds of label 1. ids, mask, completion_mask: (B, T); labels: (B,).
    """
    scores = model(ids, mask, completion_mask)  # (B,)
    loss = F.binary_cross_entropy_with_logits(scores, labels)
    return loss, ((scores > 0) == (labels > 0.5)).float().mean()


def label_batches(
    texts: list[Text], labels: Sequence[int], config: RewardConfig, pad_id: int
) -> Batches:
    """Batches (ids, mask, completion mask, labels) of texts of similar length, in an order fixed by
    the seed.
    """
    all_labels = torch.tensor(labels, dtype=torch.float32)
    lengths = [len(text) for text in texts]
    plan = batch_plan(lengths, config.batch_size, config.epochs, config.seed)

    def make(index: list[int]) -> tuple[Tensor, ...]:
        return *text_batch([texts[i] for i in index], pad_id), all_labels[index]

    return Batches(plan, make)


def train_on_labels(
    model: RewardModel, batches: Sequence[tuple], config: RewardConfig, loop: Loop
) -> list[dict]:
    """Train in place on batches of labelled texts; returns the metrics of every step."""
    optimizers = Optimizers(model, config.lr, config.muon_lr, loop.dtype)
    with loop.run(len(batches), model=model, optimizers=optimizers) as steps:
        for step in steps:
            for batch, share in loop.parts(batches[step], size=config.micro_batch):
                with loop.retry_smaller():
                    with autocast(loop.device, loop.dtype):
                        loss, accuracy = label_loss(model, *batch)
                    optimizers.backward(share * loss)
                    loop.add(share, loss=loss, accuracy=accuracy)
            metrics, rate = loop.means(), schedule(step, len(batches))
            norm = optimizers.step(rate)
            loop.log(**metrics, grad_norm=norm, rate=rate)
    return loop.history
