""".pt files in nanoGPT's layout are obeyed, or refused in one line that names what is wrong."""

import argparse

import pytest
import torch

from helpers.run import nanogpt as nanogpt_module
from helpers.run.nanogpt import load_nanogpt
from helpers.run.weights import WeightsError
from tests.support.foreign_weights import (
    IDS,
    nanogpt,
    nanogpt_args,
    nanogpt_logits,
    same_logits,
    theirs,
)

MODEL = theirs(heads=4)
ARGS = nanogpt_args(MODEL)
STATE = {name: weight.clone() for name, weight in nanogpt(MODEL).items()}
LAST = "transformer.ln_f.weight"
FC = "transformer.h.0.mlp.c_fc.weight"


def load(folder, content, **options):
    torch.save(content, folder / "raw.pt")
    return load_nanogpt(folder / "raw.pt", **options)


def refusal(folder, content, **options) -> str:
    """The one line with which a file is refused."""
    with pytest.raises(WeightsError) as caught:
        load(folder, content, **options)
    message = str(caught.value)
    assert message.startswith(str(folder / "raw.pt")) and "\n" not in message
    return message


# ---------------------------------------------------------------- obeyed


@pytest.mark.parametrize(
    "before", ["", "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."]
)
@pytest.mark.parametrize("inside", [None, "model", "state_dict", "model_state_dict"])
def test_a_raw_file_gives_equal_logits(tmp_path, before, inside):
    state = nanogpt(MODEL, before)
    content, heads = (
        ({inside: state, "model_args": ARGS, "step": 7}, None) if inside else (state, 4)
    )
    same_logits(load(tmp_path, content, heads=heads), MODEL)


def without_biases(state):
    masks = (".attn.bias", ".attn.masked_bias")
    return {name: w for name, w in state.items() if name.endswith(masks) or ".bias" not in name}


FORMS = {
    "as GPT-2's": lambda state: state,
    "no biases": without_biases,
    "16 bits": lambda state: {name: weight.half() for name, weight in state.items()},
    "bfloat16": lambda state: {name: weight.bfloat16() for name, weight in state.items()},
    "64 bits": lambda state: {name: weight.double() for name, weight in state.items()},
    "compiled blocks": lambda state: {
        name.replace("h.0.", "h.0._orig_mod."): weight for name, weight in state.items()
    },
}


@pytest.mark.parametrize("heads", [1, 2, 4, 8])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_logits_of_an_independent_forward(tmp_path, form, heads):
    state = FORMS[form](STATE)
    args = ARGS | {"n_head": heads, "bias": form != "no biases"}
    expected = nanogpt_logits({n.replace("_orig_mod.", ""): w for n, w in state.items()}, heads)
    for content in ({"model": state, "model_args": args}, {"model": state, "config": args}):
        ours = load(tmp_path, content)
        assert ours.config.heads == heads
        torch.testing.assert_close(ours(IDS), expected, atol=1e-4, rtol=1e-4)


def test_settings_of_training_may_stand_beside_those_of_the_model(tmp_path):
    """As in nanoGPT's own file, whose "config" may also differ from its "model_args"."""
    training = {"learning_rate": 6e-4, "gradient_accumulation_steps": 40, "out_dir": "out"}
    training |= {"always_save_checkpoint": True, "beta1": 0.9, "decay_lr": True, "batch_size": 12}
    training |= {"wandb_log": True, "backend": "nccl", "dtype": "bfloat16", "compile": True}
    assert load(tmp_path, {"model": STATE, "config": ARGS | training}).config.heads == 4
    other = {"model": STATE, "config": training | {"n_layer": 12}, "model_args": ARGS}
    assert load(tmp_path, other).config.layers == 2
    said = {name: ARGS[name] for name in ("n_head", "bias")}  # the other sizes are the weights'
    assert load(tmp_path, {"model": STATE, "config": said}).config.context == 32
    assert load(tmp_path, {"model": STATE, "model_args": ARGS | {"rope": False, "moe": None}})


@pytest.mark.parametrize(
    ("content", "source"),
    [
        ({"model": STATE, "model_args": {}, "config": {"n_head": 4}}, "config"),
        ({"model": STATE, "config": {"lr": 0.1}, "model_config": {"n_head": 4}}, "model_config"),
        ({"model": {"state_dict": STATE, "config": {"n_head": 4}}, "step": 3}, "config"),
        ({"model": STATE, "n_head": 4}, "top level"),
        ({"model": STATE, "args": {"n_layer": 2}, "n_head": 4}, "args with top level"),
    ],
)
def test_heads_are_read_wherever_a_file_says_them(tmp_path, content, source):
    same_logits(load(tmp_path, content), MODEL)
    assert f"its {source} says n_head 4, but --heads 2" in refusal(tmp_path, content, heads=2)


