"""The notebooks: tidy as committed and in step with helpers/; the four learn when run in a chain,
and the bonus notebooks run after them.
"""

import json
import math

import pytest

from helpers.engine.files import ROOT
from helpers.run.answers import EXERCISES
from helpers.run.folders import BONUS, FILES, NOTEBOOKS
from helpers.run.headless import kernel_env
from helpers.run.notebook import run_notebook, write_notebook
from helpers.run.report import IDENTITY, required
from helpers.run.settings import read_settings
from tests.support.smoke_runs import report_in, run_smoke
from tools import hygiene
from tools.notebooks import check, setup_cell

PATHS = {name: ROOT / file for name, file in FILES.items()}


@pytest.mark.parametrize("name", PATHS)
def test_tidy(name):
    """Valid, run once from the top; no errors, stderr, widget state or machine's paths; short
    cells, small file.
    """
    assert hygiene.problems(PATHS[name], setup_cell(name)) == []


def test_taught_cells_equal_helpers():
    """Every taught cell equals its definition; nothing is taught twice, nothing public of a taught
    module nowhere.
    """
    assert check(list(PATHS.values()), executed=False) == []


@pytest.mark.parametrize("name", PATHS)
def test_widgets_and_exercises_are_tagged(name):
    """Each exercise as "exercise"; at least two explorers in the four as "widget"."""
    cells = json.loads(PATHS[name].read_text(encoding="utf-8"))["cells"]
    tags = [tag for cell in cells for tag in cell["metadata"].get("tags", [])]
    assert tags.count("exercise") == len(EXERCISES[name])
    assert tags.count("widget") >= 2 or name in BONUS


# --- the chain


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    """(run folder, report, printed text) of the course on its default track, once for all tests."""
    out = tmp_path_factory.mktemp("course") / "smoke"
    printed = run_smoke("tldr", out, "helpers", "course")
    return out, report_in(out), printed


@pytest.fixture(scope="module")
def report(chain):
    return chain[1]


def test_the_report_is_complete(chain):
    out, report, printed = chain
    assert tuple(report[name] for name in IDENTITY) == ("smoke", "tldr", "embedded", 0)
    for stage in NOTEBOOKS:
        assert set(required(stage, "embedded")) <= set(report[stage])
    assert (out / "report.html").stat().st_size > 20_000
    assert "PPO" in printed and "95% interval" in printed
    assert sorted(path.stem for path in (out / "notebooks").iterdir()) == sorted(NOTEBOOKS.values())
    assert list((out / "figures").glob("*.png"))


@pytest.mark.parametrize(("stage", "share"), [("pretrain", 0.6), ("sft", 0.4)])
def test_the_language_model_learns(chain, stage, share):
    """From ln V towards the floor, never below it."""
    out, report, _ = chain
    config = json.loads((out / "checkpoints" / stage / "config.json").read_text())
    loss, floor = report[stage]["heldout_loss"], report[stage]["entropy_floor"]
    assert floor - 0.01 < loss < share * math.log(config["vocab_size"])
    assert stage == "pretrain" or report["sft"]["stop_rate"] > 0.5


def test_the_reward_model_beats_chance(report):
    reward = report["reward"]
    # three standard errors of a coin tossed once per comparison, and never above what the labels'
    # noise allows
    margin = 3 * 0.5 / math.sqrt(reward["comparisons"])
    assert 0.5 + margin < reward["accuracy"] < reward["bayes_accuracy"] + margin


def test_ppo_mends_what_its_reward_model_sees(report):
    """Few iterations, yet small talk and padding go, and the gold reward rises with the score."""
    ppo = report["ppo"]
    sft, policy = ppo["table"]["SFT"], ppo["table"]["PPO"]
    assert policy["score"] > sft["score"] + 0.2, "in standard deviations of SFT's scores"
    for flaw in ("copying", "padding"):
        assert policy["flaws"][flaw] < 0.5 * sft["flaws"][flaw]
    low, high = ppo["gold_gain_ci95"]
    assert 0 < low < ppo["gold_reward"] - ppo["sft_gold_reward"] < high
    assert math.isfinite(ppo["kl"]) and 0 <= ppo["kl"] < 100


@pytest.mark.parametrize("stage", NOTEBOOKS)
def test_checkpoints_open_in_transformers(chain, stage):
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

    folder = chain[0] / "checkpoints" / stage
    kind = AutoModelForSequenceClassification if stage == "reward" else AutoModelForCausalLM
    model, info = kind.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    tokens = AutoTokenizer.from_pretrained(folder)("TITLE: a dog", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        logits = model(tokens).logits
    width = 1 if stage == "reward" else model.config.vocab_size
    assert torch.isfinite(logits).all() and logits.shape[-1] == width


def test_executed_copies_are_tidy(chain):
    """What a learner finds in runs/ is as clean as what is committed; only the paths may be its
    own.
    """
    for notebook in NOTEBOOKS.values():
        found = hygiene.problems(chain[0] / "notebooks" / f"{notebook}.ipynb", setup_cell(notebook))
        assert [line for line in found if "differs between machines" not in line] == []


# 5-Clinic trains 27 times; what it trains with has tests of its own.
SLOW = {"5-Clinic": pytest.mark.slow}


@pytest.mark.parametrize("name", [pytest.param(n, marks=SLOW.get(n, ())) for n in BONUS])
def test_a_bonus_notebook_runs_after_the_course(chain, name, tmp_path):
    """From its own folder; the stages' results stay as they are."""
    out, path = chain[0], PATHS[name]
    before = {file: file.read_bytes() for file in out.glob("metrics/*.json")}
    settings = read_settings({"preset": "smoke", "track": "tldr", "seed": 0})
    write_notebook(tmp_path / path.name, run_notebook(path, path.parent, kernel_env(settings, out)))
    found = hygiene.problems(tmp_path / path.name, setup_cell(name))
    assert [line for line in found if "differs between machines" not in line] == []
    assert list(out.glob(f"figures/{name.lower()}-*.png"))
    assert all(file.read_bytes() == contents for file, contents in before.items())
