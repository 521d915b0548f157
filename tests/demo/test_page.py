"""The page without a browser: its events as functions, and that it is served."""

import json
import subprocess
import sys
import urllib.request
from dataclasses import replace

import pytest

from helpers.demo.answers import MOST, Sampling
from helpers.engine.files import ROOT

pytest.importorskip("gradio")
from helpers.demo import page  # noqa: E402  (it imports gradio)

KNOBS = tuple(getattr(Sampling(tokens=12, n=2), name) for name in MOST)


def test_answers_come_while_they_are_written(models, monkeypatch):
    monkeypatch.setattr(page, "EVERY", 0.0)
    *drafts, last = page.compare(models, models.prompts[0].prompt, KNOBS)
    assert len(drafts) >= 3 and all("<dl></dl>" in draft for draft in drafts)
    assert last.count("<h3>") == 4 and last.count("gold") == 4 and "The models read" not in last


@pytest.mark.parametrize(
    "text, knobs, says",
    [
        ("", KNOBS, "empty text"),
        (None, KNOBS, "empty text"),
        ("x", (9, *KNOBS[1:]), "temperature must be from 0 to 5"),
        ("x", (None, *KNOBS[1:]), "temperature must be"),
        ("x", (1, 0, 1, 1, 200, 0), "prompt too long: with a response of 200 tokens"),
    ],
)
def test_what_cannot_be_answered_is_said(models, text, knobs, says):
    (shown,) = page.compare(models, text, knobs)
    assert shown.startswith(f'<p class="note">Not answered: {says}')


def test_an_empty_box_is_0(models):
    assert page.sampling_of((*KNOBS[:-1], None)) == page.sampling_of((*KNOBS[:-1], 0))


def test_a_text_of_ones_own_is_shown_as_the_models_read_it(models):
    *_, last = page.compare(models, "<script>alert(1)</script>", KNOBS)
    assert "The models read: SUBREDDIT: r/advice" in last and "gold" not in last
    assert "<script" not in last


@pytest.mark.parametrize("names", [["SFT", "PPO"], ["base", "best of n"]])
def test_a_pair_is_of_the_two_that_were_asked_for(models, names):
    pair = page.draw_pair(models, names, Sampling(tokens=12, n=3))
    assert {one.policy for one in pair.answers} == {n.replace("of n", "of 3") for n in names}
    assert pair.prompt in models.known


def test_two_that_answer_alike_are_no_pair(models):
    same = replace(models, policies={"SFT": models.policies["SFT"], "PPO": models.policies["SFT"]})
    assert page.draw_pair(same, ["SFT", "PPO"], Sampling(tokens=4)) is None


@pytest.mark.parametrize("changed", [{}, {"reward": None}, {"prompts": []}, {"track": "sentiment"}])
def test_every_run_has_its_page(models, changed):
    policies = {"PPO": models.policies["PPO"]} if changed == {"reward": None} else models.policies
    assert page.build(replace(models, policies=policies, missing=["no <SFT>"], **changed))
    assert "no &lt;SFT&gt;" in page.head(replace(models, missing=["no <SFT>"]), "run")


def test_it_is_served_on_this_machine_alone_and_offers_no_api(run_folder):
    """In a process of its own: Gradio's server would outlive the test."""
    command = [sys.executable, "-m", "helpers", "demo", str(run_folder), "--no-browser"]
    server = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        address = server.stdout.readline().split(" is at ")[1].split()[0]
        with urllib.request.urlopen(address + "config", timeout=60) as answer:
            config = json.load(answer)
    finally:
        server.terminate()
        server.communicate(timeout=60)
    assert address.startswith("http://127.0.0.1:")
    assert all(one["api_visibility"] == "private" for one in config["dependencies"])
    assert config["analytics_enabled"] is False and not config.get("is_space")