def test_settings_that_say_what_gpt2_is_are_no_others(tmp_path):
    said = {"activation_function": "gelu_new", "layer_norm_epsilon": 1e-5, "model_type": "gpt2"}
    said |= {"tie_word_embeddings": True, "scale_attn_weights": True}
    same_logits(load(tmp_path, {"model": STATE, "model_args": ARGS | said}), MODEL)
    lightning = {f"model.{name}": weight for name, weight in STATE.items()}
    content = {"state_dict": lightning, "hyper_parameters": ARGS | {"run_id": "x"}}
    same_logits(load(tmp_path, content), MODEL)


def test_the_heads_of_published_sizes_are_known(tmp_path, monkeypatch):
    assert nanogpt_module.PUBLISHED_HEADS[12, 768] == 12
    monkeypatch.setitem(nanogpt_module.PUBLISHED_HEADS, (2, 64), 4)  # a small one is enough here
    same_logits(load(tmp_path, STATE), MODEL)


# ---------------------------------------------------------------- refused


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"n_layer": 3}, "model_args says n_layer 3, but its weights have 2"),
        ({"n_embd": 32}, "model_args says n_embd 32, but its weights have 64"),
        ({"block_size": 16}, "model_args says block_size 16, but its weights have 32"),
        ({"vocab_size": 50304}, "model_args says vocab_size 50304, but its weights have 60"),
        ({"bias": False}, "model_args says bias False, but it has h.0.ln_1.bias, "),
        ({"bias": 0}, "model_args says bias 0, but it has h.0.ln_1.bias, "),
        ({"n_head": 3}, "channels (64) must be divisible by heads (3)"),
        ({"n_head": "4"}, "model_args says n_head '4', not a whole number"),
        ({"n_head": True}, "model_args says n_head True, not a whole number"),
        ({"n_kv_head": 2}, "model_args has what GPT-2 does not have: n_kv_head 2"),
        ({"scale_attn_weights": False}, "not have: scale_attn_weights False"),
        ({"layer_norm_epsilon": 1e-6}, "not have: layer_norm_epsilon 1e-06"),
        ({"layer_norm_epsilon": torch.ones(3)}, "not have: layer_norm_epsilon tensor("),
        ({"rope": True, "activation": "relu"}, "not have: rope True, activation 'relu'"),
    ],
)
def test_settings_that_ours_can_not_obey_are_refused(tmp_path, changes, says):
    assert says in refusal(tmp_path, {"model": STATE, "model_args": ARGS | changes})


@pytest.mark.parametrize(
    "name", ["attention_window_tokens", "softcap_precision", "rope_init", "norm_eps_version"]
)
def test_a_word_of_training_excuses_no_other_mathematics(tmp_path, name):
    content = {"model": STATE, "config": ARGS | {name: 2}}
    assert f"its config has what GPT-2 does not have: {name} 2" in refusal(tmp_path, content)
    assert load(tmp_path, {"model": STATE, "config": ARGS | {"max_grad_norm": 1.0}})


@pytest.mark.parametrize("beside", [{}, {"model_args": {}}, {"config": {"lr": 0.1, "n_head": 4}}])
def test_every_dict_of_settings_is_read(tmp_path, beside):
    content = {"model": STATE, "model_config": {"n_head": 4, "rope": True}} | beside
    assert "its model_config has what GPT-2 does not have: rope True" in refusal(tmp_path, content)


def test_heads_that_nobody_says_are_not_guessed(tmp_path):
    message = refusal(tmp_path, STATE)
    assert "how many attention heads share its 64 channels" in message
    assert "import FILE.pt FOLDER --heads" in message
    content = {"model": STATE, "model_args": ARGS}
    assert "says n_head 4, but --heads 2 was given" in refusal(tmp_path, content, heads=2)
    assert "at least 1, not 0" in refusal(tmp_path, STATE, heads=0)
    no_biases = {"model": without_biases(STATE), "model_args": ARGS}
    assert "model_args says bias True, but it has no biases" in refusal(tmp_path, no_biases)


