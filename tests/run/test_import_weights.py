"""Weights from transformers give the same logits in our model, or are refused in one line."""

import hashlib
import json
import shutil
from pathlib import Path

import huggingface_hub
import pytest
import torch
from huggingface_hub import HfApi
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2LMHeadModel

from helpers.model import GPT, GPTConfig
from helpers.rows.gpt2_bpe import load_gpt2_tokenizer
from helpers.run import import_weights
from helpers.run.import_weights import (
    WeightsError,
    download,
    find_weights,
    fit_vocabulary,
    load_external,
    load_gpt2,
    main,
)
from tests.support.foreign_weights import IDS, nanogpt, nanogpt_args, same_logits, theirs
from tests.support.gpt2_files import small_gpt2

GPT2 = "openai-community/gpt2"


def write_folder(folder, config: dict | None = None, state: dict | None = None) -> Path:
    """A folder of transformers' GPT-2 with 4 heads, after changes."""
    theirs(heads=4).save_pretrained(folder)
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | (config or {})))
    if state is not None:
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def refusal(folder) -> str:
    """The one line with which a folder is refused."""
    with pytest.raises(WeightsError) as caught:
        load_gpt2(folder)
    message = str(caught.value)
    assert f"{folder} holds no GPT-2 language model that can be read (" in message
    assert "\n" not in message
    return message


def test_a_folder_with_several_files_gives_equal_logits(tmp_path):
    model = theirs(97, 48, 3, 4)
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert not (tmp_path / "model.safetensors").exists()
    same_logits(load_gpt2(tmp_path), model)


TABLE = "transformer.wte.weight"
STATE = {name: w for name, w in theirs(heads=4).state_dict().items() if name != "lm_head.weight"}
SAME = [
    ({}, {name: weight.half().float() for name, weight in STATE.items()}),
    ({}, {name: weight.half() for name, weight in STATE.items()}),
    ({"n_inner": 256, "reorder_and_upcast_attn": True, "architectures": ["GPT2Model"]}, STATE),
    ({"activation_function": "gelu_pytorch_tanh"}, STATE),
    ({"activation_function": "gelu_fast"}, STATE),
    ({"tie_word_embeddings": False}, STATE | {"lm_head.weight": STATE[TABLE].clone()}),
    ({}, {"lm_head.weight" if name == TABLE else name: w for name, w in STATE.items()}),
    ({}, {name.removeprefix("transformer."): weight for name, weight in STATE.items()}),
]


@pytest.mark.parametrize(("config", "state"), SAME)
def test_what_is_gpt2_in_other_words_gives_equal_logits(tmp_path, config, state):
    folder = write_folder(tmp_path, config, state)
    same_logits(load_gpt2(folder), GPT2LMHeadModel.from_pretrained(folder).float().eval())


def test_sizes_may_have_transformers_other_names(tmp_path):
    path = write_folder(tmp_path) / "config.json"
    path.write_text(path.read_text().replace("n_head", "num_attention_heads"))
    same_logits(load_gpt2(tmp_path), theirs(heads=4))
    path.write_text(json.dumps(json.loads(path.read_text()) | {"n_head": 2}))
    assert "says n_head 2, num_attention_heads 4" in refusal(tmp_path)


def test_a_vocabulary_is_cut_and_grown_without_touching_the_other_tokens():
    model = GPT(GPTConfig(60, 16, 1, 2, 16))
    before, table = model(IDS), model.wte.weight.detach().clone()
    grown = fit_vocabulary(model, 64, 60)
    assert grown.config.vocab_size == 64 and grown(IDS).shape[-1] == 64
    torch.testing.assert_close(grown(IDS)[..., :60], before)
    torch.testing.assert_close(grown.wte.weight[60:], table.mean(0).expand(4, -1))
    torch.testing.assert_close(fit_vocabulary(grown, 50, 60)(IDS), before[..., :50])


CONFIGS = [
    ({"model_type": "llama"}, "says model_type 'llama'"),
    ({"architectures": ["GPT2ForSequenceClassification"]}, "says architectures ['GPT2ForSeq"),
    ({"activation_function": "gelu"}, "says activation_function 'gelu'"),
    ({"layer_norm_epsilon": 1e-6}, "says layer_norm_epsilon 1e-06"),
    ({"n_inner": 100}, "says n_inner 100"),
    ({"scale_attn_weights": False}, "says scale_attn_weights False"),
    ({"scale_attn_by_inverse_layer_idx": True}, "says scale_attn_by_inverse_layer_idx True"),
    ({"add_cross_attention": True}, "says add_cross_attention True"),
    ({"pruned_heads": {"0": [1]}}, "says pruned_heads {'0': [1]}"),
    ({"quantization_config": {"bits": 4}}, "says quantization_config {'bits': 4}"),
    ({"auto_map": {"AutoModel": "x.Y"}}, "says auto_map"),
    ({"tie_word_embeddings": False}, "says tie_word_embeddings False; it lacks lm_head.weight"),
    ({"n_layer": 3}, "says n_layer 3, but its weights have 2"),
    ({"n_positions": 64}, "says n_positions 64, but its weights have 32"),
    ({"vocab_size": 10**12}, "says vocab_size 1000000000000, but its weights have 60"),
    ({"n_head": "4"}, "says n_head '4', and a whole number is needed"),
    ({"n_head": 0}, "at least 1, not 0"),
    ({"n_head": 3}, "channels (64) must be divisible by heads (3)"),
]


@pytest.mark.parametrize(("config", "says"), CONFIGS)
def test_a_model_that_ours_would_not_equal_is_refused(tmp_path, config, says):
    assert says in refusal(write_folder(tmp_path, config))


