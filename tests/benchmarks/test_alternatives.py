"""The benchmark of all methods, with random models of one layer and very small settings, and what
the notebook shows of its record.
"""

import json

import pytest
import torch

from benchmarks import alternatives as benchmark
from helpers.alternatives import METHODS
from helpers.lesson import alternatives as lesson
from helpers.lesson.plots.alternatives import LOOKS, methods_figure, runs_figure, toy_figure
from helpers.lesson.widgets.core import png
from helpers.model import GPT, GPTConfig, RewardModel
from helpers.run import presets
from tests.support.saved import save_random_course

TINY = {
    "reward": {"comparisons": 16, "response_tokens": 8},
    "ppo": {"iterations": 2, "rollout_size": 8, "minibatch_size": 4, "response_tokens": 8}
    | {"eval_prompts": 4},
}
ROW = {"score": 0.0, "kl": 0.0, "gold_reward": 1.0, "gold_ci95": [0.0, 2.0], "stop_rate": 1.0}
ROW |= {"words": 9.0, "flaws": {"padding": 0.5}}
CURVE = {"n": [1, 2], "kl": [0.0, 0.2], "gold": [1.0, 2.0], "gold_ci95": [[0, 2], [1, 3]]}
POLICIES = ("SFT", "SFT, T = 0.7", "SFT, T = 0.5", "SFT, greedy", "PPO", "oracle PPO")


@pytest.fixture(scope="module")
def record(tmp_path_factory, tokenizer):
    """What the benchmark writes."""
    out = tmp_path_factory.mktemp("alternatives")
    save_random_course(out / "tldr-0", tokenizer)
    (out / "tldr-0" / "metrics").mkdir()
    metrics = {"table": dict.fromkeys(POLICIES, ROW), "frontier": CURVE}
    (out / "tldr-0" / "metrics" / "ppo.json").write_text(json.dumps(metrics))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(presets, "SMOKE", TINY)
        patch.setattr(benchmark, "N_MAX", 2)
        patch.setattr(benchmark, "FRONTIER", 2)
        arguments = ["--runs", str(out), "--seeds", "0", "--preset", "smoke"]
        patch.setattr("sys.argv", ["x", *arguments, "--out", str(out / "record.json")])
        benchmark.main()
        kept = sorted(path.stem for path in (out / "tldr-0" / "alternatives").iterdir())
        assert len(kept) == len(benchmark.NAMES) + 1

        def untrained(*_):
            pytest.fail("a run that is kept was trained again")

        patch.setattr(benchmark, "train", untrained)
        patch.setattr(benchmark.ppo, "train", untrained)
        assert benchmark.run_seed(0, out, "smoke", list(benchmark.NAMES))
    return json.loads((out / "record.json").read_text(encoding="utf-8"))


def test_every_method_is_recorded_with_its_cost(record):
    assert {*benchmark.NAMES, *POLICIES, "frontier", "best of n"} == {
        r["method"] for r in record["runs"]
    }
    assert record["costs"].keys() == {"PPO", *METHODS}
    assert all(cost["time_over_ppo"] > 0 for cost in record["costs"].values())
    assert record["costs"]["RLOO"]["bytes"] < record["costs"]["PPO"]["bytes"]
    assert record["costs"][lesson.OFFLINE]["bytes"] < record["costs"]["RLOO"]["bytes"]
    (run,) = lesson.runs_of(record, "RLOO")
    assert len(run["curves"]["score"]) == 2 and abs(run["curves"]["kl"][0]) < 1e-4


def test_the_table_and_the_figures(record):
    table = benchmark.table(record)
    assert all(f"| {name} |" in table for name in METHODS)
    assert {*LOOKS} == {"PPO", *benchmark.NAMES}
    points, curves, cooled, highest = lesson.figure_data(record)
    assert points.keys() == LOOKS.keys() and len(cooled) == 4 and highest == 12
    two = {name: places * 2 for name, places in points.items()}
    histories = {"RLOO": lesson.runs_of(record, "RLOO")[0]["curves"]}
    rows = [dict(zip(histories["RLOO"], row)) for row in zip(*histories["RLOO"].values())]
    figures = [
        methods_figure(points, curves, cooled, highest),
        methods_figure(two, curves, cooled, highest),
        runs_figure({"RLOO": rows}),
        toy_figure({"best": [0.5, 0.5], "SFT": [0.9, 0.1]}, [0.0, 1.0], "best"),
    ]
    for figure in figures:
        assert figure.axes and png(figure).startswith(b"\x89PNG")


def test_what_the_notebook_prints(record):
    text = lesson.comparison_table(record)
    names = [line.split("  ")[0] for line in text.splitlines()[2:]]
    assert names == ["PPO", lesson.AT_THE_END, *METHODS]
    result = ROW | {"gold_reward": 3.0}
    table = lesson.results_table({"a": ROW, "b": result})
    assert [line[0] for line in table.splitlines()[2:]] == ["b", "a"]
    assert "KL  0.00" in lesson.result_line("a", ROW) and "padding 50%" in lesson.flaw_line(ROW)


def test_an_unknown_method_is_one_line(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["x", "--methods", "RLOO", "XPO"])
    with pytest.raises(SystemExit):
        benchmark.main()
    assert "no method 'XPO': choose from rejection sampling" in capsys.readouterr().err


def test_it_needs_the_world_whose_reward_is_known():
    from types import SimpleNamespace

    lesson.require_known_world(SimpleNamespace(source="embedded", track="tldr"))
    with pytest.raises(ValueError, match="this run is on sentiment with embedded rows"):
        lesson.require_known_world(SimpleNamespace(source="embedded", track="sentiment"))


def test_paid_at_the_end_is_the_same_score(tokenizer):
    torch.manual_seed(0)
    model = RewardModel(GPT(GPTConfig(tokenizer.vocab_size, 32, 1, 2, 16)))
    ids = torch.randint(2, 50, (2, 8))
    mask = torch.arange(8) < torch.tensor([[8], [6]])
    completion = mask & (torch.arange(8) >= 3)
    by_token = lesson.PaidAtTheEnd(model).by_token(ids, mask, completion)
    assert torch.allclose(by_token.sum(1), model.by_token(ids, mask, completion).sum(1))
    assert by_token.count_nonzero() == 2 and (by_token[0, 7] != 0) and (by_token[1, 5] != 0)
