"""The memory of 3-PPO, run from top to bottom with a small model at what else preset t4 says: the
tensors that are alive at once against the count.
"""

import os
from dataclasses import replace

import matplotlib.pyplot as plt
import pytest

from helpers import model as model_file
from helpers.engine.files import ROOT
from helpers.model import GPT
from helpers.run.memory import ppo_notebook_bytes, state_bytes
from helpers.run.notebook import read_notebook
from helpers.run.presets import load_config
from tests.support.in_process import shell
from tests.support.live_memory import LiveBytes
from tests.support.ppo_models import starting_models
from tests.support.saved import save

SMALL = {
    "reward": {"response_tokens": 16, "eval_prompts": 4, "best_of": 2},
    "ppo": {"response_tokens": 16, "iterations": 1, "eval_prompts": 4},
}
PHASES = {  # of the count: a line of the cell
    "training": "history = train(models, prompts, config, tokenizer, course.loop(watch=watch))",
    "measuring": "metrics, responses = stage.measure(course, models, base, oracle)",
    "weak reward model": "weak = weak_reward_model(course, sft, prompts)",
    "no penalty": "free_history = train(runaway, prompts, free, tokenizer, Loop(",
}
SMALL_CHANGE = 1_500_000  # bytes of what else the demonstrations leave; a model has 680,000


def at_t4(stage, preset="cpu", track="tldr", seed=0, source="embedded"):
    """The settings of preset t4 on real rows, with fewer and shorter responses."""
    return replace(load_config(stage, "t4", track, seed, "hub"), **SMALL.get(stage, {}))


def prepare(folder, tokenizer, monkeypatch) -> None:
    """Checkpoints of random models, t4's settings, a GPU's attention, which keeps no weights."""
    models = starting_models(tokenizer, context=256, layers=3, channels=48)
    base = GPT(models.reference.config)
    for stage, model in ("pretrain", base), ("sft", models.reference), ("reward", models.reward):
        save(folder / "checkpoints" / stage, model, tokenizer, stage)
    for name in [name for name in os.environ if name.startswith("RLHF_")]:
        monkeypatch.delenv(name)
    settings = {"PRESET": "smoke", "OUT": str(folder), "DTYPE": "float32", "THREADS": "1"}
    for name, value in settings.items():
        monkeypatch.setenv(f"RLHF_{name}", value)
    for module in ("course", "setup"):
        monkeypatch.setattr(f"helpers.run.{module}.load_config", at_t4)
    choose = model_file.choose_attention
    monkeypatch.setattr(model_file, "choose_attention", lambda _, device: choose("sdpa", device))
    monkeypatch.setattr("helpers.run.course.Course.save_figure", lambda *_: None)
    monkeypatch.setattr("helpers.run.launch.launch", lambda *_, **__: [])


@pytest.fixture
def run(tokenizer, tmp_path, monkeypatch):
    """[(source of a cell, bytes alive before it, the most within it)], and the notebook's names."""
    prepare(tmp_path, tokenizer, monkeypatch)
    style, cells = dict(plt.rcParams), []
    with shell() as ipython, LiveBytes() as memory:
        for cell in read_notebook(ROOT / "3-PPO.ipynb").cells:
            if cell.cell_type == "code":
                before = memory.peak = memory.live
                error = ipython.run_cell(cell.source).error_in_exec
                # texts of a random model have no quality that could be compared or drawn
                if not isinstance(error, (type(None), AssertionError, ZeroDivisionError)):
                    raise error
                plt.close("all")
                cells.append((cell.source, before, memory.peak))
        yield cells, ipython.user_ns
    plt.rcParams.update(style)


@pytest.mark.slow
def test_3_ppo_takes_what_is_counted(run, capsys):
    """In every phase at most the count, and no less than half of it."""
    cells, names = run
    found = {
        phase: next(cell[1:] for cell in cells if line in cell[0]) for phase, line in PHASES.items()
    }
    tokenizer, config, sizes = names["tokenizer"], names["config"], names["sft"].config
    longest = max(len(tokenizer.encode(row.prompt)) for row in names["prompts"])
    length = longest + config.response_tokens
    hasty = names["hasty_settings"](names["course"].config_of("reward"))
    counts = ppo_notebook_bytes(sizes, config, hasty, length, bits=32)
    for phase, (_, peak) in found.items():
        assert counts[phase] / 2 < peak < counts[phase], phase
    assert max(peak for *_, peak in cells) < max(counts.values())
    one = state_bytes(sizes, muon=False, trained=False)
    assert found["training"][0] < 5 * one + SMALL_CHANGE, "base, policy, reference, reward, value"
    most = 7 * one + SMALL_CHANGE
    assert found["no penalty"][0] < most, "and the oracle's policy, and the weak reward model"
