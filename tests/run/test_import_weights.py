"""Weights from transformers and from raw .pt files give the same logits in our model."""

import hashlib
import json
from pathlib import Path

import huggingface_hub
import pytest
import torch
from huggingface_hub import HfApi
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel

from helpers.model import GPT, GPTConfig
from helpers.rows.gpt2_bpe import load_gpt2_tokenizer
from helpers.run import import_weights
from helpers.run.checkpoints import is_conv1d
from helpers.run.import_weights import (
    WeightsError,
    download,
    find_weights,
    fit_vocabulary,
    load_external,
    load_gpt2,
    load_nanogpt,
    main,
)
from tests.support.gpt2_files import small_gpt2

GPT2 = "openai-community/gpt2"

IDS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6]])


def theirs(vocabulary=60, channels=64, layers=2, heads=1) -> GPT2LMHeadModel:
    torch.manual_seed(0)
    sizes = dict(vocab_size=vocabulary, n_positions=32, n_embd=channels)
    model = GPT2LMHeadModel(GPT2Config(**sizes, n_layer=layers, n_head=heads)).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def nanogpt(model: GPT2LMHeadModel, before: str = "") -> dict[str, torch.Tensor]:
    """The state dict as nanoGPT would have it: nn.Linear's layout, the tied head, and a mask
    buffer.
    """
    state = {
        name: weight.T.contiguous() if is_conv1d(name) else weight
        for name, weight in model.state_dict().items()
    }
    state["transformer.h.0.attn.bias"] = torch.ones(1, 1, 32, 32).tril()
    return {before + name: weight for name, weight in state.items()}


@torch.no_grad()
def same_logits(ours: GPT, model: GPT2LMHeadModel, vocabulary: int | None = None) -> None:
    """The same logits of the first tokens."""
    ours, expected = ours(IDS)[..., :vocabulary], model(IDS).logits[..., :vocabulary]
    torch.testing.assert_close(ours, expected, atol=1e-4, rtol=1e-4)


def test_a_folder_with_several_files_gives_equal_logits(tmp_path):
    model = theirs(97, 48, 3, 4)
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert not (tmp_path / "model.safetensors").exists()
    same_logits(load_gpt2(tmp_path), model)


@pytest.mark.parametrize(
    "before", ["", "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."]
)
@pytest.mark.parametrize("inside", [None, "model", "state_dict", "model_state_dict"])
def test_a_raw_file_gives_equal_logits(tmp_path, before, inside):
    model = theirs()
    state = nanogpt(model, before)
    torch.save({inside: state, "step": 7} if inside else state, tmp_path / "raw.pt")
    same_logits(load_nanogpt(tmp_path / "raw.pt"), model)


def test_heads_are_one_for_64_channels_unless_said(tmp_path):
    torch.save(nanogpt(theirs(channels=128, heads=4)), tmp_path / "raw.pt")
    assert load_nanogpt(tmp_path / "raw.pt").config.heads == 2
    assert load_nanogpt(tmp_path / "raw.pt", heads=4).config.heads == 4


def test_a_vocabulary_is_cut_and_grown_without_touching_the_other_tokens():
    model = GPT(GPTConfig(60, 16, 1, 2, 16))
    before, table = model(IDS), model.wte.weight.detach().clone()
    grown = fit_vocabulary(model, 64, 60)
    assert grown.config.vocab_size == 64 and grown(IDS).shape[-1] == 64
    torch.testing.assert_close(grown(IDS)[..., :60], before)
    torch.testing.assert_close(grown.wte.weight[60:], table.mean(0).expand(4, -1))
    torch.testing.assert_close(fit_vocabulary(grown, 50, 60)(IDS), before[..., :50])


class Sly:
    def __reduce__(self):
        return (print, ("executed",))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"transformer.wte.weight": torch.zeros(4, 64)}, "is not in nanoGPT's layout"),
        ({"model": {"a": 1}}, "holds no state dict"),
        ([1, 2], "holds no state dict"),
        (Sly(), "can't be read as weights alone"),
    ],
)
def test_other_files_are_one_clear_line(tmp_path, content, says, capsys):
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(WeightsError, match=says) as error:
        load_nanogpt(tmp_path / "x.pt")
    assert "\n" not in str(error.value) and "executed" not in capsys.readouterr().out


def test_missing_and_damaged_files_are_named(tmp_path):
    with pytest.raises(WeightsError, match="there is no file"):
        load_nanogpt(tmp_path / "none.pt")
    (tmp_path / "bad.pt").write_bytes(b"not a file of weights")
    with pytest.raises(WeightsError, match="can't be read"):
        load_nanogpt(tmp_path / "bad.pt")
    with pytest.raises(WeightsError, match="needs config.json and model.safetensors"):
        load_gpt2(tmp_path)
    (tmp_path / "config.json").write_text("{")
    (tmp_path / "model.safetensors").write_bytes(b"no")
    with pytest.raises(WeightsError, match="holds no GPT-2 language model that can") as error:
        load_gpt2(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("model_type", "llama", "says model_type 'llama'"),
        ("activation_function", "gelu", "says activation_function 'gelu'"),
        ("scale_attn_by_inverse_layer_idx", True, "says scale_attn_by_inverse_layer_idx True"),
        ("architectures", ["GPT2ForSequenceClassification"], "says GPT2ForSequenceClassification"),
    ],
)
def test_a_model_that_ours_would_not_equal_is_refused(tmp_path, name, value, says):
    theirs().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {name: value}))
    with pytest.raises(WeightsError, match=says):
        load_gpt2(tmp_path)


