"""The figures: they draw, and show nothing of what is not known."""

import io
import itertools
import math
from types import SimpleNamespace

import IPython
import IPython.display
import matplotlib.pyplot as plt
import pytest
import torch
from matplotlib.colors import to_rgb

from data.tldr.posts import Facts
from helpers.engine.files import ROOT
from helpers.lesson.plots import (
    advantages,
    core,
    lora,
    policies,
    ppo,
    ppo_run,
    pretrain,
    reward,
    rollout,
    sft,
)
from helpers.lesson.widgets.core import png
from helpers.lesson.widgets.ppo import pieces, rewards_of
from helpers.model import GPT, GPTConfig
from helpers.reward import encode_comparison, pair_batch

FLAWS = {"hallucination": 0.2, "missing_question": 0.0}
INTERVAL, THREE = (0.7, 0.6, 0.8), (torch.zeros(3), torch.zeros(3), torch.ones(3))
NAN = math.nan


def history(steps: int, *missing: str) -> list[dict]:
    """A run of PPO, made up."""
    names = [name for name in (*ppo_run.PANELS, "kl_k3", "gold_sd") if name not in missing]
    return [{"step": i + 1, **{name: 0.1 * i for name in names}} for i in range(steps)]


def reward_history(start: float = 0.7) -> list[dict]:
    return [{"loss": start - 0.01 * i, "accuracy": 0.5 + 0.01 * i} for i in range(20)]


def texts_of(legend) -> list[str]:
    return [text.get_text() for text in legend.texts]


def draw(figures: list) -> None:
    for figure in figures:
        assert figure.axes and png(figure).startswith(b"\x89PNG")
    assert not plt.get_fignums()


def test_figures_of_pretraining_draw():
    draw(
        [
            pretrain.text_figure(["a", " $b", "\n", "x" * 99]),
            pretrain.text_figure(["a", "b"], [0.0, 9.0], most=5, label="loss"),
            pretrain.gpt_diagram(4, 128, 1536),
            pretrain.loss_curves({"a": [3.0, 2.0], "b": [2.0, 1.0]}, {"floor": 0.5}),
            pretrain.loss_bars({"a": 3.0, "b": 1.0}, 0.5),
            pretrain.loss_by_part({"m": {"x": 1.0}, "n": {"x": 0.5}}),
            pretrain.spectra({"a": torch.tensor([2.0, 1.0])}),
            pretrain.attention_grid(torch.rand(2, 3, 4, 4)),
            pretrain.attention_map(torch.rand(2, 2), ["a", "$"]),
            pretrain.next_token_bars({"a": torch.rand(20).softmax(0)}, list("abcdefghij$\n" * 2)),
        ]
    )


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "text", ["$$", "$x", "a\\$b$", "$\\frac{", "\0", "\x1b[0m", "\ud83d", "\u200b"]
)
def test_any_text_of_a_row_can_be_drawn(text, prompts):
    pieces = [text, "b", text]
    probs = torch.arange(20.0).softmax(0)
    draw(
        [
            sft.mask_figure(pieces, ["prompt", "completion", "pad"]),
            sft.loss_figure(pieces, [0.1] * 3),
            sft.judged_figure({"SFT": f"no {text} facts"}, Facts(**prompts[0].facts)),
            pretrain.text_figure(pieces),
            pretrain.attention_map(torch.eye(3), pieces),
            pretrain.next_token_bars({"p": probs}, pieces * 7),
            rollout.response_figure(pieces, {"reward": {"k1": torch.ones(3)}}),
        ]
    )