FIRST = "transformer.h.0.attn.c_attn.weight"
STATES = [
    ({name: w for name, w in STATE.items() if name != FIRST}, "it lacks h.0.attn.c_attn.weight)"),
    (STATE | {"score.weight": torch.ones(1, 64)}, "has what GPT-2 does not have: score.weight"),
    (STATE | {FIRST: STATE[FIRST].T.contiguous()}, "has h.0.attn.c_attn.weight (192, 64) instead"),
    (
        STATE | {FIRST: STATE[FIRST] * torch.nan},
        "h.0.attn.c_attn.weight holds numbers that are NaN",
    ),
    (STATE | {"lm_head.weight": STATE[TABLE] + 1}, "its head (lm_head.weight) is not its token"),
]


@pytest.mark.parametrize(("state", "says"), STATES)
def test_weights_that_are_no_gpt2_are_refused_by_name(tmp_path, state, says):
    assert says in refusal(write_folder(tmp_path, state=state))


@pytest.mark.parametrize(
    "config", ["", "{", "[]", "{}", "[" * 10**5, f'{{"n_head": {"9" * 5000}}}']
)
def test_a_damaged_config_is_one_line(tmp_path, config):
    (write_folder(tmp_path) / "config.json").write_text(config)
    assert "config.json" in refusal(tmp_path)


def test_damaged_safetensors_are_one_line(tmp_path):
    with pytest.raises(WeightsError, match="needs config.json and model.safetensors"):
        load_gpt2(tmp_path)
    path = write_folder(tmp_path) / "model.safetensors"
    whole = path.read_bytes()
    for content in (b"", b"no", b"\xff" * 8 + b"{}", whole[:-9], whole[:300]):
        path.write_bytes(content)
        refusal(tmp_path)


INDICES = [
    ("{", "index.json is damaged"),
    ('{"weight_map": []}', "index.json is damaged"),
    ('{"weight_map": {"a": "../b.safetensors"}}', "outside the folder: ../b.safetensors"),
    ('{"weight_map": {"a": "/b.safetensors"}}', "outside the folder: /b.safetensors"),
    ('{"weight_map": {"a": "b.safetensors"}}', "names b.safetensors, which is missing"),
    ('{"weight_map": {"a": "b", "b": "c"}}', "more than one of its files has transformer.h.0."),
]


@pytest.mark.parametrize(("index", "says"), INDICES)
def test_an_index_of_files_names_what_is_there_once(tmp_path, index, says):
    weights = write_folder(tmp_path / "a") / "model.safetensors"
    for name in ("../b.safetensors", "b", "c"):
        shutil.copy(weights, tmp_path / "a" / name)
    weights.unlink()
    (tmp_path / "a" / "model.safetensors.index.json").write_text(index)
    assert says in refusal(tmp_path / "a")


# ---------------------------------------------------------------- what a name means


def test_a_name_is_looked_for_beside_the_rows_first(tmp_path):
    theirs().save_pretrained(tmp_path / "gpt2")
    files = [tmp_path / "gpt2" / name for name in ("config.json", "model.safetensors")]
    each = "".join(hashlib.sha256(file.read_bytes()).hexdigest() for file in files)
    checksum = hashlib.sha256(each.encode()).hexdigest()
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
    content = {"model": nanogpt(theirs(304)), "model_args": nanogpt_args(theirs(304))}
    torch.save(content, tmp_path / "raw.pt")
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
    for name, content in (
        ("tokenizer.json", {"model": {"vocab": vocabulary}}),
        ("vocab.json", vocabulary),
    ):
        (tmp_path / "other" / name).write_text(json.dumps(content))
        message = f"another tokenizer than GPT-2's: its {name} has 'word' as token 7"
        with pytest.raises(WeightsError, match=message):
            load_external(tmp_path / "other", tokenizer)
        for damaged in ("", "[]", "3", '{"model": {"vocab": []}}', '{"model": 3}'):
            (tmp_path / "other" / name).write_text(damaged)
            message = f"{name} (holds no vocabulary|has '!' as token None|has 'model' as token)"
            with pytest.raises(WeightsError, match=message):
                load_external(tmp_path / "other", tokenizer)
        (tmp_path / "other" / name).unlink()


def test_a_table_far_larger_than_padding_is_of_another_tokenizer(tmp_path, tokenizer):
    theirs(1024).save_pretrained(tmp_path / "padded")
    assert load_external(tmp_path / "padded", tokenizer).config.vocab_size == 264
    theirs(1025).save_pretrained(tmp_path / "large")
    with pytest.raises(WeightsError, match="has 1,025 tokens, but GPT-2's tokenizer has 263"):
        load_external(tmp_path / "large", tokenizer)


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
    main([file, folder, "--heads", "2"])  # replaces the older one
    with pytest.raises(SystemExit, match="import: there is no file .*none.pt"):
        main([str(tmp_path / "none.pt"), folder])


def test_the_file_is_looked_at_before_a_tokenizer_is_looked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(import_weights, "load_gpt2_tokenizer", lambda **_: pytest.fail("asked for"))
    (tmp_path / "raw.pt").write_text("words")
    with pytest.raises(SystemExit, match="import: .*raw.pt can't be read as weights alone"):
        main([str(tmp_path / "raw.pt"), str(tmp_path / "out")])
    torch.save(nanogpt(theirs()), tmp_path / "raw.pt")
    with pytest.raises(SystemExit, match="import: .*raw.pt can't be used: .*--heads"):
        main([str(tmp_path / "raw.pt"), str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()
