"""report.json, the final table and report.html from what the notebooks record."""

import base64
import copy
import json
import re

import pytest

from helpers import report
from helpers.report import ReportError, assemble, final_table, table_cells, write_report

# a 1 x 1 pixel PNG
PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
IDENTITY = {"preset": "smoke", "track": "tldr", "seed": 0, "seconds": 61.0}


@pytest.fixture
def write_metrics(toy_metrics):
    """write(out, changes): the metrics of a whole run, with {(stage, name): value} changed (...: removed)."""

    def write(out, changes=None):
        known = copy.deepcopy(toy_metrics)
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


def test_fields(tmp_path, write_metrics):
    made = assemble(write_metrics(tmp_path))
    assert list(made) == ["preset", "track", "seed", "seconds", "pretrain", "sft", "reward", "ppo"]
    assert made["seconds"] == dict.fromkeys(report.REQUIRED, 61.0)
    for stage, names in report.REQUIRED.items():
        assert set(names) <= set(made[stage]) and "seconds" not in made[stage] and "curves" not in made[stage]


def test_only_seconds_differ_between_two_runs(tmp_path, write_metrics):
    first = assemble(write_metrics(tmp_path / "a"))
    second = assemble(write_metrics(tmp_path / "b", {("sft", "seconds"): 99.0}))
    assert first != second
    assert {**first, "seconds": 0} == {**second, "seconds": 0}


def test_missing_fields_are_all_named(tmp_path, write_metrics):
    changes = {("ppo", "kl"): None, ("ppo", "gold_gain_ci95"): [0.1], ("sft", "stop_rate"): ..., ("ppo", "flaws"): {}}
    with pytest.raises(ReportError) as error:
        assemble(write_metrics(tmp_path, changes))
    for name in ("sft.stop_rate", "ppo.kl (a finite number)", "ppo.gold_gain_ci95 (a pair", "ppo.flaws"):
        assert name in str(error.value)
    assert "score" not in str(error.value)


def test_a_stage_that_has_not_run_is_named_with_its_notebook(tmp_path, write_metrics):
    (write_metrics(tmp_path) / "metrics" / "reward.json").unlink()
    with pytest.raises(ReportError, match="reward .run 2-RM-Training.ipynb."):
        assemble(tmp_path)


def test_stages_of_different_runs_are_refused(tmp_path, write_metrics):
    with pytest.raises(ReportError, match="smoke-tldr-0 and smoke-tldr-1"):
        assemble(write_metrics(tmp_path, {("ppo", "seed"): 1}))


def test_final_table_from_the_required_fields(tmp_path, write_metrics):
    text = final_table(assemble(write_metrics(tmp_path)))
    header, body = table_cells(assemble(tmp_path))
    assert header == ["policy", "gold reward", "hallucination", "KL (nats)", "stop rate"]
    assert body == [["SFT", "0.500", "20.0%", "0.000", "99.5%"], ["PPO", "0.900", "5.0%", "4.200", "99.0%"]]
    assert "gold reward +0.400 over SFT, 95% interval +0.300 to +0.500" in text
    assert "(+2.5%)" in text and "88% of the way" in text and "= 4:04" in text


def test_final_table_from_recorded_rows(tmp_path, write_metrics):
    rows = {"base": {"gold_reward": -1.0}, "SFT": {}, "best of 4": {}, "PPO": {"flaws": {"missing_question": 0.5}}}
    _, body = table_cells(assemble(write_metrics(tmp_path, {("ppo", "table"): rows})))
    assert [row[0] for row in body] == list(rows)
    assert body[0] == ["base", "-1.000", "-", "-", "-"] and body[3][2] == "50.0%"


def test_the_page_stands_alone(tmp_path, write_metrics):
    out = write_metrics(tmp_path, {("ppo", "gold_ceiling"): 1.0})
    (out / "figures").mkdir()
    (out / "figures" / "sft-stop-rate.png").write_bytes(PIXEL)
    made = write_report(out)
    assert json.loads((out / "report.json").read_text(encoding="utf-8")) == made
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "data:image/png;base64," + base64.b64encode(PIXEL).decode() in page and "stop rate</figcaption>" in page
    assert "loss &lt;nats&gt;" in page and "<nats>" not in page
    assert 'name="viewport"' in page and "<script" not in page and "@import" not in page
    assert set(re.findall(r'src="(\w+):', page)) == {"data"}, "nothing is fetched from elsewhere"
    assert re.findall(r'<link[^>]*href="([^"]*)"', page) == ["data:,"]
    assert "best possible 1.000" in page and str(tmp_path) not in page


def test_no_report_is_left_when_something_is_missing(tmp_path, write_metrics):
    write_metrics(tmp_path, {("ppo", "kl"): ...})
    with pytest.raises(ReportError):
        write_report(tmp_path)
    assert not (tmp_path / "report.json").exists() and not (tmp_path / "report.html").exists()
