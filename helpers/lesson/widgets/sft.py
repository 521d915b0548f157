"""The explorers of 1-SFT: the completion mask on one's own text, and responses sampled and
judged.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from html import escape

import ipywidgets as widgets

from data.tldr.gold import Gold
from data.tldr.posts import Facts
from data.worlds import Judged
from helpers.evaluation import judge, respond
from helpers.lesson.plots.sft import TOKEN_COLOURS, WORD_COLOURS, judged_words, token_kinds, visible
from helpers.model import GPT
from helpers.records import Demonstration, Prompt
from helpers.tokenizer import Tokenizer

BOX = (
    "display:inline-block;margin:1px;padding:0 3px;border-radius:3px;font:12px/1.6 "
    "monospace;color:#222;background:"
)
WIDE = {"description_width": "90px"}


def token_html(pieces: Sequence[str], colours: Sequence[str]) -> str:
    """Tokens as coloured boxes; a line break after a newline token."""
    boxes = [
        f'<span style="{BOX}{colour}">{escape(visible(piece))}</span>'
        + ("<br>" if piece.endswith("\n") else "")
        for piece, colour in zip(pieces, colours, strict=True)
    ]
    return "".join(boxes)


# ---------------------------------------------------------------- the completion mask


def mask_report(
    tokenizer: Tokenizer, prompt: str, completion: str, masked: bool = True, end: bool = True
) -> str:
    """HTML: the tokens of a prompt and its completion, those in the loss in colour, what may be
    wrong below.
    """
    ids, answer = tokenizer.encode(prompt), tokenizer.encode(completion)
    row = ids + answer + [tokenizer.eos_id]
    kinds = token_kinds(row, len(ids) if masked else 0, tokenizer.eos_id, tokenizer.pad_id)
    if not end:
        kinds[-1] = "prompt"
    if not masked:
        kinds[0] = "prompt"  # nothing stands before the first token, so nobody can guess it
    pieces = [tokenizer.decode([id_]) for id_ in row]
    counted = sum(kind != "prompt" for kind in kinds)
    notes = warnings(tokenizer, prompt, completion, masked, end)
    items = "".join(
        f"<li>{note}</li>"
        for note in [f"<b>{counted} of {len(row)} tokens in the loss</b>", *notes]
    )
    return (
        token_html(pieces, [TOKEN_COLOURS[kind] for kind in kinds])
        + f"<ul style='line-height:1.5'>{items}</ul>"
    )


def warnings(
    tokenizer: Tokenizer, prompt: str, completion: str, masked: bool, end: bool
) -> list[str]:
    """What is wrong with a prompt, a completion and what the loss counts; empty if nothing is."""
    found = []
    apart = tokenizer.encode(prompt) + tokenizer.encode(completion)
    if not completion:
        found.append("Without a completion there is only the end of text to learn.")
    elif tokenizer.encode(prompt + completion) != apart:
        found.append(
            "Encoded as one text, these two give other tokens: the boundary falls inside a token."
        )
    if prompt.endswith((" ", "\n")):
        found.append(
            "The prompt ends in white space, which belongs to the first token of the completion."
        )
    if completion and not completion.startswith(" "):
        found.append(
            "The completion does not start with a space: its first word is cut into other tokens."
        )
    if not masked:
        found.append("The model also learns to write prompts.")
    if not end:
        found.append("Nothing teaches the model to stop.")
    return found


def explore_mask(tokenizer: Tokenizer, demonstration: Demonstration) -> widgets.VBox:
    """Type a prompt and a completion and see which tokens are in the loss; starts with a
    demonstration.
    """
    full = widgets.Layout(width="95%")
    prompt = widgets.Textarea(
        demonstration.prompt, description="prompt", rows=6, layout=full, style=WIDE
    )
    completion = widgets.Textarea(
        demonstration.completion, description="completion", rows=2, layout=full, style=WIDE
    )
    masked = widgets.Checkbox(True, description="mask the prompt", indent=False)
    end = widgets.Checkbox(True, description="end of text in the loss", indent=False)
    report = widgets.HTML()

    def show(_change=None) -> None:
        report.value = mask_report(
            tokenizer, prompt.value, completion.value, masked.value, end.value
        )

    for control in (prompt, completion, masked, end):
        control.observe(show, names="value")
    show()
    return widgets.VBox([prompt, completion, widgets.HBox([masked, end]), report])


# ---------------------------------------------------------------- sampled responses


def response_html(prompt: Prompt, text: str, stopped: bool) -> str:
    """A response and how it ended; its gold reward and what that is made of, where the facts behind
    it are known.
    """
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
    found = [name.replace("_", " ") for name, has in judged.flaws.items() if has]
    return escape(text), [
        f"flaws: {', '.join(found)}" if found else "no flaw",
        f"{len(text.split())} words",
    ]


def summary_parts(facts: Facts, text: str, judged: Gold) -> tuple[str, list[str]]:
    """For the world of posts: a summary with its judged words in colour, and the sum that makes its
    gold reward.
    """
    body = ""
    for piece, kind in judged_words(facts, text):
        marked = f'<span style="color:#222;background:{WORD_COLOURS[kind]}">{escape(piece)}</span>'
        body += escape(piece) if kind == "other" else marked
    counts = asdict(judged)
    parts = [f"facts covered {counts['covered']} of 8", f"invented {counts['invented']}"]
    parts += [
        f"small talk {counts['copied']}",
        f"question {'kept' if judged.question else 'missing'}",
    ]
    return body, [*parts, f"{counts['words']} words"]


def sample_report(
    model: GPT,
    tokenizer: Tokenizer,
    prompt: Prompt,
    max_new_tokens: int,
    temperature: float,
    seed: int,
    number=3,
) -> str:
    """HTML: `number` responses to a prompt, sampled, and judged where that can be done, under the
    prompt.
    """
    sampled = respond(
        model,
        tokenizer,
        [prompt] * number,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        seed=seed,
    )
    post = f'<div style="white-space:pre-wrap;opacity:0.75">{escape(prompt.prompt)}</div>'
    pairs = zip(sampled.texts, sampled.stopped, strict=True)
    return post + "<br>".join(response_html(prompt, text, stopped) for text, stopped in pairs)


def explore_samples(
    models: Mapping[str, GPT], tokenizer: Tokenizer, prompts: Sequence[Prompt], max_new_tokens: int
) -> widgets.VBox:
    """Sample three responses to a prompt with one of the models: temperature, seed, number of the
    prompt.
    """
    slow = {"continuous_update": False, "style": WIDE}
    name = widgets.ToggleButtons(
        options=list(models), value=list(models)[-1], description="model", style=WIDE
    )
    post = widgets.IntSlider(0, min=0, max=len(prompts) - 1, description="prompt", **slow)
    temperature = widgets.FloatSlider(
        1.0, min=0.0, max=2.0, step=0.1, description="temperature", **slow
    )
    seed = widgets.IntSlider(0, min=0, max=99, description="seed", **slow)
    report = widgets.HTML()

    def show(_change=None) -> None:
        report.value = sample_report(
            models[name.value],
            tokenizer,
            prompts[post.value],
            max_new_tokens,
            temperature.value,
            seed.value,
        )

    for control in (name, post, temperature, seed):
        control.observe(show, names="value")
    show()
    return widgets.VBox([name, post, temperature, seed, report])
