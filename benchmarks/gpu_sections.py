"""The sections of `make gpu` (benchmarks/gpu.py): each is a generator of (name, figures).

GPT-2 124M with random weights, at the sizes of the presets for GPUs. MFU counts 6 operations a
weight and token, and attention (`helpers.run.expected`), against the GPU's peak of dense 16-bit
products as NVIDIA states it. Memory is the peak of torch's allocator, in GB of 10^9 bytes, beside
what `helpers.run.memory` counts for the same step.
"""

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import torch

from benchmarks.gpu import RESULT, ROOT
from helpers.config import PretrainConfig
from helpers.engine.loop import Loop
from helpers.engine.transfer import moved
from helpers.generation import sample
from helpers.model import GPT, GPTConfig, RewardModel
from helpers.ppo import minibatch_losses, minibatches, start_training
from helpers.pretrain import document_batches, next_token_loss, train
from helpers.records import Prompt
from helpers.reward import Pair, pair_batch, reward_loss
from helpers.rollouts import Models, collect, rollout_metrics, with_advantages
from helpers.run import memory
from helpers.run.expected import operations
from helpers.run.presets import load_config
from helpers.sft import completion_nll
from helpers.training import Optimizers, autocast

# per second
PEAKS = {"T4": 65e12, "V100": 125e12, "A100": 312e12, "L4": 121e12, "H100": 989e12, "H200": 989e12}
Figures = Iterator[tuple[str, dict]]


class Sizes:
    """The sizes of a real run, or for a dry one tiny ones on the CPU."""

    def __init__(self, dry: bool):
        self.dry = dry
        self.device = torch.device("cpu" if dry else "cuda")
        self.gpt = GPTConfig(259, 64, 2, 2, 32) if dry else GPTConfig(vocab_size=50258)
        self.rows, self.length = (2, 48) if dry else (32, 1024)  # of a pretraining step
        self.repeats = 2 if dry else 8

    def clear(self) -> None:
        """Free what the last measurement held, and start counting the peak anew."""
        if not self.dry:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def wait(self) -> None:
        if not self.dry:
            torch.cuda.synchronize()

    def gigabytes(self) -> float | None:
        return None if self.dry else round(torch.cuda.max_memory_allocated() / 1e9, 2)

    def seconds(
        self, work: Callable[[], object], warm_up: int = 2, repeats: int | None = None
    ) -> float:
        """Median seconds of a call, after some to warm up."""
        found = []
        for turn in range(warm_up + (repeats or self.repeats)):
            self.wait()
            start = time.perf_counter()
            work()
            self.wait()
            if turn >= warm_up:
                found.append(time.perf_counter() - start)
        return statistics.median(found)

    def random_ids(self, rows: int, length: int) -> torch.Tensor:
        """ids (rows, length), without end of text or pads."""
        return torch.randint(2, self.gpt.vocab_size - 2, (rows, length))


def peak() -> float | None:
    """Operations per second that NVIDIA states for this GPU; None for one that is not listed."""
    if not torch.cuda.is_available():
        return None
    name = torch.cuda.get_device_name()
    return next((speed for gpu, speed in PEAKS.items() if gpu in name), None)


# ---------------------------------------------------------------- tests


def tests(sizes: Sizes, options) -> Figures:
    """The tests marked gpu; a dry run only collects them."""
    extra = ["--collect-only"] if sizes.dry else []
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-m",
        "gpu",
        "-q",
        "-p",
        "no:cacheprovider",
        *extra,
        "tests/gpu",
    ]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    print(finished.stdout[-6000:])
    yield (
        "pytest -m gpu",
        {"result": (finished.stdout.strip().splitlines() or ["no output"])[-1].strip("= ")},
    )
    if finished.returncode:
        sys.exit(f"pytest ended with {finished.returncode}")


# ---------------------------------------------------------------- a pretraining step


