"""Small training runs of every stage, for tests that stop them, save them, cut their batches into
parts or share them among processes.

`python -m tests.support.runs FOLDER` trains one after the other, logged in FOLDER/<run>.jsonl.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import torch

from helpers import ppo, pretrain, reward, sft
from helpers.config import PPOConfig, PretrainConfig, RewardConfig, SFTConfig
from helpers.engine.distributed import process_group
from helpers.engine.loop import Loop
from helpers.engine.snapshots import Snapshots
from helpers.model import GPT, GPTConfig, RewardModel
from helpers.records import Prompt
from helpers.reward import Pair, Text
from helpers.rollouts import Models
from helpers.stages.adapters import add_adapters

CONFIG = GPTConfig(vocab_size=40, context=48, layers=2, heads=2, channels=16)
GENERATOR = torch.Generator().manual_seed(0)
PAD = 1


def row(low: int = 3, high: int = 20) -> list[int]:
    """A row of random tokens and length."""
    length = torch.randint(low, high, (), generator=GENERATOR).item()
    return torch.randint(2, 40, (length,), generator=GENERATOR).tolist()


ROWS = [row() for _ in range(25)]
SPLIT_ROWS = [(ids, len(ids) // 3) for ids in ROWS]  # with the prompt's length
PAIRS = [Pair(row(2, 9), row(), row()) for _ in range(25)]
TEXTS = [Text(ids[:n], ids[n:]) for ids, n in SPLIT_ROWS]
LABELS = [i % 2 for i in range(25)]
SIZES = {"batch_size": 4, "epochs": 2.0}  # 14 steps, of which two have one row
PROMPTS = [
    Prompt(text)
    for text in ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
]


class Letters:
    """A tokenizer for the PPO run: a character is a token."""

    eos_id, pad_id, vocab_size = 0, PAD, 40

    def encode(self, text: str) -> list[int]:
        return [2 + ord(letter) % 38 for letter in text]


def model(scored: bool = False) -> GPT | RewardModel:
    """The same random weights every time."""
    torch.manual_seed(0)
    gpt = GPT(CONFIG)
    return RewardModel(gpt) if scored else gpt


# Each run: (loop, muon_lr, **other settings) -> what was trained


def run_pretrain(loop: Loop, muon_lr: float, **settings) -> GPT:
    config = PretrainConfig(**SIZES | {"muon_lr": muon_lr} | settings)
    trained, sizes = model(), (config.batch_size, config.epochs)
    pretrain.train(trained, pretrain.document_batches(ROWS, *sizes, PAD, config.seed), config, loop)
    return trained


def run_sft(loop: Loop, muon_lr: float, **settings) -> GPT:
    config = SFTConfig(**SIZES | {"muon_lr": muon_lr} | settings)
    trained, sizes = model(), (config.batch_size, config.epochs)
    add_adapters(trained, config)
    batches = sft.demonstration_batches(SPLIT_ROWS, *sizes, PAD, config.seed)
    sft.train(trained, batches, config, loop)
    return trained


def run_lora(loop: Loop, muon_lr: float, **settings) -> GPT:
    return run_sft(loop, muon_lr, **{"adapter": "lora", "rank": 2, "adapter_lr": 1e-3} | settings)


def run_pairs(loop: Loop, muon_lr: float, **settings) -> RewardModel:
    config, trained = RewardConfig(**SIZES | {"muon_lr": muon_lr} | settings), model(True)
    reward.train(trained, reward.comparison_batches(PAIRS, config, PAD), config, loop)
    return trained


def run_labels(loop: Loop, muon_lr: float, **settings) -> RewardModel:
    config, trained = RewardConfig(**SIZES | {"muon_lr": muon_lr} | settings), model(True)
    reward.train_on_labels(trained, reward.label_batches(TEXTS, LABELS, config, PAD), config, loop)
    return trained


def run_ppo(loop: Loop, muon_lr: float, **settings) -> torch.nn.ModuleList:
    """PPO on random models; the module holds the two that are trained."""
    sizes = {"iterations": 10, "rollout_size": 8, "minibatch_size": 4, "response_tokens": 12}
    rates = {"lr": 1e-3, "muon_lr": muon_lr, "value_lr": 1e-3, "kl_target": 0.1}
    models = Models(model(), model(), model(True), model(True))
    ppo.train(models, PROMPTS, PPOConfig(**sizes | rates | settings), Letters(), loop)
    return torch.nn.ModuleList([models.policy, models.value])


ALL: dict[str, Callable] = {
    "pretrain": run_pretrain,
    "sft": run_sft,
    "lora": run_lora,
    "pairs": run_pairs,
    "labels": run_labels,
    "ppo": run_ppo,
}


def run_of(title: str) -> Callable:
    """A run as `run(muon_lr, snapshots)`, which gives the history and what was trained."""

    def run(
        muon_lr: float, snapshots: Snapshots | None = None, **settings
    ) -> tuple[list[dict], torch.nn.Module]:
        loop = Loop(title, snapshots=snapshots)
        trained = ALL[title](loop, muon_lr, **settings)
        return loop.history, trained

    return run


RUNS = {title: run_of(title) for title in ALL}


def main() -> None:
    """Train every run, as one of the processes that torch.distributed.run has started."""
    folder = Path(sys.argv[1])
    torch.set_num_threads(1)
    with process_group(torch.device("cpu")):
        for stage, run in RUNS.items():
            run(0.01, Snapshots(folder / f"{stage}.jsonl", folder / f"{stage}-snapshots"))


if __name__ == "__main__":
    main()
