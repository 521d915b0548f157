"""The explorers of 2-RM-Training: Bradley-Terry's curves, scored pairs, and a text of one's own,
scored by token.

Each function returns a widget to display. Figures travel as PNG bytes and texts as HTML, so the
same code works with ipywidgets 7 and 8, and a test can read what a control has changed.
"""

import difflib
import io
import re
from collections.abc import Callable, Sequence
from html import escape

import ipywidgets as widgets
import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure
from torch import Tensor

from data.draws import Draws
from data.tldr.gold import SMALL_TALK_WORDS
from data.tldr.posts import Facts
from data.tldr.summaries import FILLERS
from helpers.evaluation import judge
from helpers.lesson.plots import reward as plots
from helpers.model import RewardModel
from helpers.records import Comparison, Prompt
from helpers.tokenizer import Tokenizer

STYLE = {"description_width": "110px"}
WIDE = widgets.Layout(width="460px")
QUIET = "color:#555;max-width:760px"
BOX = "background:#fbfaf6;color:#222;padding:8px 12px;border-left:4px solid"


def png(fig: Figure) -> bytes:
    """A figure as PNG bytes; closes it, so that the cell does not show it a second time."""
    buffer = io.BytesIO()
    fig.savefig(buffer, format="png", dpi=84, facecolor="white", bbox_inches="tight")
    plt.close(fig)
    return buffer.getvalue()


def follow(controls: Sequence[widgets.Widget], update: Callable[[], None]) -> None:
    """Call `update` now and whenever the value of a control changes."""
    for control in controls:
        control.observe(lambda change: update(), names="value")
    update()


# ---------------------------------------------------------------- Bradley-Terry


def bradley_terry_explorer() -> widgets.Widget:
    """Two sliders for two scores: probability, loss and gradient move with their gap."""
    chosen, rejected = (
        widgets.FloatSlider(
            value=value, min=-5, max=5, step=0.1, description=name, style=STYLE, layout=WIDE
        )
        for name, value in (("score chosen", 1.5), ("score rejected", 0.5))
    )
    image, words = widgets.Image(format="png"), widgets.HTML()

    def update() -> None:
        gap = chosen.value - rejected.value
        p = torch.sigmoid(torch.tensor(gap)).item()
        image.value = png(plots.bradley_terry(chosen.value, rejected.value))
        words.value = (
            f"<p>gap {gap:+.1f}: the model says <b>{p:.1%}</b> for the chosen one. One step of "
            "gradient descent pushes "
            f"its score up, and the rejected one's down, with force <b>{1 - p:.3f}</b>.</p>"
        )

    follow([chosen, rejected], update)
    return widgets.VBox([chosen, rejected, image, words])


# ---------------------------------------------------------------- pairs


def difference(text: str, other: str, before: str = "[", after: str = "]") -> str:
    """The text with every run of words that `other` lacks (as difflib aligns the two) between
    `before` and `after`.
    """
    words, others = text.split(), other.split()
    parts = []
    for change, start, end, _, _ in difflib.SequenceMatcher(
        None, words, others, autojunk=False
    ).get_opcodes():
        run = " ".join(words[start:end])
        if run:
            parts.append(run if change == "equal" else f"{before}{run}{after}")
    return " ".join(parts)


ORDERS = {
    "worst first: sure and wrong": lambda margin: margin.argsort(),
    "closest calls first": lambda margin: margin.abs().argsort(),
    "best first: sure and right": lambda margin: margin.argsort(descending=True),
}


def pair_html(comparison: Comparison, margin: float) -> str:
    """A pair with its differing words in bold, and what model and annotators think of it."""
    post = escape(comparison.prompt).replace("\n\n", "<br>")
    bold = ("\0", "\1")  # stand-ins that escape() leaves alone
    chosen = escape(difference(comparison.chosen, comparison.rejected, *bold))
    rejected = escape(difference(comparison.rejected, comparison.chosen, *bold))
    chosen, rejected = (
        text.replace("\0", "<b>").replace("\1", "</b>") for text in (chosen, rejected)
    )
    p = torch.sigmoid(torch.tensor(margin)).item()
    true = "an unknown share" if comparison.probability is None else f"{comparison.probability:.0%}"
    kind = f"{comparison.kind} pair" if comparison.kind else "A pair"
    return (
        f'<div style="{QUIET}">{post}</div>'
        f'<p style="{BOX} {plots.CHOSEN}">chosen: {chosen}</p>'
        f'<p style="{BOX} {plots.REJECTED}">rejected: {rejected}</p>'
        f"<p>{kind}. The model gives the chosen one <b>{p:.0%}</b> (margin {margin:+.2f}); "
        f"annotators choose it in <b>{true}</b> of the cases.</p>"
    )


