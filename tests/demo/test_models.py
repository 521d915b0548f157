"""What of a run there is to talk to, and how a text becomes a prompt."""

import json
import shutil

import pytest

from helpers.demo.models import open_run
from helpers.rows.embedded import load_rows
from helpers.run.checkpoints import CheckpointError
from tests.support.demo_run import STAGES, make_run

NAMES = {"pretrain": "base", "sft": "SFT", "reward": "reward model", "ppo": "PPO"}
TRACKS = ("tldr", "sentiment", "assistant", "instruct")


@pytest.mark.parametrize("track", TRACKS)
def test_every_track_opens_with_its_heldout_prompts(track, tmp_path):
    models = open_run(make_run(tmp_path / "run", track))
    assert (models.track, list(models.policies)) == (track, ["base", "SFT", "PPO"])
    assert models.reward is not None and models.missing == []
    assert models.prompts == load_rows("prompts", "heldout", track, 200)
    assert not any(
        p.requires_grad for model in models.policies.values() for p in model.parameters()
    )


@pytest.mark.parametrize("gone", STAGES)
def test_a_missing_stage_is_named_with_the_command_that_makes_it(gone, run_folder, tmp_path):
    folder = shutil.copytree(run_folder, tmp_path / "run")
    shutil.rmtree(folder / "checkpoints" / gone)
    models = open_run(folder)
    assert NAMES[gone] not in models.policies and (models.reward is None) == (gone == "reward")
    (line,) = models.missing
    options = "--track tldr --preset smoke --source embedded --seed 0"
    if gone == "sft":  # nothing has been read by then
        options = ""
    assert line.startswith(f"no {NAMES[gone]}: `python -m helpers {gone} {options}".rstrip())
    assert line.endswith(f"--out {folder}`")


def test_a_run_without_checkpoints_is_refused_with_those_beside_it(run_folder, tmp_path):
    shutil.copytree(run_folder, tmp_path / "there")
    with pytest.raises(CheckpointError) as error:
        open_run(tmp_path / "elsewhere")
    says = (
        f"no checkpoint in {tmp_path / 'elsewhere'}: run `make course` first, or name one of there"
    )
    assert str(error.value) == says


def test_a_checkpoint_of_another_track_or_that_is_damaged_is_left_out(run_folder, tmp_path):
    folder = shutil.copytree(run_folder, tmp_path / "run")
    other = make_run(tmp_path / "other", "sentiment", ("ppo",))
    shutil.rmtree(folder / "checkpoints/ppo")
    shutil.copytree(other / "checkpoints/ppo", folder / "checkpoints/ppo")
    (folder / "checkpoints/reward/model.safetensors").write_bytes(b"x")
    models = open_run(folder)
    assert list(models.policies) == ["base", "SFT"] and models.reward is None
    reward, ppo = models.missing
    assert reward.startswith("reward model left out: ") and "checksum mismatch" in reward
    assert ppo.startswith("PPO left out: ") and "made for track 'sentiment'" in ppo


def test_rows_that_cannot_be_had_cost_the_choice_of_posts_only(run_folder, tmp_path):
    folder = shutil.copytree(run_folder, tmp_path / "run")
    for path in folder.glob("checkpoints/*/stage.json"):
        info = json.loads(path.read_text())
        info["config"]["source"] = "local"
        path.write_text(json.dumps(info))
    models = open_run(folder)
    assert models.prompts == [] and len(models.policies) == 3
    assert models.missing[0].startswith("no held-out prompts to choose from: CarperAI/")


# ---------------------------------------------------------------- prompts


def test_a_heldout_post_is_known_whatever_white_space_is_around_it(models):
    prompt = models.prompts[3]
    assert models.read_prompt(f"\n {prompt.prompt} \n\n", 24) == prompt
    assert models.read_prompt(prompt.prompt.replace("POST: ", "POST: Well. "), 24).facts is None


@pytest.mark.parametrize(
    "text, fields",
    [
        ("My cat sings.", ("My cat sings.", "My cat sings.")),
        ("A title\n\nMy cat sings.\nLoudly.", ("A title", "My cat sings.\nLoudly.")),
        ("<|endoftext|> 😀 {0}", ("<|endoftext|> 😀 {0}",) * 2),
        ("half \ud800 a pair", ("half \ufffd a pair",) * 2),
    ],
)
def test_a_plain_text_becomes_a_post(text, fields, models):
    expected = "SUBREDDIT: r/advice\n\nTITLE: {}\n\nPOST: {}\n\nTL;DR:".format(*fields)
    found = models.read_prompt(text, 24).prompt
    assert found == expected
    assert models.tokenizer.eos_id not in models.tokenizer.encode(found)


@pytest.mark.parametrize("track", TRACKS[1:])
def test_a_request_is_put_into_the_tracks_template_once(track, tmp_path):
    models = open_run(make_run(tmp_path / "run", track, ("sft",)))
    for known in models.prompts[:3]:
        assert models.read_prompt(known.prompt, 24) == known
    whole = models.read_prompt("Name {three} things.", 24).prompt
    assert "Name {three} things." in whole and models.read_prompt(whole, 24).prompt == whole
    with pytest.raises(
        ValueError, match="^prompt too long: with a response of 24 tokens, 104 fit$"
    ):
        models.read_prompt("word " * 200, 24)


def test_a_post_that_is_too_long_is_cut_and_an_empty_one_refused(models):
    for text in ("word " * 100_000, "word\n" * 100_000, "Cat 😀\n" + "😀" * 1000):
        assert len(models.tokenizer.encode(models.read_prompt(text, 24).prompt)) <= 128 - 24
    for text in ("", " \n\t "):
        with pytest.raises(ValueError, match="^empty text$"):
            models.read_prompt(text, 24)
    with pytest.raises(ValueError, match="too long: with a response of 120 tokens, 8 fit"):
        models.read_prompt("word", 120)
