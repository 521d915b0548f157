"""The base model of a run: the learner's own, or external weights, imported once and named."""

import json
import shutil

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from helpers.model import GPT, GPTConfig
from helpers.rows.embedded import load_tokenizer
from helpers.run.base_model import load_base
from helpers.run.checkpoints import CheckpointError, load_stage
from helpers.run.course import Course
from helpers.run.import_weights import WeightsError
from helpers.run.setup import setup
from tests.support.courses import course_in
from tests.support.foreign_weights import nanogpt, nanogpt_args, theirs
from tests.support.gpt2_files import small_gpt2
from tests.support.saved import save


@pytest.fixture
def course(tmp_path, monkeypatch):
    """Makes a course of 1-SFT on local rows, with a small "gpt2" beside them."""
    small_gpt2(tmp_path, monkeypatch)
    write_gpt2(tmp_path / "gpt2")

    def make(init: str, **changes) -> Course:
        local = {"source": "local", "data_dir": str(tmp_path), "track": "sentiment"}
        return course_in(tmp_path / "run", "sft", init=init, **local | changes)

    return make


def write_gpt2(folder, context: int = 192, seed: int = 0) -> None:
    torch.manual_seed(seed)
    sizes = dict(vocab_size=263, n_positions=context, n_embd=32, n_layer=2, n_head=2)
    GPT2LMHeadModel(GPT2Config(**sizes)).save_pretrained(folder)


def test_external_weights_are_saved_with_their_origin(course, tmp_path):
    run = course("gpt2")
    model, info = load_base(run)
    assert run.base_folder == tmp_path / "run" / "checkpoints" / "base"
    assert not run.folder("pretrain").exists()
    assert model.config == GPTConfig(264, 192, 2, 2, 32)
    assert info["stage"] == "base" and info["metrics"] == {} and info["parent"] is None
    assert info["config"]["init"] == info["config"]["source"] == "gpt2"
    assert info["config"]["revision"].startswith("sha256:")
    save(run.folder(), model, run.tokenizer, track="sentiment", parent=run.base_folder)
    child = json.loads((run.folder() / "stage.json").read_text())
    origin = {name: info["config"][name] for name in ("source", "revision")}
    checksum = info["files"]["model.safetensors"]
    assert child["parent"] == {"stage": "base", "checksum": checksum, "base": origin}


def test_they_are_imported_once(course, monkeypatch):
    first, _ = load_base(course("gpt2"))
    monkeypatch.setattr("helpers.run.base_model.find_weights", lambda *_: pytest.fail("again"))
    second, _ = load_base(course("gpt2"))
    assert torch.equal(first.wte.weight, second.wte.weight)


def test_other_weights_and_damage_are_imported_again(course, tmp_path):
    other, weights = str(tmp_path / "elsewhere" / "gpt2"), []
    weights.append(load_base(course("gpt2"))[0].wte.weight)
    for seed in (1, 2):  # another folder of the same name, then the same folder with other weights
        write_gpt2(other, seed=seed)
        model, info = load_base(course(other))
        weights.append(model.wte.weight)
        assert not torch.equal(weights[-2], weights[-1])
    assert str(tmp_path) not in json.dumps(info)
    (tmp_path / "run" / "checkpoints" / "base" / "config.json").write_text("{}")
    assert torch.equal(load_base(course(other))[0].wte.weight, weights[-1])


def test_another_config_beside_the_same_weights_is_imported_again(course, tmp_path):
    assert load_base(course("gpt2"))[0].config.heads == 2
    path = tmp_path / "gpt2" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"n_head": 4}))
    assert load_base(course("gpt2"))[0].config.heads == 4


def test_a_raw_file_is_obeyed_or_refused(course, tmp_path):
    model = theirs(263, heads=4, context=192)
    content = {"model": nanogpt(model), "model_args": nanogpt_args(model)}
    torch.save(content, tmp_path / "raw.pt")
    assert load_base(course(str(tmp_path / "raw.pt")))[0].config.heads == 4
    torch.save(content["model"], tmp_path / "other.pt")
    with pytest.raises(WeightsError, match="other.pt can't be used: .*--heads"):
        load_base(course(str(tmp_path / "other.pt")))