def test_figures_of_sft_draw(tokenizer, demonstration, prompts):
    ids = tokenizer.encode(demonstration.prompt)
    row = ids + tokenizer.encode(demonstration.completion) + [tokenizer.eos_id, tokenizer.pad_id]
    kinds = sft.token_kinds(row, len(ids), tokenizer.eos_id, tokenizer.pad_id)
    assert kinds[-2:] == ["end of text", "pad"] and kinds.count("prompt") == len(ids)
    tokens = [tokenizer.decode([id_]) for id_ in row]
    sizes = {"full": {"weights": 2**20, "gradients": 2**20, "optimizer": 2**21}}
    draw(
        [
            sft.mask_figure(tokens, kinds),
            sft.loss_figure(tokens, [0.1] * len(row)),
            sft.judged_figure({"no flaw": " My aunt."}, Facts(**prompts[0].facts)),
            sft.results_figure({name: {"loss": 3.0, "words": 9.0} for name in ("base", "SFT")}),
            sft.flaw_figure({"writers": (FLAWS, 0), "SFT model": (FLAWS, 50)}),
            sft.flaw_figure({}),
            sft.writer_figure({"no flaw": 5.0, "padding": 4.0}, 0.5, {"base": -1.0, "SFT": 0.0}),
            lora.values_figure(torch.randn(40).clamp(-1, 1), [i / 8 - 1 for i in range(16)]),
            lora.cost_figure({"full": 1.0}, 2.0, sizes, "memory"),
        ]
    )


def test_figures_of_reward_training_draw(tokenizer, comparisons):
    encoded = [encode_comparison(c, tokenizer, 256) for c in comparisons[:2]]
    batch = pair_batch(encoded, tokenizer.pad_id)
    T = batch.ids.size(1)
    margin, gold, kinds = torch.randn(30), torch.randn(30), [c.kind for c in comparisons]
    draw(
        [
            reward.overview(),
            reward.bradley_terry(20.0, 0.0),
            reward.pair_mask(batch.attention_mask[0], list(range(T)), [0] * T),
            reward.training(reward_history(), 0.5, 5),
            reward.learning_curves({"a": reward_history(), "b": reward_history()}, 0.5),
            reward.accuracies({"length": INTERVAL, "model": INTERVAL}, 0.8),
            reward.by_kind({"mixed": INTERVAL}, {"mixed": 0.7}),
            reward.calibration([0.6, 0.9], [0.5, 0.8], [0.6, 0.7], [10, 300]),
            reward.gaps(gold, margin, kinds, "gold gap"),
            reward.gaps(gold, margin, kinds, "words"),
            reward.score_histogram(margin, 1.0, 2.0),
            reward.score_and_gold(margin, gold, (gold > 0).float(), "copying", "gold reward"),
            reward.token_scores({"a": (["$$", "\x06", " 5$", "$x"], torch.randn(5))}, start="$"),
        ]
    )


def test_figures_of_ppo_draw(rollout, tokenizer):
    tokens, batch = pieces(rollout, 0, tokenizer), rollout.batch
    rewards = rewards_of(rollout, 0.05)[0, : len(tokens)]
    values = rollout.values[0, : len(tokens)]
    runs = {"right": 0.0, "wrong": -2.0}
    draw(
        [
            ppo.loop_figure(),
            ppo.batch_figure(batch.ids, batch.mask, batch.P, tokenizer.eos_id),
            ppo.response_figure(["$$", "\x06", " a"], {"numbers": {"": torch.randn(3)}}),
            ppo.estimators_figure({"k1": torch.randn(64), "k3": torch.rand(64)}, 0.3),
            ppo.baseline_figure(torch.linspace(-1, 1, 3), [2.0, 1.0, 2.0], 0.4),
            ppo.gae_figure(tokens, rewards, values, (0, 1)),
            ppo.lambda_figure(tokens, rewards, values),
            ppo.clip_figure(0.2),
            ppo.negative_kl_figure({"step 0": (runs, runs)}),
            policies.comparison_figure({"SFT": (1.0, 0.9, 1.1)}, {"SFT": FLAWS}),
        ]
    )


# ---------------------------------------------------------------- what is not known is not drawn


def test_a_floor_that_is_not_known_is_not_drawn():
    for floor, lines in ((0.5, 1), (None, 0)):
        (axes,) = pretrain.loss_curves({"a": [3.0, 2.0]}, {"entropy floor": floor}).axes
        assert len(axes.texts) == lines
        (axes,) = pretrain.loss_bars({"a": 3.0}, floor).axes
        assert len(axes.lines) == lines and bool(axes.get_legend()) == bool(lines)
        (axes,) = sft.training_figure([{"loss": 2.0}, {"loss": 1.0}], 0.9, floor, 4.0).axes
        assert ("entropy floor" in texts_of(axes.get_legend())) == bool(lines)


