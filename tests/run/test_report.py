"""report.json, the final table and report.html from what the notebooks record."""

import base64
import copy
import json
import re

import pytest

from helpers.run import report
from helpers.run.report import ReportError, assemble, final_table, required, tables
from helpers.run.report_page import write_report
from tests.support.courses import course_in

# a 1 x 1 pixel PNG
PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
IDENTITY = {"preset": "smoke", "track": "tldr", "source": "embedded", "seed": 0, "seconds": 61.0}
# what stages record on real rows: of every policy the same numbers, here only some of them
SFT = {"score": 0.0, "score_ci95": [-0.1, 0.1], "judge": 0.5, "kl": 0.0, "stop_rate": 0.98}
PPO = {"score": 1.5, "score_ci95": [1.4, 1.6], "judge": 0.7, "judge_ci95": [0.65, 0.75], "kl": 3.0}
REAL = {
    "pretrain": {"heldout_loss": 4.5, "tokens": 1000, "bigram_loss": 5.25},
    "sft": {"heldout_loss": 3.5, "base_loss": 4.75, "stop_rate": 0.98},
    "reward": {"accuracy": 0.8, "accuracy_ci95": [0.77, 0.83], "labels": 800},
    "ppo": {
        "score": 1.5,
        "kl": 3.0,
        "stop_rate": 0.99,
        "judge_gain": 0.2,
        "judge_gain_ci95": [0.15, 0.25],
        "table": {"SFT": SFT | {"perplexity": 20.0}, "PPO": PPO | {"perplexity": 30.0}},
    },
}


@pytest.fixture
def write_metrics(toy_metrics):
    """write(out, changes, known): the metrics of a whole run, with {(stage, name): value} changed
    (...: removed).
    """

    def write(out, changes=None, known=None):
        known = copy.deepcopy(known or toy_metrics)
        metrics = {stage: {"stage": stage, **IDENTITY, **values} for stage, values in known.items()}
        for (stage, name), value in (changes or {}).items():
            metrics[stage][name] = value
            if value is ...:
                del metrics[stage][name]
        (out / "metrics").mkdir(parents=True)
        for stage, values in metrics.items():
            (out / "metrics" / f"{stage}.json").write_text(json.dumps(values))
        return out

    return write


@pytest.fixture
def write_real(write_metrics):
    """write(out, changes): the metrics of a run on real rows."""
    source = {(stage, "source"): "local" for stage in REAL}
    return lambda out, changes=None: write_metrics(out, source | (changes or {}), REAL)


def test_fields(tmp_path, write_metrics):
    assembled = assemble(write_metrics(tmp_path))
    beside = ["seconds", "warnings", "own_functions"]
    assert list(assembled) == [*report.IDENTITY, *beside, *report.REQUIRED]
    assert assembled["seconds"] == dict.fromkeys(report.REQUIRED, 61.0)
    for stage in report.REQUIRED:
        assert set(required(stage, "embedded")) <= set(assembled[stage])
        assert "seconds" not in assembled[stage] and "curves" not in assembled[stage]


def test_only_seconds_differ_between_two_runs(tmp_path, write_metrics):
    first = assemble(write_metrics(tmp_path / "a"))
    second = assemble(write_metrics(tmp_path / "b", {("sft", "seconds"): 99.0}))
    assert first != second
    assert {**first, "seconds": 0} == {**second, "seconds": 0}


def test_missing_fields_are_all_named(tmp_path, write_metrics):
    changes = {
        ("ppo", "kl"): None,
        ("ppo", "gold_gain_ci95"): [0.1],
        ("sft", "stop_rate"): ...,
        ("ppo", "flaws"): {},
    }
    with pytest.raises(ReportError) as error:
        assemble(write_metrics(tmp_path, changes))
    names = ("sft.stop_rate", "ppo.kl (a finite number)", "ppo.gold_gain_ci95 (a pair", "ppo.flaws")
    assert all(name in str(error.value) for name in names) and "score" not in str(error.value)


def test_a_stage_that_has_not_run_is_named_with_its_notebook(tmp_path, write_metrics):
    (write_metrics(tmp_path) / "metrics" / "reward.json").unlink()
    with pytest.raises(ReportError, match="reward .run 2-RM-Training.ipynb."):
        assemble(tmp_path)


def test_stages_of_different_runs_are_refused(tmp_path, write_metrics):
    with pytest.raises(ReportError, match="smoke-tldr-embedded-0 and smoke-tldr-embedded-1"):
        assemble(write_metrics(tmp_path, {("ppo", "seed"): 1}))


