"""The explorers without a browser: moving a control changes what is shown, odd input raises
nothing.
"""

import matplotlib.pyplot as plt
import pytest
import torch

from data.tldr.gold import gold
from data.tldr.posts import Facts
from data.worlds import gold as gold_of_world
from helpers.evaluation import judge
from helpers.lesson.completions import summary_versions
from helpers.lesson.plots.sft import WORD_COLOURS, judged_words
from helpers.lesson.widgets import core, ppo, pretrain, reward, sft
from helpers.model import GPT, GPTConfig, RewardModel
from helpers.records import Comparison, Prompt
from helpers.rows.embedded import load_rows
from tests.support.explorers import controls, shown


@pytest.fixture(autouse=True)
def no_figure_left_open():
    yield
    assert not plt.get_fignums(), "a widget left a figure open: its cell would show it twice"


def test_a_figure_in_kept_margins_is_the_same_picture():
    def figure(dark: float):
        fig, axes = plt.subplots(layout="constrained")
        fig.colorbar(axes.imshow([[0, dark]], vmin=0, vmax=1), shrink=0.6)
        axes.set(xlabel="a label", title="a title")
        return fig

    fresh, kept = core.picture(), core.picture()
    core.draw(kept, figure(0.2), like="labels")
    core.draw(kept, figure(0.7), like="labels")
    core.draw(fresh, figure(0.7))
    assert kept.value == fresh.value and kept.width == fresh.width


@pytest.fixture
def reward_model(tokenizer):
    return RewardModel(GPT(GPTConfig(tokenizer.vocab_size, 256, 1, 2, 16)))


# ---------------------------------------------------------------- 0-Pretrain


def test_tokenizer_explorer(tokenizer):
    widget = pretrain.tokenizer_explorer(tokenizer)
    before, text = shown(widget), "My <b>sister</b>\n& I"
    controls(widget)["text"].value = text
    (after,) = shown(widget)
    assert after != before[0]
    assert "<b>sister" not in after and "&lt;" in after, "a learner's text is not HTML"
    ids = tokenizer.encode(text)
    assert f"<b>{len(ids)} tokens</b>" in after and f'title="id {ids[0]}"' in after
    controls(widget)["text"].value = ""
    assert "0 tokens" in shown(widget)[0]


@pytest.mark.parametrize(
    "name, value", [("layer", 1), ("head", 2), ("token that looks", 3), ("text", "My boss")]
)
def test_attention_explorer(model, tokenizer, name, value):
    widget = pretrain.attention_explorer(model, tokenizer, pretrain.SENTENCE)
    before = shown(widget)
    last = min(pretrain.MOST, len(tokenizer.encode(pretrain.SENTENCE)))
    assert controls(widget)["token that looks"].max == last
    controls(widget)[name].value = value
    after = shown(widget)
    assert after != before
    query = controls(widget)["token that looks"]
    if name == "text":
        last = len(tokenizer.encode(value))
        assert query.value == query.max == last, "the slider must follow the text"
        assert f"Token {last} of {last}" in after[0] and all(a != b for a, b in zip(after, before))


def test_attention_explorer_with_any_text(model, tokenizer):
    widget = pretrain.attention_explorer(model, tokenizer, pretrain.SENTENCE)
    text = controls(widget)["text"]
    text.value = ""
    assert "at least one word" in shown(widget)[0]
    text.value = "word " * 200  # longer than the context
    text.value = "$x^2$ <b> café 🙂"
    assert "looks at" in shown(widget)[0]


@pytest.mark.parametrize(
    "name, value",
    [("temperature", 0.1), ("top-k (0: off)", 2), ("top-p (1: off)", 0.1), ("seed", 7)],
)
def test_sampling_explorer(model, tokenizer, name, value):
    widget = pretrain.sampling_explorer(model, tokenizer, pretrain.PROMPTS, new_tokens=6)
    bars, text = shown(widget)
    controls(widget)[name].value = value
    assert shown(widget)[1] != text
    same_bars = shown(widget)[0] == bars
    assert same_bars == (name == "seed"), "the seed changes the draw, not the probabilities"


