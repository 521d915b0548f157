"""Reading a log: files of several libraries, and everything that can be wrong with one."""

import json
import math
import time

import pytest

from helpers import __main__ as front
from helpers.doctor.console import printed_rows
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


def wandb(*runs: str) -> str:
    """An export of a chart of wandb."""
    names = [f"{run} - train/objective/kl{end}" for run in runs for end in ("", "__MIN", "__MAX")]
    header = ",".join(f'"{name}"' for name in ["Step", *names])
    return "\n".join([header, *(f"{i}" + f",{i / 9}" * len(names) for i in range(9))])


def test_an_export_of_wandb(tmp_path):
    log = read_log(written(tmp_path, wandb("ppo - 1"), "chart.csv"))
    assert log.columns["kl"][1] == 1 / 9 and log.columns["step"][1] == 1
    assert log.called("kl") == "train/objective/kl"


def test_the_file_of_verl(tmp_path):
    rows = [{"step": i, "data": {"critic/score/mean": i / 2}} for i in (1, 2)]
    log = read_log(written(tmp_path, "\n".join(map(json.dumps, rows))))
    assert log.columns == {"step": [1, 2], "score": [0.5, 1.0]}


def test_a_line_that_is_being_written_is_left_out(tmp_path):
    log = read_log(written(tmp_path, json.dumps(ROW) + '\n{"step": 2, "kl"'))
    assert log.rows == 1 and log.columns["kl"] == [0.0]


PRINTED = {  # by a run, with what else it prints
    "TRL": """Some weights were not initialised: {'lm_head'}
  0%|          | 0/2 [00:00<?, ?it/s]
{'eps': 3, 'objective/kl': 0.0, 'objective/scores': '-1.5e-01', 'val/ratio': nan, 'episode': 64}
 50%|#####     | 1/2 [00:03<00:03]\r{'objective/kl': -2.25, 'objective/scores': 1, 'episode': 128}
""",
    "verl": """(Runner pid=7) Training from scratch\x1b[0m
\x1b[36m(Runner pid=7)\x1b[0m step:1 - actor/reward_kl_penalty:0.0 - response_length/mean:10.0 - \
critic/score/mean:np.float64(-0.15)
(Runner pid=7) step:2 - actor/reward_kl_penalty:-2.25e-1 - response_length/mean:10 - \
critic/score/mean:1.0 \r
""",
}


@pytest.mark.parametrize("library", PRINTED)
def test_what_a_run_has_printed(library, tmp_path):
    log = read_log(written(tmp_path, PRINTED[library], "train.log"))
    assert log.columns["kl"] == [0.0, -2.25] and log.columns["score"] == [-0.15, 1.0]
    assert log.rows == 2 and len(log.columns["step"]) == 2
    assert log.bad == ({"ratio": 0} if library == "TRL" else {})


def test_a_text_in_what_a_run_has_printed_is_passed_over():
    assert printed_rows(["{'kl': 'high', 'text': 'a, b', 'x': 1e-05}"]) == [(1, {"x": "1e-05"})]
    assert printed_rows(["step: 1", "a step:1", "{}", "it's 1", "x:1 - y:2"]) == []


def test_the_kl_of_an_older_grpo_is_per_token():
    log = read_log([{"step": 5, "reward": 1.0, "kl": 0.01, "completion_length": 50.0}])
    assert log.columns["kl_k3"] == [0.5] and "kl" not in log.columns


def test_a_resumed_run_that_counts_episodes_is_not_from_the_start():
    rows = [{"episode": 64 * i, "objective/kl": 9.0} for i in range(201, 211)]
    assert not read_log(rows).from_the_start() and diagnose(rows) == []
    assert read_log([{"episode": 64 * i, "objective/kl": 9.0} for i in (1, 2)]).from_the_start()


def test_steps_that_go_back_are_noted():
    rows = [{"step": step, "score": 0.1 * step} for step in (1, 2, 3, 2, 3)]
    assert read_log(rows).notes == (
        "the steps go back in row 4: one run after another, or resumed",
    )


def test_a_file_is_read_by_its_contents_where_its_name_says_something_else(tmp_path):
    rows = [ROW, ROW | {"step": 2}]
    lines = "\n".join(map(json.dumps, rows))
    state = json.dumps({"log_history": rows}, indent=1)
    for name, text in {"a.jsonl": state, "b.jsonl": json.dumps(rows), "c.json": lines}.items():
        assert read_log(written(tmp_path, text, name)).columns == read_log(rows).columns
    assert read_log(written(tmp_path, "step\tkl\n1\t0\n", "D.TSV")).columns["kl"] == [0]