def test_final_table(tmp_path, write_metrics):
    text = final_table(assemble(write_metrics(tmp_path)))
    ((header, body),) = tables(assemble(tmp_path))
    assert header == ["policy", "gold reward", "hallucination", "KL (nats)", "stop rate"]
    assert body == [
        ["SFT", "0.500", "20.0%", "0.000", "99.5%"],
        ["PPO", "0.900", "5.0%", "4.200", "99.0%"],
    ]
    for line in (
        "policy  gold reward  hallucination  KL (nats)  stop rate",
        "PPO           0.900           5.0%      4.200      99.0%",
        "gold reward +0.400 [+0.300, +0.500] over SFT (95% interval)",
        "loss 1.230, entropy floor 1.200 (+2.5%)",
        "88% of the way",
        "= 4:04",
    ):
        assert line in text


def test_a_dash_stands_for_what_was_not_recorded(tmp_path, write_metrics):
    rows = {name: {"gold_reward": 0.5} for name in ("base", "SFT", "best of 4")}
    rows |= {"PPO": {"flaws": {"missing_question": 0.5}, "kl": 1.0}}
    ((_, body),) = tables(assemble(write_metrics(tmp_path, {("ppo", "table"): rows})))
    assert [row[0] for row in body] == list(rows)
    assert body[0] == ["base", "0.500", "-", "-", "-"] and body[3][2] == "50.0%"


def test_warnings_are_told_with_their_notebook(tmp_path, write_metrics):
    out = write_metrics(tmp_path, {("reward", "warnings"): ["it <hardly> reads"]})
    assembled = write_report(out)
    assert assembled["warnings"] == ["2-RM-Training: it <hardly> reads"]
    assert "warnings" not in assembled["reward"]
    assert final_table(assembled).endswith("\nWARNING in 2-RM-Training: it <hardly> reads")
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "<strong>Warning</strong> from 2-RM-Training: it &lt;hardly&gt; reads" in page
    write_report(write_metrics(tmp_path / "b"))
    assert "Warning" not in (tmp_path / "b" / "report.html").read_text(encoding="utf-8")


def test_the_last_notebook_writes_the_report(tmp_path, write_metrics, capsys):
    course = course_in(write_metrics(tmp_path))
    (tmp_path / "metrics" / "sft.json").rename(tmp_path / "sft.json")
    course.report()
    assert capsys.readouterr().out == "no report yet: the report lacks sft (run 1-SFT.ipynb)\n"
    assert not (tmp_path / "report.html").exists()

    (tmp_path / "sft.json").rename(tmp_path / "metrics" / "sft.json")
    course.report()
    shown = capsys.readouterr().out
    assert shown.startswith("pretraining") and "report.html" in shown
    assert (tmp_path / "report.html").exists() and (tmp_path / "report.json").exists()


def test_a_learners_functions_are_told(tmp_path, write_metrics):
    own = {("reward", "own_functions"): ["bradley_terry"], ("ppo", "own_functions"): ["gae"]}
    out = write_metrics(tmp_path, own)
    assembled = write_report(out)
    assert assembled["own_functions"] == ["bradley_terry", "gae"]
    assert "own_functions" not in assembled["ppo"]
    text = "2 of your functions: bradley_terry, gae"
    assert final_table(assembled).endswith(f"\ntrained with  {text}")
    assert f"Trained with {text}." in (out / "report.html").read_text(encoding="utf-8")


def test_the_page_stands_alone(tmp_path, write_metrics):
    rows = {"SFT": {"gold_reward": 0.5}, "<script>PPO": {"gold_reward": 0.9}}
    out = write_metrics(tmp_path, {("ppo", "table"): rows})
    (out / "figures").mkdir()
    (out / "figures" / "sft-stop-rate.png").write_bytes(PIXEL)
    assembled = write_report(out)
    assert json.loads((out / "report.json").read_text(encoding="utf-8")) == assembled
    page = (out / "report.html").read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>") and str(tmp_path) not in page
    assert set(re.findall(r'src="(\w+):', page)) == {"data"}, "nothing is fetched from elsewhere"
    assert re.findall(r'<link[^>]*href="([^"]*)"', page) == ["data:,"]
    assert "<script" not in page and "@import" not in page
    for words in (
        "data:image/png;base64," + base64.b64encode(PIXEL).decode(),
        "stop rate</figcaption>",
        "<td>&lt;script&gt;PPO</td>",
        'name="viewport"',
        "PPO raised the gold reward: +0.400",
        "0.500</td>",
        "Bayes 84.0%: 88% of the way from chance; 2,000 comparisons",
        "entropy floor 1.200 nats per token: +2.5%; 2,000,000 tokens",
        "95% interval [+0.300, +0.500]; SFT 0.500, PPO 0.900",
        "share of its responses; SFT 20.0%",
        'width:80.0%"></i><b style="left:calc(78.0% - 1px)"',  # 1.23 over a floor of 1.2
    ):
        assert words in page, words


