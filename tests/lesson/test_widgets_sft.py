"""The explorers of 1-SFT without a browser: moving a control changes what is shown. The figures:
they draw.
"""

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt
import pytest

from data.tldr.gold import gold
from data.tldr.posts import Facts
from data.worlds import gold as gold_of_world
from helpers.lesson.plots import sft as plots
from helpers.lesson.widgets import sft as explorers
from helpers.model import GPT, GPTConfig
from helpers.records import Prompt
from helpers.rows.embedded import load_rows, load_tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer()


@pytest.fixture(scope="module")
def demonstration():
    return load_rows("demonstrations", "heldout", limit=1)[0]


@pytest.fixture(scope="module")
def prompts():
    return load_rows("prompts", "heldout", limit=2)


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def test_mask_explorer_counts_the_completion(tokenizer, demonstration):
    box = explorers.explore_mask(tokenizer, demonstration)
    prompt, completion, options, report = box.children
    tokens = len(tokenizer.encode(demonstration.completion)) + 1
    row = len(tokenizer.encode(demonstration.prompt)) + tokens
    assert f"{tokens} of {row} tokens in the loss" in report.value
    masked, end = options.children
    masked.value = False
    assert (
        f"{row - 1} of {row} tokens in the loss" in report.value and "write prompts" in report.value
    )
    masked.value, end.value = True, False
    assert f"{tokens - 1} of {row} tokens in the loss" in report.value and "to stop" in report.value
    end.value = True
    before = report.value
    completion.value = " No <b>idea</b>."
    assert report.value != before and "<b>idea" not in report.value
    prompt.value = ""
    assert "tokens in the loss" in report.value


def test_mask_explorer_warns_of_spaces(tokenizer):
    assert explorers.warnings(tokenizer, "TL;DR:", " My dog.", True, True) == []
    assert len(explorers.warnings(tokenizer, "TL;DR: ", "My dog.", True, True)) == 3
    assert explorers.warnings(tokenizer, "TL;DR:", "", True, True)


def test_sample_explorer_reacts_to_every_control(tokenizer, prompts):
    models = {name: GPT(GPTConfig(tokenizer.vocab_size, 256, 1, 1, 16)) for name in ("base", "SFT")}
    box = explorers.explore_samples(models, tokenizer, prompts, max_new_tokens=4)
    name, post, temperature, seed, report = box.children
    assert name.value == "SFT" and "gold reward" in report.value
    shown = {report.value}
    for control, value in ((seed, 1), (temperature, 0.0), (name, "base"), (post, 1)):
        control.value = value
        assert report.value not in shown
        shown.add(report.value)
    name.value, post.value, temperature.value, seed.value = "SFT", 0, 1.0, 0
    assert report.value in shown  # the same settings give the same text


def test_words_are_judged_as_the_gold_reward_does(prompts):
    facts = Facts(**prompts[0].facts)
    wrong = "piano" if facts.thing != "piano" else "violin"
    text = f" My {facts.who} and my {wrong}. We had lasagna."
    kinds = {piece: kind for piece, kind in plots.judged_words(facts, text)}
    assert "".join(piece for piece, _ in plots.judged_words(facts, text)) == text
    assert (kinds[facts.who], kinds[wrong], kinds["lasagna"]) == (
        "true fact",
        "invented",
        "small talk",
    )
    judged = gold(facts, text)
    html = explorers.response_html(prompts[0], text, stopped=False)
    assert (
        "did not stop" in html
        and f"invented {judged.invented}" in html
        and "background:#bcd9bb" in html
    )
    assert plots.judged_figure({"good": text}, facts)


@pytest.mark.parametrize("track", ["sentiment", "assistant"])
def test_a_response_is_judged_by_its_own_world(track):
    (prompt,) = load_rows("prompts", "heldout", track, limit=1)
    judged = gold_of_world(prompt.world, prompt.facts, " is <b> dull and dull.")
    html = explorers.response_html(prompt, " is <b> dull and dull.", stopped=True)
    assert (
        f"gold reward {judged.reward:+.2f}" in html
        and "&lt;b&gt;" in html
        and "stopped by itself" in html
    )
    found = [name for name, has in judged.flaws.items() if has]
    assert found and all(name.replace("_", " ") in html for name in found)


def test_a_response_to_a_real_prompt_is_shown_without_a_verdict():
    html = explorers.response_html(Prompt("a real"), " film with four words", stopped=False)
    assert "gold" not in html and "4 words" in html and "did not stop" in html


def test_token_figures(tokenizer, demonstration):
    ids = tokenizer.encode(demonstration.prompt)
    row = ids + tokenizer.encode(demonstration.completion) + [tokenizer.eos_id, tokenizer.pad_id]
    kinds = plots.token_kinds(row, len(ids), tokenizer.eos_id, tokenizer.pad_id)
    assert kinds[-2:] == ["end of text", "pad"] and kinds.count("prompt") == len(ids)
    pieces = [tokenizer.decode([id_]) for id_ in row]
    assert plots.mask_figure(pieces, kinds) and plots.loss_figure(pieces, [0.1] * len(row))
    places = plots.flow(["aaa", "bbb", "↵", "↵", "c", "\n", "d"], columns=4, indent=1)
    assert places == [(0, 0), (1, 1), (2, 1), (2, 2), (3, 0), (3, 1), (4, 0)]


def test_curves_and_bars():
    flaws = {"hallucination": 0.2, "verbose": 0.0}
    assert plots.training_figure([{"loss": 2.0}, {"loss": 1.0}], heldout=0.9, floor=0.5, base=4.0)
    assert plots.flaw_figure({"writers": (flaws, 0), "SFT model": (flaws, 50)})
    assert plots.writer_figure({"good": 4.0, "verbose": 3.0}, 3.5, {"base": -1.0, "SFT": 3.0})
    rows = [{"temperature": t, "words": 9.0, "stop_rate": 0.5} for t in (0.0, 1.0)]
    left, right = plots.temperature_figure(rows).axes
    assert left.get_ylabel() == "words, mean" and list(right.lines[0].get_ydata()) == [0.5, 0.5]
    left, right = plots.temperature_figure(
        [row | {"gold_reward": 1.0, "flaws": flaws} for row in rows]
    ).axes
    assert left.get_ylabel() == "gold reward, mean" and len(right.lines) == len(flaws)


def test_a_floor_that_is_not_known_is_not_drawn():
    lines = {
        floor: len(
            plots.training_figure([{"loss": 2.0}], heldout=0.9, floor=floor, base=4.0).axes[0].lines
        )
        for floor in (0.5, None)
    }
    assert lines[None] == lines[0.5] - 1
