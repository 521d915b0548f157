"""Reading a log: files of several libraries, and everything that can be wrong with one."""

import json
import math
import time

import pytest

from helpers import __main__ as front
from helpers.doctor.diagnosis import diagnose, findings_of, report
from helpers.doctor.logs import MOST, read_log
from helpers.engine.parser import SettingsError

ROW = {"step": 1, "score": 0.1, "kl": 0.0, "entropy": 1.5, "clip_fraction": 0.01}
TRL = "episode,objective/kl,objective/scores,policy/clipfrac_avg,val/ratio,eps\n"


def written(folder, text: str | bytes, name: str = "ppo.jsonl"):
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_a_jsonl_file_and_its_rows_are_one_log(tmp_path):
    rows = [ROW, ROW | {"step": 2, "kl": 0.3}]
    path = written(tmp_path, "\n".join(map(json.dumps, rows)) + "\n")
    assert read_log(path).columns == read_log(rows).columns
    assert read_log(rows).columns["kl"] == [0.0, 0.3]
    assert diagnose(path) == diagnose(rows) == []


def test_a_csv_of_trl(tmp_path):
    text = TRL + "64,0.0,0.5,0.01,1.0,3\n128,,0.6,0.02,1.01,3\n"
    for name, words in (("a.csv", text), ("b.csv", text.replace(",", ";"))):
        log = read_log(written(tmp_path, words, name))
        assert log.names["kl"] == "objective/kl" and log.names["score"] == "objective/scores"
        assert log.columns["kl"][0] == 0 and math.isnan(log.columns["kl"][1])
        assert log.numbers("clip_fraction") == [0.01, 0.02] and log.from_the_start()


def test_a_trainer_state(tmp_path):
    rows = [
        {"step": 5, "reward": 0.1, "kl": 0.002, "completions/mean_length": 40.0},
        {"step": 5, "eval_loss": 0.3},  # a row without any of the columns
        {"step": 10, "reward": 0.2, "kl": 0.004, "completions/mean_length": 50.0},
    ]
    path = written(tmp_path, json.dumps({"log_history": rows}), "trainer_state.json")
    log = read_log(path)
    assert log.columns["score"] == [0.1, 0.2]
    assert log.columns["kl_k3"] == pytest.approx([0.08, 0.2]) and "kl" not in log.columns
    assert not log.from_the_start()


def test_the_names_of_other_libraries():
    verl = {
        "training/global_step": 1,
        "critic/score/mean": 0.4,
        "actor/ppo_kl": 0.001,
        "actor/reward_kl_penalty": 0.01,
        "actor/pg_clipfrac": 0.0,
        "critic/vf_explained_var": 0.3,
        "response_length/mean": 200.0,
        "response_length/clip_ratio": 0.25,
    }
    log = read_log([verl])
    assert log.columns["stop_rate"] == [0.75] and log.columns["kl"] == [2.0]
    assert log.names["approx_kl"] == "actor/ppo_kl"  # not the KL to the reference
    openrlhf = {"train/kl": 0.02, "train/reward": 0.1, "train/response_length": 50}
    assert read_log([openrlhf]).columns["kl"] == [1.0]
    instruct = read_log([{"scores": 1.0, "val/stop_rate": 0.5, "val/sequence_lengths": 9}])
    assert instruct.columns["stop_rate"] == [0.5] and instruct.columns["length"] == [9]


