"""1-SFT as a command: base model, demonstrations, training, measurements, checkpoint."""

from collections.abc import Sequence

import torch

from helpers import sft
from helpers.compare.perplexity import response_nats
from helpers.compare.references import References, heldout_prompts, heldout_references, read_heldout
from helpers.config import SFTConfig
from helpers.engine.distributed import is_main
from helpers.engine.transfer import ahead
from helpers.evaluation import Responses, entropy_floor, ratio_ci95, respond
from helpers.model import GPT
from helpers.records import Demonstration, Prompt, fingerprint
from helpers.run.base_model import load_base
from helpers.run.course import Course
from helpers.stages.adapters import Adapter, add_adapters, merge_adapters
from helpers.stages.cli import loss_curve, stage_main
from helpers.stages.copying import adapt_if_wanted
from helpers.tokenizer import Tokenizer
from helpers.training import autocast


def run(course: Course) -> None:
    """The whole stage."""
    model, _ = load_base(course)
    demonstrations = course.rows("demonstrations", "train", course.config.demonstrations)
    course.rows("demonstrations", "heldout")  # missing ones are noticed now, not after the training
    read_heldout(course)
    rows = encode(demonstrations, course.tokenizer, model.config.context)
    course.prepare(model)
    rows = adapt_if_wanted(model, course, demonstrations, rows)
    history = learn(course, model, rows)
    if is_main():  # the other processes only help with the training
        finish(course, model, demonstrations, history, merge_adapters(model))


def encode(demonstrations: list[Demonstration], tokenizer: Tokenizer, context: int) -> list:
    """Every demonstration's tokens, and how many of them are the prompt's."""
    return [sft.encode_demonstration(item, tokenizer, context) for item in demonstrations]


def learn(course: Course, model: GPT, rows: list[tuple[list[int], int]]) -> list[dict]:
    """Train the model, or adapters on it, on encoded rows; returns the metrics of every step."""
    config, pad_id = course.config, course.tokenizer.pad_id
    add_adapters(model, config)
    batches = sft.demonstration_batches(rows, config.batch_size, config.epochs, pad_id, config.seed)
    return sft.train(model, ahead(batches, course.device), config, course.loop())


def finish(
    course: Course,
    model: GPT,
    demonstrations: list[Demonstration],
    history: list[dict],
    adapter: Adapter | None = None,
    responses: Responses | None = None,
) -> dict:
    """Measure the plain model, save it as the stage's checkpoint and record the metrics, which are
    returned. adapter: what was merged into it. responses: to the held-out prompts, if already
    sampled.
    """
    config, tokenizer, references = course.config, course.tokenizer, heldout_references(course)
    heldout = course.rows("demonstrations", "heldout")
    if responses is None:
        prompts, dtype = heldout_prompts(course, references), course.sampling_dtype
        sampling = {"max_new_tokens": config.response_tokens, "seed": config.seed, "dtype": dtype}
        responses = respond(model, tokenizer, prompts, **sampling)
    metrics = measure(model, tokenizer, heldout, responses, config, course.dtype, references)
    course.finish(
        model,
        metrics,
        parent=course.base_folder,
        data_fingerprint=fingerprint(demonstrations),
        adapter=adapter,
        first_loss=history[0]["loss"],
        curves={"completion loss": loss_curve(history, ceiling=metrics.get("entropy_floor"))},
    )
    return metrics


def measure(
    model: GPT,
    tokenizer: Tokenizer,
    heldout: list[Demonstration],
    responses: Responses,
    config: SFTConfig,
    dtype: torch.dtype = torch.float32,
    references: References | None = None,
) -> dict:
    """Held-out completion loss in nats per token, with its 95% interval over prompts and its floor
    where that is known, and the report of sampled responses.

    With references, to whose prompts the responses must be, also ROUGE and BLEU of the samples and
    of greedy ones, beside the baselines.
    """
    completions = [ids[start:] for ids, start in encode(heldout, tokenizer, model.config.context)]
    prompts = [Prompt(item.prompt) for item in heldout]
    with autocast(model.wte.weight.device, dtype):
        nats, tokens = response_nats(model, tokenizer, prompts, completions)
    metrics = {  # `heldout_completion_loss`, but row by row, for the interval
        "heldout_loss": nats.sum().item() / tokens.sum().item(),
        "heldout_loss_ci95": ratio_ci95(nats, tokens, [prompt.prompt for prompt in prompts]),
    }
    logprobs = [item.logprob for item in heldout]
    if None not in logprobs:
        metrics["entropy_floor"] = entropy_floor(logprobs, int(tokens.sum()))
    if references is not None:
        metrics |= references.metrics(responses.texts)
        metrics["greedy"] = references.greedy(model, tokenizer, config.response_tokens)
        metrics["baselines"] = references.baselines()
    return metrics | responses.report()


def main(argv: Sequence[str] | None = None) -> None:
    """`python -m helpers sft`."""
    stage_main("1-SFT", run, argv)
