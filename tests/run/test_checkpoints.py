"""Checkpoints: transformers opens them, damage is named, interruptions leave the old one."""

import hashlib
import json
import os

import pytest
import safetensors.torch
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from helpers.batching import right_pad
from helpers.model import GPT, GPTConfig, RewardModel
from helpers.run import checkpoints
from helpers.run.checkpoints import (
    CheckpointError,
    from_transformers_state,
    load_stage,
    to_transformers_state,
)
from tests.support import saved
from tests.support.tensors import shaken
from tests.support.tiny_models import ROWS, tiny

CONFIG = GPTConfig(vocab_size=60, context=24, layers=2, heads=2, channels=16)


class DummyTokenizer:
    """The interface that save_stage and load_stage use, and nothing else."""

    vocab_size, eos_id, pad_id = 60, 0, 1

    def __init__(self, name: str = "dummy"):
        self.name = name
        self.fingerprint = hashlib.sha256(name.encode()).hexdigest()

    def save(self, folder) -> None:
        for file in ("tokenizer.json", "tokenizer_config.json"):
            (folder / file).write_text(json.dumps({"name": self.name}))


def model_of(seed: int = 0, reward: bool = False) -> GPT | RewardModel:
    model = tiny(CONFIG, seed)
    return shaken(RewardModel(model)) if reward else model


def save(folder, model=None, stage="sft", **changes):
    facts = dict(config={"lr": 0.1}, metrics={"loss": 2.5}, data_fingerprint="abc") | changes
    saved.save(folder, model or model_of(), DummyTokenizer(), stage, **facts)


def load(folder, **changes):
    return load_stage(
        folder, **dict(stage="sft", track="tldr", tokenizer=DummyTokenizer()) | changes
    )


def same_weights(a, b) -> bool:
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# ---------------------------------------------------------------- there and back


@pytest.mark.parametrize("reward", [False, True])
def test_weights_come_back_as_they_were(tmp_path, reward):
    model, stage = model_of(reward=reward), "reward" if reward else "sft"
    save(tmp_path / "a", model, stage=stage)
    loaded, info = load(tmp_path / "a", stage=stage)
    assert type(loaded) is type(model) and same_weights(loaded, model)
    assert (info["stage"], info["track"], info["parent"]) == (stage, "tldr", None)
    assert info["config"] == {"lr": 0.1} and info["metrics"] == {"loss": 2.5}
    assert info["data_fingerprint"] == "abc"
    assert info["tokenizer"]["name"] == "dummy" and info["versions"]["torch"] == torch.__version__
    settings = json.loads((tmp_path / "a/config.json").read_text())
    state = to_transformers_state(model)
    assert same_weights(from_transformers_state(CONFIG, state, settings), model)