BAD = {  # name and contents of a file, and words of the one line that it causes
    "empty": ("ppo.jsonl", "", "is empty"),
    "blank": ("ppo.jsonl", "\n\n", "is empty"),
    "prose": ("ppo.jsonl", "hello\n", "line 1: not JSON"),
    "half a line": ("ppo.jsonl", json.dumps(ROW) + '\n{"step": 2, "kl"', "line 2: not JSON"),
    "no object": ("ppo.jsonl", "[1, 2]\n", "line 1: '[1, 2]' is no object"),
    "deep": ("ppo.jsonl", "[" * 100_000, "line 1: not JSON"),
    "unknown columns": ("ppo.jsonl", '{"loss": 1, "rate": 2}', "has no column that the doctor"),
    "text": ("ppo.jsonl", '{"score": "high"}', "row 1, column 'score': 'high' is no number"),
    "list": ("ppo.jsonl", '{"score": [1]}', "row 1, column 'score': [1] is no number"),
    "Latin-1": ("ppo.jsonl", '{"score": 1, "é": 2}'.encode("latin-1"), "is not UTF-8 (byte 14)"),
    "binary": ("ppo.csv", bytes([0x89, 0x50, 0x4E, 0x47, 0]), "is not UTF-8 (byte 0)"),
    "header alone": ("ppo.csv", TRL, "has no rows"),
    "header twice": ("ppo.csv", "kl,score,kl\n1,2,3\n", "line 1: the column 'kl' is there twice"),
    "text in a csv": ("ppo.csv", "kl,score\n1,2\nx,2\n", "row 2, column 'kl': 'x' is no number"),
    "no history": ("trainer_state.json", "{}", "has no list `log_history`"),
    "broken state": ("trainer_state.json", "{", "is not JSON"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_log_that_cannot_be_read_is_one_line(case, tmp_path, capsys):
    name, contents, words = BAD[case]
    path = written(tmp_path, contents, name)
    with pytest.raises(SettingsError):
        diagnose(path)
    assert front.main(["doctor", str(path)]) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.count("\n") == 1
    assert printed.err.startswith(f"python -m helpers doctor: {path}") and words in printed.err


def test_a_file_that_is_not_there_and_a_folder(tmp_path, capsys):
    assert front.main(["doctor", str(tmp_path / "ppo.jsonl")]) == 2
    assert "there is no such file" in capsys.readouterr().err
    written(tmp_path, json.dumps(ROW))
    assert front.main(["doctor", str(tmp_path)]) == 2
    assert f"such as {tmp_path / 'ppo.jsonl'}" in capsys.readouterr().err


def test_no_rows():
    with pytest.raises(SettingsError, match="the history has no rows"):
        diagnose([])


def test_one_row_is_enough(capsys, tmp_path):
    path = written(tmp_path, json.dumps(ROW))
    assert front.main(["doctor", str(path)]) == 0
    out = capsys.readouterr().out
    assert "nothing suspicious" in out and "not in the log" in out


def test_a_number_that_is_not_one_is_found(tmp_path):
    rows = [ROW, ROW | {"step": 2, "value_loss": math.inf}, ROW | {"step": 3}]
    first = diagnose(rows)[0]
    assert (first.ailment, first.sure) == ("numbers not finite", "sure")
    assert "step 2" in first.evidence
    path = written(tmp_path, '{"score": NaN, "kl": 0.0}\n{"score": 1.0, "kl": 0.1}\n')
    assert diagnose(path)[0].ailment == "numbers not finite"
    equal_returns = [ROW, ROW | {"explained_variance": math.nan}]
    assert diagnose(equal_returns) == []


def test_an_empty_cell_is_no_number_that_overflowed(tmp_path):
    """Trackers export a row for each call that logged something."""
    path = written(tmp_path, "_step,kl,score,value_loss\n1,0.0,,\n1,,0.5,\n2,0.1,,0.3\n", "a.csv")
    assert diagnose(path) == []
    assert diagnose([{"step": 1, "score": 0.1}, {"step": 1, "kl": None}]) == []


def test_a_long_log_takes_seconds(tmp_path):
    line = json.dumps(ROW | {"explained_variance": 0.5, "value_loss": 0.1, "length": 20.0})
    path = written(tmp_path, "\n".join([line] * 100_000))
    start = time.perf_counter()
    log = read_log(path)
    assert log.rows == 100_000 and len(log.columns["kl"]) <= MOST
    assert "100,000 rows" in report(log, findings_of(log))
    assert time.perf_counter() - start < 10  # seconds
