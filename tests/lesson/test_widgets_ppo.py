"""Explorers and figures of 3-PPO without a browser: moving a control changes what is shown."""

import matplotlib

matplotlib.use("Agg")

import ipywidgets as widgets
import matplotlib.pyplot as plt
import pytest
import torch

from helpers import rollouts
from helpers.lesson.plots import ppo as plots
from helpers.lesson.widgets import ppo as explore
from helpers.losses import gae
from helpers.rows.embedded import load_tokenizer


@pytest.fixture(autouse=True)
def no_open_figures():
    """A test closes its figures; the explorers must close their own."""
    yield
    plt.close("all")


@pytest.fixture
def tokenizer():
    return load_tokenizer()


@pytest.fixture
def rollout(tokenizer):
    """Two made-up responses, of 5 and of 3 tokens, after a prompt of 2."""
    texts = [" My boss is loud?", " No."]
    rows = [tokenizer.encode(text) + [tokenizer.eos_id] for text in texts]
    R = max(map(len, rows))
    ids = torch.tensor([[5, 6, *row, *[tokenizer.pad_id] * (R - len(row))] for row in rows])
    mask = ids != tokenizer.pad_id
    real = mask[:, 2:]
    logprobs, ref, values = (torch.randn(2, R) for _ in range(3))
    advantages, returns = gae(torch.randn(2, R), values, real)
    return rollouts.Rollout(
        rollouts.Batch(ids, mask, 2),
        torch.tensor([1.5, -0.5]),
        torch.tensor([True, True]),
        logprobs,
        ref,
        values,
        advantages,
        returns,
        torch.rand(2, R),
    )


def controls(box, kind):
    """All widgets of a kind inside a box, in order."""
    found = [box] if isinstance(box, kind) else []
    return found + [
        inner for child in getattr(box, "children", ()) for inner in controls(child, kind)
    ]


def test_gae_explorer_reacts_to_every_control(rollout, tokenizer):
    box = explore.explore_gae(rollout, 0.05, tokenizer)
    image, note = controls(box, widgets.Image)[0], controls(box, widgets.HTML)[0]
    assert bytes(image.value).startswith(b"\x89PNG")
    for control, value in zip(
        controls(box, (widgets.Dropdown, widgets.FloatSlider)), (1, 0.0, 0.9), strict=True
    ):
        before = bytes(image.value), note.value
        control.value = value
        assert bytes(image.value) != before[0] and note.value != before[1]
    assert not plt.get_fignums()


def test_gae_note_knows_how_far_credit_reaches():
    assert "weight 0.250" in explore.gae_note(torch.ones(3), torch.zeros(3), 1.0, 0.5)


def test_clip_explorer_shows_the_gradient():
    box = explore.explore_clip()
    ratio, advantage, _ = controls(box, widgets.FloatSlider)
    image, note = controls(box, widgets.Image)[0], controls(box, widgets.HTML)[0]
    assert "+1.00" in note.value
    before = bytes(image.value)
    ratio.value = 1.5
    assert "no push" in note.value and bytes(image.value) != before
    advantage.value = -1.0
    assert "-1.50" in note.value and "less likely" in note.value


@pytest.mark.parametrize(
    ("ratio", "advantage", "push"),
    [(0.7, 1, 0.7), (1.0, 1, 1.0), (1.3, 1, 0.0), (0.7, -1, 0.0), (1.0, -1, -1.0), (1.3, -1, -1.3)],
)
def test_gradient_signs(ratio, advantage, push):
    assert explore.clip_gradient(ratio, advantage, 0.2) == pytest.approx(push, abs=1e-5)


def test_rollout_explorer_steps_through_both_responses(rollout, tokenizer):
    box = explore.explore_rollout(rollout, 0.05, tokenizer)
    row, place, report = (
        controls(box, kind)[0] for kind in (widgets.Dropdown, widgets.IntSlider, widgets.HTML)
    )
    first = report.value
    assert "+1.50" in first and f"{rollout.logprobs[0, 0]:+.3f}" in first
    place.value = place.max
    assert report.value != first and f"{rollout.advantages[0, place.max]:+.3f}" in report.value
    row.value = 1  # shorter: the slider must follow
    assert place.value == place.max == len(explore.pieces(rollout, 1, tokenizer)) - 1
    assert "-0.50" in report.value


