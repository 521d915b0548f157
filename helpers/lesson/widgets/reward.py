"""The explorers of 2-RM-Training: Bradley-Terry's curves, scored pairs, a text scored by token."""

import difflib
from collections.abc import Sequence
from html import escape

import ipywidgets as widgets
import torch
from torch import Tensor

from helpers.evaluation import judge
from helpers.lesson.completions import score_by_token, starts_of
from helpers.lesson.plots import reward as plots
from helpers.lesson.widgets.core import (
    Explorer,
    draw,
    follow,
    menu,
    on_colour,
    picture,
    post_html,
    set_last,
    slider,
    text_box,
    words,
)
from helpers.model import RewardModel
from helpers.records import Comparison, Prompt
from helpers.tokenizer import Tokenizer

BOX = on_colour("#fbfaf6") + "padding:8px 12px;border-left:4px solid"


# ---------------------------------------------------------------- Bradley-Terry


def bradley_terry_explorer() -> widgets.Widget:
    """Two sliders for two scores: probability, loss and gradient move with their gap."""
    chosen = slider("score chosen", 1.5, -3, 3, 0.1)  # the axis of the gap ends at 6
    rejected = slider("score rejected", 0.5, -3, 3, 0.1)
    image, note = picture(), words()

    def update() -> None:
        gap = chosen.value - rejected.value
        p = torch.sigmoid(torch.tensor(gap)).item()
        draw(image, plots.bradley_terry(chosen.value, rejected.value), like="always")
        note.value = (
            f"<p>gap {gap:+.1f}: the model says <b>{p:.1%}</b> for the chosen one. One step of "
            "gradient descent pushes "
            f"its score up, and the rejected one's down, with force <b>{1 - p:.3f}</b>.</p>"
        )

    follow([chosen, rejected], update)
    return Explorer([chosen, rejected, image, note])


# ---------------------------------------------------------------- pairs


def difference(text: str, other: str, before: str = "[", after: str = "]") -> str:
    """The text with every run of words that `other` lacks between `before` and `after`."""
    words, others = text.split(), other.split()
    changes = difflib.SequenceMatcher(None, words, others, autojunk=False).get_opcodes()
    parts = []
    for change, start, end, _, _ in changes:
        run = " ".join(words[start:end])
        if run:
            parts.append(run if change == "equal" else f"{before}{run}{after}")
    return " ".join(parts)


ORDERS = {
    "worst first: sure and wrong": lambda margin: margin.argsort(),
    "closest calls first": lambda margin: margin.abs().argsort(),
    "best first: sure and right": lambda margin: margin.argsort(descending=True),
}


def bold_difference(text: str, other: str) -> str:
    """The text as HTML, with the words that `other` lacks in bold."""
    marked = difference(text, other, "\0", "\1")  # stand-ins that escape() leaves alone
    return escape(marked).replace("\0", "<b>").replace("\1", "</b>")


def pair_html(comparison: Comparison, margin: float) -> str:
    """A pair with its differing words in bold, and what model and annotators think of it."""
    chosen = bold_difference(comparison.chosen, comparison.rejected)
    rejected = bold_difference(comparison.rejected, comparison.chosen)
    p = torch.sigmoid(torch.tensor(margin)).item()
    true = "an unknown share" if comparison.probability is None else f"{comparison.probability:.0%}"
    kind = f"{comparison.kind.capitalize()} pair" if comparison.kind else "A pair"
    return (
        f"{post_html(comparison.prompt)}"
        f'<p style="{BOX} {plots.CHOSEN}">chosen: {chosen}</p>'
        f'<p style="{BOX} {plots.REJECTED}">rejected: {rejected}</p>'
        f"<p>{kind}. The model gives the chosen one <b>{p:.0%}</b> (margin {margin:+.2f}); "
        f"annotators choose it in <b>{true}</b> of the cases.</p>"
    )


def pair_explorer(comparisons: Sequence[Comparison], margin: Tensor) -> widgets.Widget:
    """Browse held-out pairs by kind, from the worst mistakes to the best calls. margin: (N,)."""
    kinds = sorted({comparison.kind for comparison in comparisons} - {""})  # real pairs have none
    kind, order = menu("kind", ["all", *kinds]), menu("order", list(ORDERS))
    number = slider("pair", 1, 1, len(comparisons))
    number_place, shown = widgets.VBox([number]), words()

    def update() -> None:
        rows = [i for i, c in enumerate(comparisons) if kind.value in ("all", c.kind)]
        set_last(number_place, len(rows))  # may move number.value, which calls update again
        place = ORDERS[order.value](margin[rows])[number.value - 1].item()
        shown.value = pair_html(comparisons[rows[place]], margin[rows[place]].item())

    follow([kind, order, number], update)
    return Explorer([kind, order, number_place, shown])


# ---------------------------------------------------------------- a text, scored


def verdict_html(item: Prompt | Comparison, text: str, score: float) -> str:
    """The score of a text, for a known post beside its gold reward and what that is made of."""
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
    number = slider("prompt", 1, 1, len(items))
    start = menu("start from", list(starts_of(items[0])))
    text = text_box("your text", wait=True)
    post, image, note = words(), picture(), words()

    def fill_in() -> None:
        item = items[number.value - 1]
        post.value, starts = post_html(item.prompt), starts_of(item)
        if start.options != tuple(starts):  # goes to the first one, and calls this again
            start.options = tuple(starts)
        text.value = starts[start.value].strip()

    def update() -> None:
        item = items[number.value - 1]
        completion = " " + text.value.strip()  # a completion starts with a space
        try:
            pieces, values = score_by_token(model, tokenizer, item.prompt, completion)
        except ValueError as error:
            note.value = f"<p>{escape(str(error))}</p>"
            return
        moves = {"how the score moves, token by token": (pieces, values)}
        draw(image, plots.token_scores(moves, start=item.prompt.split()[-1]))
        note.value = verdict_html(item, completion, values[-1].item())

    follow([number, start], fill_in)
    follow([text], update)
    return Explorer([number, start, post, text, image, note])
