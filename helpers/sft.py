"""Stage 1: supervised fine-tuning on demonstrations (taught in 1-SFT). `python -m helpers.sft
--preset cpu`.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from helpers.batching import Batches, moved, right_pad, rows_at_once
from helpers.compare.perplexity import response_nats
from helpers.compare.references import References, heldout_prompts, heldout_references
from helpers.config import SFTConfig
from helpers.cross_entropy import token_cross_entropy
from helpers.engine.accumulation import token_parts
from helpers.engine.distributed import is_main
from helpers.engine.hardware import prepare
from helpers.engine.snapshots import Keeper
from helpers.evaluation import entropy_floor, ratio_ci95, respond
from helpers.model import GPT
from helpers.pretrain import batch_plan
from helpers.rows.embedded import Demonstration, Prompt, fingerprint
from helpers.run.base_model import base_folder, load_base
from helpers.run.checkpoints import save_stage
from helpers.run.setup import Course
from helpers.stages.adapters import add_adapters, merge_adapters
from helpers.stages.cli import settings, stage_main
from helpers.stages.copying import adapt_if_wanted
from helpers.tokenizer import Tokenizer
from helpers.training import Optimizers, Progress, autocast, fit


def encode_demonstration(
    demonstration: Demonstration, tokenizer: Tokenizer, context: int
) -> tuple[list[int], int]:
    """Tokens of prompt + completion + end of text, and how many of them are the prompt's.

    Prompt and completion are encoded apart, as they will meet when sampling. Raises ValueError when
    they are too long.
    """
    prompt = tokenizer.encode(demonstration.prompt)
    row = prompt + tokenizer.encode(demonstration.completion) + [tokenizer.eos_id]
    if len(row) > context:
        raise ValueError(
            f"a demonstration has {len(row)} tokens, more than the context of {context}"
        )
    return row, len(prompt)


def completion_masks(mask: Tensor, prompt_lengths: list[int]) -> Tensor:
    """True on completion tokens: mask (B, T) of right-padded rows, without each row's prompt."""
    position = torch.arange(mask.size(1))  # (T,)
    return mask & (position >= torch.tensor(prompt_lengths)[:, None])


def completion_nll(model: GPT, ids: Tensor, completion_mask: Tensor) -> Tensor:
    """`losses.completion_loss`, but the last MLP and the head run only where a completion token is
    guessed.

    ids, mask (B, T). A summary is a quarter of its row, so three quarters of the (B, T, V) logits
    are never made.
    """
    guesses = F.pad(
        completion_mask[:, 1:], (0, 1)
    )  # position t guesses token t+1, the last one nothing
    hidden = model.hidden(ids, keep=guesses)  # (completion tokens, C)
    return token_cross_entropy(hidden, model.wte.weight, ids[:, 1:][completion_mask[:, 1:]])


def demonstration_batches(
    rows: list[tuple[list[int], int]], batch_size: int, epochs: float, pad_id: int, seed: int
) -> Batches:
    """Batches (ids, completion mask) of demonstrations of similar length, in an order fixed by the
    seed.
    """

    def make(index: list[int]) -> tuple[Tensor, Tensor]:
        ids, mask = right_pad([rows[i][0] for i in index], pad_id, multiple=16)
        return ids, completion_masks(mask, [rows[i][1] for i in index])

    return Batches(batch_plan([len(ids) for ids, _ in rows], batch_size, epochs, seed), make)


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


def train(
    model: GPT,
    rows,
    config: SFTConfig,
    pad_id: int,
    dtype=torch.float32,
    keeper: Keeper | None = None,
):
    """Fine-tune in place on encoded demonstrations; returns the metrics of every step.

    With adapters (config.adapter) these are left in the model: `merge_adapters` turns it into a
    plain one.
    """
    device = model.wte.weight.device
    add_adapters(model, config)
    batches = demonstration_batches(rows, config.batch_size, config.epochs, pad_id, config.seed)
    optimizers = Optimizers(model, *config.rates)

    def loss_of(model, batch):
        return completion_nll(model, *moved(batch, device)), {}

    progress, split = Progress("sft", len(batches), keeper), token_parts(config.micro_batch)
    return fit(model, batches, loss_of, optimizers, progress, dtype=dtype, split=split)


def measure(
    model: GPT,
    tokenizer: Tokenizer,
    heldout: list[Demonstration],
    prompts: list[Prompt],
    config: SFTConfig,
    dtype: torch.dtype = torch.float32,
    references: References | None = None,
) -> dict:
    """Held-out completion loss (nats per token) with its floor where that is known, and what is
    said of samples.

    The interval of the loss is over prompts. With references, whose prompts `prompts` must then be,
    also ROUGE and BLEU of the samples and of greedy ones, beside the baselines.
    """
    rows = [
        encode_demonstration(demonstration, tokenizer, model.config.context)
        for demonstration in heldout
    ]
    with autocast(model.wte.weight.device, dtype):
        asked = [Prompt(demonstration.prompt) for demonstration in heldout]
        nats, tokens = response_nats(
            model, tokenizer, asked, [ids[prompt:] for ids, prompt in rows]
        )
    metrics = {
        "heldout_loss": nats.sum().item()
        / tokens.sum().item(),  # `heldout_completion_loss`, row by row for its
        "heldout_loss_ci95": ratio_ci95(
            nats, tokens, [prompt.prompt for prompt in asked]
        ),  # interval
    }
    if all(demonstration.logprob is not None for demonstration in heldout):
        metrics["entropy_floor"] = entropy_floor(
            [item.logprob for item in heldout], int(tokens.sum())
        )
    responses = respond(
        model, tokenizer, prompts, max_new_tokens=config.response_tokens, seed=config.seed
    )
    if references is not None:
        greedy = references.greedy(model, tokenizer, config.response_tokens)
        metrics |= {
            **references.metrics(responses.texts),
            "greedy": greedy,
            "baselines": references.baselines(),
        }
    return metrics | responses.report()


def run(course: Course) -> None:
    """The whole stage: base model, demonstrations, training, measurements, checkpoint, metrics."""
    config, tokenizer = course.config, course.tokenizer
    model, _ = load_base(course)
    demonstrations = course.rows("demonstrations", "train", config.demonstrations)
    rows = [encode_demonstration(item, tokenizer, model.config.context) for item in demonstrations]
    prepare(model)
    rows = adapt_if_wanted(model, course, demonstrations, rows)
    history = train(model, rows, config, tokenizer.pad_id, course.dtype, course.keeper())
    if not is_main():
        return
    adapter = merge_adapters(model)  # None when all weights were trained
    heldout = course.rows("demonstrations", "heldout")
    references = heldout_references(course)
    prompts = heldout_prompts(course, references)
    metrics = measure(model, tokenizer, heldout, prompts, config, course.dtype, references)
    save_stage(
        course.folder(),
        model,
        tokenizer,
        stage="sft",
        track=course.track,
        config=settings(course),
        metrics=metrics,
        parent=base_folder(course),
        data_fingerprint=fingerprint(demonstrations),
        adapter=adapter,
    )
    course.forget_snapshots()
    course.record(**metrics, first_loss=history[0]["loss"])


if __name__ == "__main__":
    stage_main("1-SFT", run)