def test_temperatures_are_compared_by_what_is_known():
    rows = [{"temperature": t, "words": 9.0, "stop_rate": 0.5} for t in (0.0, 1.0)]
    left, right = sft.temperature_figure(rows).axes
    assert left.get_ylabel() == "words, mean" and list(right.lines[0].get_ydata()) == [0.5, 0.5]
    rows = [row | {"gold_reward": 1.0, "flaws": FLAWS} for row in rows]
    left, right = sft.temperature_figure(rows).axes
    assert left.get_ylabel() == "gold reward, mean" and len(right.lines) == len(FLAWS)


def test_figures_of_reward_training_leave_out_what_is_not_known():
    loss, _ = reward.training(reward_history(), NAN, 5, "label").axes
    assert loss.get_ylabel() == "label loss (nats)"
    assert texts_of(loss.get_legend()) == ["coin: ln 2"]
    (ax,) = reward.learning_curves({"a": reward_history()}, NAN).axes
    assert texts_of(ax.get_legend()) == ["a", "coin: ln 2"]
    (ax,) = reward.accuracies({"model": INTERVAL}, NAN).axes
    assert [text.get_text().strip() for text in ax.texts] == ["chance"]
    (ax,) = reward.calibration([0.6, 0.9], [0.5, 0.8], [NAN] * 2, [10, 300]).axes
    assert "true agreement" not in texts_of(ax.get_legend())
    curves = {"a": (*THREE, "score"), "b": (*THREE, "words")}
    left, right = reward.best_of_n([1, 2, 4], [0.0, 0.2, 0.6], curves).axes
    assert (left.get_ylabel(), right.get_ylabel()) == ("score of the pick", "words of the pick")


def test_learning_curves_are_means_over_ten_steps():
    histories = {"a": reward_history(), "b": reward_history(0.6)}
    (ax,) = reward.learning_curves(histories, 0.5).axes
    for (name, history), line in zip(histories.items(), ax.lines):
        losses = [step["loss"] for step in history]
        means = [sum(losses[end - 10 : end]) / 10 for end in range(10, 21)]
        assert line.get_label() == name and list(line.get_xdata()) == [*range(10, 21)]
        assert list(line.get_ydata()) == pytest.approx(means)
    assert texts_of(ax.get_legend())[2:] == ["coin: ln 2", "floor: the annotators' own noise"]


def test_without_a_gold_reward_its_panel_says_so():
    rows = history(4, "gold")
    panels = dict(zip(ppo_run.PANELS, ppo.training_figure(rows).axes, strict=True))
    assert [name for name, ax in panels.items() if not ax.lines] == ["gold"]
    assert "not known" in panels["gold"].texts[0].get_text()


# ---------------------------------------------------------------- parts of figures


def test_training_figure_has_a_panel_for_each_number():
    axes = ppo.training_figure(history(4), iterations=10).axes
    titles = [ax.get_title(loc="left") or ax.get_title() for ax in axes]
    assert titles == list(ppo_run.PANELS.values())


def test_a_text_flows_from_line_to_line():
    places = core.flow(["aaa", "bbb", "↵", "↵", "c", "\n", "d"], columns=4, indent=1)
    assert places == [(0, 0), (1, 1), (2, 1), (2, 2), (3, 0), (3, 1), (4, 0)]


def test_tokens_are_labels_not_formulas():
    assert core.plain_label("$x$ \x06") == r"$x$ \x06"


def test_the_advantages_of_lambda_one_are_returns_minus_values():
    rewards, values = torch.tensor([0.0, 0.0, 2.0]), torch.tensor([0.5, 1.0, 1.5])
    expected = torch.tensor([1.5, 1.0, 0.5])
    torch.testing.assert_close(advantages.advantages_of(rewards, values, 1.0, 1.0), expected)


def test_attention_weights_are_those_of_the_model():
    model = GPT(GPTConfig(100, context=64, layers=2, heads=2, channels=16))
    ids = torch.randint(2, 100, (1, 7))
    weights = pretrain.attention_weights(model, ids)
    assert weights.shape == (2, 2, 7, 7)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 2, 7))
    assert torch.equal(weights, weights.tril())
    block, x = model.h[0], model.wte(ids) + model.wpe(torch.arange(7))
    projected = block.attn.c_attn(block.ln_1(x))[0].split(16, dim=-1)
    q, k, v = (part.view(7, 2, 8).transpose(0, 1) for part in projected)
    gathered = (weights[0] @ v).transpose(0, 1).reshape(7, 16)
    torch.testing.assert_close(block.attn.c_proj(gathered), block.attn(block.ln_1(x))[0])