def pair_explorer(comparisons: Sequence[Comparison], margin: Tensor) -> widgets.Widget:
    """Browse held-out pairs by kind, from the model's worst mistakes to its best calls.
    margin: (N,).
    """
    kinds = [
        "all",
        *sorted({comparison.kind for comparison in comparisons} - {""}),
    ]  # real pairs have no kind
    kind = widgets.Dropdown(options=kinds, description="kind", style=STYLE, layout=WIDE)
    order = widgets.Dropdown(options=list(ORDERS), description="order", style=STYLE, layout=WIDE)
    number = widgets.IntSlider(
        value=1, min=1, max=len(comparisons), description="pair", style=STYLE, layout=WIDE
    )
    shown = widgets.HTML()

    def update() -> None:
        rows = [i for i, c in enumerate(comparisons) if kind.value in ("all", c.kind)]
        number.max = len(rows)  # may move number.value, which calls update again
        place = ORDERS[order.value](margin[rows])[min(number.value, len(rows)) - 1].item()
        shown.value = pair_html(comparisons[rows[place]], margin[rows[place]].item())

    follow([kind, order, number], update)
    return widgets.VBox([kind, order, number, shown])


# ---------------------------------------------------------------- a text of one's own


def starts_of(item: Prompt | Comparison) -> dict[str, str]:
    """Completions to start from: summaries of a known post with and without flaws, else the two of
    a comparison.
    """
    if isinstance(item, Comparison):
        return {"chosen": item.chosen, "rejected": item.rejected}
    return summary_versions(item)


def summary_versions(prompt: Prompt) -> dict[str, str]:
    """Summaries of a post to start from: a good one, and the same one with each flaw."""
    facts = Facts(**prompt.facts)
    head, question = (
        " My {who} keeps {deed} my {thing} in {place}.",
        " Should I {option} or {other}?",
    )
    sentences = re.split(r"(?<=[.?]) ", prompt.prompt.split("POST: ")[1].split("\n")[0])
    small_talk = next(s for s in sentences if SMALL_TALK_WORDS & set(re.findall(r"[A-Za-z]+", s)))
    wrong = facts.wrong(("option",), Draws(0))
    return {
        "good": facts.fill(head + question),
        "a fact invented": wrong.fill(head + question),
        "small talk copied": facts.fill(head) + " " + small_talk + facts.fill(question),
        "question left out": facts.fill(head),
        "padded out": facts.fill(head) + FILLERS[0] + facts.fill(question),
    }


@torch.no_grad()
def score_by_token(
    model: RewardModel, tokenizer: Tokenizer, prompt: str, completion: str
) -> tuple[list[str], Tensor]:
    """Pieces of the completion with its end of text (R,), and the score after each of them (R +
    1,).

    The first score is that at the end of the prompt. Raises ValueError when the text does not fit
    the context.
    """
    start, response = tokenizer.encode(prompt), tokenizer.encode(completion) + [tokenizer.eos_id]
    ids = torch.tensor([start + response], device=model.score.weight.device)
    values = model.values(ids)[0, len(start) - 1 :].cpu()  # (R + 1,)
    return [*tokenizer.pieces(completion), "END"], values


def verdict_html(item: Prompt | Comparison, text: str, score: float) -> str:
    """The reward model's score of a text, beside its gold reward and what that is made of for a
    known post.
    """
    head = f"<p>score <b>{score:+.2f}</b>"
    if isinstance(item, Comparison):
        return head + "</p>"
    gold = judge(item, text)
    question = "kept" if gold.question else "missing"
    return (
        f"{head} &nbsp; gold reward <b>{gold.reward:+.2f}</b>: {gold.covered} facts covered, "
        f"{gold.invented} invented, {gold.copied} words of small talk, "
        f"question {question}, {gold.words} words</p>"
    )


def text_scorer(
    model: RewardModel, tokenizer: Tokenizer, items: Sequence[Prompt] | Sequence[Comparison]
) -> widgets.Widget:
    """Pick a prompt, start from one of its completions, edit it: the score token by token.

    Prompts are posts of the embedded tldr world, which add the gold reward; for any other data,
    give comparisons.
    """
    number = widgets.IntSlider(
        value=1, min=1, max=len(items), description="prompt", style=STYLE, layout=WIDE
    )
    start = widgets.Dropdown(
        options=list(starts_of(items[0])), description="start from", style=STYLE, layout=WIDE
    )
    text = widgets.Textarea(
        description="your text",
        rows=3,
        continuous_update=False,
        style=STYLE,
        layout=widgets.Layout(width="740px"),
    )
    post, image, words = widgets.HTML(), widgets.Image(format="png"), widgets.HTML()

    def fill_in(change=None) -> None:
        item = items[number.value - 1]
        lines = escape(item.prompt).replace("\n\n", "<br>")
        post.value = f'<div style="{QUIET}">{lines}</div>'
        text.value = starts_of(item)[start.value].strip()

    def update() -> None:
        item, completion = (
            items[number.value - 1],
            " " + text.value.strip(),
        )  # a completion starts with a space
        try:
            pieces, values = score_by_token(model, tokenizer, item.prompt, completion)
        except ValueError as error:
            words.value = f"<p>{escape(str(error))}</p>"
            return
        moves = {"how the score moves, token by token": (pieces, values)}
        image.value = png(plots.token_scores(moves, start=item.prompt.split()[-1]))
        words.value = verdict_html(item, completion, values[-1].item())

    for control in (number, start):
        control.observe(fill_in, names="value")
    fill_in()
    follow([text], update)
    return widgets.VBox([number, start, post, text, image, words])
