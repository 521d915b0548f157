"""On a GPU: GPT-2 124M in each stage. Tokens a second, share of the GPU's peak (MFU) and peak memory.

Not run on a machine without a GPU. MFU counts 6 operations a weight and token and attention (`helpers.expected`),
against the peak of dense 16-bit products that NVIDIA states for the GPU.
"""

import statistics
import time
from types import SimpleNamespace

import torch

from helpers.batching import moved
from helpers.config import load_config
from helpers.expected import operations
from helpers.hardware import choose_dtype
from helpers.model import GPT, GPTConfig, RewardModel
from helpers.ppo import update
from helpers.ppo_models import Models, products_dtype
from helpers.pretrain import next_token_loss
from helpers.reward import Pair, pair_batch, reward_loss
from helpers.rollouts import collect
from helpers.sft import completion_nll
from helpers.training import Optimizers, Progress, fit

PEAKS = {"T4": 65e12, "V100": 125e12, "A100": 312e12, "L4": 121e12, "H100": 989e12, "H200": 989e12}  # a second
GPT2 = GPTConfig(vocab_size=50258)
ROUNDS = 10


def timed(work) -> tuple[float, float]:
    """Median seconds of a call after two to warm up, and the peak gigabytes."""
    torch.cuda.reset_peak_memory_stats()
    seconds = []
    for turn in range(ROUNDS + 2):
        torch.cuda.synchronize()
        start = time.perf_counter()
        work()
        torch.cuda.synchronize()
        if turn >= 2:
            seconds.append(time.perf_counter() - start)
    return statistics.median(seconds), round(torch.cuda.max_memory_allocated() / 1e9, 2)


def fitting(model, batch, loss_of, config, dtype):
    """A step of the course's loop: the batch comes from the CPU's memory, and `loss_of(model, batch)` is its loss."""
    device, optimizers = next(model.parameters()).device, Optimizers(model, config.lr, config.muon_lr)

    def loss_there(model, batch):
        return loss_of(model, moved(batch, device))

    return lambda: fit(model, [batch], loss_there, optimizers, Progress("gpu", 1), dtype=dtype)


def random_ids(rows: int, length: int) -> torch.Tensor:
    """ids (rows, length) of GPT-2's vocabulary, without end of text or pads."""
    return torch.randint(2, 50257, (rows, length))


def stage_work(stage: str, dtype: torch.dtype, gpt: GPTConfig = GPT2, device: str = "cuda") -> tuple:
    """A step of a stage as preset t4 runs `tldr`, and how many of its tokens are read and guessed."""
    config = load_config(stage, "t4", "tldr", source="hub")
    model, rows = GPT(gpt).to(device), config.micro_batch
    if stage == "pretrain":
        length = 1024
        batch = random_ids(rows, length), torch.ones(rows, length, dtype=torch.bool)
        work = fitting(model, batch, lambda m, b: (next_token_loss(m, *b), {}), config, dtype)
        return work, rows * length, rows * length
    new = config.response_tokens
    if stage == "sft":
        length = 576
        batch = random_ids(rows, length), (torch.arange(length) >= length - new).expand(rows, -1)
        work = fitting(model, batch, lambda m, b: (completion_nll(m, *b), {}), config, dtype)
        return work, rows * length, rows * new
    length = 640
    tokens = random_ids(rows, length).tolist()
    pairs = [Pair(row[: -2 * new], row[-2 * new : -new], row[-new:]) for row in tokens]
    scored, batch = RewardModel(model).to(device), pair_batch(pairs, 1)
    work = fitting(scored, batch, lambda m, b: reward_loss(m, b, 0.0), config, dtype)
    return work, rows * length, 0


def ppo_work(dtype: torch.dtype, gpt: GPTConfig = GPT2, device: str = "cuda"):
    """An iteration of preset t4's PPO on `tldr`: 32 prompts of 512 tokens, 64 new ones."""
    config = load_config("ppo", "t4", "tldr", source="hub")
    policy, reference, reward, value = (GPT(gpt).to(device) for _ in range(4))
    products = products_dtype(SimpleNamespace(device=torch.device(device), dtype=dtype))
    models = Models(policy, reference, RewardModel(reward).to(device), RewardModel(value).to(device), products)
    optimizers = [Optimizers(policy, *config.rates), Optimizers(models.value, config.value_lr)]
    ids = random_ids(config.rollout_size, 512).to(device)
    tokenizer, choose = SimpleNamespace(eos_id=-1, pad_id=50257), torch.Generator().manual_seed(0)
    draws = torch.Generator(device).manual_seed(0)

    def iteration() -> None:
        rollout = collect(models, ids, torch.ones_like(ids).bool(), config, tokenizer, draws)
        update(models, rollout, optimizers, config, choose, 1.0)

    return iteration, config


def measure() -> dict:
    """Every stage; empty without a GPU."""
    if not torch.cuda.is_available():
        return {}
    name, dtype, found = torch.cuda.get_device_name(), choose_dtype(torch.device("cuda")), {}
    peak = next((speed for gpu, speed in PEAKS.items() if gpu in name), None)
    for stage in ("pretrain", "sft", "reward"):
        work, tokens, guessed = stage_work(stage, dtype)
        seconds, gigabytes = timed(work)
        done = operations(GPT2, tokens, guessed, 1024 if stage == "pretrain" else 576, True)
        found[stage] = {"tokens_per_second": round(tokens / seconds), "gigabytes": gigabytes}
        if peak:
            found[stage]["mfu"] = round(done / seconds / peak, 3)
        del work
        torch.cuda.empty_cache()
    work, config = ppo_work(dtype)
    seconds, gigabytes = timed(work)
    found["ppo"] = {"responses_per_second": round(config.rollout_size / seconds, 1), "gigabytes": gigabytes}
    return {"gpu": {"name": name, "dtype": str(dtype).removeprefix("torch."), **found}}
