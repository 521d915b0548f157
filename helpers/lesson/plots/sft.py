"""The figures of 1-SFT: coloured tokens, judged words, losses against their floor, flaws against
the writers'.
"""

import re
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from data.tldr.gold import SLOT_OF, SMALL_TALK_WORDS
from data.tldr.posts import Facts

# What a token is for the loss, and what a word is for the gold reward: the same colours in figures
# and widgets.
TOKEN_COLOURS = {
    "prompt": "#e4e4df",
    "completion": "#f3c6a5",
    "end of text": "#d1703c",
    "pad": "#ffffff",
}
WORD_COLOURS = {
    "true fact": "#bcd9bb",
    "invented": "#eeb4a8",
    "small talk": "#ecdca0",
    "other": "#f3f3ef",
}
MODEL, WRITERS = "#2f6f8f", "#d1703c"
NAME_WIDTH = 14  # characters, for the names in `judged_figure`


def visible(piece: str) -> str:
    """A token with its white space made visible."""
    return piece.replace("\n", "↵").replace(" ", "·")


def flow(pieces: Sequence[str], columns: int, indent: int = 0) -> list[tuple[int, int]]:
    """(line, column) of each piece, set one after another; a new line where the next piece does not
    fit (from column `indent` on), at "\\n", and after the last of some newline tokens (shown as ↵).
    """
    places, line, column = [], 0, 0
    for piece, following in zip(pieces, [*pieces[1:], ""], strict=True):
        if column and column + len(piece) > columns:
            line, column = line + 1, indent
        places.append((line, column))
        column += len(piece)
        if piece == "\n" or (piece.endswith("↵") and following != "↵"):
            line, column = line + 1, 0
    return places


def draw_pieces(
    pieces: Sequence[str],
    colours: Sequence,
    *,
    columns: int = 108,
    indent: int = 0,
    legend: Mapping | None = None,
) -> Figure:
    """Text pieces as coloured boxes, running on from line to line. `legend`: {label: colour}, drawn
    below.
    """
    places = flow(pieces, columns, indent)
    lines = places[-1][0] + 1
    fig, ax = plt.subplots(figsize=(8.6, 0.225 * lines + (0.5 if legend else 0.15)))
    for text, colour, (line, column) in zip(pieces, colours, places, strict=True):
        ax.add_patch(
            Rectangle(
                (column, line + 0.08), len(text), 0.84, facecolor=colour, edgecolor="white", lw=1
            )
        )
        ax.text(
            column + len(text) / 2,
            line + 0.53,
            text,
            family="monospace",
            size=8.5,
            ha="center",
            va="center",
        )
    ax.set(xlim=(0, columns), ylim=(lines, 0))
    ax.axis("off")
    if legend:
        patches = [
            Patch(facecolor=colour, edgecolor="#999", lw=0.5, label=label)
            for label, colour in legend.items()
        ]
        fig.legend(handles=patches, loc="outside lower left", ncols=len(patches), fontsize=8)
    return fig


def mask_figure(pieces: Sequence[str], kinds: Sequence[str]) -> Figure:
    """Tokens coloured by what they are for the loss: each kind is a key of TOKEN_COLOURS."""
    said = {
        "prompt": "read only",
        "completion": "in the loss",
        "end of text": "end of text, in the loss",
    }
    legend = {
        said.get(kind, kind): colour for kind, colour in TOKEN_COLOURS.items() if kind in kinds
    }
    shown = [visible(piece) for piece in pieces]
    return draw_pieces(shown, [TOKEN_COLOURS[kind] for kind in kinds], legend=legend)


def token_kinds(row: Sequence[int], prompt_length: int, eos_id: int, pad_id: int) -> list[str]:
    """The kind of each token of a row: prompt, completion, end of text or pad."""
    special = {eos_id: "end of text", pad_id: "pad"}
    return [
        "prompt" if t < prompt_length else special.get(id_, "completion")
        for t, id_ in enumerate(row)
    ]


def loss_figure(pieces: Sequence[str], losses: Sequence[float], top: float = 2.0) -> Figure:
    """Tokens coloured by the loss that they cost, in nats; at `top` and above the colour is
    full.
    """

    def colour(loss: float) -> tuple:
        return plt.get_cmap("Oranges")(0.05 + 0.6 * min(loss / top, 1))

    legend = {"0 nats": colour(0), f"{top / 2:g}": colour(top / 2), f"{top:g} or more": colour(top)}
    return draw_pieces(
        [visible(piece) for piece in pieces], [colour(loss) for loss in losses], legend=legend
    )


def judged_words(facts: Facts, text: str) -> list[tuple[str, str]]:
    """The text cut at its words, each piece with its kind for the gold reward (a key of
    WORD_COLOURS).
    """
    pieces = re.findall(r"[A-Za-z]+|[^A-Za-z]+", text)
    return [(piece, word_kind(facts, piece)) for piece in pieces]


