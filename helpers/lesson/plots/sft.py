"""Figures of 1-SFT: coloured tokens, judged words, losses and their floor, flaws and writers."""

import re
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from data.tldr.gold import SLOT_OF, SMALL_TALK_WORDS
from data.tldr.posts import Facts
from helpers.lesson.plots.core import (
    BESIDE,
    BLUE,
    GREY,
    ORANGE,
    PLAIN,
    PURPLE,
    flow,
    grouped_bars,
    plain_label,
    visible_spaces,
)

# What a token is for the loss, and what a word is for the gold reward: the same colours in figures
# and widgets.
TOKEN_COLOURS = {
    "prompt": "#e4e4df",
    "completion": "#f3c6a5",
    "end of text": "#d1703c",
    "pad": "#ffffff",
}
WORD_COLOURS = {
    "true fact": "#9fd8c8",
    "invented": "#ee9a86",
    "small talk": "#f6eda6",
    "other": "#f3f3ef",
}
MODEL, WRITERS = BLUE, ORANGE
COLUMNS = 108  # characters in a line of text
NAME_WIDTH = 16  # characters, for the names in `judged_figure`


def draw_pieces(
    pieces: Sequence[str], colours: Sequence, legend: Mapping, indent: int = 0
) -> Figure:
    """Text pieces as coloured boxes, line after line, over a legend {label: colour}."""
    pieces = [piece if "\n" in piece else plain_label(piece) for piece in pieces]
    places = flow(pieces, COLUMNS, indent)
    lines = places[-1][0] + 1
    fig, ax = plt.subplots(figsize=(8.6, 0.225 * lines + 0.5))
    edge, font = {"edgecolor": "white", "lw": 1}, {"family": "monospace", "size": 8.5, **PLAIN}
    for text, colour, (line, column) in zip(pieces, colours, places, strict=True):
        box = Rectangle((column, line + 0.08), len(text), 0.84, facecolor=colour, **edge)
        ax.add_patch(box)
        ax.text(column + len(text) / 2, line + 0.53, text, ha="center", va="center", **font)
    ax.set(xlim=(0, COLUMNS), ylim=(lines, 0))
    ax.axis("off")
    patches = [Patch(fc=colour, ec="#999", lw=0.5, label=label) for label, colour in legend.items()]
    fig.legend(handles=patches, loc="outside lower left", ncols=len(patches), fontsize=8)
    return fig


def mask_figure(pieces: Sequence[str], kinds: Sequence[str]) -> Figure:
    """Tokens coloured by what they are for the loss: each kind is a key of TOKEN_COLOURS."""
    names = {
        "prompt": "read only",
        "completion": "in the loss",
        "end of text": "end of text, in the loss",
        "pad": "pad",
    }
    legend = {names[kind]: colour for kind, colour in TOKEN_COLOURS.items() if kind in kinds}
    shown = [visible_spaces(piece) for piece in pieces]
    return draw_pieces(shown, [TOKEN_COLOURS[kind] for kind in kinds], legend)


def token_kinds(row: Sequence[int], prompt_length: int, eos_id: int, pad_id: int) -> list[str]:
    """The kind of each token of a row: prompt, completion, end of text or pad."""
    special = {eos_id: "end of text", pad_id: "pad"}
    return [
        "prompt" if t < prompt_length else special.get(id_, "completion")
        for t, id_ in enumerate(row)
    ]


def loss_figure(pieces: Sequence[str], losses: Sequence[float]) -> Figure:
    """Tokens coloured by the loss that they cost, in nats; from 2 on the colour is full."""

    def colour(loss: float) -> tuple:
        return plt.get_cmap("Oranges")(0.05 + 0.6 * min(loss / 2, 1))

    legend = {"0 nats": colour(0), "1": colour(1), "2 or more": colour(2)}
    shown = [visible_spaces(piece) for piece in pieces]
    return draw_pieces(shown, [colour(loss) for loss in losses], legend)


def judged_words(facts: Facts, text: str) -> list[tuple[str, str]]:
    """The text cut at its words, each piece with its kind (a key of WORD_COLOURS)."""
    pieces = re.findall(r"[A-Za-z]+|[^A-Za-z]+", text)
    return [(piece, word_kind(facts, piece)) for piece in pieces]


def word_kind(facts: Facts, word: str) -> str:
    """What a word is for the gold reward: a true fact, an invented one, small talk, or other."""
    if word in SLOT_OF:
        return "true fact" if word in facts.values(SLOT_OF[word]) else "invented"
    return "small talk" if word in SMALL_TALK_WORDS else "other"


def judged_figure(texts: Mapping[str, str], facts: Facts) -> Figure:
    """Summaries of one post, {name: text}, with the words that the gold reward sees in colour."""
    pieces, colours = [], []
    for name, text in texts.items():
        words = [(f"{name:>{NAME_WIDTH}} ", "other"), *judged_words(facts, text), ("\n", "other")]
        pieces += [piece for piece, _ in words]
        colours += [WORD_COLOURS[kind] if kind != "other" else "white" for _, kind in words]
    legend = {kind: colour for kind, colour in WORD_COLOURS.items() if kind != "other"}
    return draw_pieces(pieces, colours, legend, indent=NAME_WIDTH + 1)


