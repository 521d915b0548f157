"""setup(), the Course object and the settings that come from outside."""

import json
import os
from dataclasses import replace

import matplotlib.pyplot as plt
import pytest
import torch
from safetensors import SafetensorError

from helpers.engine.files import ROOT, plain, write_json, write_text
from helpers.engine.parser import SettingsError
from helpers.model import GPT, GPTConfig
from helpers.records import Demonstration, Document
from helpers.run import checkpoints, session, setup as setting_up
from helpers.run.checkpoints import CheckpointError, load_stage
from helpers.run.course import Course
from helpers.run.folders import NOTEBOOKS
from helpers.run.presets import load_config
from helpers.run.report import ReportError
from helpers.run.settings import Settings
from helpers.run.setup import setup
from tests.support.courses import course_in


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch, tmp_path, root):
    """No setting from outside, and results below tmp_path."""
    others = ("OMP_NUM_THREADS", "KAGGLE_KERNEL_RUN_TYPE", "COLAB_RELEASE_TAG")
    for name in list(os.environ):
        if name.startswith("RLHF_") or name in others:
            monkeypatch.delenv(name)
    monkeypatch.setenv("RLHF_OUT", str(tmp_path / "run"))
    monkeypatch.chdir(root)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def test_setup_reads_the_settings_and_prints_no_absolute_path(monkeypatch, capsys, tmp_path):
    for name, value in {"PRESET": "smoke", "SEED": "3", "THREADS": "1"}.items():
        monkeypatch.setenv(f"RLHF_{name}", value)
    course = setup("0-Pretrain")
    assert (course.stage, course.preset, course.seed) == ("pretrain", "smoke", 3)
    assert course.config == load_config("pretrain", "smoke", "tldr", 3)
    assert (course.track, course.source) == ("tldr", "embedded")
    assert course.out == tmp_path / "run" and course.threads == torch.get_num_threads() == 1
    printed = capsys.readouterr().out
    assert len(printed.splitlines()) == 4 and str(tmp_path) not in printed
    assert "preset smoke" in printed


