"""The explorers and figures of 0-Pretrain: moving a control changes what is shown, odd input raises
nothing.
"""

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402

from helpers.lesson.plots import pretrain as plots  # noqa: E402
from helpers.lesson.widgets import pretrain as explorers  # noqa: E402
from helpers.model import GPT, GPTConfig  # noqa: E402
from helpers.rows.embedded import load_tokenizer  # noqa: E402


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer()


@pytest.fixture
def model(tokenizer):
    model = GPT(GPTConfig(tokenizer.vocab_size, context=64, layers=2, heads=2, channels=16))
    with (
        torch.no_grad()
    ):  # a fresh model's attention is nearly even: make the heads differ to the eye
        for parameter in model.parameters():
            parameter.mul_(8.0)
    return model


@pytest.fixture(autouse=True)
def no_figure_left():
    plt.close("all")
    yield
    assert not plt.get_fignums(), "a widget left a figure open: its cell would show it twice"


def descendants(widget) -> list:
    found = [widget]
    for child in getattr(widget, "children", ()):
        found += descendants(child)
    return found


def control(widget, description: str):
    return next(w for w in descendants(widget) if getattr(w, "description", "") == description)


def shown(widget) -> list:
    """What the explorer shows: its texts, and its pictures as bytes."""
    values = [w.value for w in descendants(widget) if type(w).__name__ in ("Image", "HTML")]
    return [value if isinstance(value, str) else bytes(value) for value in values]


def test_tokenizer_explorer(tokenizer):
    widget = explorers.tokenizer_explorer(tokenizer)
    before = shown(widget)
    control(widget, "text").value = "My <b>sister</b>\n& I"
    (after,) = shown(widget)
    assert after != before[0]
    assert "<b>sister" not in after and "&lt;" in after, "a learner's text is not HTML"
    assert f"<b>{len(tokenizer.encode('My <b>sister</b>' + chr(10) + '& I'))} tokens</b>" in after
    control(widget, "text").value = ""
    assert "0 tokens" in shown(widget)[0]


@pytest.mark.parametrize(
    "name, value", [("layer", 1), ("head", 2), ("token that looks", 3), ("text", "My boss")]
)
def test_attention_explorer(model, tokenizer, name, value):
    widget = explorers.attention_explorer(model, tokenizer)
    before = shown(widget)
    assert all(isinstance(x, str) or x.startswith(b"\x89PNG") for x in before)
    control(widget, name).value = value
    after = shown(widget)
    assert after != before
    if name == "text":
        last = len(tokenizer.encode(value))
        assert f"Token {last} of {last}" in after[0] and all(a != b for a, b in zip(after, before))


def test_attention_explorer_with_any_text(model, tokenizer):
    widget = explorers.attention_explorer(model, tokenizer)
    control(widget, "text").value = ""
    assert "at least one word" in shown(widget)[0]
    control(widget, "text").value = "word " * 200  # longer than the context
    control(widget, "text").value = "$x^2$ <b> café 🙂"
    assert any(isinstance(x, str) and "looks at" in x for x in shown(widget))


KNOBS = {"temperature": 0.1, "top-k (0: off)": 2, "top-p (1: off)": 0.1, "seed": 7}


@pytest.mark.parametrize("name, value", KNOBS.items())
def test_sampling_explorer(model, tokenizer, name, value):
    widget = explorers.sampling_explorer(model, tokenizer, new_tokens=6)
    bars, text = shown(widget)
    control(widget, name).value = value
    assert shown(widget)[1] != text
    assert (shown(widget)[0] != bars) == (name != "seed"), (
        "the seed changes the draw, not the probabilities"
    )


def test_sampling_explorer_prompts_fit(model, tokenizer):
    widget = explorers.sampling_explorer(model, tokenizer)
    before = shown(widget)
    prompt = control(widget, "prompt")
    for _, value in prompt.options:
        prompt.value = value
    assert all(a != b for a, b in zip(shown(widget), before))


def test_sampling_explorer_goes_on_with_the_prompts_that_it_is_given(model, tokenizer):
    widget = explorers.sampling_explorer(
        model, tokenizer, {"mine": "POST: My <aunt>"}, new_tokens=2
    )
    assert control(widget, "prompt").options == (("mine", "POST: My <aunt>"),)
    assert "POST: My &lt;aunt&gt;<b>" in shown(widget)[1]


def test_top_k_counts_the_tokens_that_may_be_drawn(model, tokenizer):
    widget = explorers.sampling_explorer(model, tokenizer, new_tokens=2)
    control(widget, "top-k (0: off)").value = 3
    assert "3 tokens may be drawn" in shown(widget)[1]


def test_attention_weights_are_those_of_the_model(model):
    ids = torch.randint(2, 100, (1, 7))
    weights = plots.attention_weights(model, ids)
    assert weights.shape == (2, 2, 7, 7)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 2, 7))
    assert torch.equal(weights, weights.tril())
    block, x = model.h[0], model.wte(ids) + model.wpe(torch.arange(7))
    q, k, v = (
        part.view(7, 2, 8).transpose(0, 1)
        for part in block.attn.c_attn(block.ln_1(x))[0].split(16, dim=-1)
    )
    gathered = (weights[0] @ v).transpose(0, 1).reshape(7, 16)
    torch.testing.assert_close(block.attn.c_proj(gathered), block.attn(block.ln_1(x))[0])


def test_lay_out_breaks_lines():
    places, lines = plots.lay_out(["ab", "cd", "\n", "\n", "ef", "x" * 99], width=4)
    assert [(x, y) for x, y, _ in places] == [(0, 0), (2, 0), (0, 1), (1, 1), (0, 2), (0, 3)]
    assert places[2][2] == "↵" and places[-1][2] == "xxxx" and lines == 4


def test_a_level_that_is_not_known_is_not_drawn():
    for known, labels in ((0.5, 1), (None, 0)):
        axes = plots.loss_curves({"a": [3.0, 2.0]}, {"entropy floor": known}).axes[0]
        assert len(axes.texts) == labels
        axes = plots.loss_bars({"a": 3.0}, known).axes[0]
        assert len(axes.lines) == labels and (axes.get_legend() is not None) == bool(labels)
    plt.close("all")


def test_figures_draw():
    figures = [
        plots.text_figure(["a", " $b", "\n"]),
        plots.text_figure(["a", "b"], [0.0, 9.0], most=5, label="loss"),
        plots.gpt_diagram(4, 128, 1536),
        plots.loss_curves({"a": [3.0, 2.0], "b": [2.0, 1.0]}, {"floor": 0.5}),
        plots.loss_bars({"a": 3.0, "b": 1.0}, 0.5),
        plots.loss_by_part({"m": {"x": 1.0}, "n": {"x": 0.5}}),
        plots.spectra({"a": torch.tensor([2.0, 1.0])}),
        plots.attention_grid(torch.rand(2, 3, 4, 4)),
        plots.next_token_bars({"a": torch.rand(20).softmax(0)}, [str(i) for i in range(20)]),
    ]
    for figure in figures:
        assert figure.axes and explorers.png(figure).startswith(b"\x89PNG")