# ---------------------------------------------------------------- what a name means


def test_a_name_is_looked_for_beside_the_rows_first(tmp_path):
    theirs().save_pretrained(tmp_path / "gpt2")
    checksum = hashlib.sha256((tmp_path / "gpt2" / "model.safetensors").read_bytes()).hexdigest()
    for init in ("gpt2", "openai-community/gpt2", str(tmp_path / "gpt2")):
        path, came_from = find_weights(init, tmp_path)
        assert path == tmp_path / "gpt2"
        assert came_from == {"source": "gpt2", "revision": f"sha256:{checksum}"}


@pytest.mark.parametrize("init", ["./nowhere", "/nowhere/gpt2", "a/b/c", "weights.pt"])
def test_a_path_that_is_not_there_is_not_asked_for_on_the_hub(init, monkeypatch):
    monkeypatch.setattr(import_weights, "download", lambda name: pytest.fail(f"asked for {name}"))
    with pytest.raises(WeightsError, match=f"there is no file or folder {init}"):
        find_weights(init)


def test_a_size_of_gpt2_is_its_name_on_the_hub(monkeypatch):
    monkeypatch.setattr(import_weights, "download", lambda name: Path("/cache") / name / "0123abc")
    for init, name in (("gpt2-medium", "openai-community/gpt2-medium"), ("some/gpt2", "some/gpt2")):
        path, origin = find_weights(init)
        assert path == Path("/cache") / name / "0123abc"
        assert origin == {"source": name, "revision": "0123abc"}


def test_the_hub_is_asked_once_for_the_pinned_revision(monkeypatch, tmp_path):
    calls, asked = [], []

    def snapshot_download(name, local_files_only=False, **options):
        calls.append((name, local_files_only, options["revision"]))
        if local_files_only and len(calls) == 1:
            raise FileNotFoundError("not downloaded yet")
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    monkeypatch.setattr(HfApi, "model_info", lambda self, name, **options: asked.append(name))
    assert download(GPT2) == download(GPT2) == tmp_path and asked == [GPT2]
    revision = "607a30d783dfa663caf39e06633721c8d4cfcd7e"
    assert calls == [(GPT2, True, revision), (GPT2, False, revision), (GPT2, True, revision)]


def test_without_a_network_the_line_says_what_to_do(monkeypatch):
    def refuse(self, name, **options):
        raise ConnectionError("no route to host, Bearer hf_SecretSecret")

    monkeypatch.setenv("HF_TOKEN", "hf_SecretSecret")
    monkeypatch.setattr(HfApi, "model_info", refuse)
    message = 'could not be had .*no route.*into gpt2/ .*init="pretrain"'
    with pytest.raises(WeightsError, match=message) as error:
        download(GPT2)
    assert "\n" not in str(error.value) and "Secret" not in str(error.value)


# ---------------------------------------------------------------- fitting the tokenizer


@pytest.fixture
def tokenizer(tmp_path, monkeypatch):
    small_gpt2(tmp_path, monkeypatch)
    return load_gpt2_tokenizer(data_dir=tmp_path)


def test_gpt2_and_a_padded_table_get_the_tokens_and_pad(tmp_path, tokenizer):
    theirs(263).save_pretrained(tmp_path / "gpt2")
    torch.save(nanogpt(theirs(304)), tmp_path / "raw.pt")
    for path, model in ((tmp_path / "gpt2", theirs(263)), (tmp_path / "raw.pt", theirs(304))):
        ours = load_external(path, tokenizer)
        assert ours.config.vocab_size == tokenizer.vocab_size == 264
        same_logits(ours, model, 263)
        mean = model.transformer.wte.weight[:263].mean(0)
        torch.testing.assert_close(ours.wte.weight[263], mean)


def test_a_tokenizer_that_does_not_fit_is_one_line(tmp_path, tokenizer):
    theirs(60).save_pretrained(tmp_path / "small")
    with pytest.raises(WeightsError, match="small has 60 tokens, but GPT-2's tokenizer has 263"):
        load_external(tmp_path / "small", tokenizer)
    theirs(263).save_pretrained(tmp_path / "other")
    vocabulary = tokenizer.vocabulary | {"word": 7}
    contents = {"tokenizer.json": {"model": {"vocab": vocabulary}}, "vocab.json": vocabulary}
    for name, content in contents.items():
        (tmp_path / "other" / name).write_text(json.dumps(content))
        message = f"another tokenizer than GPT-2's: its {name} has 'word' as token 7"
        with pytest.raises(WeightsError, match=message):
            load_external(tmp_path / "other", tokenizer)


# ---------------------------------------------------------------- the converter


def test_a_raw_file_becomes_a_folder_by_command(tmp_path, tokenizer, capsys):
    original, file, folder = theirs(304, heads=2), str(tmp_path / "raw.pt"), str(tmp_path / "out")
    torch.save({"model": nanogpt(original, "_orig_mod.")}, file)
    main([file, folder, "--heads", "2"])
    assert "heads=2" in capsys.readouterr().out
    opened = AutoModelForCausalLM.from_pretrained(folder).eval()
    same_logits(lambda ids: opened(ids).logits, original, 263)
    ids = AutoTokenizer.from_pretrained(folder)("them")["input_ids"]
    assert ids == tokenizer.encode("them")
    info = json.loads((tmp_path / "out" / "stage.json").read_text())
    assert info["stage"] == "base" and info["config"]["source"] == "raw.pt"
    with pytest.raises(SystemExit, match="import: there is no file .*none.pt"):
        main([str(tmp_path / "none.pt"), folder])