def test_a_checkpoint_of_this_course_brings_its_tokenizer(course, tmp_path):
    world = load_tokenizer("sentiment")
    model = GPT(GPTConfig(world.vocab_size, 192, 1, 2, 16))
    save(tmp_path / "other" / "pretrain", model, world, "pretrain")
    run = course(str(tmp_path / "other" / "pretrain"))
    loaded, info = load_base(run)
    assert run.tokenizer.fingerprint == world.fingerprint
    assert torch.equal(loaded.wte.weight, model.wte.weight)
    assert info["stage"] == "base" and info["config"]["source"] == "pretrain"


def test_rows_that_are_longer_than_the_context_are_refused(course, tmp_path):
    write_gpt2(tmp_path / "gpt2", context=64)
    message = "gpt2 reads at most 64 tokens, but preset smoke has rows of up to 192"
    with pytest.raises(WeightsError, match=message):
        load_base(course("gpt2"))
    assert not (tmp_path / "run" / "checkpoints" / "base").exists()


def test_the_learners_own_is_the_checkpoint_of_0_pretrain(course):
    run = course("pretrain", source="embedded")
    with pytest.raises(CheckpointError, match="run 0-Pretrain.ipynb first"):
        load_base(run)
    model = GPT(GPTConfig(run.tokenizer.vocab_size, 64, 1, 2, 16))
    save(run.folder("pretrain"), model, run.tokenizer, "pretrain", track="sentiment")
    loaded, info = load_base(run)
    assert info["stage"] == "pretrain" and torch.equal(loaded.wte.weight, model.wte.weight)
    with pytest.raises(CheckpointError, match="holds stage 'pretrain', not 'base'"):
        load_stage(run.folder("pretrain"), stage="base", track="sentiment")


def test_only_sft_may_change_the_base_model(course, tmp_path):
    """Later stages refuse another one, or none, in their first line: nothing is imported."""
    write_gpt2(tmp_path / "b", seed=1)
    run = course(str(tmp_path / "gpt2"))
    model, info = load_base(run)
    save(run.folder(), model, run.tokenizer, track="sentiment", parent=run.base_folder)
    local = {"source": "local", "data_dir": str(tmp_path), "track": "sentiment", "threads": 1}
    local |= {"out": str(run.out), "preset": "smoke"}
    for notebook in ("2-RM-Training", "3-PPO"):
        later = setup(notebook, init=str(tmp_path / "gpt2"), **local)
        assert torch.equal(load_base(later)[0].wte.weight, model.wte.weight)
        for init, asks in ((str(tmp_path / "b"), r"b \(\w{8}\)"), ("pretrain", "pretrain")):
            says = rf"sft was trained from gpt2 \(\w{{8}}\), but this run asks for {asks}: name"
            with pytest.raises(CheckpointError, match=says):
                setup(notebook, init=init, **local)
    assert json.loads((run.base_folder / "stage.json").read_text()) == info
    load_base(course(str(tmp_path / "b")))  # 1-SFT begins again, and is stopped
    setup("2-RM-Training", init=str(tmp_path / "gpt2"), **local)
    with pytest.raises(CheckpointError, match="was trained from another base checkpoint"):
        load_stage(run.folder(), stage="sft", track="sentiment")
    shutil.rmtree(run.base_folder)
    with pytest.raises(CheckpointError, match=r"from gpt2 \(\w{8}\), but there is no .*base: rest"):
        setup("2-RM-Training", init=str(tmp_path / "gpt2"), **local)
    with pytest.raises(CheckpointError, match="no checkpoint at .*base: run 1-SFT.ipynb first"):
        load_base(later)
    assert not run.base_folder.exists()
