"""Explorers of 0-Pretrain: the tokenizer, attention over your own sentence, sampling parameters.

Each function returns a widget to display. Pictures travel as PNG bytes and texts as HTML, so the
same code works with ipywidgets 7 and 8, in Jupyter, Colab and Kaggle, and a test can read what a
control has changed.
"""

import html
import io
from collections.abc import Callable, Sequence

import ipywidgets as widgets
import matplotlib.pyplot as plt
import torch

from helpers.generation import keep_top_k, keep_top_p, sample
from helpers.lesson.plots import pretrain as plots
from helpers.model import GPT
from helpers.records import Document
from helpers.run.course import Course
from helpers.tokenizer import Tokenizer

SENTENCE = (
    "POST: My sister keeps borrowing my camera.\n\nCOMMENT: So your sister keeps borrowing your"
)
PROMPTS = {
    "a title": "SUBREDDIT: r/work\n\nTITLE: How do I deal with my",
    "a problem": "SUBREDDIT: r/work\n\nTITLE: Need advice about my laptop\n\nPOST: My",
    "a comment": "SUBREDDIT: r/family\n\nTITLE: How do I deal with my aunt?\n\nPOST: My aunt "
    "keeps hiding my tent.\n\n"
    "COMMENT:",
}
STYLE = {"description_width": "110px"}
TEXT = {"layout": {"width": "640px"}, "style": STYLE}
CONTROL = {"layout": {"width": "340px"}, "style": STYLE}
LATER = {"continuous_update": False}  # wait for the mouse to be let go: these changes take a moment


def in_the_lesson(course: Course) -> bool:
    """Whether a run's rows are those of the embedded world of posts, which the lesson uses."""
    return course.source == "embedded" and course.track == "tldr"


def sentence_for(course: Course, heldout: Sequence[Document]) -> str:
    """A text whose attention is worth a look: the lesson's, or a document's beginning."""
    return SENTENCE if in_the_lesson(course) else heldout[0].text[:120]


def prompts_for(course: Course, heldout: Sequence[Document]) -> dict[str, str]:
    """Texts to continue, by name: the lesson's, or the beginnings of held-out documents."""
    if in_the_lesson(course):
        return PROMPTS
    starts = (" ".join(document.text.split(" ")[:8]) for document in heldout[:3])
    return {f"document {number}": start for number, start in enumerate(starts, start=1)}


def png(fig) -> bytes:
    """A figure as PNG bytes; closes it, so that the cell does not show it a second time."""
    buffer = io.BytesIO()
    fig.savefig(buffer, format="png", dpi=84, facecolor="white", bbox_inches="tight")
    plt.close(fig)
    return buffer.getvalue()


def follow(controls: list[widgets.Widget], update: Callable[[], None]) -> None:
    """Call `update` now and whenever the value of a control changes."""
    for control in controls:
        control.observe(lambda change: update(), names="value")
    update()


def tokenizer_explorer(
    tokenizer: Tokenizer, text: str = "My niece untangles 14 café umbrellas."
) -> widgets.Widget:
    """Type a text and see its tokens, their ids and their number."""
    box = widgets.Textarea(text, description="text", rows=3, **TEXT)
    shown = widgets.HTML()

    def update() -> None:
        ids = tokenizer.encode(box.value)
        spans = []
        for i, id_ in enumerate(ids):
            piece = (
                html.escape(tokenizer.decode([id_])).replace("\n", "↵<br>").replace(" ", "&nbsp;")
            )
            colour = plots.PASTELS[i % len(plots.PASTELS)]
            spans.append(
                f'<span title="id {id_}" style="background:{colour};color:#222;padding:2px '
                f'0">{piece}</span>'
            )
        letters, size = len(box.value), len(box.value.encode())
        shown.value = (
            f'<div style="font:14px/1.9 monospace">{"".join(spans)}</div>'
            f"<p>{letters} characters, {size} bytes, <b>{len(ids)} tokens</b></p><code>{ids}</code>"
        )

    follow([box], update)
    return widgets.VBox([box, shown])