HALF = {name: weight for name, weight in STATE.items() if ".mlp." not in name}
ATTACKS = {
    "lacks ln_f.weight": {name: weight for name, weight in STATE.items() if name != LAST},
    "lacks h.0.mlp.c_fc.weight, h.0.mlp.c_fc.bias, h.0.mlp.c_proj.weight": HALF,
    "lacks wte.weight": {n: w for n, w in STATE.items() if not n.endswith("wte.weight")},
    "lacks layer 0, but has layer 2": {n.replace("h.0.", "h.2."): w for n, w in STATE.items()},
    "lacks layer 2, but has layer 99999": STATE | {"h.99999.ln_1.weight": torch.ones(64)},
    "not have: h.99999": STATE | {f"h.{'9' * 5000}.ln_1.weight": torch.ones(64)},
    r"not have: a\nb, lm_head.bias": STATE
    | {"a\nb": torch.ones(1), "lm_head.bias": torch.ones(60)},
    "has h.0.mlp.c_fc.weight (64, 256) instead of (256, 64)": STATE | {FC: STATE[FC].T},
    "has ln_f.weight () instead of (64,)": STATE | {LAST: torch.tensor(1.0)},
    "ln_f.weight holds numbers that are NaN": STATE | {LAST: torch.full((64,), torch.nan)},
    "ln_f.weight holds numbers that are NaN or inf": STATE | {LAST: torch.full((64,), -torch.inf)},
    "ln_f.weight holds int8": STATE | {LAST: torch.ones(64, dtype=torch.int8)},
    "ln_f.weight holds bool": STATE | {LAST: torch.ones(64, dtype=torch.bool)},
    "ln_f.weight holds complex64": STATE | {LAST: torch.ones(64, dtype=torch.complex64)},
    "ln_f.weight holds float8_e5m2": STATE | {LAST: torch.ones(64).to(torch.float8_e5m2)},
    "ln_f.weight is no ordinary tensor": STATE | {LAST: torch.ones(64).to_sparse()},
    "ln_f.weight is no ordinary tensor with": STATE
    | {LAST: torch.nested.nested_tensor([torch.ones(4), torch.ones(5)])},
    "wpe.weight is no ordinary": STATE | {"wpe.weight": torch.ones(64, device="meta")},
    "wte.weight is no ordinary": STATE | {"wte.weight": torch.ones(1).expand(10**7, 10**7)},
    "its head (lm_head.weight) is not its token": STATE | {"lm_head.weight": torch.ones(60, 64)},
    "h.0.attn.bias is not GPT-2's": STATE | {"h.0.attn.bias": torch.ones(1, 1, 32, 32)},
    "h.1.attn.bias is not GPT-2's": STATE | {"h.1.attn.bias": torch.ones(64)},
    "h.1.attn.masked_bias is not": STATE | {"h.1.attn.masked_bias": torch.tensor(0.0)},
    "has ln_f.weight twice": STATE | {"ln_f.weight": torch.zeros(64)},
    "has transformer.ln_f.weight twice": STATE | {f"module.{LAST}": torch.zeros(64)},
}


@pytest.mark.parametrize("says", ATTACKS)
def test_weights_that_are_no_gpt2_are_refused_by_name(tmp_path, says):
    message = refusal(tmp_path, {"model": ATTACKS[says], "model_args": ARGS})
    assert says in message and len(message) < len(str(tmp_path)) + 900


class Sly:
    def __reduce__(self):
        return (print, ("executed",))


ITSELF: dict = {}
ITSELF["model"] = ITSELF
NO_STATE = ({}, [1, 2], 3, None, "text", torch.ones(3), ITSELF, {1: torch.ones(3)})


@pytest.mark.parametrize("content", [*NO_STATE, {"model": {"a": 1}}, {"model": "gpt2"}])
def test_other_contents_are_refused(tmp_path, content):
    assert "holds no state dict" in refusal(tmp_path, content)


@pytest.mark.parametrize(
    ("content", "name"), [(Sly(), "print"), (argparse.Namespace(n_head=4), "argparse.Namespace")]
)
def test_code_is_named_and_never_executed(tmp_path, content, name, capsys):
    message = refusal(tmp_path, {"model": STATE, "config": content})
    assert "can't be read as weights alone" in message and f"{name}, which is code" in message
    assert "weights_only" not in message and "executed" not in capsys.readouterr().out


def test_missing_and_damaged_files_are_named(tmp_path):
    path = tmp_path / "raw.pt"
    with pytest.raises(WeightsError, match=f"there is no file {path}"):
        load_nanogpt(path)
    with pytest.raises(WeightsError, match=r"can't be read \(Is a directory\)"):
        load_nanogpt(tmp_path)
    torch.save(STATE, path)
    whole = path.read_bytes()
    damaged = (b"", b"words", b"PK\x03\x04" + bytes(99), b"\x80\x02}q\x00.", b"./" + bytes(999))
    for content in (*damaged, whole[:3000], whole[:-3000]):
        path.write_bytes(content)
        with pytest.raises(WeightsError, match="can't be read as weights alone") as error:
            load_nanogpt(path)
        assert "\n" not in str(error.value) and "weights_only" not in str(error.value)


def test_a_changed_or_missing_end_is_damage(tmp_path):
    path = tmp_path / "raw.pt"
    torch.save({"model": STATE, "model_args": ARGS}, path)
    whole = bytearray(path.read_bytes())
    path.write_bytes(whole[:8000])
    with pytest.raises(WeightsError, match=r"raw\.pt is damaged: it ends too early$"):
        load_nanogpt(path)
    whole[len(whole) // 2] ^= 4  # one bit of one number
    path.write_bytes(whole)
    with pytest.raises(WeightsError, match=r"raw\.pt is damaged \(checksum mismatch in raw/data/"):
        load_nanogpt(path)