def stepping(
    sizes: Sizes, model, optimizers: Optimizers, batch, loss_of: Callable, dtype: torch.dtype
) -> Callable[[], None]:
    """A training step as the stages' loops take it: batch from the CPU, loss, gradients, update."""

    def step() -> None:
        there = moved(batch, sizes.device)
        with autocast(sizes.device, dtype):
            loss = loss_of(model, there)
        optimizers.backward(loss)
        loss.item()
        optimizers.step(0.01)

    return step


def training(sizes: Sizes, options) -> Figures:
    """Tokens per second, MFU and peak memory of a step at 124M: ours in several ways, and
    transformers' GPT-2.
    """
    bf16, fp16 = torch.bfloat16, torch.float16
    ways = {
        "bf16": (bf16, {}),
        "fp16 with the scaler": (fp16, {}),
        "bf16, checkpointed": (bf16, {"checkpointing": True}),
        "bf16, AdamW alone": (bf16, {"muon_lr": 0.0}),
        "bf16, compiled": (bf16, {"compiled": True}),
    }
    if sizes.dry:
        ways.pop("bf16, compiled")
    for name, (dtype, changes) in ways.items():
        model = GPT(replace(sizes.gpt, context=sizes.length)).to(sizes.device)
        model.checkpointing = changes.get("checkpointing", False)
        if changes.get("compiled"):
            for block in model.h:
                block.compile(dynamic=True)
        optimizers = Optimizers(model, 2e-3, changes.get("muon_lr", 1e-2), dtype)
        ids = sizes.random_ids(sizes.rows, sizes.length)
        batch = ids, torch.ones_like(ids, dtype=torch.bool)
        step = stepping(sizes, model, optimizers, batch, lambda m, b: next_token_loss(m, *b), dtype)
        sizes.clear()
        started = time.perf_counter()
        step()
        first = time.perf_counter() - started
        yield (
            name,
            speed(sizes, sizes.seconds(step), muon="muon_lr" not in changes)
            | {"first step": round(first, 1)},
        )
        del model, step
    yield "transformers, bf16, AdamW", speed(sizes, theirs(sizes), muon=False)


