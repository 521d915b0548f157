"""Settings from options, variables and defaults: which wins, what is refused, who reads them."""

import os
import re
from dataclasses import FrozenInstanceError, fields
from pathlib import Path

import pytest

from helpers.engine.files import ROOT
from helpers.engine.parser import Parser, SettingsError
from helpers.run.options import add_settings, as_options
from helpers.run.settings import (
    Settings,
    as_environment,
    data_folder,
    read_settings,
    seconds_of,
    yes_or_no,
)

VARIABLES = {  # setting: the text of its variable, the value that it becomes, another as an option
    "preset": ("smoke", "smoke", "cpu"),
    "track": ("sentiment", "sentiment", "tldr"),
    "seed": ("3", 3, 0),
    "out": ("/runs/mine", "/runs/mine", "/elsewhere"),
    "source": ("hub", "hub", "embedded"),
    "data_dir": ("/rows", "/rows", "/other"),
    "init": ("gpt2", "gpt2", "pretrain"),
    "adapter": ("lora", "lora", "full"),
    "device": ("cpu", "cpu", "cuda"),
    "dtype": ("float16", "float16", "float32"),
    "threads": ("2", 2, 1),
    "stop_after": ("1h30m", 5400.0, 60.0),
}
NAMES = {f"RLHF_{name.upper()}" for name in VARIABLES}
FIELDS = {field.name: field for field in fields(Settings) if field.metadata}
FLAGS = {name for name, field in FIELDS.items() if isinstance(field.default, bool)}


@pytest.fixture(autouse=True)
def clean(monkeypatch):
    """No setting from outside."""
    for name in list(os.environ):
        if name.startswith("RLHF_") or name in ("OPENAI_API_KEY", "OMP_NUM_THREADS"):
            monkeypatch.delenv(name)


# ---------------------------------------------------------------- which wins


def test_there_are_twelve_variables():
    named = {name for name, field in FIELDS.items() if field.metadata["variable"]}
    assert named == VARIABLES.keys() and len(named) == 12


def test_nothing_set_is_the_defaults():
    settings = read_settings()
    assert settings == Settings() == read_settings({name: None for name in FIELDS})
    assert (settings.preset, settings.track, settings.seed) == (None, "tldr", 0)
    assert settings.source == "embedded" and settings.resume and settings.save_every == 600
    with pytest.raises(FrozenInstanceError):
        settings.seed = 1


@pytest.mark.parametrize("name", VARIABLES)
def test_an_option_wins_over_its_variable_over_the_default(name, monkeypatch):
    text, value, other = VARIABLES[name]
    assert getattr(Settings(), name) != value
    monkeypatch.setenv(f"RLHF_{name.upper()}", text)
    assert getattr(read_settings(), name) == value
    assert getattr(read_settings({name: other}), name) == other != value
    assert getattr(read_settings({name: None}), name) == value
    monkeypatch.setenv(f"RLHF_{name.upper()}", "  ")
    assert getattr(read_settings(), name) == getattr(Settings(), name)


@pytest.mark.parametrize("name", sorted(FIELDS.keys() - VARIABLES.keys()))
def test_the_others_are_options_alone(name, monkeypatch):
    monkeypatch.setenv(f"RLHF_{name.upper()}", "1")
    option = f"--{name.replace('_', '-')}"
    with pytest.raises(SettingsError, match=f"^no variable .*; there is an option, {option}$"):
        read_settings()


def test_an_option_wins_over_a_variable_that_could_not_be(monkeypatch):
    monkeypatch.setenv("RLHF_SEED", "-1")
    assert read_settings({"seed": 2}).seed == 2


@pytest.mark.parametrize("name", ["out", "data_dir", "device", "init", "seed", "preset"])
def test_an_empty_option_is_refused(name):
    with pytest.raises(SettingsError, match=f"^{name}: must not be empty$"):
        read_settings({name: " "})


def test_weights_are_found_from_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    (tmp_path / "model/best.pt").touch()
    assert read_settings({"init": "model/best.pt"}).init == str(tmp_path / "model/best.pt")
    for name in ("gpt2", "model", "openai-community/gpt2", "none.pt"):
        assert read_settings({"init": name}).init == name
    assert read_settings({"init": "./model"}).init == str(tmp_path / "model")
    for name in ("model", "pretrain"):  # "pretrain" is always the model of 0-Pretrain
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / "config.json").touch()
    assert read_settings({"init": "model"}).init == str(tmp_path / "model")
    assert read_settings({"init": "pretrain"}).init == "pretrain"


