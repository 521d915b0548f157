"""`python -m helpers COMMAND`: every command is there, and a mistake is one line with the nearest
valid word.
"""

import subprocess
import sys

import pytest

from helpers import __main__ as front
from helpers.engine.files import ROOT
from helpers.run.folders import STAGES

ARGUMENTS = {  # what a command needs before its options are looked at
    "launch": ["ppo"],
    "shards": ["--out", "x", "--tokens", "9"],
    "fetch": ["--track", "tldr", "--out", "x"],
    "import": ["a.pt", "b"],
    "publish": ["folder", "owner/name"],
    "hellaswag": ["folder"],
    "doctor": ["ppo.jsonl"],
}


def run(capsys, *words: str) -> tuple[int, str, str]:
    """The exit code, and what is printed on either stream."""
    try:
        code = front.main(list(words))
    except SystemExit as stopped:
        code = stopped.code
        if isinstance(code, str):
            return 1, capsys.readouterr().out, code + "\n"
    printed = capsys.readouterr()
    return code or 0, printed.out, printed.err


@pytest.mark.parametrize("words, code", [((), 2), (("--help",), 0), (("-h",), 0)])
def test_without_a_command_all_are_listed(words, code, capsys):
    found, out, _ = run(capsys, *words)
    assert found == code and all(f" {name} " in out for name in front.COMMANDS)


@pytest.mark.parametrize("name", sorted({*front.COMMANDS, *STAGES.values()}))
def test_every_command_explains_itself(name, capsys):
    code, out, err = run(capsys, name, "--help")
    assert code == 0 and err == ""
    assert out.startswith(f"usage: python -m helpers {name}")


@pytest.mark.parametrize(
    "word, hint",
    [
        ("pretrian", "did you mean pretrain?"),
        ("poo", "did you mean ppo?"),
        ("dpo", "did you mean ppo?"),
        ("xyzzy", "choose from course, pretrain, sft, reward, ppo, launch, "),
    ],
)
def test_an_unknown_command_is_one_line(word, hint, capsys):
    code, out, err = run(capsys, word)
    assert code == 2 and out == "" and err.count("\n") == 1
    assert err.startswith(f"python -m helpers: no command '{word}'; {hint}")


@pytest.mark.parametrize("name", [name for name in front.COMMANDS if name != "launch"])
def test_an_unknown_option_is_one_line(name, capsys):
    """`launch` hands options that it does not know to the stage."""
    code, out, err = run(capsys, name, *ARGUMENTS.get(name, []), "--hepl")
    says = f"{name}: no option --hepl, did you mean --help?; --help lists them\n"
    assert (code, out, err) == (2, "", f"python -m helpers {says}")


@pytest.mark.parametrize(
    "words, says",
    [
        (["ppo", "--presett", "cpu"], "no option --presett, did you mean --preset?"),
        (["course", "--stage", "cpu"], "no option --stage, did you mean --stages?"),
        (["course", "--track", "sentimant"], "did you mean sentiment?"),
        (["course", "--stages", "sft,dpo"], "no stage dpo: choose from pretrain, sft, reward, ppo"),
        (["launch", "pp"], "invalid choice: 'pp'"),
        (["fetch", "--track", "imdb", "--out", "x"], "imdb"),
        (["publish"], "required: folder, repository"),
    ],
)
def test_a_value_that_is_not_there_is_one_line(words, says, capsys):
    code, _, err = run(capsys, *words)
    assert code == 2 and err.count("\n") == 1 and says in err
    assert err.startswith(f"python -m helpers {words[0]}: ")


def test_a_stage_refuses_a_bad_value_in_one_line(capsys):
    code, _, err = run(capsys, "ppo", "--preset", "smok")
    assert code == 2 and err.count("\n") == 1 and "did you mean smoke?" in err


READ_NONE = {"fetch", "publish", "budget", "restore", "doctor"}  # no settings


@pytest.mark.parametrize("name", sorted(front.COMMANDS.keys() - READ_NONE))
def test_every_command_refuses_a_bad_variable_in_one_line(name, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("RLHF_TRAK", "tldr")
    (tmp_path / "a.pt").touch()
    monkeypatch.chdir(tmp_path)
    code, out, err = run(capsys, name, *ARGUMENTS.get(name, []))
    says = f"python -m helpers {name}: no variable RLHF_TRAK; did you mean RLHF_TRACK?\n"
    assert (code, out, err) == (2, "", says)


@pytest.mark.parametrize("name", front.COMMANDS)
def test_ctrl_c_while_a_command_is_imported_is_one_line(name, capsys, monkeypatch):
    def interrupted(module):
        raise KeyboardInterrupt

    monkeypatch.setattr(front.importlib, "import_module", interrupted)
    says = f"python -m helpers {name}: interrupted\n"
    assert run(capsys, name) == (130, "", says)


def test_it_is_a_program():
    command = [sys.executable, "-m", "helpers", "pretrian"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)
    says = "python -m helpers: no command 'pretrian'; did you mean pretrain?\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", says)
