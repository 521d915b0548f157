"""What all tests share: the repository's folder, a fixed seed, and no way out to the network."""

import os
import random
import signal
import socket
import sys
from pathlib import Path

# One thread in tests and in the processes they start: small tensors gain nothing from a second
# one, and two workers with two threads each wait for one another.
os.environ["OMP_NUM_THREADS"] = "1"

import pytest
import torch

torch.set_num_threads(1)
ROOT = Path(__file__).resolve().parent.parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The notebooks' chains first, the longest before all: they take minutes, and nothing else
    should wait for them.
    """
    items.sort(key=lambda item: item.path.name != "test_notebooks.py")
    items.sort(key=lambda item: "notebooks" not in item.path.parts)


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture(scope="session")
def tokenizer():
    """That of the embedded world `tldr`."""
    from helpers.rows.embedded import load_tokenizer

    return load_tokenizer()


@pytest.fixture
def toy_metrics() -> dict:
    """What four notebooks might record, made up: {stage: metrics}."""
    return {
        "pretrain": {
            "heldout_loss": 1.23,
            "entropy_floor": 1.2,
            "tokens": 2_000_000,
            "curves": {
                "loss <nats>": {
                    "x": [0, 1, 2],
                    "y": [6.0, None, 1.2],
                    "ceiling": 1.2,
                    "label": "floor",
                }
            },
        },
        "sft": {
            "heldout_loss": 0.12,
            "entropy_floor": 0.11,
            "stop_rate": 0.995,
            "gold_reward": 0.5,
        },
        "reward": {"accuracy": 0.8, "bayes_accuracy": 0.84, "comparisons": 2000},
        "ppo": {
            "gold_reward": 0.9,
            "sft_gold_reward": 0.5,
            "gold_gain_ci95": [0.3, 0.5],
            "score": 1.1,
            "kl": 4.2,
            "stop_rate": 0.99,
            "flaws": {"hallucination": 0.05},
            "sft_flaws": {"hallucination": 0.2},
            "table": {
                "SFT": {
                    "gold_reward": 0.5,
                    "flaws": {"hallucination": 0.2},
                    "kl": 0.0,
                    "stop_rate": 0.995,
                },
                "PPO": {
                    "gold_reward": 0.9,
                    "flaws": {"hallucination": 0.05},
                    "kl": 4.2,
                    "stop_rate": 0.99,
                },
            },
        },
    }


@pytest.fixture(scope="session", autouse=True)
def ctrl_c_is_heard():
    """Tests send SIGINT to themselves and to what they start; a shell's background jobs begin with
    it ignored.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def fixed_seed():
    """Each test starts from the same random state, whichever ran before it."""
    random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def no_figures_left():
    """A figure that a test has drawn is gone before the next one counts its own."""
    yield
    if pyplot := sys.modules.get("matplotlib.pyplot"):  # seconds to import, for tests that draw
        pyplot.close("all")


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """The course and its tests work offline: a test that reaches beyond this machine fails, and
    says so.
    """
    connect = socket.socket.connect

    def local_only(self, address):
        if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in (
            "127.0.0.1",
            "::1",
            "localhost",
        ):
            raise AssertionError(f"a test tried to reach {address}")
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", local_only)