def test_real_rows_need_no_floor_and_no_gold_reward_but_the_table(tmp_path, write_real):
    assembled = assemble(write_real(tmp_path / "a"))
    assert assembled["source"] == "local" and "entropy_floor" not in assembled["pretrain"]
    changes = {
        ("ppo", "table"): {"SFT": {"name": "x"}},
        ("reward", "accuracy_ci95"): ...,
        ("sft", "stop_rate"): ...,
    }
    with pytest.raises(ReportError) as error:
        assemble(write_real(tmp_path / "b", changes))
    for name in ("ppo.table (a row of numbers", "reward.accuracy_ci95 (a pair", "sft.stop_rate"):
        assert name in str(error.value)
    assert "gold" not in str(error.value) and "floor" not in str(error.value)


def test_an_embedded_world_needs_what_real_rows_lack(tmp_path, write_real):
    embedded = {(stage, "source"): "embedded" for stage in REAL}
    names = r"pretrain\.entropy_floor.*reward\.bayes_accuracy.*ppo\.gold_reward"
    with pytest.raises(ReportError, match=names):
        assemble(write_real(tmp_path, embedded))


def test_the_final_table_of_real_rows_shows_what_there_is(tmp_path, write_real):
    assembled = assemble(write_real(tmp_path / "a"))
    cells = {title: row for header, body in tables(assembled) for title, *row in zip(header, *body)}
    assert cells["score (SFT sd)"] == ["0.00 [-0.10, 0.10]", "1.50 [1.40, 1.60]"]
    assert cells["second judge"] == ["0.50", "0.70 [0.65, 0.75]"]
    assert cells["perplexity"][1] == "30.0"
    assert "ROUGE-L" not in cells, "a column that no policy has is left out"
    text = final_table(assembled)
    for line in (
        "loss 4.500, bigram 5.250",
        "loss 3.500, base model 4.750, stop rate 98.0%",
        "accuracy 0.800 [0.770, 0.830]",
        "second judge's verdict +0.200 [+0.150, +0.250] over SFT (95% interval)",
    ):
        assert line in text
    bare = {("ppo", "judge_gain"): ..., ("pretrain", "bigram_loss"): ..., ("sft", "base_loss"): ...}
    bare = write_real(tmp_path / "b", bare)
    text = final_table(write_report(bare))
    assert "score 1.500, KL 3.00 nats" in text and "floor" not in text
    assert "bigram" not in text and "base model" not in text
    page = (bare / "report.html").read_text(encoding="utf-8")
    assert "<p>score 1.500, KL 3.00 nats per response.</p>" in page and "bigram" not in page


def test_the_page_of_real_rows_speaks_of_no_ceiling(tmp_path, write_real):
    write_report(write_real(tmp_path))
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    for words in ("local rows", "--source local", "raised the second judge", "1.50 [1.40, 1.60]"):
        assert words in page
    assert "bigram model: 5.250 nats per token; 1,000 tokens" in page
    for words in ("entropy floor", "Bayes", "gold reward", "ceiling is", "mark is that ceiling"):
        assert words not in page


def test_no_report_is_left_when_something_is_missing(tmp_path, write_metrics):
    write_metrics(tmp_path, {("ppo", "kl"): ...})
    with pytest.raises(ReportError):
        write_report(tmp_path)
    assert not (tmp_path / "report.json").exists() and not (tmp_path / "report.html").exists()


def test_too_few_prompts_for_an_interval_are_said(tmp_path, write_metrics):
    few = [None, None]
    changes = {("ppo", "gold_gain_ci95"): few, ("reward", "accuracy_ci95"): few}
    write_report(write_metrics(tmp_path, changes))
    assert "+0.400 over SFT (too few prompts for an interval)" in final_table(assemble(tmp_path))
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "PPO has too few prompts to tell about the gold reward: +0.400 against SFT" in page
    assert "None" not in page and "nan" not in page


def test_the_doctor_reads_the_log_of_ppo(tmp_path, write_metrics):
    out = write_metrics(tmp_path)
    page = out / "report.html"
    write_report(out)
    assert "The doctor" not in page.read_text(encoding="utf-8")  # no log
    (out / "logs").mkdir()
    log = out / "logs" / "ppo.jsonl"
    rows = [{"step": i + 1, "kl": 0.1 * i, "score": 0.2 * i, "entropy": 0.3} for i in range(9)]
    log.write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_report(out)
    assert "nothing suspicious" in page.read_text(encoding="utf-8")
    log.write_text("".join(json.dumps(row | {"entropy": -1.0}) + "\n" for row in rows))
    write_report(out)
    assert "no entropy is below 0" in page.read_text(encoding="utf-8")
