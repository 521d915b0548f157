"""A learner's answers: kept when they pass, put back after an update."""

import json
from types import SimpleNamespace

import IPython
import pytest

from helpers.__main__ import main
from helpers.lesson.checks.ppo import check_k3, check_total_reward
from helpers.run import answers
from helpers.run.folders import FILES
from tests.support.courses import course_in
from tests.support.notebook_code import solution_of

GUESS = "my_total_reward = 0.4\n\ncheck_total_reward(my_total_reward);"
K3 = """import torch


def my_k3(logprobs, ref_logprobs):
    log_r = ref_logprobs - logprobs
    return log_r.exp() - 1 - log_r


check_k3(my_k3);"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(answers, "SOLVED", set())
    monkeypatch.setattr(answers, "FOLDER", tmp_path / "my")
    monkeypatch.setattr(answers, "kept_in", [tmp_path / "my"])
    return tmp_path / "my"


@pytest.fixture
def cells(monkeypatch):
    """The executed cells of a notebook."""
    executed = [""]
    shell = SimpleNamespace(user_ns={"In": executed})
    monkeypatch.setattr(IPython, "get_ipython", lambda: shell)
    return executed


def test_the_cell_of_a_right_answer_is_kept(folder, cells):
    cells += [K3, "my_k31 = 1", "check_k3(my_k3)"]
    check_k3(solution_of("k3"))
    cells.append(GUESS)
    check_total_reward(0.4)
    assert answers.read(folder, "3-PPO") == {"total_reward": GUESS, "k3": K3}
    compile((folder / "3-PPO.py").read_text(), "3-PPO.py", "exec")  # it can be read as Python


def test_a_wrong_answer_does_not_replace_a_right_one(folder, cells):
    cells.append(K3)
    check_k3(solution_of("k3"))
    cells.append(K3.replace("- 1", ""))
    check_k3(lambda logprobs, ref_logprobs: logprobs)
    assert answers.read(folder, "3-PPO") == {"k3": K3}


def test_nothing_is_kept_outside_a_notebook(folder):
    check_total_reward(0.4)
    assert not folder.exists()


def test_a_folder_that_cannot_be_written_stops_no_lesson(folder, cells, capsys):
    folder.write_text("a file where the folder should be")
    cells.append(GUESS)
    assert check_total_reward(0.4) is True
    assert "my_total_reward is not kept in my/" in capsys.readouterr().out


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A folder with a notebook that has two untouched exercises and one that is not."""
    monkeypatch.setattr(answers, "ROOT", tmp_path)
    sources = [
        "my_total_reward = None  # your guess\n\ncheck_total_reward(my_total_reward);",
        "def my_k3(logprobs, ref_logprobs):\n    raise NotImplementedError\n\n\ncheck_k3(my_k3);",
        "def my_gae(*all):\n    return 1  # newer\n\n\ncheck_gae(my_gae);",
    ]
    code = {"cell_type": "code", "metadata": {}, "execution_count": 3, "outputs": []}
    document = {
        "cells": [code | {"id": f"c{i}", "source": source} for i, source in enumerate(sources)],
        "metadata": {},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    (tmp_path / FILES["3-PPO"]).write_text(json.dumps(document))
    return tmp_path


def sources_of(repository):
    document = json.loads((repository / FILES["3-PPO"]).read_text())
    return ["".join(cell["source"]) for cell in document["cells"]]


def test_restore_fills_untouched_exercises_only(folder, repository, capsys):
    for name, cell in (("gae", "def my_gae(): old"), ("total_reward", GUESS), ("k3", K3)):
        answers.keep(folder, name, cell)
    newer = sources_of(repository)[2]
    assert main(["restore"]) == 0
    assert sources_of(repository) == [GUESS, K3, newer]
    shown = capsys.readouterr().out
    assert shown.startswith("3-PPO: total_reward, k3\n") and " 3 of 13" in shown
    assert main(["restore"]) == 0  # a second time changes nothing
    assert sources_of(repository) == [GUESS, K3, newer]


@pytest.mark.parametrize("text", ["<<<<<<< Updated upstream\n", "[]", '{"cells": [{}]}', "\xff"])
def test_a_damaged_notebook_is_named_and_left_alone(text, folder, repository, capsys):
    (repository / FILES["3-PPO"]).write_text(text, encoding="latin-1")
    answers.keep(folder, "k3", K3)
    answers.keep(folder, "bayes_accuracy", "my_bayes_accuracy = 0.7")
    assert main(["restore"]) == 1
    missing, damaged, *shown = capsys.readouterr().out.splitlines()
    assert missing.startswith("2-RM-Training: nothing restored: no notebook 2-RM-Training.ipynb")
    assert damaged.startswith("3-PPO: nothing restored: 3-PPO.ipynb is no valid notebook")
    assert len(shown) == len(FILES)
    assert (repository / FILES["3-PPO"]).read_text(encoding="latin-1") == text


def test_a_guess_with_the_stubs_comment_is_not_untouched(folder, repository):
    path = repository / FILES["3-PPO"]
    path.write_text(path.read_text().replace("None  # your", "0.3  # your"))
    answers.keep(folder, "total_reward", GUESS)
    assert main(["restore"]) == 0
    assert sources_of(repository)[0].startswith("my_total_reward = 0.3  # your guess")


def test_restore_without_answers_says_so(folder, repository, capsys):
    assert main(["restore"]) == 1
    assert "holds no answers yet" in capsys.readouterr().out


def test_a_damaged_file_of_answers_gives_what_can_be_read(folder):
    folder.mkdir()
    (folder / "3-PPO.py").write_bytes(b"\xff\n# %% k3\nmy_k3 = 1\n# %% nonsense\nx\n# %% gae\n")
    assert answers.read(folder, "3-PPO") == {"k3": "my_k3 = 1"}  # gae is empty: no answer


def test_another_answer_loses_nothing_that_is_kept(folder):
    """A byte order mark, as Notepad writes it, and the answer to an exercise that is gone."""
    folder.mkdir()
    (folder / "3-PPO.py").write_text("# %% k3\nmy_k3 = 1\n# %% gone\nx\n", encoding="utf-8-sig")
    answers.keep(folder, "gae", "my_gae = 2")
    text = "# %% gae\nmy_gae = 2\n\n# %% k3\nmy_k3 = 1\n\n# %% gone\nx\n"
    assert (folder / "3-PPO.py").read_text() == text


def test_a_cell_with_a_line_like_a_head_is_kept_whole(folder):
    answers.keep(folder, "k3", "# %% solution\nmy_k3 = 1")
    assert answers.read(folder, "3-PPO") == {"k3": "#  %% solution\nmy_k3 = 1"}


def test_answers_that_cannot_be_read_stop_no_lesson(folder, cells, capsys):
    (folder / "3-PPO.py").mkdir(parents=True)
    cells.append(GUESS)
    assert check_total_reward(0.4) is True
    assert "my_total_reward is not kept in my/" in capsys.readouterr().out
    assert " 0 of 9" in answers.overview(folder)
    assert "my/3-PPO.py can't be read: Is a directory" in capsys.readouterr().out


def test_progress_counts_kept_answers_and_those_of_this_session(folder, tmp_path, capsys):
    answers.keep(folder, "k3", K3)
    check_total_reward(0.4)
    capsys.readouterr()
    course_in(tmp_path).progress()
    shown = capsys.readouterr().out.splitlines()
    assert len(shown) == len(FILES) and " 0 of 13" in shown[0]
    (line,) = (line for line in shown if line.startswith("3-PPO"))
    assert " 2 of 13" in line and "k3" not in line and "gae" in line
