"""Settings: every preset is complete, and a bad name is one clear line."""

import dataclasses

import pytest

from helpers.config import CONFIGS, PretrainConfig, default_source
from helpers.rows.tracks import TRACKS
from helpers.run.presets import GPU, PRESETS, REAL, differences, load_config


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("track", TRACKS)
@pytest.mark.parametrize("source", ["embedded", "local", "hub"])
def test_every_preset_makes_every_stage(preset, track, source):
    for stage in CONFIGS:
        config = load_config(stage, preset, track, 7, source)
        assert type(config) is CONFIGS[stage] and config.seed == 7
        changes = differences(preset, source, track, stage)
        assert {name: getattr(config, name) for name in changes} == changes


def test_the_defaults_are_the_cpu_preset():
    for stage, config in CONFIGS.items():
        assert load_config(stage) == load_config(stage, "cpu", "tldr", 0) == config()


def test_gpu_presets_are_the_cpu_settings_on_an_embedded_world():
    for stage in CONFIGS:
        for track in TRACKS:
            for preset in ("t4", "t4x2", "h100"):
                assert load_config(stage, preset, track) == load_config(stage, "cpu", track)


@pytest.mark.parametrize("track", TRACKS)
@pytest.mark.parametrize("preset", ["t4", "t4x2", "h100"])
def test_gpu_presets_fit_together(preset, track):
    made = {stage: load_config(stage, preset, track, source="hub") for stage in CONFIGS}
    assert (
        made["sft"].init == "gpt2"
        and made["pretrain"].vocabulary == 0
        and made["pretrain"].context <= 1024
    )
    for config in made.values():
        if hasattr(config, "micro_batch"):
            assert config.micro_batch == 0 or config.batch_size % config.micro_batch == 0
    assert made["ppo"].rollout_size % made["ppo"].minibatch_size == 0
    assert (
        len({config.response_tokens for stage, config in made.items() if stage != "pretrain"}) == 1
    )
    assert made["reward"].pointwise == (track == "sentiment")
    assert load_config("ppo", "t4x2", track, source="hub") == load_config(
        "ppo", "t4", track, source="hub"
    )


def test_what_the_base_model_is(monkeypatch):
    monkeypatch.delenv("RLHF_INIT", raising=False)
    assert (
        default_init("cpu", "tldr", "local") == default_init("t4", "tldr", "embedded") == "pretrain"
    )
    assert default_init("t4", "tldr", "local") == "gpt2"
    monkeypatch.setenv("RLHF_INIT", "gpt2-medium")
    assert default_init("cpu", "tldr", "hub") == "gpt2-medium"
    with pytest.raises(
        ValueError, match="RLHF_INIT=gpt2-medium: an embedded world has a tokenizer of its own"
    ):
        default_init("cpu", "tldr", "embedded")


def test_smoke_is_no_larger_than_cpu():
    sizes = (
        "documents",
        "demonstrations",
        "comparisons",
        "iterations",
        "eval_prompts",
        "epochs",
        "best_of",
    )
    for stage in CONFIGS:
        small, full = load_config(stage, "smoke"), load_config(stage, "cpu")
        assert all(
            getattr(small, name) <= getattr(full, name) for name in sizes if hasattr(full, name)
        )


@pytest.mark.parametrize("track", TRACKS)
@pytest.mark.parametrize("preset", PRESETS)
def test_what_the_stages_ask_for_is_there(track, preset):
    from data.advice.build import WORLD as ADVICE
    from data.sentiment.build import WORLD as SENTIMENT
    from data.tldr.build import WORLD as TLDR

    sizes = {"tldr": TLDR, "sentiment": SENTIMENT, "assistant": ADVICE, "instruct": ADVICE}[
        track
    ].sizes
    config = {stage: load_config(stage, preset, track) for stage in CONFIGS}
    assert config["pretrain"].documents <= sizes["documents"]["train"]
    assert config["sft"].demonstrations <= sizes["demonstrations"]["train"]
    assert config["reward"].comparisons <= sizes["comparisons"]["train"]
    assert config["sft"].eval_prompts <= sizes["prompts"]["heldout"]
    assert config["ppo"].eval_prompts <= sizes["prompts"]["heldout"]
    assert config["ppo"].rollout_size <= sizes["prompts"]["train"]


def test_tracks_are_those_that_have_rows():
    from helpers.rows.tracks import TRACKS as WITH_ROWS

    assert set(TRACKS) == set(WITH_ROWS)


def test_the_source_is_chosen_from_outside(monkeypatch):
    for name in ("RLHF_SOURCE", "RLHF_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)
    assert default_source() == "embedded"
    monkeypatch.setenv("RLHF_DATA_DIR", "/somewhere")
    assert default_source() == "local"
    monkeypatch.setenv("RLHF_SOURCE", "hub")
    assert default_source() == "hub"


def test_real_rows_change_what_their_track_says():
    for track, stages in REAL.items():
        for stage, changes in stages.items():
            config = load_config(stage, "cpu", track, source="local")
            assert {name: getattr(config, name) for name in changes} == changes
    assert set(GPU) == set(TRACKS)


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