def attention_explorer(
    model: GPT, tokenizer: Tokenizer, text: str = SENTENCE, most: int = 48
) -> widgets.Widget:
    """Type a sentence, choose a head, and see where each token looks; at most the first `most`
    tokens are read.
    """
    layers, heads = model.config.layers, model.config.heads
    box = widgets.Textarea(text, description="text", rows=3, **TEXT, **LATER)
    layer = widgets.IntSlider(layers, 1, layers, description="layer", **CONTROL)
    head = widgets.IntSlider(1, 1, heads, description="head", **CONTROL)
    query = widgets.IntSlider(most, 1, most, description="token that looks", **CONTROL, **LATER)
    row, square, note = widgets.Image(format="png"), widgets.Image(format="png"), widgets.HTML()

    def update() -> None:
        ids = tokenizer.encode(box.value)[: min(most, model.config.context)]
        if not ids:
            note.value = "Type at least one word."
            return
        weights = plots.attention_weights(
            model, torch.tensor([ids], device=model.wte.weight.device)
        )
        weights, pieces = (
            weights[layer.value - 1, head.value - 1],
            [tokenizer.decode([id_]) for id_ in ids],
        )
        t = min(query.value, len(ids)) - 1
        note.value = (
            f"Token {t + 1} of {len(ids)}, <code>{html.escape(repr(pieces[t]))}</code>, looks at:"
        )
        row.value = png(
            plots.text_figure(pieces, weights[t], most=weights[t].max().item(), label="weight")
        )
        square.value = png(plots.attention_map(weights, pieces))

    follow([box, layer, head, query], update)
    return widgets.VBox([box, widgets.HBox([layer, head]), query, note, row, square])


def sampling_explorer(
    model: GPT, tokenizer: Tokenizer, prompts: dict[str, str] = PROMPTS, new_tokens: int = 40
) -> widgets.Widget:
    """Turn temperature, top-k and top-p; see the next token's probabilities and a continuation.

    prompts: texts to continue, by the name that the menu shows.
    """
    prompt = widgets.Dropdown(options=list(prompts.items()), description="prompt", **CONTROL)
    slider = CONTROL | LATER
    temperature = widgets.FloatSlider(
        1.0, min=0.1, max=3.0, step=0.1, description="temperature", **slider
    )
    top_k = widgets.IntSlider(0, 0, 40, description="top-k (0: off)", **slider)
    top_p = widgets.FloatSlider(
        1.0, min=0.05, max=1.0, step=0.05, description="top-p (1: off)", **slider
    )
    seed = widgets.IntSlider(0, 0, 20, description="seed", **slider)
    bars, text = widgets.Image(format="png"), widgets.HTML()
    device = model.wte.weight.device
    pieces = [tokenizer.decode([id_]) for id_ in range(tokenizer.vocab_size)]

    @torch.no_grad()
    def update() -> None:
        ids = torch.tensor([tokenizer.encode(prompt.value)], device=device)  # (1, P)
        logits = model.logits(model.hidden(ids)[:, -1])  # (1, V)
        cut = keep_top_p(keep_top_k(logits / temperature.value, top_k.value), top_p.value)
        panels = {
            "as the model says": logits[0].softmax(-1),
            "with these settings": cut[0].softmax(-1),
        }
        bars.value = png(plots.next_token_bars(panels, pieces))
        samples = sample(
            model,
            ids,
            torch.ones_like(ids),
            max_new_tokens=min(new_tokens, model.config.context - ids.size(1)),
            eos_id=tokenizer.eos_id,
            pad_id=tokenizer.pad_id,
            temperature=temperature.value,
            top_k=top_k.value,
            top_p=top_p.value,
            generator=torch.Generator(device).manual_seed(seed.value),
        )
        words = [id_ for id_ in samples.ids[0][samples.mask[0]].tolist() if id_ != tokenizer.eos_id]
        start, rest = (
            html.escape(part).replace("\n", "<br>")
            for part in (prompt.value, tokenizer.decode(words))
        )
        kept = int(torch.isfinite(cut).sum())
        text.value = f"<p>{kept} tokens may be drawn.</p><div>{start}<b>{rest}</b></div>"

    follow([prompt, temperature, top_k, top_p, seed], update)
    knobs = widgets.VBox([prompt, temperature, top_k, top_p, seed])
    return widgets.VBox([widgets.HBox([knobs, bars]), text])