def test_a_folder_with_rows_is_the_source(monkeypatch):
    monkeypatch.setenv("RLHF_DATA_DIR", "~/rows")
    assert read_settings().source == "local"
    assert data_folder(read_settings()) == Path("~/rows").expanduser()
    assert read_settings({"source": "hub"}).source == "hub"
    monkeypatch.setenv("RLHF_SOURCE", "embedded")
    assert read_settings().source == "embedded"
    assert read_settings({"data_dir": "/x"}).data_dir == "/x" and data_folder(Settings()) is None


def test_a_key_is_read_only_for_a_judge_and_never_shown(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", " sk-secret ")
    assert read_settings().judge_key == ""
    settings = read_settings({"judge_url": "https://example.org/v1"})
    assert settings.judge_key == "sk-secret" and "secret" not in repr(settings)
    with pytest.raises(SettingsError, match="no setting 'judge_key'"):
        read_settings({"judge_key": "sk"})


# ---------------------------------------------------------------- values


WORDS = {"1": True, "yes": True, "TRUE": True, " on ": True, True: True}
WORDS |= {"0": False, "no": False, "False": False, "off": False, False: False}


@pytest.mark.parametrize("text, value", WORDS.items())
@pytest.mark.parametrize("name", ["resume", "compile"])
def test_words_for_yes_and_no(text, value, name):
    assert getattr(read_settings({name: text}), name) is value


@pytest.mark.parametrize("text", ["", "maybe", "2", "none"])
def test_other_words_are_neither(text):
    with pytest.raises(SettingsError, match="resume: .* is neither yes nor no"):
        yes_or_no(text, "resume")


TIMES = [("11h30m", 41400), ("45m", 2700), ("90s", 90), ("1.5h", 5400), (" 2H ", 7200)]


@pytest.mark.parametrize("text, seconds", TIMES)
@pytest.mark.parametrize("name", ["stop_after", "save_every"])
def test_times(name, text, seconds):
    assert getattr(read_settings({name: text}), name) == seconds


@pytest.mark.parametrize(
    "text", ["", "0s", "-5m", "30", "h", "1h30", "soon", "1.2.3h", "5m1h", "9" * 400 + "h"]
)
def test_impossible_times(text):
    with pytest.raises(SettingsError, match="RLHF_STOP_AFTER .*: must be a time above 0, such as"):
        seconds_of(text, "RLHF_STOP_AFTER")


@pytest.mark.parametrize(
    "name, value, says",
    [
        ("preset", "smok", "preset: no preset 'smok', choose from cpu, smoke, .*mean smoke?"),
        ("preset", "huge", "no preset 'huge', choose from cpu, smoke, t4, t4x2, h100$"),
        ("track", "sentimnt", "no track 'sentimnt', choose from .*; did you mean sentiment?"),
        ("source", "disk", "no source 'disk', choose from embedded, local, hub$"),
        ("adapter", "dora", "no adapter 'dora', choose from full, lora, qlora; did you mean lora?"),
        ("dtype", "int8", "no dtype 'int8', choose from float32, bfloat16, float16$"),
        ("seed", "-1", "seed '-1': must be a whole number, 0 or more"),
        ("seed", "1.5", "seed '1.5': must be a whole number"),
        ("seed", "two", "seed 'two': must be a whole number"),
        ("seed", "9" * 20, "seed '9+': must be a whole number, 4294967294 or less"),
        ("seed", "9" * 5000, "^seed '9{39}: must be a whole number, 4294967294 or less"),
        ("threads", "1025", "threads '1025': must be a whole number, 1024 or less"),
        ("threads", "4294967294", "threads '4294967294': must be a whole number, 1024 or less"),
        ("threads", "0", "threads '0': must be a whole number, 1 or more"),
        ("steps", "-3", "steps '-3': must be a whole number, 0 or more"),
        ("sed", "1", "no setting 'sed'; did you mean seed?"),
        ("colour", "red", "no setting 'colour'$"),
    ],
)
def test_a_bad_setting_is_one_line(name, value, says):
    with pytest.raises(SettingsError, match=says) as error:
        read_settings({name: value})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["out", "data_dir", "shards"])
