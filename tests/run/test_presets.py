"""Presets: each is complete and fits together, and a bad name is one clear line."""

import dataclasses
from types import SimpleNamespace

import pytest
import torch

from data.advice.build import WORLD as ADVICE
from data.sentiment.build import WORLD as SENTIMENT
from data.tldr.build import WORLD as TLDR
from helpers.config import CONFIGS, PretrainConfig
from helpers.rows.tracks import TRACKS
from helpers.run.presets import (
    GPU_PRESETS,
    PRESETS,
    choose_init,
    choose_preset,
    differences,
    load_config,
)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("track", TRACKS)
@pytest.mark.parametrize("source", ["embedded", "local", "hub"])
def test_every_preset_makes_every_stage(preset, track, source):
    for stage in CONFIGS:
        config = load_config(stage, preset, track, 7, source)
        assert type(config) is CONFIGS[stage] and config.seed == 7


def test_the_defaults_are_the_cpu_preset():
    for stage, config in CONFIGS.items():
        assert load_config(stage) == load_config(stage, "cpu", "tldr", 0) == config()


def test_gpu_presets_are_the_cpu_settings_on_an_embedded_world():
    for stage in CONFIGS:
        for track in TRACKS:
            for preset in GPU_PRESETS:
                assert load_config(stage, preset, track) == load_config(stage, "cpu", track)


@pytest.mark.parametrize("track", TRACKS)
@pytest.mark.parametrize("preset", GPU_PRESETS)
def test_gpu_presets_fit_together(preset, track):
    configs = {stage: load_config(stage, preset, track, source="hub") for stage in CONFIGS}
    pretrain, sft, reward, ppo = configs.values()
    assert sft.init == "gpt2" and pretrain.vocabulary == 0 and pretrain.context <= 1024
    for config in (pretrain, sft, reward):
        assert config.micro_batch == 0 or config.batch_size % config.micro_batch == 0
    assert ppo.rollout_size % ppo.minibatch_size == 0
    assert sft.response_tokens == reward.response_tokens == ppo.response_tokens
    assert reward.pointwise == (track == "sentiment")
    two, one = (load_config("ppo", name, track, source="hub") for name in ("t4x2", "t4"))
    assert two == one


def test_what_the_base_model_is():
    assert choose_init(None, "cpu", "tldr", "local") == "pretrain"
    assert choose_init(None, "t4", "tldr", "embedded") == "pretrain"
    assert choose_init(None, "t4", "tldr", "local") == "gpt2"
    assert choose_init("gpt2-medium", "cpu", "tldr", "hub") == "gpt2-medium"
    assert choose_init("pretrain", "t4", "tldr", "local") == "pretrain"
    with pytest.raises(ValueError, match="init gpt2-medium: an embedded world has a tokenizer of"):
        choose_init("gpt2-medium", "cpu", "tldr", "embedded")


def test_later_layers_win():
    """A preset's own word counts over its machine's, and a track's over both."""
    assert differences("h100", "hub", "sentiment", "ppo")["rollout_size"] == 128
    assert differences("h100", "hub", "sentiment", "reward")["micro_batch"] == 0
    assert differences("t4", "hub", "tldr", "reward")["micro_batch"] == 16
    assert differences("h100", "hub", "tldr", "reward")["batch_size"] == 64
    assert differences("smoke", "embedded", "sentiment", "reward")["comparisons"] == 1_200
    assert differences("cpu", "embedded", "tldr", "ppo") == {}


GB = 10**9


