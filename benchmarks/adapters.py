"""Full fine-tuning, LoRA and QLoRA side by side: `python -m benchmarks.adapters --track instruct`.

Needs the base model of the run folder (`python -m helpers pretrain` with the same options). Each
way trains in a process of its own, so that the peak of its memory is its own. Prints Markdown
tables, writes metrics/adapters.json and keeps the two models with adapters as checkpoints/sft-lora
and sft-qlora: 3-PPO's table on real rows shows them too.
"""

import re
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from multiprocessing import get_context
from pathlib import Path

import torch

from helpers import sft
from helpers.compare.references import heldout_prompts, heldout_references
from helpers.config import ADAPTERS, SFTConfig
from helpers.engine.files import plain, write_json
from helpers.engine.loop import Loop
from helpers.engine.parser import Parser
from helpers.engine.transfer import ahead
from helpers.evaluation import bootstrap_ci95, entropy_floor, respond
from helpers.model import GPT, GPTConfig
from helpers.records import fingerprint
from helpers.run.base_model import load_base
from helpers.run.checkpoints import save_stage
from helpers.run.course import Course
from helpers.run.memory import adapter_bytes
from helpers.run.options import add_settings
from helpers.run.setup import setup
from helpers.stages.adapters import add_adapters, merge_adapters
from helpers.stages.cli import ERRORS

MIB = 2**20


# ---------------------------------------------------------------- memory


def peak_bytes(device: torch.device) -> int:
    """The most memory that this process has held so far: on the GPU if it trains there, else all of
    the process.

    Raises ValueError on Windows, which has neither way of asking.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")
    if status.exists():  # Linux, where ru_maxrss may be the parent's
        return 1024 * int(re.search(r"VmHWM:\s*(\d+) kB", status.read_text())[1])
    try:
        import resource
    except ImportError:
        raise ValueError(
            "the peak of memory can be measured on Linux, on macOS and on a GPU"
        ) from None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


# ---------------------------------------------------------------- one way


def one_way(adapter: str, options: dict) -> dict:
    """Fine-tune the run's base model, "full", "lora" or "qlora": what it cost, and how good it
    is.
    """
    course = setup("1-SFT", **{**options, "adapter": adapter})
    config, pad_id, device = course.config, course.tokenizer.pad_id, course.device
    model, _ = load_base(course)
    rows, heldout = encoded(course, "train", config.demonstrations), encoded(course, "heldout")
    before, start, cpu = peak_bytes(device), time.perf_counter(), time.process_time()
    add_adapters(model, config)
    batches = sft.demonstration_batches(rows, config.batch_size, config.epochs, pad_id, config.seed)
    loop = Loop("sft", course.dtype)  # nothing is saved: steps taken earlier have no time
    history = sft.train(model, ahead(batches, device), config, loop)
    found = {
        "seconds": time.perf_counter() - start,
        "cpu_seconds": time.process_time() - cpu,
        "steps": len(history),
    }
    found |= {"peak": peak_bytes(device), "peak_growth": peak_bytes(device) - before}
    found |= adapter_bytes(model.config, config)
    trained = merge_adapters(model)
    found["heldout_loss"] = sft.heldout_completion_loss(model, heldout, pad_id, course.dtype)
    found |= judged(course, model)
    if trained is not None:
        save_stage(
            course.folder("sft").with_name(f"sft-{adapter}"),
            model,
            course.tokenizer,
            stage="sft",
            track=course.track,
            config=course.facts(),
            metrics=plain(found),
            parent=course.base_folder,
            adapter=trained,
            data_fingerprint=fingerprint(
                course.rows("demonstrations", "train", config.demonstrations)
            ),
        )
    return plain(found)


def encoded(course: Course, split: str, limit: int | None = None) -> list[tuple[list[int], int]]:
    """Demonstrations as rows of tokens with the number of their prompt's."""
    context = course.config_of("pretrain").context
    return [
        sft.encode_demonstration(item, course.tokenizer, context)
        for item in course.rows("demonstrations", split, limit)
    ]


def judged(course: Course, model: GPT) -> dict:
    """The loss's floor, stop rate and gold reward; on real rows ROUGE and BLEU instead; with 95%
    intervals.
    """
    config = course.config
    sampling = {
        "max_new_tokens": config.response_tokens,
        "seed": config.seed,
        "dtype": course.sampling_dtype,
    }
    if course.source != "embedded":
        references = heldout_references(course)
        responses = respond(
            model, course.tokenizer, heldout_prompts(course, references), **sampling
        )
        return responses.report() | (references.metrics(responses.texts) if references else {})
    responses = respond(
        model, course.tokenizer, course.rows("prompts", "heldout", config.eval_prompts), **sampling
    )
    items = course.rows("demonstrations", "heldout")
    tokens = sum(len(ids) - prompt for ids, prompt in encoded(course, "heldout"))
    floor = entropy_floor([item.logprob for item in items], tokens)
    return responses.report() | {
        "entropy_floor": floor,
        "gold_reward_ci95": bootstrap_ci95(responses.gold),
    }


