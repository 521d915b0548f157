"""The course's side of every comparison: steps of helpers/, set up as `helpers.run.setup.setup`
sets up a stage.
"""

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace

import torch

from benchmarks.shapes import BATCH, CONTEXT, EOS, PAD, SIZES, VOCABULARY, left_padded, random_rows
from helpers import pretrain
from helpers.config import PPOConfig, PretrainConfig, RewardConfig, SFTConfig
from helpers.engine.hardware import choose_dtype, keep_freed_memory
from helpers.engine.loop import Loop
from helpers.generation import sample
from helpers.model import GPT, GPTConfig, RewardModel
from helpers.muon import Muon
from helpers.ppo import train as train_ppo
from helpers.records import Prompt
from helpers.reward import Pair, pair_batch, train as train_reward
from helpers.rollouts import Models
from helpers.sft import train as train_sft
from helpers.stages.ppo import matmul_dtype


def set_up(size: str, dtype: str, context: int = CONTEXT) -> tuple[GPT, torch.dtype]:
    """A random model of a size and the number format of matrix products: "auto" is what the CPU
    multiplies fast.
    """
    keep_freed_memory()
    torch.manual_seed(0)
    layers, heads, channels = SIZES[size]
    model = GPT(GPTConfig(VOCABULARY, context, layers, heads, channels))
    return model, choose_dtype(torch.device("cpu")) if dtype == "auto" else getattr(torch, dtype)


def training(
    size: str, dtype: str = "auto", muon: bool = True, rows: int = BATCH, length: int = CONTEXT
) -> Callable[[], list]:
    """A step of 0-Pretrain."""
    model, dtype = set_up(size, dtype, length)
    batch = random_rows(rows, length), torch.ones(rows, length, dtype=torch.bool)
    config = PretrainConfig() if muon else PretrainConfig(muon_lr=0.0)
    return lambda: pretrain.train(model, [batch], config, Loop("benchmark", dtype))


def sampling(
    size: str, rows: int, length: int, new: int, dtype: str = "auto", use_cache: bool = True
):
    """Responses of `new` tokens to left-padded prompts; no token is the end of text."""
    model, dtype = set_up(size, dtype)
    ids, mask = left_padded(rows, length, length // 2)
    settings = dict(max_new_tokens=new, eos_id=-1, pad_id=PAD, dtype=dtype, use_cache=use_cache)
    return lambda: sample(model, ids, mask, **settings)


def sft(size: str, completion: int, dtype: str = "auto") -> Callable[[], list]:
    """A step of 1-SFT on rows that end in a completion of so many tokens."""
    model, dtype = set_up(size, dtype)
    completions = (torch.arange(CONTEXT) >= CONTEXT - completion).expand(BATCH, -1)
    batch = random_rows(BATCH, CONTEXT), completions
    return lambda: train_sft(model, [batch], SFTConfig(), Loop("benchmark", dtype))


def reward(size: str, prompt: int, completion: int, dtype: str = "auto") -> Callable[[], list]:
    """A step of 2-RM-Training on pairs."""
    model, dtype = set_up(size, dtype)
    tokens = random_rows(BATCH, prompt + 2 * completion).tolist()
    ends = prompt, prompt + completion
    pairs = [Pair(row[: ends[0]], row[ends[0] : ends[1]], row[ends[1] :]) for row in tokens]
    scored, batch, config = RewardModel(model), pair_batch(pairs, PAD), RewardConfig()
    return lambda: train_reward(scored, [batch], config, Loop("benchmark", dtype))


def ppo(
    size: str, rows: int, prompt: int, new: int, minibatch: int, epochs: int, muon: bool = True
):
    """An iteration of 3-PPO: sample, score, learn. Each response is `new` tokens long: none is the
    end of text.
    """
    policy, dtype = set_up(size, "auto")
    reference, reward_model, value = (set_up(size, "auto")[0] for _ in range(3))
    dtype = matmul_dtype(torch.device("cpu"), dtype)
    models = Models(policy, reference, RewardModel(reward_model), RewardModel(value), dtype)
    config = PPOConfig(
        rollout_size=rows, minibatch_size=minibatch, epochs=epochs, response_tokens=new
    )
    config = config if muon else replace(config, muon_lr=0.0)
    ids, mask = left_padded(rows, prompt, prompt // 2)
    assert EOS not in ids
    encoded = [row[real].tolist() for row, real in zip(ids, mask.bool(), strict=True)]
    tokenizer = SimpleNamespace(eos_id=-1, pad_id=PAD, encode=lambda text: encoded[int(text)])
    prompts = [Prompt(str(i)) for i in range(rows)]
    config = replace(config, iterations=1)
    return lambda: train_ppo(models, prompts, config, tokenizer, Loop("benchmark", dtype))


def matrices(size: str) -> list[torch.nn.Parameter]:
    """The weight matrices of a model's blocks, with a gradient each."""
    found = [p for p in set_up(size, "auto")[0].h.parameters() if p.dim() == 2]
    for matrix in found:
        matrix.grad = torch.randn_like(matrix)
    return found


def muon(size: str) -> Callable[[], None]:
    """A step of Muon alone, which takes all matrices of a shape together."""
    return Muon(matrices(size), lr=0.02).step
