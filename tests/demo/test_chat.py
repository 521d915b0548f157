"""Chat in the terminal, and what all commands of the demo refuse in one line."""

import io
import subprocess
import sys

import pytest

from helpers.demo import chat, serve, space
from helpers.engine.files import ROOT

COMMANDS = {"chat": chat.main, "demo": serve.main, "space": space.main}


def ask(folder, text, monkeypatch, capsys, *options):
    """What is printed for a typed text."""
    monkeypatch.setattr("sys.stdin", io.StringIO(text))
    chat.main([str(folder), "--threads", "1", *options])
    return capsys.readouterr().out


def test_posts_are_answered_with_score_and_gold(run_folder, models, monkeypatch, capsys):
    printed = ask(run_folder, "1\n\nMy cat sings.\n", monkeypatch, capsys, "--n", "3")
    first, any_post, own = printed.split("\nSUBREDDIT: ")[1:]
    assert models.prompts[0].prompt.startswith(f"SUBREDDIT: {first[:40]}")
    for part in (first, any_post, own):
        for name in ("base", "SFT", "best of 3", "PPO"):
            assert f"\n{name}: " in part
        assert part.count("score ") == 4 and part.count("KL ") == 4
    assert first.count("gold ") == any_post.count("gold ") == 4 and "gold" not in own
    assert "TITLE: My cat sings." in own


def test_a_wrong_line_is_told_and_the_next_one_answered(run_folder, monkeypatch, capsys):
    printed = ask(run_folder, "999\n1\n", monkeypatch, capsys, "--temperature", "0", "--n", "1")
    assert "(no prompt 999: choose 1 to 200)" in printed and "\nPPO: " in printed


def test_a_response_gives_no_orders_to_the_terminal():
    assert chat.printable("a\x1b[31m\x07\nb\r😀") == "a�[31m�\nb�😀"


def test_ctrl_c_ends_it(models, monkeypatch, capsys):
    def interrupted(prompt):
        raise KeyboardInterrupt

    monkeypatch.setattr("builtins.input", interrupted)
    chat.chat(models, chat.Sampling(tokens=4))
    assert capsys.readouterr().out.endswith(f"{chat.HELP}\n\n")


def test_it_is_a_program_that_reads_a_pipe(run_folder):
    command = [sys.executable, "-m", "helpers", "chat", str(run_folder), "--tokens", "4"]
    done = subprocess.run(
        command, cwd=ROOT, input="<script>\n", capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stderr) == (0, "") and "TITLE: <script>" in done.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_a_run_that_is_not_there_is_one_line(name, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        COMMANDS[name]([str(tmp_path / "gone"), "--threads", "1"])
    says = f"{name}: no checkpoint in {tmp_path / 'gone'}: run `make course` first"
    assert stopped.value.code == says


@pytest.mark.parametrize("option, value", [("--n", "99"), ("--top-p", "0"), ("--tokens", "500")])
def test_an_option_out_of_bounds_is_one_line(option, value, run_folder):
    with pytest.raises(SystemExit) as stopped:
        chat.main([str(run_folder), option, value, "--threads", "1"])
    assert stopped.value.code.startswith(f"chat: {option[2:].replace('-', '_')} must be ")


@pytest.mark.parametrize("name", ["demo", "space"])
def test_without_gradio_there_is_one_line(name, run_folder, monkeypatch):
    def missing(package):
        raise space.PackageNotFoundError(package)

    monkeypatch.setattr(serve.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(space, "version", missing)
    with pytest.raises(SystemExit) as stopped:
        COMMANDS[name]([str(run_folder), "--threads", "1"])
    assert stopped.value.code.startswith(f"{name}: the page needs gradio: `pip install -r ")
    assert not (run_folder / "space").exists()
