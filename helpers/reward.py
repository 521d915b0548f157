"""Stage 2: a reward model from comparisons (taught in 2-RM-Training). `python -m helpers.reward
--preset cpu`.
"""

import copy
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from helpers import pointwise
from helpers.batching import Batches, right_pad
from helpers.compare.classifier import fit_rows
from helpers.config import RewardConfig
from helpers.cross_entropy import token_cross_entropy
from helpers.engine.accumulation import pair_parts
from helpers.engine.distributed import is_main
from helpers.engine.hardware import prepare
from helpers.engine.snapshots import Keeper
from helpers.evaluation import Responses, ratio_ci95, respond
from helpers.losses import bradley_terry_loss
from helpers.model import GPT, RewardModel
from helpers.pretrain import batch_plan
from helpers.rows.common import digest
from helpers.rows.embedded import Comparison, Prompt, fingerprint
from helpers.run.base_model import base_folder, load_base
from helpers.run.checkpoints import load_stage, save_stage
from helpers.run.setup import Course
from helpers.stages.cli import settings, stage_main
from helpers.tokenizer import Tokenizer
from helpers.training import Optimizers, Progress, fit


@dataclass(frozen=True)
class Pair:
    """An encoded comparison: prompt tokens, and the two completions with their end of text."""

    prompt: list[int]
    chosen: list[int]
    rejected: list[int]

    def __len__(self) -> int:
        return len(self.prompt) + len(self.chosen) + len(self.rejected)


def encode_comparison(comparison: Comparison, tokenizer: Tokenizer, context: int) -> Pair:
    """Tokens of a comparison. Raises ValueError when prompt and the longer completion exceed the
    context.
    """
    texts = (comparison.prompt, comparison.chosen, comparison.rejected)
    prompt, chosen, rejected = (tokenizer.encode(text) for text in texts)
    pair = Pair(prompt, chosen + [tokenizer.eos_id], rejected + [tokenizer.eos_id])
    longest = len(prompt) + max(len(pair.chosen), len(pair.rejected))
    if longest > context:
        raise ValueError(f"a comparison has {longest} tokens, more than the context of {context}")
    return pair


@dataclass(frozen=True)
class PairBatch:
    """B pairs as rows [prompt, chosen, rejected], right-padded: the prompt is computed once for
    both completions.
    """

    ids: Tensor  # (B, T)
    sees: Tensor  # (B, T, T) True where a token may look: never from one completion into the other
    positions: Tensor  # (B, T): the rejected completion starts where the chosen one did
    ends: Tensor  # (B, 2): index of the last token of chosen and of rejected
    targets: Tensor  # (B, T): the token that follows inside a completion, -100 elsewhere

    def to(self, device: torch.device) -> "PairBatch":
        """The same batch where the model is."""
        return PairBatch(*(tensor.to(device) for tensor in vars(self).values()))


def pair_batch(pairs: list[Pair], pad_id: int) -> PairBatch:
    """Lay pairs out with a shared prompt."""
    ids, mask = right_pad(
        [pair.prompt + pair.chosen + pair.rejected for pair in pairs], pad_id, multiple=16
    )
    P, A = (
        torch.tensor([len(getattr(pair, part)) for pair in pairs])[:, None]
        for part in ("prompt", "chosen")
    )
    t = torch.arange(ids.size(1))  # (T,)
    part = (t >= P).long() + (
        t >= P + A
    ).long()  # (B, T): 0 prompt, 1 chosen, 2 rejected (and pads)
    sees = (part[:, None] == 0) | (
        part[:, None] == part[:, :, None]
    )  # the prompt, and one's own completion
    positions = torch.where(part == 2, t - A, t) * mask
    last = mask.sum(1, keepdim=True) - 1
    ends = torch.cat([P + A - 1, last], dim=1)
    inside = (part > 0) & mask
    targets = torch.full_like(ids, -100)
    targets[:, :-1] = torch.where(inside[:, 1:] & (part[:, 1:] == part[:, :-1]), ids[:, 1:], -100)
    return PairBatch(ids, sees, positions, ends, targets)


def score_pairs(model: RewardModel, batch: PairBatch) -> tuple[Tensor, Tensor, Tensor]:
    """Scores of chosen and rejected, (B,) each, and the hidden states (B, T, C) behind them."""
    hidden = model.gpt.hidden(batch.ids, batch.sees, batch.positions)
    scores = (
        model.score(hidden.gather(1, batch.ends[:, :, None].expand(-1, -1, hidden.size(-1))))
        .squeeze(-1)
        .float()
    )
    return scores[:, 0], scores[:, 1], hidden


