"""The base model of a run: the learner's own, or weights from elsewhere, read once and not passed
off as the former.
"""

import json

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from helpers.model import GPT, GPTConfig
from helpers.run.base_model import load_base
from helpers.run.checkpoints import CheckpointError, load_stage, save_stage
from helpers.run.import_weights import WeightsError
from helpers.run.setup import Course
from tests.support.courses import course_in
from tests.support.gpt2_files import small_gpt2


@pytest.fixture
def course(tmp_path, monkeypatch):
    """Makes a course of 1-SFT on local rows, with a small "gpt2" beside them."""
    small_gpt2(tmp_path, monkeypatch)
    write_gpt2(tmp_path / "gpt2")

    def make(init: str, **changes) -> Course:
        local = {"source": "local", "data_dir": str(tmp_path), "track": "sentiment"}
        return course_in(tmp_path / "run", "sft", init=init, **local | changes)

    return make


def write_gpt2(folder, context: int = 192, seed: int = 0) -> GPT2LMHeadModel:
    torch.manual_seed(seed)
    model = GPT2LMHeadModel(
        GPT2Config(vocab_size=263, n_positions=context, n_embd=32, n_layer=2, n_head=2)
    )
    model.save_pretrained(folder)
    return model


def test_weights_from_elsewhere_are_kept_with_where_they_are_from(course, tmp_path):
    run = course("gpt2")
    model, info = load_base(run)
    assert (
        run.base_folder == tmp_path / "run" / "checkpoints" / "base"
        and not run.folder("pretrain").exists()
    )
    assert model.config == GPTConfig(264, 192, 2, 2, 32)
    assert (info["stage"], info["config"]["init"], info["config"]["source"]) == (
        "base",
        "gpt2",
        "gpt2",
    )
    assert (
        info["config"]["revision"].startswith("sha256:")
        and info["metrics"] == {}
        and info["parent"] is None
    )
    save_stage(
        run.folder(),
        model,
        run.tokenizer,
        stage="sft",
        track="sentiment",
        config={},
        metrics={},
        parent=run.base_folder,
        data_fingerprint="",
    )
    child = json.loads((run.folder() / "stage.json").read_text())
    first = {name: info["config"][name] for name in ("source", "revision")}
    assert child["parent"] == {
        "stage": "base",
        "checksum": info["files"]["model.safetensors"],
        "base": first,
    }


def test_they_are_read_once(course, monkeypatch):
    first, _ = load_base(course("gpt2"))
    with monkeypatch.context() as patch:
        patch.setattr("helpers.run.base_model.find_weights", lambda *_: pytest.fail("read again"))
        second, _ = load_base(course("gpt2"))
    assert torch.equal(first.wte.weight, second.wte.weight)


def test_other_weights_and_damage_are_read_again(course, tmp_path):
    first, _ = load_base(course("gpt2"))
    write_gpt2(tmp_path / "elsewhere" / "gpt2", seed=1)  # another folder of the same name
    second, _ = load_base(course(str(tmp_path / "elsewhere" / "gpt2")))
    assert not torch.equal(first.wte.weight, second.wte.weight)
    write_gpt2(tmp_path / "elsewhere" / "gpt2", seed=2)  # the same folder with other weights
    third, info = load_base(course(str(tmp_path / "elsewhere" / "gpt2")))
    assert not torch.equal(second.wte.weight, third.wte.weight)
    assert str(tmp_path) not in json.dumps(info)
    (tmp_path / "run" / "checkpoints" / "base" / "config.json").write_text("{}")
    again, _ = load_base(course(str(tmp_path / "elsewhere" / "gpt2")))
    assert torch.equal(again.wte.weight, third.wte.weight)


def test_a_checkpoint_of_this_course_brings_its_tokenizer(course, tmp_path):
    from helpers.rows.embedded import load_tokenizer

    world = load_tokenizer("sentiment")
    model = GPT(GPTConfig(world.vocab_size, 192, 1, 2, 16))
    save_stage(
        tmp_path / "other" / "pretrain",
        model,
        world,
        stage="pretrain",
        track="tldr",
        config={},
        metrics={},
        parent=None,
        data_fingerprint="",
    )
    run = course(str(tmp_path / "other" / "pretrain"))
    ours, info = load_base(run)
    assert run.tokenizer.fingerprint == world.fingerprint and torch.equal(
        ours.wte.weight, model.wte.weight
    )
    assert info["stage"] == "base" and info["config"]["source"] == "pretrain"


def test_rows_that_are_longer_than_the_weights_read_are_refused(course, tmp_path):
    write_gpt2(tmp_path / "gpt2", context=64)
    with pytest.raises(
        WeightsError, match="gpt2 reads at most 64 tokens, but preset smoke has rows of up to 192"
    ):
        load_base(course("gpt2"))
    assert not (tmp_path / "run" / "checkpoints" / "base").exists()


def test_the_learners_own_is_the_checkpoint_of_0_pretrain(course):
    run = course("pretrain", source="embedded")
    with pytest.raises(CheckpointError, match="run 0-Pretrain.ipynb first"):
        load_base(run)
    model = GPT(GPTConfig(run.tokenizer.vocab_size, 64, 1, 2, 16))
    save_stage(
        run.folder("pretrain"),
        model,
        run.tokenizer,
        stage="pretrain",
        track="sentiment",
        config={},
        metrics={},
        parent=None,
        data_fingerprint="",
    )
    ours, info = load_base(run)
    assert info["stage"] == "pretrain" and torch.equal(ours.wte.weight, model.wte.weight)
    with pytest.raises(CheckpointError, match="holds stage 'pretrain', not 'base'"):
        load_stage(run.folder("pretrain"), stage="base", track="sentiment")