# ---------------------------------------------------------------- the table


def mebibytes(number: int) -> str:
    """Bytes as MiB, with as many digits as say something."""
    return f"{number / MIB:.2f}" if number < 10 * MIB else f"{number / MIB:,.0f}"


def loss_text(way: dict) -> str:
    """The held-out loss, and how far it is above its floor where that is known."""
    floor = way.get("entropy_floor")
    return f"{way['heldout_loss']:.4f}" + (
        f" ({way['heldout_loss'] / floor - 1:+.1%})" if floor else ""
    )


def interval_text(way: dict, name: str, digits: int = 2) -> str:
    """A mean with its 95% interval."""
    low, high = way[f"{name}_ci95"]
    return f"{way[name]:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def table(ways: dict[str, dict]) -> str:
    """The measurements of each way as a Markdown table: a column a way."""
    some = next(iter(ways.values()))
    rows = {"held-out completion loss, nats per token (over its floor)": loss_text}
    if "gold_reward" in some:
        rows["gold reward (95% interval)"] = lambda way: interval_text(way, "gold_reward")
    if "ROUGE-L" in some:
        rows["ROUGE-L (95% interval)"] = lambda way: interval_text(way, "ROUGE-L", 3)
    rows |= {
        "stop rate": lambda way: f"{way['stop_rate']:.3f}",
        "numbers that learn": lambda way: f"{way['trained']:,}",
        "MiB: weights": lambda way: mebibytes(way["weights"]),
        "MiB: gradients": lambda way: mebibytes(way["gradients"]),
        "MiB: optimiser": lambda way: mebibytes(way["optimizer"]),
        "MiB: peak of the process in training (its growth)": lambda way: (
            f"{mebibytes(way['peak'])} ({mebibytes(way['peak_growth'])})"
        ),
        "seconds of training (CPU time)": lambda way: (
            f"{way['seconds']:.0f} ({way['cpu_seconds']:.0f})"
        ),
    }
    lines = [f"| | {' | '.join(ways)} |", "|---" * (len(ways) + 1) + "|"]
    lines += [f"| {name} | {' | '.join(map(cell, ways.values()))} |" for name, cell in rows.items()]
    return "\n".join(lines)


def bytes_table(sizes: GPTConfig, config: SFTConfig) -> str:
    """What training a model of these sizes needs, by counting, as a Markdown table."""
    ways = {adapter: adapter_bytes(sizes, replace(config, adapter=adapter)) for adapter in ADAPTERS}
    for way in ways.values():
        way["together"] = way["weights"] + way["gradients"] + way["optimizer"]
    name = f"GPT-2 with {sizes.layers} layers of {sizes.channels}, counted"
    lines = [f"| {name} | {' | '.join(ways)} |", "|---" * (len(ways) + 1) + "|"]
    lines.append(
        "| numbers that learn | "
        + " | ".join(f"{way['trained']:,}" for way in ways.values())
        + " |"
    )
    for part in ("weights", "gradients", "optimizer", "together"):
        lines.append(
            f"| MiB: {part} | {' | '.join(mebibytes(way[part]) for way in ways.values())} |"
        )
    return "\n".join(lines)


def run(course: Course, options: dict) -> None:
    """All three ways, each in a process of its own; the tables, and metrics/adapters.json in the
    run folder.
    """
    ways = {}
    for adapter in ADAPTERS:  # a new process for each, which holds nothing of the one before
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
            ways[adapter] = process.submit(one_way, adapter, options).result()
    facts = {
        "preset": course.preset,
        "track": course.track,
        "source": course.source,
        "config": asdict(course.config),
    }
    write_json(course.out / "metrics/adapters.json", plain({**facts, "ways": ways}))
    known = replace(course.config, train_embeddings=False)  # GPT-2 has met all words
    print(table(ways), bytes_table(GPTConfig(), known), sep="\n\n")


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = Parser(prog="python -m benchmarks.adapters", description="Full, LoRA and QLoRA.")
    add_settings(parser)
    options = vars(parser.parse_args(argv)) | {"adapter": None}
    try:
        run(setup("1-SFT", **options), options)
    except ERRORS as error:
        sys.exit(f"adapters: {error}")


if __name__ == "__main__":
    main()
