"""The benchmark of over-optimisation, with random models of one layer and very small settings."""

import json

import pytest

from benchmarks import overoptimisation as benchmark
from helpers.lesson import overoptimisation as lesson
from helpers.run import presets
from tests.support.saved import save_random_course

TINY = {
    "reward": {"comparisons": 16, "response_tokens": 8},
    "ppo": {"response_tokens": 8, "eval_prompts": 4},
}


@pytest.fixture(scope="module")
def rows(tmp_path_factory, tokenizer):
    """What the benchmark writes."""
    out = tmp_path_factory.mktemp("overoptimisation")
    save_random_course(out / "tldr-0", tokenizer)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(presets, "SMOKE", TINY)
        patch.setattr(lesson, "SIZES", (32, 2_000))
        train = lesson.train_reward_model

        def few(course, sft, prompts, size, surprise, seed=0):
            return train(course, sft, prompts, 32, surprise, seed)

        patch.setattr(lesson, "train_reward_model", few)
        for name, value in {"POSTS": 4, "SAMPLED": 2, "N_MAX": 2}.items():
            patch.setattr(benchmark, name, value)
        arguments = ["--runs", str(out), "--seeds", "0", "--preset", "smoke"]
        patch.setattr("sys.argv", ["x", *arguments, "--out", str(out / "record.json")])
        benchmark.main()

        def again(*_):
            pytest.fail("a seed that is kept was trained again")

        patch.setattr(benchmark, "train_seed", again)
        kept = benchmark.run_seed(0, out, "smoke")
    record = json.loads((out / "record.json").read_text(encoding="utf-8"))
    assert record["runs"] == kept
    return kept


def test_every_reward_model_and_every_cure_is_recorded(rows):
    made = [(row["surprise"], row["size"], row["cure"]) for row in rows]
    heads = [(surprise, size, "") for surprise in (True, False) for size in (32, 2_000)]
    cures = ("KL penalty", "worst of three", "without length")
    assert made == heads + [(False, 2_000, cure) for cure in cures]
    for row in rows:
        assert {len(curve) for curve in row["curves"].values()} == {2}
        assert abs(row["curves"]["kl"][0]) < 1e-4 and 0 <= row["accuracy"] <= 1
        assert row["best_of_n"]["n"] == [1, 2] and row["sft"]["kl"] == pytest.approx(0, abs=1e-5)
        first, best = row["best_of_n"]["score"]
        assert best > first


def test_the_table_has_a_row_for_each(rows):
    lines = benchmark.table(rows).splitlines()
    assert len([line for line in lines if line.startswith("| ")]) == 2 + len(rows)
    assert lines[2].startswith(f"| (SFT) | | | | {rows[0]['sft']['gold']:.2f} (")
    assert "| scalar head | 2,000 | worst of three |  | " in benchmark.table(rows)