def training_figure(
    history: Sequence[Mapping], heldout: float, floor: float | None, base: float
) -> Figure:
    """Training loss, smoothed, between the base model's and a known entropy floor (log scale)."""
    losses = [row["loss"] for row in history]
    window = max(1, len(losses) // 40)
    recent = [losses[max(0, i - window) : i + 1] for i in range(len(losses))]
    smooth = [sum(part) / len(part) for part in recent]
    steps = range(1, len(losses) + 1)
    fig, ax = plt.subplots()
    ax.plot(steps, losses, color=MODEL, alpha=0.25, lw=1)
    ax.plot(steps, smooth, color=MODEL, label="training loss, smoothed")
    ax.plot([len(losses)], [heldout], "o", color=MODEL, label="held-out loss at the end")
    ax.axhline(base, color=GREY, ls=":", label="base model, held-out")
    if floor is not None:
        ax.axhline(floor, color=WRITERS, ls="--", label="entropy floor")
    ticks = [0.2, 0.3, 0.5, 1, 2, 3, 5, 8]
    title = "Completion loss" if floor is None else "Completion loss against its floor"
    ax.set(xlabel="step", ylabel="nats per completion token", yscale="log", title=title)
    ax.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    ax.minorticks_off()
    ax.set_ylim(0.85 * (floor or min(heldout, *losses)), 1.15 * max(base, losses[0]))
    ax.legend(fontsize=8, **BESIDE)
    return fig


def results_figure(results: Mapping[str, Mapping[str, float]]) -> Figure:
    """A panel of bars for each measure, a bar for each model: {model: {measure: value}}."""
    measures = next(iter(results.values()))
    units = {"loss": "nats per completion token", "stop rate": "share of responses"}
    fig, axes = plt.subplots(1, len(measures), figsize=(8.4, 2.5))
    colours = [MODEL, WRITERS, PURPLE]
    for ax, measure in zip(axes, measures, strict=True):
        ax.bar(list(results), [values[measure] for values in results.values()], 0.6, color=colours)
        ax.set(title=measure, ylabel=units.get(measure, "mean"))
        ax.axhline(0, color="#333", lw=0.8)
        ax.grid(axis="x", visible=False)
    return fig


def flaw_figure(rates: Mapping[str, tuple[Mapping[str, float], int]]) -> Figure:
    """How often each flaw occurs, {who: ({flaw: share}, number of responses)}: the teachers and the
    student, with 95% intervals where responses were counted; {} where flaws are not known.
    """
    fig, ax = plt.subplots(figsize=(7.2, 2.8))
    ax.set(ylabel="share of responses", title="The flaws of the teachers, in the student")
    ax.grid(axis="x", visible=False)
    if not rates:
        ax.set_xticks([])
        ax.text(0.5, 0.5, "flaws are not known on these rows", transform=ax.transAxes, ha="center")
        return fig
    styles = []
    for (shares, number), colour in zip(rates.values(), (WRITERS, MODEL), strict=True):
        errors = [1.96 * (p * (1 - p) / number) ** 0.5 for p in shares.values()] if number else None
        styles.append({"color": colour, "yerr": errors, "ecolor": "#333", "capsize": 3})
    grouped_bars(ax, {who: shares for who, (shares, _) in rates.items()}, 0.38, 0.36, styles)
    ax.set_ylim(0, None)
    ax.legend(fontsize=8)
    return fig


def writer_figure(gold: Mapping[str, float], mixture: float, models: Mapping[str, float]) -> Figure:
    """Mean gold reward: the best summary without and with one flaw (bars), the writers and the
    models (lines).
    """
    fig, ax = plt.subplots(figsize=(8.4, 2.8))
    names = [name.replace(" ", "\n", 1) for name in gold]
    ax.bar(names, gold.values(), 0.6, color="#e3b593", label="best, with one flaw")
    ax.axhline(mixture, color=WRITERS, ls="--", label="the writers")
    for (name, value), style in zip(models.items(), (":", "-"), strict=False):
        ax.axhline(value, color=MODEL, ls=style, lw=1.6, label=name)
    ax.axhline(0, color="#333", lw=0.8)
    ax.set(ylabel="gold reward", title="Mean gold reward on held-out posts")
    ax.grid(axis="x", visible=False)
    ax.legend(fontsize=8, **BESIDE)
    return fig


def temperature_figure(rows: Sequence[Mapping]) -> Figure:
    """Gold reward and flaws by sampling temperature, or length and stop rate where no gold reward
    is known.

    Each row is a `Responses.report()` and its temperature.
    """
    temperatures, known = [row["temperature"] for row in rows], "gold_reward" in rows[0]
    fig, (left, right) = plt.subplots(1, 2, figsize=(8.2, 2.9))
    name, label = ("gold_reward", "gold reward, mean") if known else ("words", "words, mean")
    left.plot(temperatures, [row[name] for row in rows], "o-", color=MODEL)
    left.set(xlabel="temperature (0 = always the likeliest token)", ylabel=label)
    shares = [row["flaws"] if known else {"stop_rate": row["stop_rate"]} for row in rows]
    for name in shares[0]:
        values = [share[name] for share in shares]
        right.plot(temperatures, values, "o-", label=name.replace("_", " "))
    right.set(xlabel="temperature", ylabel="share of responses", ylim=(-0.02, None))
    right.legend(fontsize=8)
    return fig