def test_a_relative_path_is_that_of_the_current_folder(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert getattr(read_settings({name: "a/b"}), name) == str(tmp_path / "a" / "b")
    assert getattr(read_settings({name: "~/b"}), name) == str(tmp_path / "home" / "b")


@pytest.mark.parametrize("variable, value", [("RLHF_TRACK", "imdb"), ("RLHF_SEED", "x")])
def test_a_bad_variable_is_called_by_its_name(variable, value, monkeypatch):
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError, match=f"^{variable}"):
        read_settings()


def test_names_are_read_in_any_case():
    assert read_settings({"preset": " Smoke ", "track": "TLDR"}).preset == "smoke"


# ---------------------------------------------------------------- the command line


def parsed(*words: str) -> Settings:
    parser = Parser(prog="prog")
    add_settings(parser)
    return read_settings(vars(parser.parse_args(words)))


def test_every_setting_is_an_option(monkeypatch):
    for name, (text, value, _) in VARIABLES.items():
        assert getattr(parsed(f"--{name.replace('_', '-')}", text), name) == value
    assert parsed("--compile", "--no-resume") == Settings(compile=True, resume=False)
    assert FLAGS == {"resume", "checkpointing", "compile", "hand_over"}
    monkeypatch.setenv("RLHF_SEED", "3")
    assert parsed("--steps", "5", "--shards", "/x") == Settings(seed=3, steps=5, shards="/x")


def test_a_command_line_comes_back(monkeypatch):
    chosen = {"seed": 4, "resume": False, "hand_over": True, "stop_after": "90s", "track": None}
    words = as_options(chosen)
    expected = ["--seed", "4", "--no-resume", "--hand-over", "--stop-after", "90s"]
    assert words == expected
    assert parsed(*words) == Settings(seed=4, resume=False, hand_over=True, stop_after=90.0)


@pytest.mark.parametrize(
    "words, says",
    [
        (["--sed", "1"], "prog: no option --sed, did you mean --seed?; --help lists them"),
        (["--sed=1"], "prog: no option --sed=1, did you mean --seed?; --help lists them"),
        (["--zzz"], "prog: no option --zzz; --help lists them"),
        (["--see", "1"], "prog: no option --see, did you mean --seed?; --help lists them"),
        (["--seed"], "prog: argument --seed: expected one argument"),
    ],
)
def test_a_bad_option_is_one_line(words, says, capsys):
    with pytest.raises(SystemExit) as stopped:
        parsed(*words)
    assert stopped.value.code == 2 and capsys.readouterr().err == says + "\n"


# ---------------------------------------------------------------- the environment


def test_another_process_gets_the_same_settings(monkeypatch):
    settings = read_settings({name: other for name, (_, _, other) in VARIABLES.items()})
    for name, text in as_environment(settings).items():
        monkeypatch.setenv(name, text)
    assert read_settings() == settings and as_environment(settings).keys() == NAMES
    assert as_environment(Settings()).keys() == {"RLHF_TRACK", "RLHF_SEED", "RLHF_SOURCE"}


def files(*folders: str) -> dict[str, str]:
    paths = [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]
    return {path.relative_to(ROOT).as_posix(): path.read_text("utf-8") for path in paths}


def test_nothing_outside_run_reads_a_setting_from_the_environment():
    reads = re.compile(r"""(?:environ|getenv)\b.*["']RLHF_""")
    for name, text in files("helpers").items():
        if not name.startswith("helpers/run/"):
            assert not ("environ" in text and '"RLHF_' in text) and not reads.search(text), name


def test_no_other_variable_is_named():
    """Nor in a message, which would tell the reader to set what nothing reads."""
    known = NAMES | {"RLHF_NAME"}
    for name, text in files("helpers", "benchmarks").items():
        assert set(re.findall(r"RLHF_[A-Z_]*[A-Z]", text)) <= known, name


@pytest.mark.parametrize(
    "variable, says",
    [
        ("RLHF_PRESSET", "no variable RLHF_PRESSET; did you mean RLHF_PRESET?"),
        ("RLHF_X", "no variable RLHF_X"),
    ],
)
def test_an_unknown_variable_is_refused(monkeypatch, variable, says):
    monkeypatch.setenv(variable, "1")
    with pytest.raises(SettingsError) as refused:
        read_settings()
    assert str(refused.value) == says


def test_openmp_threads_count_unless_ours_are_set(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert read_settings().threads == 3 and read_settings({"threads": 2}).threads == 2
    monkeypatch.setenv("OMP_NUM_THREADS", "4,2")  # the second is that of loops inside loops
    assert read_settings().threads == 4
    monkeypatch.setenv("RLHF_THREADS", "5")
    assert read_settings().threads == 5