def test_sampling_explorer_continues_its_prompts(model, tokenizer):
    prompts = pretrain.PROMPTS | {"mine": "POST: My <aunt>"}
    widget = pretrain.sampling_explorer(model, tokenizer, prompts, new_tokens=2)
    before, menu = shown(widget), controls(widget)["prompt"]
    assert dict(menu.options) == prompts
    for value in prompts.values():
        menu.value = value
    assert all(a != b for a, b in zip(shown(widget), before))
    assert "POST: My &lt;aunt&gt;<b>" in shown(widget)[1]
    controls(widget)["top-k (0: off)"].value = 3
    assert "3 tokens may be drawn" in shown(widget)[1]


# ---------------------------------------------------------------- 1-SFT


def test_mask_explorer_counts_the_completion(tokenizer, demonstration):
    box = sft.explore_mask(tokenizer, demonstration)
    prompt, completion, masked, end = controls(box).values()
    tokens = len(tokenizer.encode(demonstration.completion)) + 1
    row = len(tokenizer.encode(demonstration.prompt)) + tokens
    assert f"{tokens} of {row} tokens in the loss" in shown(box)[0]
    masked.value = False
    assert f"{row - 1} of {row} tokens in the loss" in shown(box)[0]
    assert "write prompts" in shown(box)[0]
    masked.value, end.value = True, False
    assert f"{tokens - 1} of {row} tokens in the loss" in shown(box)[0]
    assert "to stop" in shown(box)[0]
    end.value = True
    before = shown(box)
    completion.value = " No <b>idea</b>."
    assert shown(box) != before and "<b>idea" not in shown(box)[0]
    prompt.value = ""
    assert "tokens in the loss" in shown(box)[0]


def test_mask_explorer_warns_of_spaces(tokenizer):
    assert sft.warnings(tokenizer, "TL;DR:", " My dog.", True, True) == []
    assert len(sft.warnings(tokenizer, "TL;DR: ", "My dog.", True, True)) == 3
    assert sft.warnings(tokenizer, "TL;DR:", "", True, True)


def test_sample_explorer_reacts_to_every_control(tokenizer, prompts):
    models = {name: GPT(GPTConfig(tokenizer.vocab_size, 256, 1, 1, 16)) for name in ("base", "SFT")}
    box = sft.explore_samples(models, tokenizer, prompts, max_new_tokens=4)
    name, post, temperature, seed = controls(box).values()
    assert name.value == "SFT" and "gold reward" in shown(box)[0]
    seen = set(shown(box))
    for control, value in ((seed, 1), (temperature, 0.0), (name, "base"), (post, 1)):
        control.value = value
        assert shown(box)[0] not in seen
        seen |= set(shown(box))
    name.value, post.value, temperature.value, seed.value = "SFT", 0, 1.0, 0
    assert shown(box)[0] in seen, "the same settings give the same text"


def test_words_are_judged_as_the_gold_reward_does(prompts):
    facts = Facts(**prompts[0].facts)
    wrong = "piano" if facts.thing != "piano" else "violin"
    text = f" My {facts.who} and my {wrong}. We had lasagna."
    words = judged_words(facts, text)
    assert "".join(piece for piece, _ in words) == text
    expected = {facts.who: "true fact", wrong: "invented", "lasagna": "small talk"}
    assert expected.items() <= dict(words).items()
    html = sft.response_html(prompts[0], text, stopped=False)
    for part in (
        "did not stop",
        f"invented {gold(facts, text).invented}",
        WORD_COLOURS["true fact"],
    ):
        assert part in html


@pytest.mark.parametrize("track", ["sentiment", "assistant"])
def test_a_response_is_judged_by_its_world(track):
    (prompt,) = load_rows("prompts", "heldout", track, limit=1)
    judged = gold_of_world(prompt.world, prompt.facts, " is <b> dull and dull.")
    html = sft.response_html(prompt, " is <b> dull and dull.", stopped=True)
    flaws = [name.replace("_", " ") for name, has in judged.flaws.items() if has]
    assert flaws
    for part in (f"gold reward {judged.reward:+.2f}", "&lt;b&gt;", "stopped by itself", *flaws):
        assert part in html