def opened(kind, folder):
    """The model as transformers opens it; every weight is used."""
    model, notes = kind.from_pretrained(folder, output_loading_info=True)
    assert not any(notes[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    return model.eval()


@torch.no_grad()
def test_transformers_opens_a_language_model(tmp_path):
    model, ids = model_of(), torch.randint(0, 60, (3, 24))
    save(tmp_path / "a", model)
    theirs = opened(AutoModelForCausalLM, tmp_path / "a")
    torch.testing.assert_close(theirs(ids).logits, model(ids), atol=1e-4, rtol=1e-5)
    settings = theirs.generation_config
    assert (settings.top_k, settings.temperature, settings.do_sample) == (0, 1.0, True)
    assert (settings.eos_token_id, settings.pad_token_id) == (0, 1)


@torch.no_grad()
def test_transformers_opens_the_head_of_a_reward_model_normalised_or_not(tmp_path):
    model, (ids, mask) = model_of(reward=True), right_pad(ROWS, 1)
    for name in ("raw", "normalised"):
        save(tmp_path / name, model, "reward")
        theirs = opened(AutoModelForSequenceClassification, tmp_path / name)
        heads = theirs(ids, attention_mask=mask.long()).logits.squeeze(1)
        ours, logprobs = model.head_and_logprobs(ids, mask, mask)
        logprobs = logprobs.sum(1)
        torch.testing.assert_close(heads - model.head_mean, ours, atol=1e-4, rtol=1e-5)
        model.normalise(ours, logprobs)


def test_transformers_own_files_load_here(tmp_path):
    """Also without the prefix and with the buffers that the released gpt2 weights carry."""
    model = model_of()
    save(tmp_path / "a", model)
    state = AutoModelForCausalLM.from_pretrained(tmp_path / "a").state_dict()
    released = {name.removeprefix("transformer."): weight for name, weight in state.items()}
    del released["lm_head.weight"]
    released["h.0.attn.bias"] = torch.ones(1, 1, 24, 24).tril()
    for weights in (state, released):
        assert same_weights(from_transformers_state(CONFIG, weights), model)
    del released["ln_f.bias"]
    with pytest.raises(RuntimeError, match="ln_f.bias"):
        from_transformers_state(CONFIG, released)


def test_a_child_names_its_parent(tmp_path):
    save(tmp_path / "pretrain", model_of(1), stage="pretrain")
    save(tmp_path / "sft", parent=tmp_path / "pretrain")
    _, info = load(tmp_path / "sft")
    weights = (tmp_path / "pretrain" / "model.safetensors").read_bytes()
    assert info["parent"] == {"stage": "pretrain", "checksum": hashlib.sha256(weights).hexdigest()}
    with pytest.raises(CheckpointError, match="no checkpoint"):
        save(tmp_path / "b", parent=tmp_path / "nothing")
    assert not (tmp_path / "b").exists()


def test_a_child_of_another_parent_is_refused_with_both(tmp_path):
    save(tmp_path / "pretrain", model_of(1), stage="pretrain")
    save(tmp_path / "sft", parent=tmp_path / "pretrain")
    save(tmp_path / "pretrain", model_of(2), stage="pretrain")
    message = r"another pretrain checkpoint \(\w{8}\) than .*pretrain is now \(\w{8}\): run 1-SFT"
    with pytest.raises(CheckpointError, match=message):
        load(tmp_path / "sft")
    save(tmp_path / "pretrain", model_of(1), stage="pretrain")  # the same weights again
    load(tmp_path / "sft")


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(("stage", "notebook"), checkpoints.MAKERS.items())
def test_a_missing_checkpoint_names_its_notebook(tmp_path, stage, notebook):
    with pytest.raises(CheckpointError, match=f"no checkpoint at .*none: run {notebook} first"):
        load(tmp_path / "none", stage=stage)


def test_foreign_folders_are_refused_and_never_replaced(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(CheckpointError, match="no stage.json.*1-SFT.ipynb"):
        load(tmp_path)
    with pytest.raises(CheckpointError, match="not replacing"):
        save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    for content in ("{", "[]", '{"name": "someone else\'s"}'):
        (tmp_path / "stage.json").write_text(content)
        with pytest.raises(CheckpointError, match="stage.json is (damaged|not one)"):
            load(tmp_path)


WHOLE = dict.fromkeys(("config.json", "model.safetensors", "tokenizer.json"), "0" * 64)
DAMAGE = [
    ("files", 3),
    ("files", {}),
    ("files", {"model.safetensors": 1}),
    ("files", WHOLE | {"../secret.txt": "0" * 64}),
    ("files", WHOLE | {"/etc/hostname": "0" * 64}),
    ("files", WHOLE | {"a" * 5000: "0" * 64}),
    ("files", WHOLE | {"config.json": "abc"}),
    ("tokenizer", "dummy"),
    ("tokenizer", {"name": "dummy", "fingerprint": "two\nlines"}),
    ("tokenizer", {"name": "dummy"}),
    ("stage", "dpo"),
    ("stage", ["sft"]),
    ("track", None),
    ("config", None),
    ("metrics", []),
    ("parent", "pretrain"),
    ("parent", {"stage": "../x", "checksum": "abc"}),
    ("parent", {"stage": "pretrain", "checksum": "abc", "base": 3}),
]


@pytest.mark.parametrize(("name", "value"), DAMAGE)
def test_a_damaged_stage_json_is_one_line(tmp_path, name, value):
    save(tmp_path / "a")
    path = tmp_path / "a" / "stage.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {name: value}))
    with pytest.raises(CheckpointError, match=f"stage.json is damaged: '{name}' is ") as error:
        load(tmp_path / "a")
    assert "\n" not in str(error.value) and "run 1-SFT.ipynb first" in str(error.value)


def test_a_stage_json_that_can_not_be_read_is_one_line(tmp_path):
    save(tmp_path / "a")
    path = tmp_path / "a" / "stage.json"
    for content in (b"", b"\xff\xfe", b"[" * 10**5, b'{"stage": ' + b"9" * 5000 + b"}"):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match="stage.json is damaged"):
            load(tmp_path / "a")
    path.unlink()
    path.mkdir()
    with pytest.raises(CheckpointError, match="stage.json is damaged"):
        load(tmp_path / "a")


def edited(folder, name: str, content: bytes) -> None:
    """Another content for a file of a checkpoint, with its checksum."""
    (folder / name).write_bytes(content)
    info = json.loads((folder / "stage.json").read_text())
    info["files"][name] = hashlib.sha256(content).hexdigest()
    (folder / "stage.json").write_text(json.dumps(info))


NUMBERS = {"surprise_weight": 0.3, "head_mean": 0.0, "logprob_mean": 0}
EDITS = [
    ({"n_layer": 3}, {}, "n_layer 3, but its weights have 2"),
    ({"n_head": "2"}, {}, "says n_head '2', and a whole number is needed"),
    ({"vocab_size": None}, {}, "says vocab_size None"),
    ({}, {"transformer.ln_f.bias": torch.full((16,), torch.nan)}, "ln_f.bias holds numbers that"),
    ({}, {"transformer.ln_f.bias": torch.ones(3)}, r"has ln_f.bias \(3,\) instead of \(16,\)"),
    (NUMBERS, {"score.weight": torch.ones(1, 16)}, "a RewardModel is no model of stage 'sft'"),
    ({}, {"score.weight": torch.ones(1, 16)}, "says surprise_weight None, and a number is needed"),
    (
        NUMBERS | {"head_mean": "1"},
        {"score.weight": torch.ones(1, 16)},
        "says head_mean '1', and a number is needed",
    ),
    ({}, {"score.weight": torch.ones(2, 16)}, r"has score.weight \(2, 16\) instead of \(1, 16\)"),
]


@pytest.mark.parametrize(("config", "weights", "says"), EDITS)
def test_an_edited_checkpoint_is_one_line_also_with_right_checksums(
    tmp_path, config, weights, says
):
    folder = tmp_path / "a"
    save(folder)
    settings = json.loads((folder / "config.json").read_text()) | config
    edited(folder, "config.json", json.dumps(settings).encode())
    state = to_transformers_state(model_of()) | weights
    edited(folder, "model.safetensors", safetensors.torch.save(state))
    message = f"a is damaged .*{says}.*: run 1-SFT.ipynb again"
    with pytest.raises(CheckpointError, match=message) as error:
        load(folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
@pytest.mark.parametrize("content", [b"", b"[]", b"\xff" * 40])
def test_a_file_that_is_no_such_file_is_one_line(tmp_path, name, content):
    save(tmp_path / "a")
    edited(tmp_path / "a", name, content)
    with pytest.raises(CheckpointError, match="a is damaged .*: run 1-SFT.ipynb again"):
        load(tmp_path / "a")


MIX_UPS = [
    ({"stage": "reward"}, "holds stage 'sft', not 'reward': 2-RM-Training.ipynb"),
    ({"track": "sentiment"}, "track 'tldr', but this run is on track 'sentiment'"),
    ({"tokenizer": DummyTokenizer("other")}, r"tokenizer .dummy. \(.{8}\), .* .other. \(.{8}\)"),
]


@pytest.mark.parametrize(("asked", "message"), MIX_UPS)
def test_a_checkpoint_of_something_else_is_refused_with_both_names(tmp_path, asked, message):
    save(tmp_path / "a")
    with pytest.raises(CheckpointError, match=message):
        load(tmp_path / "a", **asked)
    load(tmp_path / "a", tokenizer=None)  # no tokenizer given, none compared


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "tokenizer.json"])
def test_damage_is_noticed(tmp_path, file):
    save(tmp_path / "a")
    path = tmp_path / "a" / file
    content = bytearray(path.read_bytes())
    content[-2] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=f"{file} has changed.*checksum"):
        load(tmp_path / "a")
    path.unlink()
    with pytest.raises(CheckpointError, match=f"{file} is missing"):
        load(tmp_path / "a")


