"""What all explorers have in common: pictures at natural size, texts that can be read in any theme,
a static view, sliders that are drawn anew.
"""

import base64
import re
import struct

import ipywidgets as widgets
import pytest
import torch
from matplotlib.colors import to_rgb

from helpers.evaluation import Responses
from helpers.lesson import penalty
from helpers.lesson.widgets import core, ppo, pretrain, reward, sft, talk
from helpers.lesson.widgets.core import inside
from helpers.model import GPT, GPTConfig, RewardModel

WIDGET = "application/vnd.jupyter.widget-view+json"


@pytest.fixture(scope="module")
def explorers(tokenizer, prompts, comparisons, demonstration):
    """All explorers of the notebooks but those of a rollout, by name."""
    gpt = GPT(GPTConfig(tokenizer.vocab_size, 256, 1, 2, 16))
    scorer, answers = RewardModel(gpt), Responses(prompts, [[5]] * 4, [" A cat."] * 4, [True] * 4)
    told = lambda responses, row: "fine"  # noqa: E731
    margin = torch.linspace(-3, 3, len(comparisons))
    return {
        "tokens": pretrain.tokenizer_explorer(tokenizer),
        "attention": pretrain.attention_explorer(gpt, tokenizer, "My boss"),
        "sampling": pretrain.sampling_explorer(gpt, tokenizer, {"a": "My"}, 4),
        "mask": sft.explore_mask(tokenizer, demonstration),
        "samples": sft.explore_samples({"SFT": gpt}, tokenizer, prompts, 4),
        "gap": reward.bradley_terry_explorer(),
        "pairs": reward.pair_explorer(comparisons, margin),
        "scorer": reward.text_scorer(scorer, tokenizer, prompts),
        "clip": ppo.explore_clip(),
        "penalty": ppo.explore_penalty(penalty.recorded()),
        "talk": talk.talk_to({"SFT": gpt}, tokenizer, "My <b>boss", 4),
        "duel": talk.blind_duel(("SFT", answers), ("PPO", answers), told),
    }


@pytest.fixture
def everyone(explorers, rollout, tokenizer):
    responses = {
        "gae": ppo.explore_gae(rollout, 0.05, tokenizer),
        "rollout": ppo.explore_rollout(rollout, 0.05, tokenizer),
    }
    return explorers | responses


def test_pictures_are_as_wide_as_they_were_drawn(everyone):
    pictures = [x for box in everyone.values() for x in inside(box) if isinstance(x, widgets.Image)]
    assert len(pictures) == 8
    for image in pictures:
        assert image.width == str(struct.unpack(">I", image.value[16:20])[0])
        assert image.layout.align_self == "flex-start", "a box would stretch it"
        assert int(image.width) <= 800


def luminance(colour: str) -> float:
    """The relative luminance of WCAG 2."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
    return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear))


def test_texts_can_be_read_in_any_theme(everyone):
    """A text has the theme's colour, or its own on an opaque colour of its own."""
    coloured = 0
    for box in everyone.values():
        html = " ".join(x.value for x in inside(box) if isinstance(x, widgets.HTML))
        for style in re.findall(r"""style=["']([^"']*)["']""", html):
            css = dict(rule.split(":", 1) for rule in style.strip(";").split(";"))
            if {"color", "background", "background-color"} & css.keys():
                text, ground = luminance(css["color"]), luminance(css["background"])  # no rgba()
                assert (max(text, ground) + 0.05) / (min(text, ground) + 0.05) >= 4.5, style
                coloured += 1
    assert coloured > 50


def test_the_strongest_advantages_can_be_read():
    for colour in (ppo.BLUE, ppo.ORANGE):
        strongest = luminance(ppo.tint(colour, 0.75)) + 0.05
        assert strongest / (luminance(core.INK) + 0.05) >= 4.5
        assert ppo.tint(colour, 0) == "#ffffff" and ppo.tint(colour, 1) == colour


def test_every_explorer_has_a_static_view(everyone):
    """A saved notebook shows a picture or a text, which the page of a kernel does not show."""
    for name, box in everyone.items():
        assert isinstance(box, core.Explorer)
        bundle = box._repr_mimebundle_()
        pictures = [x for x in inside(box) if isinstance(x, widgets.Image)]
        assert WIDGET in bundle and ("image/png" in bundle) == bool(pictures), name
        if pictures:
            assert base64.b64decode(bundle["image/png"]) == pictures[0].value
        else:
            assert len(re.sub("<.*?>", "", bundle["text/html"])) > 20, name
    assert "My &lt;b&gt;boss" in everyone["talk"]._repr_mimebundle_()["text/html"]


def test_a_slider_whose_end_moves_is_drawn_anew():
    slider = core.slider("token", 9, 1, 9)
    place, drawn = widgets.VBox([slider]), []
    place.observe(lambda change: drawn.append(change.new), names="children")
    core.set_last(place, 9)
    assert drawn == []
    core.set_last(place, 4)
    assert drawn == [(), (slider,)] and slider.value == slider.max == 4