def reward_loss(
    model: RewardModel, batch: PairBatch, lm_coef: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """Bradley-Terry loss plus `lm_coef` times the language-model loss on both completions.

    The second keeps the model reading: a pair says one bit about 60 tokens, their text says much
    more.
    """
    chosen, rejected, hidden = score_pairs(model, batch)
    loss = bradley_terry_loss(chosen, rejected)
    metrics = {"pairwise": loss.detach(), "accuracy": (chosen > rejected).float().mean()}
    if lm_coef:
        guessed = batch.targets >= 0
        loss = loss + lm_coef * token_cross_entropy(
            hidden[guessed], model.gpt.wte.weight, batch.targets[guessed]
        )
    return loss, metrics


def train(
    model: RewardModel,
    pairs: list[Pair],
    config: RewardConfig,
    pad_id: int,
    dtype=torch.float32,
    keeper: Keeper | None = None,
) -> list[dict]:
    """Train in place on encoded pairs; returns the metrics of every step."""
    plan = batch_plan([len(pair) for pair in pairs], config.batch_size, config.epochs, config.seed)
    batches = Batches(plan, lambda index: pair_batch([pairs[i] for i in index], pad_id))
    device, optimizers = model.score.weight.device, Optimizers(model, config.lr, config.muon_lr)

    def loss_of(model, part):
        batch, lm_coef = part
        return reward_loss(model, batch.to(device), lm_coef)

    progress, split = (
        Progress("reward", len(plan), keeper),
        pair_parts(config.micro_batch, config.lm_coef),
    )
    return fit(model, batches, loss_of, optimizers, progress, dtype=dtype, split=split)


@torch.no_grad()
def margins(model: RewardModel, pairs: list[Pair], pad_id: int, batch_size: int = 50) -> Tensor:
    """Score of chosen minus score of rejected for each pair, (N,), in the order given."""
    found, device = torch.empty(len(pairs)), model.score.weight.device
    for index in batch_plan([len(pair) for pair in pairs], batch_size, 1, seed=0):
        chosen, rejected, _ = score_pairs(
            model, pair_batch([pairs[i] for i in index], pad_id).to(device)
        )
        found[index] = (chosen - rejected).cpu()
    return found


def score_responses(
    model: RewardModel, tokenizer: Tokenizer, responses: Responses, batch_size: int = 64
) -> Tensor:
    """The reward model's score of each response as it was sampled (N,)."""
    rows = [
        tokenizer.encode(p.prompt) + ids
        for p, ids in zip(responses.prompts, responses.ids, strict=True)
    ]
    return score_rows(model, rows, tokenizer.pad_id, batch_size)


@torch.no_grad()
def score_rows(
    model: RewardModel, rows: list[list[int]], pad_id: int, batch_size: int = 64
) -> Tensor:
    """The score of each encoded text (N,), read at its last token."""
    scores, device = torch.empty(len(rows)), model.score.weight.device
    for index in batch_plan([len(row) for row in rows], batch_size, 1, seed=0):
        ids, mask = right_pad([rows[i] for i in index], pad_id, multiple=16)
        scores[index] = model(ids.to(device), mask.to(device)).cpu()
    return scores


def accuracy(margin: Tensor) -> float:
    """Share of pairs whose chosen completion scores higher; a tie is wrong."""
    return (margin > 0).float().mean().item()


def bayes_accuracy(comparisons: Sequence[Comparison]) -> float:
    """Expected accuracy of the best possible reward model: it always picks the side that annotators
    prefer.
    """
    return sum(max(c.probability, 1 - c.probability) for c in comparisons) / len(comparisons)


def accuracy_by_kind(margin: Tensor, comparisons: Sequence[Comparison]) -> dict[str, float]:
    """Accuracy on each kind of pair."""
    kinds = sorted({comparison.kind for comparison in comparisons})
    return {
        kind: accuracy(margin[[i for i, c in enumerate(comparisons) if c.kind == kind]])
        for kind in kinds
    }


def normalise_on(
    model: RewardModel,
    policy: GPT,
    tokenizer: Tokenizer,
    prompts: list[Prompt],
    config: RewardConfig,
):
    """Fix gain and bias once, so that samples of the SFT model score 0 on average with standard
    deviation 1.

    Returns mean and standard deviation before (Ziegler et al. 2019, section 2.2).
    """
    responses = respond(
        policy, tokenizer, prompts, max_new_tokens=config.response_tokens, seed=config.seed + 1
    )
    scores = score_responses(model, tokenizer, responses)
    mean, std = scores.mean().item(), scores.std().item()
    model.normalise(mean, std)
    return mean, std


def measure(model: RewardModel, tokenizer: Tokenizer, comparisons: list[Comparison]) -> dict:
    """Accuracy on held-out comparisons, over all and by kind of pair, with the Bayes accuracy."""
    pairs = [
        encode_comparison(comparison, tokenizer, model.gpt.config.context)
        for comparison in comparisons
    ]
    margin = margins(model, pairs, tokenizer.pad_id)
    interval = ratio_ci95(
        margin > 0, torch.ones(len(pairs)), [comparison.prompt for comparison in comparisons]
    )
    metrics = {
        "accuracy": accuracy(margin),
        "accuracy_ci95": interval,
        "comparisons": len(comparisons),
    }
    if all(comparison.probability is not None for comparison in comparisons):
        by_kind = accuracy_by_kind(margin, comparisons)
        metrics |= {"bayes_accuracy": bayes_accuracy(comparisons), "accuracy_by_kind": by_kind}
    return metrics


# ---------------------------------------------------------------- the second judge


def set_apart(
    course: Course, comparisons: list[Comparison]
) -> tuple[list[Comparison], list[Comparison]]:
    """The comparisons for the reward model, and those for the second judge: no prompt is in both.

    The hash of the prompt decides; `judge_share` says for how many. None are set apart where a
    better judge is at
    hand: the gold reward of an embedded world, and for `sentiment` a classifier of another kind.
    """
    share = (
        course.config.judge_share
        if course.source != "embedded" and course.track != "sentiment"
        else 0.0
    )
    parts: tuple[list, list] = ([], [])
    for comparison in comparisons:
        parts[digest(f"judge {comparison.prompt}") < share * 2**64].append(comparison)
    return parts


def judge_folder(course: Course) -> Path:
    """Where the second judge's checkpoint lies: beside those of the stages."""
    return course.folder("reward").with_name("judge")


def train_judge(course: Course, comparisons: list[Comparison], heldout: list[Comparison]) -> dict:
    """A second reward model that only measures, kept as checkpoint `judge`; returns its held-out
    accuracy.

    It shares neither comparisons nor weights with the first: it starts from the base model, with
    another seed. Without comparisons there is no judge, and an old one in the run folder is
    removed.
    """
    folder, tokenizer = judge_folder(course), course.tokenizer
    if not comparisons:
        if is_main():
            shutil.rmtree(folder, ignore_errors=True)
        return {}
    config = replace(course.config, seed=course.config.seed + 1)
    base, _ = load_base(course)
    torch.manual_seed(config.seed)  # of the head
    model = RewardModel(base).to(course.device)
    pairs = [encode_comparison(item, tokenizer, base.config.context) for item in comparisons]
    train(model, pairs, config, tokenizer.pad_id, course.dtype, course.keeper("judge"))
    if not is_main():
        return {}
    found = measure(model, tokenizer, heldout)
    metrics = {
        "judge_accuracy": found["accuracy"],
        "judge_accuracy_ci95": found["accuracy_ci95"],
        "judge_comparisons": len(comparisons),
    }
    save_stage(
        folder,
        model,
        tokenizer,
        stage="reward",
        track=course.track,
        config=settings(course) | {"seed": config.seed},
        metrics=metrics,
        parent=base_folder(course),
        data_fingerprint=fingerprint(comparisons),
    )
    return metrics


# ---------------------------------------------------------------- the stage


def learn(course: Course, model: RewardModel) -> tuple[list, dict]:
    """Train the model on what the settings say, comparisons or labels: the records, and the
    held-out metrics.

    From comparisons the second judge is trained as well, on those that are set apart.
    """
    config, tokenizer, context = course.config, course.tokenizer, model.gpt.config.context
    kind = "labels" if config.pointwise else "comparisons"
    items, heldout = course.rows(kind, "train", config.comparisons), course.rows(kind, "heldout")
    if config.pointwise:
        rows, heldout_rows = (
            [pointwise.encode_labelled(item, tokenizer, context) for item in part]
            for part in (items, heldout)
        )
        labels = [item.label for item in items]
        pointwise.train(
            model, rows, labels, config, tokenizer.pad_id, course.dtype, course.keeper()
        )
        if not is_main():
            return items, {}
        _, words = fit_rows(items, heldout, config.seed)  # a bag of words on the same rows
        return items, pointwise.measure(
            score_rows(model, heldout_rows, tokenizer.pad_id), heldout
        ) | {f"bag_of_words_{name}": value for name, value in words.items()}
    items, apart = set_apart(course, items)
    pairs = [encode_comparison(item, tokenizer, context) for item in items]
    train(model, pairs, config, tokenizer.pad_id, course.dtype, course.keeper())
    judged = train_judge(course, apart, heldout)  # by all processes; what follows is one's work
    return items, (measure(model, tokenizer, heldout) | judged if is_main() else {})


def run(course: Course) -> None:
    """The whole stage: SFT model with a score head, training, measurements, normalisation,
    checkpoint.
    """
    config, tokenizer, track = course.config, course.tokenizer, course.track
    parent = course.folder("sft")
    policy, _ = load_stage(
        parent, stage="sft", track=track, tokenizer=tokenizer, device=course.device
    )
    model = RewardModel(copy.deepcopy(policy)).to(course.device)
    prepare(model.gpt)
    items, metrics = learn(course, model)
    if not is_main():
        return
    prompts = course.rows("prompts", "train", config.eval_prompts)
    metrics["mean"], metrics["std"] = normalise_on(model, policy, tokenizer, prompts, config)
    save_stage(
        course.folder(),
        model,
        tokenizer,
        stage="reward",
        track=track,
        config=settings(course),
        metrics=metrics,
        parent=parent,
        data_fingerprint=fingerprint(items),
    )
    course.forget_snapshots()
    course.record(**metrics)


if __name__ == "__main__":
    stage_main("2-RM-Training", run)