@pytest.mark.parametrize(("stage", "reward"), [("reward", False), ("sft", True), ("dpo", False)])
def test_stage_and_model_must_belong_together(tmp_path, stage, reward):
    with pytest.raises(ValueError, match=f"no checkpoint of stage '{stage}'"):
        save(tmp_path / "a", model_of(reward=reward), stage=stage)
    with pytest.raises(ValueError, match="no stage 'dpo'"):
        load(tmp_path / "a", stage="dpo")


# ---------------------------------------------------------------- interruptions


def test_a_save_replaces_the_old_checkpoint_and_leaves_nothing_beside_it(tmp_path):
    save(tmp_path / "a", model_of(1))
    save(tmp_path / "a", model_of(2))
    assert same_weights(load(tmp_path / "a")[0], model_of(2))
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("place", ["save_file", "write_json", "sha256", "replace"])
@pytest.mark.parametrize("old", [True, False])
@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_an_interrupted_save_leaves_the_old_checkpoint(tmp_path, monkeypatch, place, old, error):
    if old:
        save(tmp_path / "a", model_of(1))
    module, replace = os if place == "replace" else checkpoints, os.replace

    def breaks(*args, **options):
        if place == "replace" and not str(args[0]).endswith(".new"):
            return replace(*args, **options)  # break only when the new folder should move in
        raise error("the power went")

    monkeypatch.setattr(module, place, breaks)
    with pytest.raises(error, match="the power went"):
        save(tmp_path / "a", model_of(2))
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == ["a"] * old
    if old:
        assert same_weights(load(tmp_path / "a")[0], model_of(1))


def test_a_killed_save_is_mended_by_the_next_load_or_save(tmp_path):
    save(tmp_path / "a", model_of(1))
    (tmp_path / ".a.new").mkdir()  # killed while writing
    (tmp_path / ".a.new" / "model.safetensors").write_text("half")
    (tmp_path / "a").rename(tmp_path / ".a.old")  # killed between the two moves
    assert same_weights(load(tmp_path / "a")[0], model_of(1))
    save(tmp_path / "a", model_of(2))
    assert same_weights(load(tmp_path / "a")[0], model_of(2))
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