def test_setup_seeds_torch(monkeypatch):
    monkeypatch.setenv("RLHF_SEED", "5")
    first, second = ((setup("1-SFT"), torch.rand(3))[1] for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize(
    "notebook, precision",
    [("0-Pretrain", "high"), ("1-SFT", "high"), ("2-RM-Training", "high"), ("3-PPO", "highest")],
)
def test_a_gpu_multiplies_float32_in_tf32_but_in_ppo(notebook, precision, monkeypatch, capsys):
    """PPO's ratio must start at 1, and TF32 gives a row other bits in a smaller batch."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    monkeypatch.setattr("helpers.run.setup.choose_device", lambda wanted: torch.device("cuda"))
    monkeypatch.setattr("helpers.run.setup.summary", lambda course: "")
    monkeypatch.setenv("RLHF_DTYPE", "float16")
    try:
        assert setup(notebook, preset="smoke").device.type == "cuda"
        assert torch.get_float32_matmul_precision() == precision
    finally:
        torch.set_float32_matmul_precision(before)


def test_default_run_folder(monkeypatch, capsys, root):
    monkeypatch.delenv("RLHF_OUT")
    assert setup("1-SFT").out == root / "runs" / "cpu-tldr-seed0"
    assert "results in runs/cpu-tldr-seed0" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("RLHF_PRESET", "huge", "RLHF_PRESET: no preset 'huge', choose from cpu, smoke"),
        ("RLHF_SOURCE", "disk", "RLHF_SOURCE: no source 'disk', choose from embedded, local, hub"),
        ("RLHF_SEED", "-1", "RLHF_SEED '-1': must be a whole number, 0 or more"),
        ("RLHF_DEVICE", "tpu", "device 'tpu' is not available, choose from cpu"),
        ("RLHF_INIT", "gpt2", "init gpt2: an embedded world has a tokenizer of its own"),
    ],
)
def test_bad_settings_are_named(monkeypatch, name, value, words):
    monkeypatch.setenv(name, value)
    with pytest.raises((SettingsError, ValueError), match=words):
        setup("3-PPO")


def test_missing_checkpoints_are_named_at_once(tmp_path, capsys):
    base = tmp_path / "checkpoints" / "pretrain"
    for missing in (["0-Pretrain", "1-SFT"], ["1-SFT"]):
        setup("2-RM-Training", preset="smoke", out=str(tmp_path))
        lines = [x for x in capsys.readouterr().out.splitlines() if x.startswith("missing")]
        assert [x.split(":")[0] for x in lines] == [
            f"missing    the checkpoint of {notebook}" for notebook in missing
        ]
        base.mkdir(parents=True, exist_ok=True)
        (base / "stage.json").write_text("{}")
    setup("0-Pretrain", preset="smoke", out=str(tmp_path))
    assert "missing    the" not in capsys.readouterr().out


def test_a_read_only_repository_on_kaggle_writes_to_its_working_folder(monkeypatch):
    monkeypatch.setattr(setting_up.os, "access", lambda path, mode: False)
    course = setting_up.make_course("0-Pretrain", Settings(preset="smoke"), "kaggle")
    assert course.out.as_posix() == "/kaggle/working/runs/smoke-tldr-seed0"
    course = setting_up.make_course("0-Pretrain", Settings(preset="smoke"), "local")
    assert course.out.is_relative_to(ROOT)


def test_unknown_notebook():
    with pytest.raises(ValueError, match="0-Pretrain, 1-SFT, 2-RM-Training, 3-PPO, 1b-Adapters"):
        setup("4-DPO")


def test_a_bonus_notebook_has_a_stages_settings_and_results_of_its_own():
    sft, bonus = setup("1-SFT", preset="smoke"), setup("1b-Adapters", preset="smoke")
    assert bonus.config == sft.config and bonus.folder("sft") == sft.folder()
    for course in (sft, bonus):
        course.record(heldout_loss=1.0)
    for place in (Course.folder, Course.metrics_path):
        assert place(bonus).stem == "1b-adapters" and place(sft).stem == "sft"
    assert bonus.snapshots_folder.name == "1b-adapters"
    assert sft.metrics()["heldout_loss"] == bonus.metrics()["heldout_loss"] == 1.0


def test_kaggle_is_found_before_colab(monkeypatch):
    assert session.find_platform() == "local"
    monkeypatch.setenv("COLAB_RELEASE_TAG", "x")
    assert session.find_platform() == "colab"
    monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Interactive")
    assert session.find_platform() == "kaggle"


def test_missing_packages_at_home_name_the_command(monkeypatch):
    monkeypatch.setattr(session, "NEEDED", ["torch", "no_such_package_here"])
    with pytest.raises(ModuleNotFoundError, match="no_such_package_here not found: run `pip i"):
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
    assert missing - {*session.NEEDED, "ipywidgets"} == needed


def test_folders(tmp_path, root):
    course = course_in(tmp_path)
    assert course.folder() == tmp_path / "checkpoints" / "ppo"
    assert course.folder("sft").name == "sft"
    with pytest.raises(ValueError, match="no stage 'dpo': choose from pretrain, sft, reward, ppo"):
        course.folder("dpo")


def test_record_merges_and_forgets_other_settings(tmp_path):
    course = course_in(tmp_path)
    course.record(kl=torch.tensor(1.5), flaws={"copying": 0.25}, gold_gain_ci95=(0.1, 0.2))
    course.record(score=2.0)
    known = course.metrics()
    assert known["kl"] == 1.5 and known["score"] == 2.0 and known["gold_gain_ci95"] == [0.1, 0.2]
    assert known["seconds"] >= 0 and known["stage"] == "ppo" and known["seed"] == 0
    course_in(tmp_path, seed=1).record(score=3.0)
    assert "kl" not in course.metrics() and course.metrics()["seed"] == 1
    assert [path.name for path in (tmp_path / "metrics").iterdir()] == ["ppo.json"]


@pytest.mark.parametrize("text", ["{", "[]", "", "\x00"])
def test_a_damaged_record_is_written_anew(text, tmp_path, capsys):
    """It ends no stage after its training; where its numbers are needed, it is named."""
    course, path = course_in(tmp_path), tmp_path / "metrics" / "ppo.json"
    path.parent.mkdir()
    path.write_text(text)
    with pytest.raises(ReportError, match="ppo.json is damaged .*: run 3-PPO.ipynb again"):
        course.metrics()
    course.record(kl=1.5)
    assert course.metrics()["kl"] == 1.5 and "writing it anew" in capsys.readouterr().out


def test_metrics_of_a_stage_that_has_not_run(tmp_path):
    with pytest.raises(FileNotFoundError, match="run 1-SFT.ipynb first"):
        course_in(tmp_path).metrics("sft")


def test_save_figure(tmp_path):
    session.set_figure_style()
    fig, ax = plt.subplots()
    ax.plot([1, 2])
    assert course_in(tmp_path).save_figure(fig, "Score & gold") is None
    assert plt.fignum_exists(fig.number), "the cell must still be able to show it"
    assert (tmp_path / "figures" / "ppo-score-gold.png").stat().st_size > 1000
    plt.close(fig)


def test_plain_values():
    values = {"a": torch.tensor([1, 2]), "b": float("nan"), 3: (True, None, "x")}
    assert plain(values) == {"a": [1, 2], "b": None, "3": [True, None, "x"]}
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


# ---------------------------------------------------------------- training


def test_options_reach_the_course(tmp_path, monkeypatch):
    monkeypatch.setenv("RLHF_SEED", "1")
    monkeypatch.setenv("RLHF_ADAPTER", "qlora")
    options = {"preset": "smoke", "seed": 5, "out": str(tmp_path / "other"), "dtype": "bfloat16"}
    course = setup("3-PPO", **options, stop_after="90s", threads="1", save_steps=7)
    assert (course.seed, course.config.seed, course.out) == (5, 5, tmp_path / "other")
    assert course.config.adapter == "qlora" and course.dtype == torch.bfloat16
    assert course.deadline == course.started + 90 and course.snapshots().every_steps == 7
    assert setup("2-RM-Training").config == load_config("reward", seed=1)
    with pytest.raises(SettingsError, match="no setting 'sed'; did you mean seed?"):
        setup("3-PPO", sed=5)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_cpu_samples_in_the_products_number_format(tmp_path, device):
    course = course_in(tmp_path, device=torch.device(device), dtype=torch.bfloat16)
    assert course.sampling_dtype == (torch.bfloat16 if device == "cpu" else torch.float32)


def test_a_loop_has_its_log_and_snapshots(tmp_path):
    course = course_in(tmp_path, "reward", dtype=torch.bfloat16, save_every=5.0)
    seen: list = []
    loop, judge = course.loop(watch=seen.append, shards="abc"), course.loop("judge")
    assert (loop.title, judge.title, loop.dtype) == ("reward", "judge", torch.bfloat16)
    assert course.loop(title="labels").title == "labels"
    assert loop.watch == seen.append and judge.watch is None
    assert loop.snapshots.log == tmp_path / "logs/reward.jsonl"
    assert judge.snapshots.folder == tmp_path / "snapshots/reward/judge"
    assert loop.snapshots.settings["shards"] == "abc" and loop.snapshots.every == 5.0


def test_a_run_goes_on_only_with_the_settings_it_began_with(tmp_path):
    """All that changes its numbers; not what only the machine has to do with."""
    settings = course_in(tmp_path, "sft").snapshots().settings
    assert {"lr", "batch_size", "seed", "track", "source", "checkpoint pretrain"} <= settings.keys()
    assert not {"micro_batch", "dtype", "threads", "device"} & settings.keys()


@pytest.mark.parametrize("stage", NOTEBOOKS)
def test_a_run_goes_on_only_with_the_tokenizer_it_began_with(stage, tmp_path):
    fingerprints = [
        course_in(tmp_path, stage, track=track).snapshots().settings["tokenizer"]
        for track in ("tldr", "tldr", "sentiment")
    ]
    assert fingerprints[0] == fingerprints[1] != fingerprints[2] and len(fingerprints[0]) == 12


def test_a_run_goes_on_only_with_the_rows_it_began_with(tmp_path, monkeypatch):
    """As many rows with other contents are other rows."""

    def settings(text: str) -> dict:
        rows = [Demonstration("a", "b"), Demonstration("a", text)]
        monkeypatch.setattr("helpers.rows.load.load_track", lambda *args: (rows, "2 rows"))
        course = course_in(tmp_path, "sft")
        course.rows("demonstrations", "train")
        course.rows("demonstrations", "heldout")
        course.rows("documents", "train")  # 1-SFT reads them, but rarely trains on them
        return course.snapshots().settings

    assert settings("c") == settings("c") != settings("d")
    assert len(settings("c")["fingerprint of the demonstrations"]) == 12
    assert "fingerprint of the documents" not in settings("c")


def test_a_run_that_adapts_its_base_model_goes_on_only_with_its_documents(tmp_path, monkeypatch):
    adapts = replace(load_config("sft", "smoke", "tldr", 0), adapt_epochs=1.0)

    def settings(text: str) -> dict:
        monkeypatch.setattr("helpers.rows.load.load_track", lambda *args: ([Document(text)], "1"))
        course = course_in(tmp_path, "sft", config=adapts)
        course.rows("documents", "train")
        return course.snapshots("copying").settings

    assert settings("c") == settings("c") != settings("d")


@pytest.mark.parametrize(
    "number, limit, said", [(120, None, True), (500, None, False), (120, 40, False)]
)
def test_few_rows_are_named_when_they_are_read(tmp_path, monkeypatch, capsys, number, limit, said):
    monkeypatch.setattr(
        "helpers.rows.load.load_track",
        lambda *args: ([Demonstration("a", str(i)) for i in range(number)][:limit], "rows"),
    )
    monkeypatch.setattr("helpers.run.course.Course.limits", lambda self, room: None)
    course = course_in(tmp_path, "sft", source="local")
    course.rows("demonstrations", "train", limit)
    line = "Few demonstrations: with fewer than 300 an example in 1-SFT may fail"
    assert (line in capsys.readouterr().out) == said


def test_what_could_not_be_saved_is_refused_before_the_training(tmp_path):
    course = course_in(tmp_path, "sft")
    course.folder().mkdir(parents=True)
    with pytest.raises(CheckpointError, match="sft is not a checkpoint of this course: not repla"):
        course.loop()


def test_only_the_main_run_of_a_stage_hands_over(tmp_path):
    course = course_in(tmp_path, "reward", hand_over=True)
    assert course.snapshots().hand_over and course.snapshots("reward").hand_over
    assert not course.snapshots("judge").hand_over


def test_a_trial_is_kept_apart(tmp_path):
    snapshots = course_in(tmp_path, "sft", steps=5).snapshots()
    assert snapshots.limit == 5 and snapshots.log.name == "sft-trial.jsonl"
    assert snapshots.folder.name == "sft-trial"


def test_starting_over_deletes_the_snapshots(tmp_path):
    old = course_in(tmp_path, "sft").snapshots().folder / "step-00000003"
    old.mkdir(parents=True)
    course_in(tmp_path, "sft").snapshots()
    assert old.exists()
    course_in(tmp_path, "sft", resume=False).snapshots()
    assert not old.exists()


def test_a_stage_ends_once(tmp_path):
    """Its checkpoint and its record say the same, and its snapshots go; curves are not saved."""
    course = course_in(tmp_path, "sft", dtype=torch.bfloat16)
    course.loop()
    (course.snapshots_folder / "sft" / "step-00000003").mkdir(parents=True)
    (course.out / "snapshots" / "ppo").mkdir(parents=True)
    model = GPT(GPTConfig(course.tokenizer.vocab_size, 32, 1, 2, 16))
    metrics = {"heldout_loss": torch.tensor(1.5), "stop_rate": 0.5}
    course.finish(model, metrics, parent=None, data_fingerprint="abc", curves={"loss": {}})
    saved, info = load_stage(course.folder(), stage="sft", track="tldr")
    assert torch.equal(saved.wte.weight, model.wte.weight)
    assert info["metrics"] == {"heldout_loss": 1.5, "stop_rate": 0.5}
    assert info["data_fingerprint"] == "abc" and info["config"] == plain(course.facts())
    assert info["config"]["dtypes"] == {"sft": ["bfloat16"]}
    assert course.facts()["preset"] == "smoke" and course.facts()["lr"] == course.config.lr
    recorded = course.metrics()
    assert recorded["curves"] == {"loss": {}} and recorded["heldout_loss"] == 1.5
    assert not course.snapshots_folder.exists() and (course.out / "snapshots" / "ppo").exists()


def test_a_full_disk_at_the_end_takes_the_place_of_older_snapshots(tmp_path, monkeypatch):
    """The last one stays until the checkpoint is written; without room the error says so."""
    course = course_in(tmp_path, "sft")
    model = GPT(GPTConfig(course.tokenizer.vocab_size, 32, 1, 2, 16))
    for step in (3, 6):
        (course.snapshots_folder / "sft" / f"step-{step:08d}").mkdir(parents=True)
    left, save_file = [], checkpoints.save_file

    def when_there_is_room(*args, **options):
        left.append([path.name for path in (course.snapshots_folder / "sft").iterdir()])
        if len(left[-1]) > room:
            raise SafetensorError("No space left on device (os error 28)")
        save_file(*args, **options)

    monkeypatch.setattr(checkpoints, "save_file", when_there_is_room)
    room = 0
    with pytest.raises(OSError, match=r"could not save to .*sft: No space left on device .*free\)"):
        course.finish(model, {}, parent=None, data_fingerprint="")
    assert left[1:] == [["step-00000006"]] and not (tmp_path / "checkpoints" / "sft").exists()
    assert not (tmp_path / "metrics").exists()
    room = 1
    course.finish(model, {}, parent=None, data_fingerprint="")
    assert (course.folder() / "stage.json").exists() and not course.snapshots_folder.exists()