def test_a_csv_with_texts_blank_lines_and_the_line_of_excel(tmp_path):
    text = '\nsep=;\nstep;kl;text;\n1;0.1;"a;\n""b""";\n\n2;0.2;c;\n'
    log = read_log(written(tmp_path, text, "a.csv"))
    assert log.columns["kl"] == [0.1, 0.2] and log.rows == 2


BAD = {  # name and contents of a file, and words of the one line that it causes
    "empty": ("ppo.jsonl", "", "is empty"),
    "blank": ("ppo.jsonl", "\n\n", "is empty"),
    "prose": ("ppo.jsonl", "hello\n", "line 1: not JSON"),
    "half a line": ("ppo.jsonl", json.dumps(ROW) + '\n{"step": 2, "kl"\n', "line 2: not JSON"),
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
    "two runs": ("a.csv", wandb("a", "b"), "has columns of 2 runs (a, b): export one run"),
    "TensorBoard": ("a.csv", "Wall time,Step,Value\n1,2,3\n", "call its column Value by that name"),
    "decimal comma": ("a.csv", "kl;score\n0,5;1\n", "'0,5' is no number; write it with a decimal"),
    "more cells": ("a.csv", "kl,score\n0,5,1\n", "row 1: 3 cells, but the header names 2 columns"),
    "gzip": ("ppo.jsonl", b"\x1f\x8b\x08\x00", "is compressed: unpack it first"),
    "blank lines": ("ppo.jsonl", "\n\n" + json.dumps(ROW) + "\nx\n", "line 4: not JSON"),
    "escapes": ("ppo.jsonl", json.dumps({"\x1b[31mx\n": 1}), r"(it has \x1b[31mx\n)"),
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
    assert "\x1b" not in printed.err and len(printed.err) < 600
    assert printed.err.startswith(f"python -m helpers doctor: {path}") and words in printed.err


def test_a_file_that_is_not_there_and_a_folder(tmp_path, capsys):
    assert front.main(["doctor", str(tmp_path / "ppo.jsonl")]) == 2
    assert "there is no such file" in capsys.readouterr().err
    written(tmp_path, json.dumps(ROW))
    assert front.main(["doctor", str(tmp_path)]) == 2
    assert f"such as {tmp_path / 'ppo.jsonl'}" in capsys.readouterr().err


def test_a_name_that_is_too_long(tmp_path, capsys):
    assert front.main(["doctor", str(tmp_path / ("x" * 300))]) == 2
    assert "can't be read (File name too long)" in capsys.readouterr().err


def test_a_folder_names_the_log_of_ppo(tmp_path, capsys):
    for name in ("sft.jsonl", "ppo.jsonl"):
        (tmp_path / "run" / "logs").mkdir(parents=True, exist_ok=True)
        written(tmp_path / "run" / "logs", json.dumps(ROW), name)
    for folder in (tmp_path, tmp_path / "run"):
        assert front.main(["doctor", str(folder)]) == 2
        assert f"such as {tmp_path / 'run' / 'logs' / 'ppo.jsonl'}" in capsys.readouterr().err


def test_nothing_is_printed_that_a_terminal_obeys(tmp_path, capsys):
    rows = [{"\x1b]0;run\x07 - kl\x1f": -3 - 0.1 * i, "step": i} for i in range(6)]
    assert front.main(["doctor", str(written(tmp_path, "\n".join(map(json.dumps, rows))))]) == 1
    assert all(char.isprintable() or char == "\n" for char in capsys.readouterr().out)


def test_numbers_of_any_size(tmp_path):
    """Larger than float32 holds: infinite there."""
    path = written(tmp_path, '{"kl": 0}\n{"kl": 1' + "0" * 400 + "}\n")
    assert "kl is no finite number at row 2" in diagnose(path)[0].evidence
    names = ("kl", "kl_k3", "entropy", "surprise", "explained_variance", "return_std", "score")
    for size in (1e38, -1e38, 1e308):
        assert diagnose([dict.fromkeys(names, size * (-1) ** i) for i in range(12)])


def test_the_step_of_the_peak_is_that_of_the_row(tmp_path):
    """Where the gold reward is measured in some of the rows only."""
    rows = [{"step": i + 1, "score": 0.1 * i} for i in range(100)]
    for i in range(0, 100, 5):
        rows[i]["gold"] = min(i, 100 - i)
    assert "around step 51 " in diagnose(rows)[0].evidence


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


def test_a_wide_table_takes_seconds(tmp_path):
    header = ",".join(["kl", *(f"column {i}" for i in range(10_000))])
    path = written(tmp_path, f"{header}\n" + ",".join(["0"] * 10_001), "wide.csv")
    start = time.perf_counter()
    assert diagnose(path) == []
    assert time.perf_counter() - start < 10  # seconds