def test_a_response_to_a_real_prompt_is_shown_without_a_verdict():
    html = sft.response_html(Prompt("a real"), " film with four words", stopped=False)
    assert "gold" not in html and "4 words" in html and "did not stop" in html


# ---------------------------------------------------------------- 2-RM-Training


def test_bradley_terry_explorer_follows_its_sliders():
    box = reward.bradley_terry_explorer()
    image, words = shown(box)
    assert image.startswith(b"\x89PNG") and "73.1%" in words
    controls(box)["score chosen"].value = 0.5
    assert shown(box)[0] != image and "50.0%" in shown(box)[1]


@pytest.mark.parametrize(
    "text, other, marked",
    [
        ("my red car is gone", "my blue car is gone", "my [red] car is gone"),
        ("a b", "a b c d", "a b"),
        ("a b c d", "a b", "a b [c d]"),
    ],
)
def test_difference_marks_what_the_other_lacks(text, other, marked):
    assert reward.difference(text, other) == marked


def test_pair_explorer_orders_and_filters(comparisons):
    margin = torch.linspace(-3, 3, len(comparisons))
    box = reward.pair_explorer(comparisons, margin)
    kind, order, number = controls(box).values()
    assert "margin -3.00" in shown(box)[0] and "<b>" in shown(box)[0]
    number.value = 30
    assert "margin +3.00" in shown(box)[0]
    kind.value = "hallucinating"
    rows = [m for m, c in zip(margin.tolist(), comparisons) if c.kind == "hallucinating"]
    assert number.value == number.max == len(rows)
    order.value = "best first: sure and right"
    number.value = 1
    assert f"margin {max(rows):+.2f}" in shown(box)[0]


def test_a_pair_is_shown_as_text_not_as_html():
    html = reward.pair_html(Comparison("<i>post</i>", "a <b>x", "a <b>y", "mixed", None), 0.0)
    assert "<i>" not in html and "&lt;b&gt;x" in html and "unknown" in html


def test_real_pairs_have_neither_kind_nor_probability():
    box = reward.pair_explorer([Comparison("a post", " a", " b")], torch.tensor([0.5]))
    assert controls(box)["kind"].options == ("all",)
    assert "<p>A pair." in shown(box)[0] and "an unknown share" in shown(box)[0]


def test_summary_versions_have_the_flaws_they_are_called_by(prompts):
    for prompt in prompts:
        versions = summary_versions(prompt)
        flaws = {name: judge(prompt, text).flaws for name, text in versions.items()}
        names = {
            name: [flaw for flaw, has in those.items() if has] for name, those in flaws.items()
        }
        mixed_up = {"a fact mixed up": ["hallucination"]}
        able = Facts(**prompt.facts).confusable()
        assert names == (mixed_up if able else {}) | {
            "good": [],
            "small talk copied": ["copying"],
            "question left out": ["missing_question"],
            "padded out": ["padding"],
            "details dropped": ["dropped_details"],
        }


def test_score_by_token_ends_with_the_score(reward_model, tokenizer, prompts):
    prompt, text = prompts[0].prompt, " My cat."
    pieces, values = reward.score_by_token(reward_model, tokenizer, prompt, text)
    ids = tokenizer.encode(prompt) + tokenizer.encode(text) + [tokenizer.eos_id]
    written = torch.arange(len(ids))[None] >= len(tokenizer.encode(prompt))
    score = reward_model(torch.tensor([ids]), torch.ones_like(written), written)
    assert len(values) == len(pieces) + 1
    torch.testing.assert_close(values[-1:], score.detach())


def test_text_scorer_follows_post_start_and_text(reward_model, tokenizer, prompts):
    box = reward.text_scorer(reward_model, tokenizer, prompts)
    number, start, text = controls(box).values()
    seen = {shown(box)[1]}
    number.value = 2
    post, image, _ = shown(box)
    assert image not in seen and "POST" in post
    start.value = "question left out"
    assert shown(box)[1] not in seen | {image} and "question missing" in shown(box)[2]
    text.value = "x " * 400
    assert "context" in shown(box)[2], "too long a summary is refused in words"
    text.value = ""
    assert "0 words" in shown(box)[2]