def word_kind(facts: Facts, word: str) -> str:
    """What a word is for the gold reward: a true fact, an invented one, small talk, or none of
    these.
    """
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
    return draw_pieces(pieces, colours, indent=NAME_WIDTH + 1, legend=legend)


def training_figure(
    history: Sequence[Mapping], heldout: float, floor: float | None, base: float
) -> Figure:
    """Training loss of every step, smoothed, between the base model's loss and a known entropy
    floor (log scale).
    """
    losses = [row["loss"] for row in history]
    window = max(1, len(losses) // 40)
    smooth = [
        sum(losses[max(0, i - window) : i + 1]) / (i + 1 - max(0, i - window))
        for i in range(len(losses))
    ]
    steps = range(1, len(losses) + 1)
    fig, ax = plt.subplots()
    ax.plot(steps, losses, color=MODEL, alpha=0.25, lw=1)
    ax.plot(steps, smooth, color=MODEL, label="training loss, smoothed")
    ax.plot([len(losses)], [heldout], "o", color=MODEL, label="held-out loss at the end")
    ax.axhline(base, color="#6b6f76", ls=":", label="base model, held-out")
    if floor is not None:
        ax.axhline(floor, color=WRITERS, ls="--", label="entropy floor")
    ticks = [0.2, 0.3, 0.5, 1, 2, 3, 5, 8]
    title = "Completion loss" if floor is None else "Completion loss against its floor"
    ax.set(xlabel="step", ylabel="nats per completion token", yscale="log", title=title)
    ax.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    ax.minorticks_off()
    ax.set_ylim(0.85 * (floor or min(heldout, *losses)), 1.15 * max(base, losses[0]))
    ax.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return fig


def results_figure(results: Mapping[str, Mapping[str, float]]) -> Figure:
    """A panel of bars for each measure, a bar for each model: {model: {measure: value}}."""
    measures = next(iter(results.values()))
    units = {"loss": "nats per completion token", "stop rate": "share of responses"}
    fig, axes = plt.subplots(1, len(measures), figsize=(8.4, 2.5))
    colours = [MODEL, "#d1703c", "#b8a13c"]
    for ax, measure in zip(axes, measures, strict=True):
        ax.bar(list(results), [values[measure] for values in results.values()], 0.6, color=colours)
        ax.set(title=measure, ylabel=units.get(measure, "mean"))
        ax.axhline(0, color="#333", lw=0.8)
        ax.grid(axis="x", visible=False)
    return fig


def flaw_figure(rates: Mapping[str, tuple[Mapping[str, float], int]]) -> Figure:
    """How often each flaw occurs, {who: ({flaw: share}, number of responses)}: two groups of bars
    at most, with 95% intervals where responses were counted. An empty figure without rates.
    """
    fig, ax = plt.subplots(figsize=(7.2, 2.8))
    flaws: list[str] = []
    for offset, colour, (who, (shares, number)) in zip(
        (-0.19, 0.19), (WRITERS, MODEL), rates.items(), strict=False
    ):
        flaws = list(shares)
        values = [shares[flaw] for flaw in flaws]
        errors = [1.96 * (rate * (1 - rate) / number) ** 0.5 for rate in values] if number else None
        places = [place + offset for place in range(len(flaws))]
        style = {"color": colour, "yerr": errors, "ecolor": "#333", "capsize": 3}
        ax.bar(places, values, 0.36, label=who, **style)
    ax.set_xticks(range(len(flaws)), [flaw.replace("_", " ") for flaw in flaws])
    ax.set(ylabel="share of responses", title="The flaws of the teachers, in the student")
    ax.set_ylim(0, None)
    ax.grid(axis="x", visible=False)
    if rates:
        ax.legend(fontsize=8)
    else:
        ax.text(0.5, 0.5, "flaws are not known on these rows", transform=ax.transAxes, ha="center")
    return fig


def writer_figure(gold: Mapping[str, float], mixture: float, models: Mapping[str, float]) -> Figure:
    """Mean gold reward of each writer (bars), of their mixture and of the models (lines and
    marks).
    """
    fig, ax = plt.subplots(figsize=(7.2, 2.8))
    ax.bar(gold.keys(), gold.values(), 0.6, color="#e3b593", label="a writer alone")
    ax.axhline(mixture, color=WRITERS, ls="--", label="the writers' mixture")
    for (name, value), style in zip(models.items(), (":", "-"), strict=False):
        ax.axhline(value, color=MODEL, ls=style, lw=1.6, label=name)
    ax.axhline(0, color="#333", lw=0.8)
    ax.set(ylabel="gold reward", title="Mean gold reward on held-out posts")
    ax.grid(axis="x", visible=False)
    ax.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
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
        right.plot(
            temperatures, [share[name] for share in shares], "o-", label=name.replace("_", " ")
        )
    right.set(xlabel="temperature", ylabel="share of responses", ylim=(-0.02, None))
    right.legend(fontsize=8)
    return fig
