"""setup(), the Course object and the settings that come from outside."""

import json
import os
from pathlib import Path

import pytest
import torch

from helpers.engine.files import plain, write_json, write_text
from helpers.run import session
from helpers.run.presets import load_config
from helpers.run.setup import Course, setup


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch, tmp_path, root):
    """No setting from outside, and results below tmp_path."""
    for name in list(os.environ):
        if name.startswith("RLHF_") or name in (
            "OMP_NUM_THREADS",
            "KAGGLE_KERNEL_RUN_TYPE",
            "COLAB_RELEASE_TAG",
        ):
            monkeypatch.delenv(name)

    monkeypatch.setenv("RLHF_OUT", str(tmp_path / "run"))
    monkeypatch.chdir(root)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def make_course(tmp_path: Path, **changes) -> Course:
    settings = dict(
        notebook="3-PPO",
        stage="ppo",
        preset="smoke",
        track="tldr",
        seed=0,
        out=tmp_path,
        device=torch.device("cpu"),
        dtype=torch.float32,
        threads=1,
        where="local",
        config=None,
    )
    return Course(**{**settings, **changes})


def test_setup_reads_the_settings_and_prints_no_absolute_path(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("RLHF_PRESET", "smoke")
    monkeypatch.setenv("RLHF_SEED", "3")
    monkeypatch.setenv("RLHF_THREADS", "1")
    course = setup("2-RM-Training")
    assert (course.stage, course.preset, course.track, course.seed) == (
        "reward",
        "smoke",
        "tldr",
        3,
    )
    assert (
        course.config == load_config("reward", "smoke", "tldr", 3) and course.source == "embedded"
    )
    assert course.out == tmp_path / "run" and course.threads == torch.get_num_threads() == 1
    printed = capsys.readouterr().out
    assert (
        len(printed.splitlines()) == 4
        and "preset smoke" in printed
        and str(tmp_path) not in printed
    )


def test_setup_seeds_torch(monkeypatch):
    monkeypatch.setenv("RLHF_SEED", "5")
    first = (setup("1-SFT"), torch.rand(3))[1]
    second = (setup("1-SFT"), torch.rand(3))[1]
    assert torch.equal(first, second)


def test_default_run_folder(monkeypatch, capsys, root):
    monkeypatch.delenv("RLHF_OUT")
    assert setup("1-SFT").out == root / "runs" / "cpu-tldr-seed0"
    assert "results in runs/cpu-tldr-seed0" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("RLHF_PRESET", "huge", "no preset 'huge': choose from cpu, smoke"),
        ("RLHF_SOURCE", "disk", "no source 'disk': choose from embedded, local, hub"),
        ("RLHF_SEED", "-1", "RLHF_SEED '-1': must be a whole number, 0 or more"),
        ("RLHF_ADAPTER", "dora", "no adapter 'dora': choose from full, lora, qlora"),
        ("RLHF_SEED", "two", "RLHF_SEED 'two'"),
        ("RLHF_THREADS", "0", "RLHF_THREADS '0': must be a whole number, 1 or more"),
        ("RLHF_DEVICE", "tpu", "RLHF_DEVICE=tpu: not available"),
        ("RLHF_DTYPE", "int8", "RLHF_DTYPE=int8: choose from float32, bfloat16, float16"),
    ],
)
def test_bad_settings_are_named(monkeypatch, name, value, words):
    monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=words):
        setup("3-PPO")


def test_unknown_notebook():
    with pytest.raises(ValueError, match="0-Pretrain, 1-SFT, 2-RM-Training, 3-PPO"):
        setup("4-DPO")


def test_kaggle_is_found_before_colab(monkeypatch):
    assert session.find_place() == "local"
    monkeypatch.setenv("COLAB_RELEASE_TAG", "x")
    assert session.find_place() == "colab"
    monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Interactive")
    assert session.find_place() == "kaggle"


def test_missing_packages_at_home_name_the_command(monkeypatch):
    monkeypatch.setattr(session, "NEEDED", ("torch", "no_such_package_here"))
    with pytest.raises(
        ModuleNotFoundError, match="no_such_package_here not found: run `pip install"
    ):
        session.require_packages("local")


@pytest.mark.parametrize(
    "source, track, needed",
    [
        ("embedded", "tldr", set()),
        ("local", "sentiment", {"scikit-learn"}),
        ("hub", "tldr", {"datasets", "scikit-learn", "rouge-score", "sacrebleu"}),
    ],
)
def test_real_rows_need_more_packages(monkeypatch, source, track, needed):
    monkeypatch.setattr(session.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError) as error:
        session.require_packages("local", source, track)
    missing = set(str(error.value).split(" not found")[0].split(", "))
    assert missing - {*session.NEEDED, *session.NEEDED_IN_NOTEBOOKS} == needed


def test_folders(tmp_path, root):
    course = make_course(tmp_path)
    assert (
        course.folder() == tmp_path / "checkpoints" / "ppo" and course.folder("sft").name == "sft"
    )
    with pytest.raises(ValueError, match="no stage 'dpo': choose from pretrain, sft, reward, ppo"):
        course.folder("dpo")


def test_record_merges_and_forgets_other_settings(tmp_path):
    course = make_course(tmp_path)
    course.record(kl=torch.tensor(1.5), flaws={"copying": 0.25}, gold_gain_ci95=(0.1, 0.2))
    course.record(score=2.0)
    known = course.metrics()
    assert known["kl"] == 1.5 and known["score"] == 2.0 and known["gold_gain_ci95"] == [0.1, 0.2]
    assert known["seconds"] >= 0 and known["stage"] == "ppo" and known["seed"] == 0
    make_course(tmp_path, seed=1).record(score=3.0)
    assert "kl" not in course.metrics() and course.metrics()["seed"] == 1
    assert [path.name for path in (tmp_path / "metrics").iterdir()] == ["ppo.json"]


def test_metrics_of_a_stage_that_has_not_run(tmp_path):
    with pytest.raises(FileNotFoundError, match="run 1-SFT.ipynb first"):
        make_course(tmp_path).metrics("sft")


def test_save_figure(tmp_path):
    plt = pytest.importorskip("matplotlib.pyplot")
    session.set_figure_style()
    fig, ax = plt.subplots()
    ax.plot([1, 2])
    assert make_course(tmp_path).save_figure(fig, "Score & gold") is None
    assert plt.fignum_exists(fig.number), "the cell must still be able to show it"
    assert (tmp_path / "figures" / "ppo-score-gold.png").stat().st_size > 1000
    plt.close(fig)


def test_plain_values():
    assert plain({"a": torch.tensor([1, 2]), "b": float("nan"), 3: (True, None, "x")}) == {
        "a": [1, 2],
        "b": None,
        "3": [True, None, "x"],
    }
    with pytest.raises(TypeError, match="cannot record a set"):
        plain({1})


def test_files_are_written_whole(tmp_path):
    path = tmp_path / "a" / "b.json"
    write_json(path, {"x": 1})
    with pytest.raises(ValueError):
        write_json(path, {"x": float("inf")})
    assert json.loads(path.read_text()) == {"x": 1}
    write_text(path, "one\ntwo\n")
    assert path.read_bytes() == b"one\ntwo\n" and len(list(path.parent.iterdir())) == 1
