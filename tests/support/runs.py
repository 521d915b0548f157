"""Small training runs of every stage, for tests that stop them, save them or share them among
processes.

`python -m tests.support.runs FOLDER` trains one after the other, logged in FOLDER/<stage>.jsonl.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import torch

from helpers import pointwise, ppo, pretrain, reward, sft
from helpers.config import PPOConfig, PretrainConfig, RewardConfig, SFTConfig
from helpers.engine.distributed import process_group
from helpers.engine.snapshots import Keeper
from helpers.model import GPT, GPTConfig, RewardModel
from helpers.records import Prompt
from helpers.reward import Pair
from helpers.rollouts import Models

CONFIG = GPTConfig(vocab_size=40, context=48, layers=2, heads=2, channels=16)
GENERATOR = torch.Generator().manual_seed(0)


def row(low: int = 3, high: int = 20) -> list[int]:
    """A row of random tokens and length."""
    length = torch.randint(low, high, (), generator=GENERATOR).item()
    return torch.randint(2, 40, (length,), generator=GENERATOR).tolist()


ROWS = [row() for _ in range(25)]
PAIRS = [Pair(row(2, 9), row(), row()) for _ in range(25)]
LABELS = [i % 2 for i in range(25)]
SIZES = {"batch_size": 4, "epochs": 2.0}  # 14 steps, of which two have one row


class Letters:
    """A tokenizer for the PPO run: a character is a token."""

    eos_id, pad_id, vocab_size = 0, 1, 40

    def encode(self, text: str) -> list[int]:
        return [2 + ord(letter) % 38 for letter in text]


def model(scored: bool = False) -> GPT | RewardModel:
    """The same random weights every time."""
    torch.manual_seed(0)
    gpt = GPT(CONFIG)
    return RewardModel(gpt) if scored else gpt


def run_ppo(muon_lr: float, keeper: Keeper | None) -> tuple[list, torch.nn.Module]:
    """PPO on random models; the module holds the two that are trained."""
    config = PPOConfig(
        iterations=10,
        rollout_size=8,
        minibatch_size=4,
        response_tokens=12,
        lr=1e-3,
        muon_lr=muon_lr,
        value_lr=1e-3,
        kl_target=0.1,
    )
    models = Models(model(), model(), model(True), model(True))
    prompts = [
        Prompt(text)
        for text in ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
    ]
    history = ppo.train(models, prompts, config, Letters(), keeper)
    return history, torch.nn.ModuleList([models.policy, models.value])


def run_of(scored: bool, train: Callable) -> Callable:
    """A run from `train(model, muon_lr, keeper)`."""

    def run(muon_lr: float, keeper: Keeper | None) -> tuple[list, torch.nn.Module]:
        trained = model(scored)
        return train(trained, muon_lr, keeper), trained

    return run


RUNS: dict[str, Callable] = {  # run(muon_lr, keeper) gives the history and what was trained
    "pretrain": run_of(
        False,
        lambda m, muon, keeper: pretrain.train(
            m, ROWS, PretrainConfig(**SIZES, muon_lr=muon), 1, keeper=keeper
        ),
    ),
    "sft": run_of(
        False,
        lambda m, muon, keeper: sft.train(
            m,
            [(ids, len(ids) // 3) for ids in ROWS],
            SFTConfig(**SIZES, muon_lr=muon),
            1,
            keeper=keeper,
        ),
    ),
    "lora": run_of(
        False,
        lambda m, muon, keeper: sft.train(
            m,
            [(ids, len(ids) // 3) for ids in ROWS],
            SFTConfig(**SIZES, adapter="lora", rank=2, adapter_lr=1e-3),
            1,
            keeper=keeper,
        ),
    ),
    "pairs": run_of(
        True,
        lambda m, muon, keeper: reward.train(
            m, PAIRS, RewardConfig(**SIZES, muon_lr=muon), 1, keeper=keeper
        ),
    ),
    "labels": run_of(
        True,
        lambda m, muon, keeper: pointwise.train(
            m, ROWS, LABELS, RewardConfig(**SIZES, muon_lr=muon), 1, keeper=keeper
        ),
    ),
    "ppo": run_ppo,
}


def main() -> None:
    """Train every run, as one of the processes that torch.distributed.run has started."""
    folder = Path(sys.argv[1])
    torch.set_num_threads(1)
    with process_group(torch.device("cpu")):
        for stage, run in RUNS.items():
            run(0.01, Keeper(folder / f"{stage}.jsonl", folder / f"{stage}-snapshots"))


if __name__ == "__main__":
    main()
