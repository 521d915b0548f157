"""Talk to the models of a run: write a prompt and read what they make of it; or read two answers
without knowing whose they are.
"""

import random
from collections.abc import Callable, Mapping
from html import escape

import ipywidgets as widgets

from helpers.evaluation import Responses, respond
from helpers.lesson.widgets.core import (
    STYLE,
    Explorer,
    follow,
    post_html,
    side_by_side,
    slider,
    text_box,
    words,
)
from helpers.model import GPT, RewardModel
from helpers.records import Prompt
from helpers.reward import Text, score_texts
from helpers.tokenizer import Tokenizer

Describe = Callable[[Responses, int], str]  # a remark on a response, as text


def talk_to(
    models: Mapping[str, GPT], tokenizer: Tokenizer, prompt: str, tokens: int, remark=None
) -> widgets.Widget:
    """Edit the prompt and read what each model, {name: model}, makes of it.

    tokens: the most that a response may have. remark: (prompt, ids
    of the response) -> a line below it, such as its score.
    """
    box = text_box("prompt", prompt, rows=8, wait=True)
    temperature = slider("temperature", 1, 0, 1.5, 0.1)
    again = widgets.Button(description="another sample")
    answers = words()
    seed = [0]

    def update() -> None:
        prompt, lines = box.value.rstrip(), []  # white space belongs to the response's first token
        for name, model in models.items():
            room, length = model.config.context - tokens, len(tokenizer.encode(prompt))
            if 0 < length <= room:
                sampling = {"temperature": temperature.value, "seed": seed[0]}
                one = respond(model, tokenizer, [Prompt(prompt)], max_new_tokens=tokens, **sampling)
                text, finished = one.texts[0].strip(), one.stopped[0]
                says = "" if remark is None else remark(prompt, one.ids[0])
                note = f"<br><small>{escape(says) if finished else 'unfinished'}</small>"
            else:
                text, note = f"(a prompt of 1 to {room} tokens, please: this has {length})", ""
            lines.append(f"<p><b>{escape(name)}</b><br>{as_html(text)}{note}</p>")
        answers.value = "".join(lines)

    def sample_again(button: widgets.Button) -> None:
        seed[0] += 1
        update()

    again.on_click(sample_again)
    follow([box, temperature], update)
    return Explorer([box, side_by_side(temperature, again), answers])


def scored_by(model: RewardModel, tokenizer: Tokenizer) -> Callable[[str, list[int]], str]:
    """A remark for `talk_to`: what the reward model says of a response."""

    def remark(prompt: str, response: list[int]) -> str:
        scores = score_texts(model, [Text(tokenizer.encode(prompt), response)], tokenizer.pad_id)
        return f"score {scores.item():+.2f}"

    return remark


def as_html(text: str) -> str:
    """A text as it stands, its line breaks kept."""
    return f"<span style='white-space:pre-wrap'>{escape(text)}</span>"


def blind_duel(
    first: tuple[str, Responses], second: tuple[str, Responses], describe: Describe, seed: int = 0
) -> widgets.Widget:
    """Two responses to the same prompt, in random order and without names: choose the better one,
    and see whose it was. first, second: (name, its responses), to the same prompts. describe: what
    is told about a response after the choice.
    """
    rng = random.Random(seed)
    order = list(range(len(first[1].texts)))
    rng.shuffle(order)
    state = {"at": 0, "sides": [first, second], "open": True}
    votes = {first[0]: 0, second[0]: 0}
    prompt, texts, verdict = words(), words(), words()
    names = ("A is better", "B is better", "next post")
    buttons = [widgets.Button(description=name, style=STYLE) for name in names]

    def show() -> None:
        state["open"] = True
        rng.shuffle(state["sides"])
        row = order[state["at"] % len(order)]
        prompt.value = post_html(first[1].prompts[row].prompt)
        sides = zip("AB", state["sides"])
        texts.value = "".join(
            f"<p><b>{side}</b> {as_html(responses.texts[row].strip())}</p>"
            for side, (_, responses) in sides
        )
        verdict.value = "Which summary is better?"

    def vote(button: widgets.Button) -> None:
        if not state["open"]:
            return
        state["open"] = False
        row = order[state["at"] % len(order)]
        chosen = state["sides"][buttons.index(button)][0]
        votes[chosen] += 1
        told = "".join(
            f"<li>{side} is by {escape(name)}: {escape(describe(responses, row))}</li>"
            for side, (name, responses) in zip("AB", state["sides"])
        )
        tally = ", ".join(f"{escape(name)} {count}" for name, count in votes.items())
        verdict.value = f"<ul>{told}</ul>Your votes so far: {tally}"

    def go_on(button: widgets.Button) -> None:
        state["at"] += 1
        show()

    for button in buttons[:2]:
        button.on_click(vote)
    buttons[2].on_click(go_on)
    show()
    return Explorer([prompt, texts, side_by_side(*buttons), verdict])
