"""The explorers and figures of 2-RM-Training without a browser: moving a control changes what is
shown.
"""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import pytest
import torch

from helpers.lesson.plots import reward as plots
from helpers.lesson.widgets import reward as explorers
from helpers.model import GPT, GPTConfig, RewardModel
from helpers.records import Comparison
from helpers.reward import encode_comparison, pair_batch
from helpers.rows.embedded import load_rows, load_tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer()


@pytest.fixture(scope="module")
def model(tokenizer):
    torch.manual_seed(0)
    return RewardModel(GPT(GPTConfig(tokenizer.vocab_size, 256, 1, 2, 16)))


@pytest.fixture(scope="module")
def prompts():
    return load_rows("prompts", "heldout", limit=4)


@pytest.fixture(scope="module")
def comparisons():
    return load_rows("comparisons", "heldout", limit=30)


def test_bradley_terry_explorer_follows_its_sliders():
    chosen, rejected, image, words = explorers.bradley_terry_explorer().children
    before = bytes(image.value)
    assert before.startswith(b"\x89PNG") and "73.1%" in words.value
    chosen.value = rejected.value
    assert bytes(image.value) != before and "50.0%" in words.value
    assert not plt.get_fignums(), "no figure is left open for the cell to show again"


def test_difference_marks_what_the_other_lacks():
    assert (
        explorers.difference("my red car is gone", "my blue car is gone") == "my [red] car is gone"
    )
    assert explorers.difference("a b", "a b c d") == "a b"
    assert explorers.difference("a b c d", "a b") == "a b [c d]"


def test_pair_explorer_orders_and_filters(comparisons):
    margin = torch.linspace(-3, 3, len(comparisons))
    kind, order, number, shown = explorers.pair_explorer(comparisons, margin).children
    assert "margin -3.00" in shown.value and "<b>" in shown.value
    number.value = 30
    assert "margin +3.00" in shown.value
    kind.value = "hallucinating"
    assert (
        number.max == sum(c.kind == "hallucinating" for c in comparisons)
        and number.value == number.max
    )
    order.value = "best first: sure and right"
    number.value = 1
    best = max(m for m, c in zip(margin.tolist(), comparisons) if c.kind == "hallucinating")
    assert f"margin {best:+.2f}" in shown.value


def test_a_pair_is_shown_as_text_not_as_html():
    shown = explorers.pair_html(Comparison("<i>post</i>", "a <b>x", "a <b>y", "mixed", None), 0.0)
    assert "<i>" not in shown and "&lt;b&gt;x" in shown and "unknown" in shown


def test_summary_versions_have_the_flaws_they_are_called_by(prompts):
    for prompt in prompts:
        versions = explorers.summary_versions(prompt)
        flaws = {name: explorers.judge(prompt, text).flaws for name, text in versions.items()}
        assert not any(flaws["good"].values()) and not any(flaws["padded out"].values())
        assert flaws["a fact invented"]["hallucination"] and flaws["small talk copied"]["copying"]
        assert flaws["question left out"]["missing_question"]


def test_score_by_token_ends_with_the_score(model, tokenizer, prompts):
    pieces, values = explorers.score_by_token(model, tokenizer, prompts[0].prompt, " My cat.")
    ids = tokenizer.encode(prompts[0].prompt) + tokenizer.encode(" My cat.") + [tokenizer.eos_id]
    whole = model(torch.tensor([ids]), torch.ones(1, len(ids), dtype=torch.bool))
    assert len(values) == len(pieces) + 1
    torch.testing.assert_close(values[-1:], whole.detach())


def test_text_scorer_follows_post_start_and_text(model, tokenizer, prompts):
    number, start, post, text, image, words = explorers.text_scorer(
        model, tokenizer, prompts
    ).children
    seen = {bytes(image.value)}
    number.value = 2
    assert bytes(image.value) not in seen and "POST" in post.value
    seen.add(bytes(image.value))
    start.value = "question left out"
    assert bytes(image.value) not in seen and "question missing" in words.value
    text.value = "x " * 400
    assert "context" in words.value, "too long a summary is refused in words"
    text.value = ""
    assert "0 words" in words.value
    assert not plt.get_fignums()


