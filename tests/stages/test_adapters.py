"""Adapters in the stages: added and merged as the settings say, files that know their base and that
peft opens.
"""

import hashlib
import json
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM

from helpers.config import PPOConfig, SFTConfig
from helpers.lora import lora_layers, merge_lora
from helpers.quantization import is_quantized, quantize_model
from helpers.run import presets
from helpers.run.checkpoints import load_stage, save_stage
from helpers.stages import adapters
from helpers.stages.adapters import load_lora, policy_and_reference, save_lora
from helpers.training import Optimizers
from tests.support.adapted import IDS, adapted, logits, tiny, transformers_twin
from tests.support.courses import stage_commands
from tests.support.saved import save

SOME = {"rank": 3, "alpha": 5.0, "targets": ("c_attn", "mlp.c_proj")}

# ---------------------------------------------------------------- files


class DummyTokenizer:
    name, eos_id, pad_id = "dummy", 0, 1
    fingerprint = hashlib.sha256(b"dummy").hexdigest()

    def save(self, folder) -> None:
        (folder / "tokenizer.json").write_text("{}")


def refused(folder, model) -> str:
    """Why adapters are not put on a model, which stays as it is."""
    before = [parameter.requires_grad for parameter in model.parameters()]
    with pytest.raises(ValueError) as caught:
        load_lora(folder, model)
    assert not lora_layers(model) and before == [p.requires_grad for p in model.parameters()]
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_merged_model_saves_and_loads_as_before(tmp_path):
    facts = {"stage": "sft", "track": "tldr", "config": {}, "metrics": {}}
    facts |= {"parent": None, "data_fingerprint": "abc"}
    model, folder = adapted(tiny()), tmp_path / "a"
    before = logits(model)
    with pytest.raises(ValueError, match="GPT-2 has no h.0.attn.c_attn.lora_A: merge the adapters"):
        save_stage(folder, model, DummyTokenizer(), **facts)
    assert not list(tmp_path.iterdir())
    merge_lora(model)
    torch.testing.assert_close(logits(model), before, atol=1e-5, rtol=1e-5)
    assert model.state_dict().keys() == tiny().state_dict().keys()
    assert all(p.requires_grad for p in model.parameters())
    save_stage(folder, model, DummyTokenizer(), **facts)
    loaded, _ = load_stage(folder, stage="sft", track="tldr", tokenizer=DummyTokenizer())
    assert torch.equal(logits(loaded), logits(model))


@pytest.mark.parametrize("merged", [False, True])
def test_adapters_come_back_on_their_base(tmp_path, merged):
    base = tiny()
    model = adapted(base, **SOME)
    before = logits(model)
    if merged:  # for the time being: the adapters are still there to save
        for layer in lora_layers(model).values():
            layer.merge()
    save_lora(tmp_path / "a", model)
    load_lora(tmp_path / "a", base)
    assert torch.equal(logits(base), before)
    trained = {name for name, p in base.named_parameters() if p.requires_grad}
    assert trained == {name for name in base.state_dict() if ".lora_" in name}
    assert sum(path.stat().st_size for path in (tmp_path / "a").iterdir()) < 15_000  # not the base


def test_adapters_of_another_base_are_refused(tmp_path):
    base = tiny()
    save_lora(tmp_path / "a", adapted(base))
    with torch.no_grad():
        base.ln_f.bias[3] += 1e-6
    message = refused(tmp_path / "a", base)
    assert "belongs to another base (" in message and ") than this model (" in message


def test_missing_or_damaged_files_are_refused_and_nothing_changes(tmp_path):
    base, folder = tiny(), tmp_path / "a"
    unreadable, changed = f"no adapters can be read at {folder}", "has changed since it was saved"
    assert f"{unreadable}: FileNotFoundError" in refused(folder, base)
    save_lora(folder, adapted(base))
    for name, reasons in [
        ("adapter_model.safetensors", (changed,)),
        ("adapter_config.json", (changed, unreadable)),
        ("base.json", (unreadable,)),
    ]:
        intact = (folder / name).read_bytes()
        flipped = bytearray(intact)
        flipped[-2] ^= 1
        for content in (intact[: len(intact) // 2], bytes(flipped), b"[]"):
            (folder / name).write_bytes(content)
            message = refused(folder, base)
            assert any(reason in message for reason in reasons)
        (folder / name).write_bytes(intact)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {"r": 2}))
    assert "adapter_config.json has changed" in refused(folder, base)