@pytest.mark.parametrize(
    "capability, memory, gpus, expected",
    [
        ((8, 0), 80 * GB, 1, "h100"),
        ((8, 0), int(39.6 * 2**30), 1, "t4"),  # "40 GB"
        ((8, 0), int(39.6 * 2**30), 2, "t4x2"),
        ((8, 9), 48 * GB, 1, "t4"),
        ((9, 0), 80 * GB, 8, "h100"),
        ((7, 5), 80 * GB, 1, "t4"),
        ((8, 9), 24 * GB, 1, "t4"),
        ((7, 5), 16 * GB, 2, "t4x2"),
    ],
)
def test_the_preset_follows_the_gpu(capability, memory, gpus, expected, monkeypatch):
    cuda, device = torch.cuda, torch.device("cuda")
    gpu = SimpleNamespace(total_memory=memory)
    monkeypatch.setattr(cuda, "get_device_properties", lambda _: gpu)
    monkeypatch.setattr(cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(cuda, "get_device_capability", lambda _: capability)
    preset, reason = choose_preset(None, "local", device)
    assert preset == expected and reason
    assert choose_preset("smoke", "local", device) == ("smoke", "")
    assert choose_preset(None, "embedded", device) == ("cpu", "")
    assert choose_preset(None, "hub", torch.device("cpu")) == ("cpu", "there is no CUDA device")


def test_smoke_is_no_larger_than_cpu():
    sizes = ("documents", "demonstrations", "comparisons", "iterations", "eval_prompts", "epochs")
    for stage in CONFIGS:
        small, full = vars(load_config(stage, "smoke")), vars(load_config(stage, "cpu"))
        assert all(small[name] <= full[name] for name in (*sizes, "best_of") if name in full)


@pytest.mark.parametrize("track", TRACKS)
@pytest.mark.parametrize("preset", PRESETS)
def test_what_the_stages_ask_for_is_there(track, preset):
    worlds = {"tldr": TLDR, "sentiment": SENTIMENT}
    sizes = worlds.get(track, ADVICE).sizes
    pretrain, sft, reward, ppo = (load_config(stage, preset, track) for stage in CONFIGS)
    assert pretrain.documents <= sizes["documents"]["train"]
    assert sft.demonstrations <= sizes["demonstrations"]["train"]
    assert reward.comparisons <= sizes["comparisons"]["train"]
    assert max(sft.eval_prompts, ppo.eval_prompts) <= sizes["prompts"]["heldout"]
    assert ppo.rollout_size <= sizes["prompts"]["train"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("rlhf",), "no stage 'rlhf': choose from pretrain, sft, reward, ppo"),
        (("sft", "huge"), "no preset 'huge': choose from " + ", ".join(PRESETS)),
        (("sft", "CPU"), "no preset 'CPU'"),
        (("sft", "cpu", "imdb"), "no track 'imdb': choose from " + ", ".join(TRACKS)),
        (("sft", ""), "no preset ''"),
        (("sft", "cpu", ""), "no track ''"),
    ],
)
def test_a_bad_name_lists_the_good_ones(arguments, says):
    with pytest.raises(ValueError) as error:
        load_config(*arguments)
    assert str(error.value).startswith(says) and "\n" not in str(error.value)


def test_settings_cannot_be_changed_by_accident():
    with pytest.raises(dataclasses.FrozenInstanceError):
        load_config("ppo").kl_coef = 0.0


def test_a_context_that_batches_cannot_be_padded_to_is_refused():
    with pytest.raises(ValueError, match="multiple of 16.*not 100"):
        PretrainConfig(context=100)


@pytest.mark.parametrize(
    ("capability", "gigabytes", "count", "expected"),
    [
        ((7, 5), 15, 1, "t4"),
        ((7, 5), 15, 2, "t4x2"),
        ((8, 6), 24, 1, "t4"),
        ((9, 0), 80, 1, "h100"),
        ((9, 0), 80, 2, "h100"),
        ((7, 0), 48, 1, "t4"),
    ],
)
def test_the_preset_by_gpu(monkeypatch, capability, gigabytes, count, expected):
    gpu = SimpleNamespace(total_memory=gigabytes * 1e9)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: gpu)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    preset, why = choose_preset(None, "local", torch.device("cuda"))
    assert preset == expected and why
    assert choose_preset(None, "embedded", torch.device("cuda")) == ("cpu", "")
    assert choose_preset("smoke", "local", torch.device("cuda")) == ("smoke", "")


def test_without_a_gpu_the_preset_is_cpu():
    assert choose_preset(None, "embedded", torch.device("cpu")) == ("cpu", "")
    assert choose_preset(None, "hub", torch.device("cpu")) == ("cpu", "there is no CUDA device")
