"""The last experiment of 3-PPO: its reward model, its settings, its record, how it is shown."""

import json

import pytest

from benchmarks import penalty as benchmark
from helpers.config import PPOConfig
from helpers.lesson import penalty
from helpers.lesson.plots.penalty import SMOOTHED, penalty_figure, smooth
from helpers.lesson.widgets.ppo import explore_penalty
from helpers.model import GPT, GPTConfig
from helpers.run import presets
from tests.support.courses import course_in
from tests.support.explorers import controls, shown
from tests.support.saved import save_random_course

TINY = {
    "reward": {"comparisons": 40, "response_tokens": 8},
    "ppo": {"response_tokens": 8, "eval_prompts": 4},
}


@pytest.fixture(scope="module")
def record(tmp_path_factory, tokenizer):
    """What the benchmark writes, with random models of one layer and very small settings."""
    out = tmp_path_factory.mktemp("penalty")
    save_random_course(out / "tldr-0", tokenizer)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(presets, "SMOKE", TINY)
        patch.setattr(benchmark, "POSTS", 4)
        arguments = ["--runs", str(out), "--seeds", "0", "--coefficients", "0,0.5"]
        arguments += ["--preset", "smoke", "--out", str(out / "penalty.json")]
        patch.setattr("sys.argv", ["penalty", *arguments])
        benchmark.main()
    record = json.loads((out / "penalty.json").read_text(encoding="utf-8"))
    for run in record["runs"]:
        run["sft"]["gold_std"] = 0.5  # random letters all have the same gold reward
    return record


def test_the_benchmark_records_both_reward_models_with_every_coefficient(record):
    made = {(run["reward_model"], run["kl_coef"]) for run in record["runs"]}
    assert made == {("good", 0.0), ("good", 0.5), ("weak", 0.0), ("weak", 0.5)}
    for run in record["runs"]:
        assert {len(curve) for curve in run["curves"].values()} == {2}
        assert abs(run["curves"]["kl"][0]) < 1e-5  # each begins at the SFT model
        assert set(run["policy"]["flaws"]) == set(run["sft"]["flaws"])
    good, weak = (penalty.runs_of(record, name, 0.0)[0]["sft"] for name in ("good", "weak"))
    assert good["gold"] == weak["gold"] and good["score"] != weak["score"]


def test_what_the_notebook_draws_is_recorded_for_three_seeds():
    record = penalty.recorded()
    coefficients = penalty.coefficients_of(record)
    assert 0.0 in coefficients and 0.2 in coefficients and len(coefficients) >= 5
    for name in ("good", "weak"):
        for coefficient in coefficients:
            runs = penalty.runs_of(record, name, coefficient)
            assert [run["seed"] for run in runs] == [0, 1, 2]


def test_only_the_coefficient_differs_between_two_runs():
    config = PPOConfig()
    a, b = (vars(penalty.fast_settings(config, beta)) for beta in (0.0, 0.2))
    assert {name for name in a if a[name] != b[name]} == {"kl_coef"}


def test_means_and_differences():
    def run(seed, gold, flaw):
        return {"seed": seed, "policy": {"gold": gold, "flaws": {"padding": flaw}}}

    one, other = [run(0, 3.0, 0.5), run(1, 5.0, 0.0)], [run(0, 1.0, 1.0), run(1, 6.0, 1.0)]
    assert penalty.mean_gold(one) == 4 and penalty.mean_flaws(one) == {"padding": 0.25}
    assert penalty.gold_differences(one, other) == [2, -1]


def test_a_line_is_a_run_in_units_of_sft(record):
    runs = penalty.runs_of(record, "weak", 0.0)
    (ax,) = penalty_figure({"weak": runs}, columns=1).axes
    score, gold = ax.lines[:2]
    sft, curves = runs[0]["sft"], runs[0]["curves"]
    assert list(score.get_ydata()) == pytest.approx(
        smooth([value - sft["score"] for value in curves["score"]])
    )
    assert list(gold.get_ydata()) == pytest.approx(
        smooth([(value - sft["gold"]) / sft["gold_std"] for value in curves["gold"]])
    )
    assert smooth([0.0] * SMOOTHED + [SMOOTHED]) == [0.0] * SMOOTHED + [1.0]


def test_the_explorer_shows_other_runs_for_every_choice(record):
    widget = explore_penalty(record)
    seen = [shown(widget)]
    controls(widget)["kl_coef"].value = 0.5
    seen.append(shown(widget))
    controls(widget)["reward model"].value = "weak"
    seen.append(shown(widget))
    parts = [part for view in seen for part in view]
    assert len({part for part in parts if isinstance(part, bytes)}) == 3
    assert len({part for part in parts if isinstance(part, str)}) > 1
    assert all("<b>SFT</b>, gold reward" in part for part in parts if isinstance(part, str))


def test_the_weak_reward_model_is_normalised_and_fixed(tokenizer, tmp_path):
    course = course_in(tmp_path, "ppo")
    sft = GPT(GPTConfig(tokenizer.vocab_size, 192, 1, 2, 16))
    prompts = course.rows("prompts", "train", 40)
    weak = penalty.weak_reward_model(course, sft, prompts)
    assert weak.surprise_weight == 0 and not any(p.requires_grad for p in weak.parameters())
    assert weak.head_mean != 0