# ---------------------------------------------------------------- readable by all


def test_the_widest_figures_fit_a_cell():
    """In JupyterLab at 1280 pixels a cell has 848."""
    gold = {"SFT": (1.0, 0.5, 1.5)}
    with plt.style.context(ROOT / "helpers" / "run" / "figures.mplstyle"):
        training = png(ppo_run.training_figure(history(3)))
        compared = png(policies.comparison_figure(gold, {"SFT": FLAWS}))
    for picture in (training, compared):
        assert int.from_bytes(picture[16:20], "big") <= 848


def test_figures_are_opaque():
    """Dark text on a transparent picture would be lost in a dark theme."""
    fig, ax = plt.subplots(facecolor="none")
    ax.plot([0, 1])
    assert (plt.imread(io.BytesIO(png(fig)))[..., 3] == 1).all()


def seen(colour: str, sight: torch.Tensor) -> torch.Tensor:
    """A colour in CIE L*a*b* (3,), as eyes see it that turn linear RGB by a matrix (3, 3)."""
    srgb = torch.tensor(to_rgb(colour))
    rgb = torch.where(srgb > 0.04045, ((srgb + 0.055) / 1.055) ** 2.4, srgb / 12.92)
    xyz = torch.tensor(
        [[0.4339, 0.3762, 0.1899], [0.2126, 0.7152, 0.0722], [0.0177, 0.1095, 0.8728]]
    )
    x, y, z = (xyz @ (sight @ rgb).clamp(0, 1)) ** (1 / 3)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)])


# Machado, Oliveira and Fernandes 2009, severity 1
SIGHT = {
    "normal": torch.eye(3),
    "deuteranopia": torch.tensor(
        [[0.3673, 0.8606, -0.2280], [0.2801, 0.6725, 0.0474], [-0.0118, 0.0429, 0.9689]]
    ),
    "protanopia": torch.tensor(
        [[0.1523, 1.0526, -0.2049], [0.1145, 0.7863, 0.0992], [-0.0039, -0.0481, 1.0520]]
    ),
}


@pytest.mark.parametrize("sight", SIGHT)
@pytest.mark.parametrize(
    "colours", [(core.BLUE, core.ORANGE, core.GREEN, core.PURPLE), tuple(sft.WORD_COLOURS.values())]
)
def test_colours_differ_for_colour_blind_eyes(colours, sight):
    for one, other in itertools.combinations(colours, 2):
        distance = (seen(one, SIGHT[sight]) - seen(other, SIGHT[sight])).norm()
        assert distance > 12, f"{one} and {other}: {distance:.0f}"


# ---------------------------------------------------------------- the dashboard


def test_dashboard_draws_nothing_outside_a_notebook():
    watch = ppo.Dashboard(iterations=3)
    for done in range(1, 4):
        watch(history(done))
    assert watch.drawn == 0 and not plt.get_fignums()


@pytest.mark.parametrize("iterations", [1, 8, 60, 61, 500])
def test_dashboard_updates_at_most_eleven_times_and_always_at_the_end(iterations, monkeypatch):
    drawn = []

    class Handle:
        def update(self, fig):
            drawn.append(fig)

    def display(fig, display_id):
        drawn.append(fig)
        return Handle()

    monkeypatch.setattr(IPython, "get_ipython", lambda: SimpleNamespace(kernel=None))
    monkeypatch.setattr(IPython.display, "display", display)
    monkeypatch.setattr(ppo_run, "training_figure", lambda rows, n: plt.figure(num=len(rows)))
    watch, rows = ppo.Dashboard(iterations), history(iterations)
    for done in range(1, iterations + 1):
        watch(rows[:done])
    assert 1 <= len(drawn) <= 11 and watch.drawn == len(drawn)
    assert drawn[-1].number == iterations and not plt.get_fignums()
