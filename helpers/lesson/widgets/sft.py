"""The explorers of 1-SFT: the completion mask on a text, and responses sampled and judged."""

from collections.abc import Mapping, Sequence
from html import escape

import ipywidgets as widgets

from data.tldr.gold import Gold
from data.tldr.posts import Facts
from data.worlds import Judged
from helpers.evaluation import judge, respond
from helpers.lesson.plots.sft import TOKEN_COLOURS, WORD_COLOURS, judged_words, token_kinds
from helpers.lesson.widgets.core import (
    STYLE,
    Explorer,
    follow,
    on_colour,
    post_html,
    side_by_side,
    slider,
    text_box,
    token_html,
    words,
)
from helpers.model import GPT
from helpers.records import Demonstration, Prompt
from helpers.tokenizer import Tokenizer

# ---------------------------------------------------------------- the completion mask


def mask_report(tokenizer: Tokenizer, prompt: str, completion: str, masked: bool, end: bool) -> str:
    """HTML: the tokens of prompt and completion, those in the loss in colour; warnings below."""
    ids, answer = tokenizer.encode(prompt), tokenizer.encode(completion)
    row = ids + answer + [tokenizer.eos_id]
    kinds = token_kinds(row, len(ids) if masked else 0, tokenizer.eos_id, tokenizer.pad_id)
    if not end:
        kinds[-1] = "prompt"
    if not masked:
        kinds[0] = "prompt"  # the first token cannot be predicted from anything
    boxes = ""
    for id_, kind in zip(row, kinds, strict=True):
        boxes += token_html(tokenizer.decode([id_]), TOKEN_COLOURS[kind])
    counted = sum(kind != "prompt" for kind in kinds)
    notes = [
        f"<b>{counted} of {len(row)} tokens in the loss</b>",
        *warnings(tokenizer, prompt, completion, masked, end),
    ]
    items = "".join(f"<li>{note}</li>" for note in notes)
    return f"{boxes}<ul style='line-height:1.5'>{items}</ul>"


def warnings(
    tokenizer: Tokenizer, prompt: str, completion: str, masked: bool, end: bool
) -> list[str]:
    """What is wrong with a prompt, a completion and what the loss counts; empty if nothing is."""
    apart = tokenizer.encode(prompt) + tokenizer.encode(completion)
    notes = {  # note: whether it applies
        "Without a completion there is only the end of text to learn.": not completion,
        "Encoded as one text, these two give other tokens: the boundary falls inside a token.": (
            completion and tokenizer.encode(prompt + completion) != apart
        ),
        "The prompt ends in white space, which belongs to the first token of the completion.": (
            prompt.endswith((" ", "\n"))
        ),
        "The completion does not start with a space: its first word is cut into other tokens.": (
            completion and not completion.startswith(" ")
        ),
        "The model also learns to write prompts.": not masked,
        "Nothing teaches the model to stop.": not end,
    }
    return [note for note, applies in notes.items() if applies]


def explore_mask(tokenizer: Tokenizer, demonstration: Demonstration) -> widgets.Widget:
    """Edit a prompt and its completion and see which tokens are in the loss."""
    prompt = text_box("prompt", demonstration.prompt, rows=6)
    completion = text_box("completion", demonstration.completion, rows=2)
    masked = widgets.Checkbox(True, description="mask the prompt", indent=False)
    end = widgets.Checkbox(True, description="end of text in the loss", indent=False)
    report = words()

    def update() -> None:
        report.value = mask_report(
            tokenizer, prompt.value, completion.value, masked.value, end.value
        )

    follow([prompt, completion, masked, end], update)
    return Explorer([prompt, completion, side_by_side(masked, end), report])


# ---------------------------------------------------------------- sampled responses


def response_html(prompt: Prompt, text: str, stopped: bool) -> str:
    """A response and how it ended; its gold reward and what that is made of, if facts are known."""
    end = "stopped by itself" if stopped else "<b>cut off: it did not stop</b>"
    if prompt.facts is None:
        return boxed(escape(text), f"{len(text.split())} words · {end}")
    judged = judge(prompt, text)
    if prompt.world == "tldr":
        body, parts = summary_parts(Facts(**prompt.facts), text, judged)
    else:
        body, parts = plain_parts(text, judged)
    return boxed(body, f"<b>gold reward {judged.reward:+.2f}</b>: {' · '.join([*parts, end])}")


def boxed(body: str, note: str) -> str:
    """A response with a line beside it, and a note below."""
    style = "white-space:pre-wrap;border-left:3px solid #2f6f8f;padding:4px 10px;margin:6px 0"
    return f'<div style="{style}">{body}</div>{note}'


def plain_parts(text: str, judged: Judged) -> tuple[str, list[str]]:
    """A response as HTML, and the flaws that it has."""
    flaws = [name.replace("_", " ") for name, has in judged.flaws.items() if has]
    note = f"flaws: {', '.join(flaws)}" if flaws else "no flaw"
    return escape(text), [note, f"{len(text.split())} words"]


def summary_parts(facts: Facts, text: str, judged: Gold) -> tuple[str, list[str]]:
    """A summary of a post with its judged words in colour, and what its gold reward is made of."""
    body = ""
    for piece, kind in judged_words(facts, text):
        marked = f'<span style="{on_colour(WORD_COLOURS[kind])}">{escape(piece)}</span>'
        body += escape(piece) if kind == "other" else marked
    return body, [
        f"facts covered {judged.covered} of 8",
        f"invented {judged.invented}",
        f"small talk {judged.copied}",
        f"question {'kept' if judged.question else 'missing'}",
        f"{judged.words} words",
    ]


def explore_samples(
    models: Mapping[str, GPT], tokenizer: Tokenizer, prompts: Sequence[Prompt], max_new_tokens: int
) -> widgets.Widget:
    """Sample three responses to a prompt: model, temperature, seed, number of the prompt."""
    names = {"value": list(models)[-1], "description": "model", "style": STYLE}
    name = widgets.ToggleButtons(options=list(models), **names)
    post = slider("prompt", 0, 0, len(prompts) - 1, wait=True)
    temperature = slider("temperature", 1.0, 0.0, 2.0, 0.1, wait=True)
    seed = slider("seed", 0, 0, 99, wait=True)
    report = words()

    def update() -> None:
        prompt = prompts[post.value]
        sampled = respond(
            models[name.value],
            tokenizer,
            [prompt] * 3,
            max_new_tokens=max_new_tokens,
            temperature=temperature.value,
            seed=seed.value,
        )
        answers = zip(sampled.texts, sampled.stopped, strict=True)
        texts = [response_html(prompt, *answer) for answer in answers]
        report.value = post_html(prompt.prompt) + "<br>".join(texts)

    follow([name, post, temperature, seed], update)
    return Explorer([name, post, temperature, seed, report])