def theirs(sizes: Sizes) -> float:
    """Seconds of a step of transformers' GPT-2 under autocast with AdamW, its loss included."""
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(gpt2_config(sizes, GPT2Config)).to(sizes.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    ids = sizes.random_ids(sizes.rows, sizes.length).to(sizes.device)

    def step() -> None:
        with torch.autocast(sizes.device.type, dtype=torch.bfloat16):
            loss = model(ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loss.item()

    sizes.clear()
    return sizes.seconds(step)


def gpt2_config(sizes: Sizes, config_class):
    """The same sizes for transformers, without dropout."""
    gpt = sizes.gpt
    return config_class(
        vocab_size=gpt.vocab_size,
        n_positions=gpt.context,
        n_layer=gpt.layers,
        n_head=gpt.heads,
        n_embd=gpt.channels,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=0,
        eos_token_id=0,
    )


def speed(sizes: Sizes, seconds: float, muon: bool) -> dict:
    """The figures of a pretraining step that takes so many seconds."""
    tokens = sizes.rows * sizes.length
    figures = {"tokens/s": round(tokens / seconds), "ms": round(1000 * seconds, 1)}
    if peak() and not sizes.dry:
        done = operations(sizes.gpt, tokens, tokens, sizes.length, True)
        figures["MFU"] = round(done / seconds / peak(), 3)
    counted = memory.training_bytes(sizes.gpt, tokens, tokens, 16, muon) / 1e9
    return figures | {"GB": sizes.gigabytes(), "GB counted": round(counted, 2)}


# ---------------------------------------------------------------- sampling


def sampling(sizes: Sizes, options) -> Figures:
    """New tokens per second behind prompts of 512 tokens: ours, and transformers' generate() with
    its cache.
    """
    from transformers import GPT2Config, GPT2LMHeadModel

    prompt, new, all_rows = (16, 4, (2,)) if sizes.dry else (512, 64, (32, 128))
    ours, theirs = (
        GPT(sizes.gpt).to(sizes.device),
        GPT2LMHeadModel(gpt2_config(sizes, GPT2Config)).to(sizes.device),
    )
    ours.requires_grad_(False)
    for rows in all_rows:
        ids = sizes.random_ids(rows, prompt).to(sizes.device)
        mask = torch.ones_like(ids)
        for dtype in (torch.float32, torch.bfloat16):
            figures = {}

            def by_us(dtype=dtype, ids=ids, mask=mask):
                sample(ours, ids, mask, max_new_tokens=new, eos_id=-1, pad_id=0, dtype=dtype)

            def by_them(ids=ids, mask=mask):
                with torch.no_grad():
                    theirs.generate(
                        ids,
                        attention_mask=mask,
                        do_sample=True,
                        top_k=0,
                        max_new_tokens=new,
                        min_new_tokens=new,
                        pad_token_id=0,
                    )

            theirs.to(dtype)
            for name, work in (("ours", by_us), ("generate()", by_them)):
                sizes.clear()
                seconds = sizes.seconds(work, warm_up=1, repeats=3)
                figures |= {
                    f"{name}, tokens/s": round(rows * new / seconds),
                    f"{name}, GB": sizes.gigabytes(),
                }
            figures["ratio"] = round(figures["ours, tokens/s"] / figures["generate(), tokens/s"], 2)
            yield f"{rows} rows, {str(dtype).removeprefix('torch.')}", figures


# ---------------------------------------------------------------- the stages at preset t4


def stages(sizes: Sizes, options) -> Figures:
    """A step of SFT and of the reward model, an iteration of PPO, as preset t4 runs `tldr`: seconds
    and memory.
    """
    new, length = (8, 40) if sizes.dry else (64, 576)
    made = {
        stage: load_config(stage, "t4", "tldr", source="hub") for stage in ("sft", "reward", "ppo")
    }
    if sizes.dry:
        made = {stage: replace(config, response_tokens=8) for stage, config in made.items()}
        made["ppo"] = replace(made["ppo"], rollout_size=4, minibatch_size=2)
    dtypes = (torch.bfloat16,) if sizes.dry else (torch.float16, torch.bfloat16)
    for stage in ("sft", "reward"):
        for dtype in dtypes:
            step, tokens, guessed = stage_step(sizes, stage, made[stage], dtype, length, new)
            sizes.clear()
            seconds = sizes.seconds(step)
            counted = memory.training_bytes(sizes.gpt, tokens, guessed, 16, muon=False) / 1e9
            yield (
                f"{stage}, {str(dtype).removeprefix('torch.')}",
                {
                    "ms": round(1000 * seconds, 1),
                    "tokens/s": round(tokens / seconds),
                    "GB": sizes.gigabytes(),
                    "GB counted": round(counted, 2),
                },
            )
            del step
    for dtype in (torch.float32, torch.bfloat16):
        iteration, seen = ppo_iteration(sizes, made["ppo"], dtype, length - new)
        sizes.clear()
        seconds = sizes.seconds(iteration, warm_up=1, repeats=2)
        counted = memory.ppo_bytes(sizes.gpt, made["ppo"], length) / 1e9
        yield (
            f"ppo, {str(dtype).removeprefix('torch.')}",
            {
                "s": round(seconds, 3),
                "responses/s": round(made["ppo"].rollout_size / seconds, 1),
                "GB": sizes.gigabytes(),
                "GB counted": round(counted, 2),
                **seen,
            },
        )
        del iteration


def stage_step(
    sizes: Sizes, stage: str, config, dtype: torch.dtype, length: int, new: int
) -> tuple:
    """A step on `micro_batch` rows; how many tokens it reads, and of how many it makes logits."""
    rows, model = (2 if sizes.dry else config.micro_batch), GPT(sizes.gpt).to(sizes.device)
    if stage == "sft":
        batch = (
            sizes.random_ids(rows, length),
            (torch.arange(length) >= length - new).expand(rows, -1),
        )
        tokens, guessed = rows * length, rows * new

        def loss_of(model, batch):
            return completion_nll(model, *batch)
    else:
        model = RewardModel(model).to(sizes.device)
        texts = sizes.random_ids(rows, length + new).tolist()
        pairs = [Pair(row[: -2 * new], row[-2 * new : -new], row[-new:]) for row in texts]
        batch, tokens, guessed = pair_batch(pairs, 1), rows * (length + new), 2 * rows * new

        def loss_of(model, batch):
            return reward_loss(model, batch)[0]

    optimizers = Optimizers(model, config.lr, config.muon_lr, dtype)
    return stepping(sizes, model, optimizers, batch, loss_of, dtype), tokens, guessed


def ppo_iteration(sizes: Sizes, config, dtype: torch.dtype, prompt: int) -> tuple[Callable, dict]:
    """An iteration of PPO; the second is filled with how far the first minibatch's ratio was from
    1.
    """
    gpts = [GPT(sizes.gpt).to(sizes.device) for _ in range(2)]
    gpts[1].load_state_dict(gpts[0].state_dict())  # the policy starts as the reference
    reward, value = (RewardModel(GPT(sizes.gpt)).to(sizes.device) for _ in range(2))
    models = Models(*gpts, reward, value, dtype)
    run = start_training(models, replace(config, lr=1e-7, muon_lr=0.0, value_lr=1e-7))
    encoded, seen = sizes.random_ids(config.rollout_size, prompt).tolist(), {}
    tokenizer = SimpleNamespace(eos_id=-1, pad_id=0, encode=lambda text: encoded[int(text)])
    prompts = [Prompt(str(i)) for i in range(config.rollout_size)]

    def iteration() -> None:
        rollout = collect(models, prompts, config, tokenizer, run.token_rng)
        rollout = with_advantages(rollout, config.kl_coef, config)
        for index in minibatches(len(prompts), config, run.prompt_rng):
            losses = minibatch_losses(models, rollout, index.to(sizes.device), config)
            run.policy_optimizer.backward(losses["policy"])
            run.value_optimizer.backward(losses["value"])
            run.policy_optimizer.step()
            run.value_optimizer.step()
            if not seen:
                kl = rollout_metrics(rollout)["kl"]
                seen["first ratio off"] = f"{losses['ratio_off'].item():.1e}"
                seen["first KL"] = f"{kl:.1e}"

    return iteration, seen


# ---------------------------------------------------------------- two processes


def processes(sizes: Sizes, options) -> Figures:
    """Two processes on one device, gradients added through gloo, and one through NCCL: the losses
    of one process.
    """
    alone = pair_losses(sizes)
    yield "one process", {"losses": [round(loss, 5) for loss in alone]}
    backends = {"gloo": 2} if sizes.dry else {"gloo": 2, "nccl": 1}
    for backend, count in backends.items():
        command = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            f"--nproc-per-node={count}",
            "-m",
            "benchmarks.gpu_sections",
            "pair",
            "--backend",
            backend,
            *(["--dry"] if sizes.dry else []),
        ]
        finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        losses = [
            json.loads(line) for line in re.findall(r"^LOSSES (.*)$", finished.stdout, re.MULTILINE)
        ]
        name = f"{count} process{'es' if count > 1 else ''}, {backend}"
        if not losses:
            yield name, {"failed": finished.stderr[-2000:]}
            sys.exit(f"{name}: {finished.stderr[-2000:]}")
        off = max(abs(a - b) for a, b in zip(alone, losses[0], strict=True))
        yield name, {"losses": [round(loss, 5) for loss in losses[0]], "off by": f"{off:.1e}"}


def pair_losses(sizes: Sizes) -> list[float]:
    """The losses of some steps of pretraining in float32, in however many processes this is one
    of.
    """
    torch.manual_seed(0)
    model = GPT(replace(sizes.gpt, context=64)).to(sizes.device)
    rows = sizes.random_ids(32, 64).tolist()
    config = PretrainConfig(batch_size=8, lr=1e-4, muon_lr=1e-3)
    batches = document_batches(rows, config.batch_size, config.epochs, 0, config.seed)
    return [step["loss"] for step in train(model, batches, config, Loop("pretrain"))]


def pair(sizes: Sizes, backend: str) -> None:
    """One of the processes that `processes` starts; all share one device."""
    import torch.distributed as dist

    if not sizes.dry:
        torch.cuda.set_device(0)
    dist.init_process_group(backend)
    losses = pair_losses(sizes)
    if dist.get_rank() == 0:
        print(f"LOSSES {json.dumps(losses)}", flush=True)
    dist.destroy_process_group()


# ---------------------------------------------------------------- the course on real rows

SHORT = {  # what differs from preset h100 on `sentiment`: a course in minutes
    "pretrain": {"documents": 14_000, "batch_size": 256, "micro_batch": 0, "eval_documents": 200},
    "sft": {"init": "pretrain", "lr": 1e-4, "eval_prompts": 500},
    "reward": {"lr": 3e-5, "eval_prompts": 500},
    "ppo": {"iterations": 60, "eval_prompts": 500},
}


def course(sizes: Sizes, options) -> Figures:
    """Pretraining on prose, then SFT, reward model and PPO on the sentences of SST-2, judged by a
    bag of words.
    """
    if not options.rows.is_dir():
        yield (
            "not run",
            {"reason": f"no folder {options.rows.name} with prose/, sst2/ and gpt2-bpe/"},
        )
        return
    with tempfile.TemporaryDirectory() as folder:
        chosen = {
            "data_dir": str(options.rows),
            "track": "sentiment",
            "out": folder,
            "init": "pretrain",
            "preset": "smoke" if sizes.dry else "h100",
            "device": sizes.device.type,
        }
        yield from run_stages(sizes, chosen)


def run_stages(sizes: Sizes, chosen: dict) -> Figures:
    """The four stages in this process."""
    from helpers.run.setup import setup
    from helpers.stages import ppo, pretrain, reward, sft

    stages = {"0-Pretrain": pretrain, "1-SFT": sft, "2-RM-Training": reward, "3-PPO": ppo}
    for notebook, module in stages.items():
        started = time.perf_counter()
        run = setup(notebook, **chosen)
        if not sizes.dry:
            run = replace(run, config=replace(run.config, **SHORT[run.stage]))
        sizes.clear()
        module.run(run)
        metrics = run.metrics()
        figures = {"s": round(time.perf_counter() - started, 1), "GB": sizes.gigabytes()}
        for key in (
            "heldout_loss",
            "tokens",
            "stop_rate",
            "accuracy",
            "accuracy_ci95",
            "words_accuracy",
            "score",
            "kl",
            "judge_gain",
            "judge_gain_ci95",
            "judge_accuracy",
        ):
            if key in metrics:
                figures[key] = rounded(metrics[key])
        yield run.stage, figures
        for policy, row in metrics.get("table", {}).items():
            names = (
                "judge",
                "judge_ci95",
                "score",
                "kl",
                "perplexity",
                "distinct-2",
                "words",
                "stop_rate",
            )
            yield f"ppo: {policy}", {name: rounded(row[name]) for name in names if name in row}


def rounded(value):
    """A number, or a list of them, to four significant digits."""
    return [rounded(each) for each in value] if isinstance(value, list) else float(f"{value:.4g}")


SECTIONS = {one.__name__: one for one in (tests, training, sampling, stages, processes, course)}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_sections")
    parser.add_argument("section", choices=[*SECTIONS, "pair"])
    parser.add_argument("--rows", type=Path, default=ROOT / "rows")
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--backend", default="gloo")
    parser.add_argument("--dry", action="store_true")
    options = parser.parse_args()
    if not options.dry and not torch.cuda.is_available():
        sys.exit("there is no CUDA device here; --dry runs everything with tiny models on the CPU")
    torch.manual_seed(0)
    sizes = Sizes(options.dry)
    if options.section == "pair":
        return pair(sizes, options.backend)
    if options.section not in ("tests", "course") and not options.dry:
        torch.set_float32_matmul_precision("high" if options.section == "training" else "highest")
        print(torch.cuda.get_device_name(), f"torch {torch.__version__}")
    for name, figures in SECTIONS[options.section](sizes, options):
        print(f"{RESULT}{json.dumps({name: figures})}", flush=True)
        print(f"{name}: {figures}", flush=True)


if __name__ == "__main__":
    main()