def test_text_scorer_takes_the_completions_of_a_comparison(model, tokenizer, comparisons):
    number, start, post, text, image, words = explorers.text_scorer(
        model, tokenizer, comparisons
    ).children
    assert start.options == ("chosen", "rejected") and text.value == comparisons[0].chosen.strip()
    assert "score" in words.value and "gold" not in words.value, "nothing is known but the score"
    before = bytes(image.value)
    start.value = "rejected"
    assert text.value == comparisons[0].rejected.strip() and bytes(image.value) != before


def test_real_pairs_have_neither_kind_nor_probability():
    pair = Comparison("a post", " a", " b")
    kind, _, _, shown = explorers.pair_explorer([pair], torch.tensor([0.5])).children
    assert (
        kind.options == ("all",)
        and "<p>A pair." in shown.value
        and "an unknown share" in shown.value
    )


def test_figures_say_nothing_of_what_is_not_known():
    labels = [{"label": 0.7 - 0.01 * i, "accuracy": 0.5 + 0.01 * i} for i in range(20)]
    loss, _ = plots.training(labels, float("nan"), 5).axes
    assert loss.get_ylabel() == "label loss (nats)"
    assert [t.get_text() for t in loss.get_legend().texts] == ["coin: ln 2"]
    (ax,) = plots.accuracies({"model": (0.7, 0.6, 0.8)}, what="accuracy on labels").axes
    assert [t.get_text().strip() for t in ax.texts] == [
        "chance"
    ] and ax.get_xlabel() == "accuracy on labels"
    (ax,) = plots.calibration([0.6, 0.9], [0.5, 0.8], [float("nan")] * 2, [10, 300]).axes
    assert "true agreement" not in [t.get_text() for t in ax.get_legend().texts]
    (ax,) = plots.score_and_gold(torch.randn(5), torch.randn(5), unit="words").axes
    assert ax.get_xlabel() == "words" and ax.get_legend() is None
    three = (torch.zeros(3), torch.zeros(3), torch.ones(3))
    fig = plots.best_of_n(
        [1, 2, 4], [0.0, 0.2, 0.6], {"a": (*three, "score"), "b": (*three, "words")}
    )
    assert [ax.get_ylabel() for ax in fig.axes] == ["score of the pick", "words of the pick"]
    plt.close("all")


def test_tokens_with_dollars_and_control_characters_are_drawn():
    fig = plots.token_scores({"a": (["$$", "\x06", " 5$", "$x"], torch.randn(5))}, start="$")
    assert explorers.png(fig).startswith(b"\x89PNG")


def test_figures_draw(tokenizer, comparisons):
    pairs = [encode_comparison(c, tokenizer, 256) for c in comparisons]
    batch = pair_batch(pairs[:2], tokenizer.pad_id)
    T = batch.ids.size(1)
    margin, gold = torch.randn(30), torch.randn(30)
    history = [{"pairwise": 0.7 - 0.01 * i, "accuracy": 0.5 + 0.01 * i} for i in range(20)]
    row, three = (0.7, 0.6, 0.8), (torch.zeros(3), torch.zeros(3), torch.ones(3))
    drawn = [
        plots.overview(),
        plots.bradley_terry(20.0, 0.0),
        plots.pair_mask(batch.attention_mask[0], list(range(T)), [0] * T),
        plots.training(history, 0.5, 5),
        plots.accuracies({"length": row, "model": row}, 0.8),
        plots.by_kind({"mixed": row}, {"mixed": 0.7}),
        plots.calibration([0.6, 0.9], [0.5, 0.8], [0.6, 0.7], [10, 300]),
        plots.gaps(gold, margin, [c.kind for c in comparisons]),
        plots.score_histogram(margin, 1.0, 2.0),
        plots.score_and_gold(margin, gold, (gold > 0).float()),
        plots.best_of_n(
            [1, 2, 4], [0.0, 0.2, 0.6], {"a": (*three, "score"), "b": (*three, "gold reward")}
        ),
    ]
    for fig in drawn:
        assert explorers.png(fig).startswith(b"\x89PNG")