def test_tokens_are_escaped(rollout, tokenizer):
    rewards = explore.rewards_of(rollout, 0.05)
    html = explore.rollout_html(rollout, rewards, 1, 0, ["<b>", "&", "\n"])
    assert "&lt;b&gt;" in html and "&amp;" in html and "↵" in html


def test_reward_of_a_rollout_is_score_minus_price(rollout):
    real = rollout.batch.response_mask
    price = 0.05 * ((rollout.logprobs - rollout.ref_logprobs) * real).sum(1)
    torch.testing.assert_close(explore.rewards_of(rollout, 0.05).sum(1), rollout.scores - price)


# --- figures


def history(steps):
    names = [*plots.PANELS, "kl_k3", "gold_sd"]
    return [{"step": i + 1, **{name: 0.1 * i for name in names}} for i in range(steps)]


def test_training_figure_has_a_panel_for_each_number():
    fig = plots.training_figure(history(4), iterations=10)
    assert [ax.get_title(loc="left") or ax.get_title() for ax in fig.axes] == list(
        plots.PANELS.values()
    )


def test_without_a_gold_reward_its_panel_says_so_and_its_line_is_missing():
    rows = [
        {name: x for name, x in row.items() if name not in ("gold", "gold_sd")}
        for row in history(4)
    ]
    panels = dict(zip(plots.PANELS, plots.training_figure(rows).axes))
    assert [name for name, ax in panels.items() if not ax.lines] == ["gold"]
    assert "not known" in panels["gold"].texts[0].get_text()
    (ax,) = plots.overoptimisation_figure({"run": rows}).axes
    assert [text.get_text() for text in ax.get_legend().texts] == ["score: what PPO sees"]


def test_tokens_are_labels_not_formulas():
    assert plots.plain_label("$x$ \x06") == r"\$x\$ \x06"
    fig = plots.response_figure(["$$", "\x06", " a"], {"numbers": {"": torch.randn(3)}})
    fig.canvas.draw()


def test_dashboard_draws_nothing_outside_a_notebook():
    watch = plots.Dashboard(iterations=3)
    for i in range(1, 4):
        watch(history(i))
    assert watch.drawn == 0 and not plt.get_fignums()


@pytest.mark.parametrize("iterations", [1, 8, 60, 61, 500])
def test_dashboard_updates_at_most_eleven_times_and_always_at_the_end(iterations, monkeypatch):
    import IPython
    import IPython.display

    shown = []

    class Handle:
        def update(self, fig):
            shown.append(fig)

    def display(fig, display_id):
        shown.append(fig)
        return Handle()

    monkeypatch.setattr(IPython, "get_ipython", lambda: object())
    monkeypatch.setattr(IPython.display, "display", display)
    watch, rows = plots.Dashboard(iterations), history(iterations)
    monkeypatch.setattr(plots, "training_figure", lambda h, n: plt.figure(num=len(h)))
    for done in range(1, iterations + 1):
        watch(rows[:done])
    assert 1 <= len(shown) <= 11 and watch.drawn == len(shown)
    assert shown[-1].number == iterations and not plt.get_fignums()


def test_every_figure_draws(rollout, tokenizer):
    tokens = explore.pieces(rollout, 0, tokenizer)
    rewards, values = (
        explore.rewards_of(rollout, 0.05)[0, : len(tokens)],
        rollout.values[0, : len(tokens)],
    )
    row = {"gold_reward": 1.0, "flaws": {"hallucination": 0.2, "copying": 0.1}}
    figures = [
        plots.loop_figure(),
        plots.batch_figure(
            rollout.batch.ids, rollout.batch.mask, rollout.batch.P, tokenizer.eos_id
        ),
        plots.estimators_figure({"k1": torch.randn(64), "k3": torch.rand(64)}, 0.3),
        plots.gae_figure(tokens, rewards, values, (0, 1)),
        plots.lambda_figure(tokens, rewards, values),
        plots.clip_figure(),
        plots.negative_kl_figure(
            {"step 0": ({"right": 0.0, "wrong": -2.0}, {"right": 0.0, "wrong": -1.8})}
        ),
        plots.comparison_figure({"SFT": (1.0, 0.9, 1.1)}, {"SFT": row["flaws"]}),
        plots.overoptimisation_figure({"with": history(3), "without": history(2)}),
    ]
    for fig in figures:
        fig.canvas.draw()
        assert fig.axes
