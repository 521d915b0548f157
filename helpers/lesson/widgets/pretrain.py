"""Explorers of 0-Pretrain: the tokenizer, attention over a sentence, sampling parameters."""

from collections.abc import Sequence
from html import escape

import ipywidgets as widgets
import torch

from helpers.generation import keep_top_k, keep_top_p, sample
from helpers.lesson.plots import pretrain as plots
from helpers.lesson.track_words import in_the_lesson
from helpers.lesson.widgets.core import (
    Explorer,
    draw,
    follow,
    menu,
    picture,
    set_last,
    side_by_side,
    slider,
    text_box,
    token_html,
    words,
)
from helpers.model import GPT
from helpers.records import Document
from helpers.run.course import Course
from helpers.tokenizer import Tokenizer

SENTENCE = (
    "SUBREDDIT: r/relationships\n\nTITLE: Should I get a dog or replace the door?\n\n"
    "POST: My sister keeps borrowing my camera.\n\nCOMMENT: So your sister keeps borrowing your"
)
PROMPTS = {
    "a title": "SUBREDDIT: r/work\n\nTITLE: How do I deal with my",
    "a problem": "SUBREDDIT: r/work\n\nTITLE: Need advice about my laptop\n\nPOST: My",
    "a comment": "SUBREDDIT: r/family\n\nTITLE: How do I deal with my aunt?\n\nPOST: My aunt "
    "keeps hiding my tent.\n\n"
    "COMMENT:",
}
MOST = 48  # tokens that the attention explorer reads


def sentence_for(course: Course, heldout: Sequence[Document]) -> str:
    """A text whose attention is worth a look: the lesson's, or a document's beginning."""
    return SENTENCE if in_the_lesson(course) else heldout[0].text[:120]


def prompts_for(course: Course, heldout: Sequence[Document]) -> dict[str, str]:
    """Texts to continue, by name: the lesson's, or the beginnings of held-out documents."""
    if in_the_lesson(course):
        return PROMPTS
    starts = (" ".join(document.text.split(" ")[:8]) for document in heldout[:3])
    return {f"document {number}": start for number, start in enumerate(starts, start=1)}


def tokenizer_explorer(tokenizer: Tokenizer) -> widgets.Widget:
    """Type a text and see its tokens, their ids and their number."""
    box = text_box("text", "My niece untangles 14 café umbrellas.")
    shown = words()

    def update() -> None:
        ids, pieces = tokenizer.encode(box.value), tokenizer.pieces(box.value)
        boxes = ""
        for i, (id_, piece) in enumerate(zip(ids, pieces, strict=True)):
            colour = plots.PASTELS[i % len(plots.PASTELS)]
            boxes += token_html(piece, colour, title=f"id {id_}")
        letters, size = len(box.value), len(box.value.encode())
        shown.value = (
            f"<div>{boxes}</div>"
            f"<p>{letters} characters, {size} bytes, <b>{len(ids)} tokens</b></p><code>{ids}</code>"
        )

    follow([box], update)
    return Explorer([box, shown])


def attention_explorer(model: GPT, tokenizer: Tokenizer, text: str) -> widgets.Widget:
    """Type a sentence, choose a head, and see where each of its first tokens looks."""
    layers, heads = model.config.layers, model.config.heads
    box = text_box("text", text, wait=True)
    layer, head = slider("layer", layers, 1, layers), slider("head", 1, 1, heads)
    query = slider("token that looks", MOST, 1, MOST, wait=True)
    query_place = widgets.VBox([query])
    line, square, note = picture(), picture(), words()
    drawn = []

    def update() -> None:
        ids = tokenizer.encode(box.value)[: min(MOST, model.config.context)]
        if not ids:
            note.value = "Type at least one word."
            return
        set_last(query_place, len(ids))  # may move query.value, which calls update again
        pieces = [tokenizer.decode([id_]) for id_ in ids]
        batch = torch.tensor([ids], device=model.wte.weight.device)
        weights = plots.attention_weights(model, batch)[layer.value - 1, head.value - 1]  # (T, T)
        t = query.value - 1
        looks = weights[t]
        token = escape(repr(pieces[t]))
        note.value = f"Token {t + 1} of {len(ids)}, <code>{token}</code>, looks at:"
        one = plots.text_figure(pieces, looks, most=looks.max().item(), label="weight")
        draw(line, one, like=pieces)
        if drawn != [ids, layer.value, head.value]:  # the map does not depend on who looks
            drawn[:] = ids, layer.value, head.value
            draw(square, plots.attention_map(weights, pieces), like=pieces)

    follow([box, layer, head, query], update)
    knobs = widgets.VBox([layer, head, query_place])
    return Explorer([box, note, line, side_by_side(knobs, square)])


def sampling_explorer(
    model: GPT, tokenizer: Tokenizer, prompts: dict[str, str], new_tokens: int = 40
) -> widgets.Widget:
    """Turn temperature, top-k and top-p; see the next token's probabilities and a continuation.

    prompts: texts to continue, by the name that the menu shows.
    """
    prompt = menu("prompt", list(prompts.items()))
    temperature = slider("temperature", 1.0, 0.1, 3.0, 0.1, wait=True)
    top_k = slider("top-k (0: off)", 0, 0, 40, wait=True)
    top_p = slider("top-p (1: off)", 1.0, 0.05, 1.0, 0.05, wait=True)
    seed = slider("seed", 0, 0, 20, wait=True)
    bars, text = picture(), words()
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
        draw(bars, plots.next_token_bars(panels, pieces))
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
        drawn = samples.ids[0][samples.mask[0]].tolist()
        decoded = tokenizer.decode([id_ for id_ in drawn if id_ != tokenizer.eos_id])
        start, rest = (escape(part).replace("\n", "<br>") for part in (prompt.value, decoded))
        allowed = int(torch.isfinite(cut).sum())
        text.value = f"<p>{allowed} tokens may be drawn.</p><div>{start}<b>{rest}</b></div>"

    follow([prompt, temperature, top_k, top_p, seed], update)
    knobs = widgets.VBox([prompt, temperature, top_k, top_p, seed])
    return Explorer([side_by_side(knobs, bars), text])