def test_text_scorer_offers_what_each_post_has(reward_model, tokenizer):
    """A post without a word that could be mixed up has one version less."""
    some = load_rows("prompts", "heldout", limit=100)
    able = [bool(Facts(**prompt.facts).confusable()) for prompt in some]
    box = reward.text_scorer(reward_model, tokenizer, [some[able.index(x)] for x in (True, False)])
    number, start, text = controls(box).values()
    start.value = "a fact mixed up"
    number.value = 2
    assert "a fact mixed up" not in start.options and text.value
    number.value = 1
    assert "a fact mixed up" in start.options


def test_text_scorer_takes_the_completions_of_a_comparison(reward_model, tokenizer, comparisons):
    box = reward.text_scorer(reward_model, tokenizer, comparisons)
    _, start, text = controls(box).values()
    _, image, words = shown(box)
    assert start.options == ("chosen", "rejected") and text.value == comparisons[0].chosen.strip()
    assert "score" in words and "gold" not in words, "nothing is known but the score"
    start.value = "rejected"
    assert text.value == comparisons[0].rejected.strip() and shown(box)[1] != image


# ---------------------------------------------------------------- 3-PPO


def test_gae_explorer_reacts_to_every_control(rollout, tokenizer):
    box = ppo.explore_gae(rollout, 0.05, tokenizer)
    assert shown(box)[0].startswith(b"\x89PNG")
    for name, value in (("response", 1), ("lambda", 0.0), ("gamma", 0.9)):
        before = shown(box)
        controls(box)[name].value = value
        assert all(a != b for a, b in zip(shown(box), before)), name


def test_gae_note_knows_how_far_credit_reaches():
    assert "weight 0.250" in ppo.gae_note(torch.ones(3), torch.zeros(3), 1.0, 0.5)


def test_clip_explorer_shows_the_gradient():
    box = ppo.explore_clip()
    image, note = shown(box)
    assert "+1.00" in note
    controls(box)["ratio"].value = 1.5
    assert "no push" in shown(box)[1] and shown(box)[0] != image
    controls(box)["advantage"].value = -1.0
    assert "-1.50" in shown(box)[1] and "less likely" in shown(box)[1]


@pytest.mark.parametrize(
    "ratio, advantage, push",
    [(0.7, 1, 0.7), (1.0, 1, 1.0), (1.3, 1, 0.0), (0.7, -1, 0.0), (1.0, -1, -1.0), (1.3, -1, -1.3)],
)
def test_gradient_signs(ratio, advantage, push):
    assert ppo.clip_gradient(ratio, advantage, 0.2) == pytest.approx(push, abs=1e-5)


def test_rollout_explorer_steps_through_both_responses(rollout, tokenizer):
    box = ppo.explore_rollout(rollout, 0.05, tokenizer)
    row, place = controls(box).values()
    (first,) = shown(box)
    assert f"{rollout.scores[0]:+.2f}" in first and f"{rollout.logprobs[0, 0]:+.3f}" in first
    place.value = place.max
    assert shown(box)[0] != first
    assert f"{rollout.advantages[0, place.max]:+.3f}" in shown(box)[0]
    row.value = 1  # shorter: the slider must follow
    assert place.value == place.max == len(ppo.pieces(rollout, 1, tokenizer)) - 1
    assert "-0.50" in shown(box)[0]


def test_tokens_are_escaped(rollout):
    html = ppo.rollout_html(rollout, ppo.rewards_of(rollout, 0.05), 1, 0, ["<b>", "&", "\n"])
    assert "&lt;b&gt;" in html and "&amp;" in html and "↵" in html


def test_reward_of_a_rollout_is_score_minus_kl_penalty(rollout):
    real = rollout.batch.response_mask
    penalty = 0.05 * ((rollout.logprobs - rollout.ref_logprobs) * real).sum(1)
    torch.testing.assert_close(ppo.rewards_of(rollout, 0.05).sum(1), rollout.scores - penalty)