@pytest.mark.parametrize("place", ["save_file", "write_json", "base_sha256"])
def test_an_interrupted_save_leaves_the_old_adapters(tmp_path, monkeypatch, place):
    base = tiny()
    old, new = adapted(base), adapted(base)
    save_lora(tmp_path / "a", old)

    def breaks(*args, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(adapters, place, breaks)
        for name in ("a", "b"):
            with pytest.raises(KeyboardInterrupt):
                save_lora(tmp_path / name, new)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    load_lora(tmp_path / "a", base)
    assert torch.equal(logits(base), logits(old)) and not torch.equal(logits(base), logits(new))


def test_a_foreign_folder_is_never_replaced_and_no_adapters_are_not_saved(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds no adapters: not replacing it"):
        save_lora(tmp_path, adapted(tiny()))
    with pytest.raises(ValueError, match="no adapters to save"):
        save_lora(tmp_path / "a", tiny())
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_peft_opens_what_we_save(tmp_path):
    peft, base = pytest.importorskip("peft"), tiny()
    model = adapted(base, **SOME)
    save_lora(tmp_path / "a", model)
    theirs = peft.PeftModel.from_pretrained(transformers_twin(base), tmp_path / "a").eval()
    with torch.no_grad():
        torch.testing.assert_close(theirs(IDS).logits, logits(model), atol=1e-5, rtol=1e-5)


def test_peft_finds_the_base_of_what_we_save(tmp_path):
    peft, base = pytest.importorskip("peft"), tiny()
    model = adapted(base, **SOME)
    save(tmp_path / "pretrain", base, DummyTokenizer(), "pretrain")
    save_lora(tmp_path / "a", model, base=tmp_path / "pretrain")
    theirs = peft.AutoPeftModelForCausalLM.from_pretrained(tmp_path / "a").eval()
    with torch.no_grad():
        torch.testing.assert_close(theirs(IDS).logits, logits(model), atol=1e-5, rtol=1e-5)
    load_lora(tmp_path / "a", base)  # and so do we


# ---------------------------------------------------------------- settings


@pytest.mark.parametrize(
    "name, value, message",
    [
        ("adapter", "dora", "no adapter 'dora': choose from full, lora, qlora"),
        ("rank", 0, "rank must be a whole number of at least 1, not 0"),
        ("rank", True, "rank must be a whole number"),
        ("alpha", 0.0, "alpha must be above 0, not 0.0"),
        ("alpha", float("nan"), "alpha must be above 0, not nan"),
        ("targets", "c_attn", "targets must be a tuple of layer names"),
        ("targets", (), "targets must be a tuple of layer names"),
    ],
)
@pytest.mark.parametrize("kind", [SFTConfig, PPOConfig])
def test_settings_that_make_no_sense_are_refused(kind, name, value, message):
    with pytest.raises(ValueError, match=message) as caught:
        kind(**{name: value})
    assert "\n" not in str(caught.value)


def test_rates_are_those_of_what_is_trained():
    settings = SFTConfig(lr=0.1, muon_lr=0.2, adapter_lr=0.3)
    assert settings.rates == (0.1, 0.2) and replace(settings, adapter="qlora").rates == (0.3, 0.0)


@pytest.mark.parametrize("adapter", ["full", "lora", "qlora"])
def test_the_policy_shares_its_weights_with_the_reference(adapter):
    sft = tiny()
    policy, reference = policy_and_reference(sft, PPOConfig(adapter=adapter, rank=2))
    assert not is_quantized(sft) and not lora_layers(sft)  # there may be a second run from here
    assert torch.equal(logits(policy), logits(reference))  # KL exactly 0
    ours, theirs = ([*model.parameters(), *model.buffers()] for model in (policy, reference))
    shared = set(map(id, ours)) & set(map(id, theirs))
    assert len(shared) == (0 if adapter == "full" else len(theirs))
    assert is_quantized(reference) == (adapter == "qlora")
    assert not any(tensor.requires_grad for tensor in theirs)
    before, optimizers = logits(reference), Optimizers(policy, 0.1)
    policy(IDS).square().mean().backward()
    optimizers.step()
    assert torch.equal(logits(reference), before) and not torch.equal(logits(policy), before)


# ---------------------------------------------------------------- the stages

SAMPLES = {"eval_prompts": 8, "response_tokens": 12}
SMALL = {
    "pretrain": {"layers": 1, "heads": 2, "channels": 32, "documents": 160, "eval_documents": 16},
    "sft": SAMPLES | {"demonstrations": 320, "rank": 4},
    "reward": SAMPLES | {"comparisons": 64, "best_of": 2},
    "ppo": SAMPLES | {"iterations": 2, "rollout_size": 8, "minibatch_size": 4, "rank": 2},
}


@pytest.fixture
def stage(tmp_path, monkeypatch):
    """Run a stage by name with the settings above, as its command does."""
    monkeypatch.setattr(presets, "SMOKE", SMALL)
    return stage_commands(tmp_path / "run", monkeypatch, track="tldr")


def read(path) -> dict:
    return json.loads(path.read_text("utf-8"))


@pytest.mark.parametrize("adapter", ["lora", pytest.param("qlora", marks=pytest.mark.slow)])
def test_the_stages_train_adapters_and_hand_on_plain_weights(stage, tmp_path, capsys, adapter):
    peft, folder = pytest.importorskip("peft"), tmp_path / "run/checkpoints"
    stage("0-Pretrain")
    # PPO asserts KL 0 and ratio 1 before its first step
    for notebook in ("1-SFT", "2-RM-Training", "3-PPO"):
        stage(notebook, "--adapter", adapter)
    line = f"{adapter}: 2,048 numbers learn beside 12,288 frozen ones, rank 4"
    assert line in capsys.readouterr().out
    for name, parent, rank in (("sft", "pretrain", 4), ("ppo", "sft", 2)):
        info = read(folder / name / "stage.json")
        assert (info["config"]["adapter"], info["config"]["rank"]) == (adapter, rank)
        embedding = 1024 * 32 if name == "sft" else 0  # PPO shares it with its reference
        assert info["adapter"]["trained_parameters"] == rank * (128 + 64 + 160 + 160) + embedding
        assert ("NF4" in info["adapter"]["frozen_weights"]) == (adapter == "qlora")
        merged = AutoModelForCausalLM.from_pretrained(folder / name).eval()
        base = AutoModelForCausalLM.from_pretrained(folder / parent).eval()
        plain = base(IDS).logits
        theirs = peft.PeftModel.from_pretrained(base, folder / name / "adapter").eval()(IDS).logits
        assert (theirs - plain).abs().max() > 1e-3  # something was learned
        if adapter == "lora":  # with qlora peft's base is not rounded to 4 bits
            torch.testing.assert_close(merged(IDS).logits, theirs, atol=1e-4, rtol=0)
            found = peft.AutoPeftModelForCausalLM.from_pretrained(folder / name / "adapter").eval()
            torch.testing.assert_close(found(IDS).logits, theirs, atol=1e-5, rtol=0)
        ours, _ = load_stage(folder / parent, stage=parent, track="tldr")
        if adapter == "qlora":
            assert "belongs to another base" in refused(folder / name / "adapter", ours)
            quantize_model(ours)
        load_lora(folder / name / "adapter", ours)
        torch.testing.assert_close(logits(ours), merged(IDS).logits, atol=1e-4, rtol=0)
    assert "adapter" not in read(folder / "reward/stage.json")


def test_a_full_run_replaces_the_adapters_of_an_older_one(stage, tmp_path):
    folder = tmp_path / "run/checkpoints/sft"
    stage("0-Pretrain")
    stage("1-SFT", "--adapter", "lora")
    assert (folder / "adapter/adapter_model.safetensors").exists()
    stage("1-SFT", "--adapter", "full")
    assert not (folder / "adapter").exists() and "adapter" not in read(folder / "stage.json")


def test_bad_settings_stop_a_command_in_one_line(stage, monkeypatch, tmp_path, capsys):
    line = "adapter: no adapter 'dora', choose from full, lora, qlora; did you mean lora?"
    for notebook, name in (("0-Pretrain", "pretrain"), ("1-SFT", "sft")):  # before any training
        assert stage(notebook, "--adapter", "dora") == 2
        assert capsys.readouterr().err == f"python -m helpers {name}: {line}\n"
    stage("0-Pretrain", "--adapter", "lora")  # it trains no adapters
    layers = "no layer of the blocks is called 'q_proj'; there are attn.c_attn, .*"
    for name, value, message in (
        ("rank", 33, "rank must be a whole number from 1 to 32, the smaller side, not 33"),
        ("targets", ("q_proj",), layers),
    ):
        monkeypatch.setattr(presets, "SMOKE", SMALL | {"sft": SMALL["sft"] | {name: value}})
        with pytest.raises(SystemExit, match=f"^1-SFT: {message}$"):
            stage("1-SFT", "--adapter", "lora")
    assert not (tmp_path / "run/checkpoints/sft").exists()
