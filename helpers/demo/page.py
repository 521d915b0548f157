"""The web page: layout and events. What it shows comes from the other files of this folder."""

import random
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from html import escape
from itertools import combinations
from typing import Any

import gradio as gr

from helpers.demo.answers import BEST, MOST, Sampling, answer
from helpers.demo.html import STYLE, blind_cards, cards, figures, note
from helpers.demo.models import Models
from helpers.demo.votes import Pair, Votes, blind
from helpers.records import Prompt

FONT, MONO = ("system-ui", "sans-serif"), ("ui-monospace", "monospace")  # none to fetch
EVERY = 0.05  # seconds between two updates of the page
AT_ONCE = 2  # users whose answers are sampled at the same time; others wait
TRIES = 5  # samples until two answers differ
STEPS = {"temperature": 0.05, "top_p": 0.01}
LEAST = {"top_p": 0.01, "n": 1, "tokens": 1}
LABELS = {"top_k": "top-k (0: all)", "n": "best of", "tokens": "most tokens"}


def build(models: Models) -> gr.Blocks:
    """The page of a run."""
    votes = Votes(models.folder / "votes", models.track)
    name = models.folder.resolve().name
    with gr.Blocks(analytics_enabled=False, title=f"{name}: RLHF from scratch") as page:
        gr.HTML(head(models, name))
        with gr.Tab("Compare"):
            knobs = compare_tab(models)
        with gr.Tab("Blind vote"):
            vote_tab(models, votes, knobs)
        with gr.Tab("The run") as tab:
            run = gr.HTML()
        tab.select(lambda: figures(models.folder), None, run, **private())
    return page.queue(default_concurrency_limit=AT_ONCE, max_size=64, api_open=False)


def launch(
    models: Models, host: str | None = None, port: int | None = None, browser: bool = False
) -> None:
    """Serve the page until Ctrl-C. host: None for what the machine asks for, as a Space does."""
    page, style = build(models), STYLE.read_text(encoding="utf-8")
    look = {"css": style, "theme": gr.themes.Default(font=FONT, font_mono=MONO), "footer_links": []}
    where = {"server_name": host, "server_port": port, "inbrowser": browser}
    _, address, _ = page.launch(
        share=False, quiet=True, prevent_thread_lock=True, ssr_mode=False, **where, **look
    )
    print(f"{models.folder.name} is at {address} (Ctrl-C ends)", flush=True)
    page.block_thread()


def private(**more: Any) -> dict:
    """What all events have in common: they are no API for others."""
    return {"api_visibility": "private", "show_progress": "hidden", **more}


def head(models: Models, name: str) -> str:
    """The run's name, and what it lacks."""
    about = f"track {models.track}, preset {models.config.get('preset')}"
    lines = "".join(map(note, models.missing))
    return f'<div class="head"><h1>{escape(name)}</h1> {escape(about)}{lines}</div>'


# ---------------------------------------------------------------- side by side


def compare_tab(models: Models) -> list:
    """A prompt, the sliders and the answers; returns the controls of the sampling."""
    prompts = models.prompts
    with gr.Row():
        with gr.Column(scale=2, min_width=300):
            choices = [(f"{i + 1}. {title(prompt)}", i) for i, prompt in enumerate(prompts)]
            post = gr.Dropdown(choices, value=0 if prompts else None, label="A held-out prompt")
            text = gr.Textbox(
                prompts[0].prompt if prompts else "",
                label="Prompt: edit it, or paste your own",
                lines=9,
                max_lines=14,
            )
            with gr.Row():
                go = gr.Button("Answer", variant="primary", min_width=80)
                again = gr.Button("Again", min_width=80)
                stop = gr.Button("Stop", min_width=80)
            with gr.Accordion("Sampling", open=False):
                knobs = sliders(models)
        with gr.Column(scale=3, min_width=300):
            shown = gr.HTML(note("The answers of all policies come here."))

    def respond(text: str, *values: float) -> Iterator[str]:
        yield from compare(models, text, values)

    sampled = {"fn": respond, "inputs": [text, *knobs], "outputs": shown}
    picked = post.input(lambda i: prompts[i or 0].prompt, post, text, **private())
    picked = picked.then(**sampled, **private())
    started = go.click(**sampled, **private())
    more = again.click(lambda seed: (seed or 0) + 1, knobs[-1], knobs[-1], **private())
    more = more.then(**sampled, **private())
    stop.click(None, cancels=[picked, started, more], **private())
    return knobs


def title(prompt: Prompt) -> str:
    """A prompt in a few words: a post's title, or the request itself."""
    text = prompt.prompt.partition("TITLE: ")[2].partition("\n")[0]
    return (text or " ".join(prompt.prompt.split()))[:80]


def sliders(models: Models) -> list:
    """A control for each value of `Sampling`, in its order, two in a row."""
    most = MOST | {"temperature": 2, "top_k": 100, "tokens": min(256, models.context // 2)}
    default, names, controls = Sampling(tokens=models.response_tokens), list(MOST), []
    for start in range(0, len(names), 2):
        with gr.Row():
            for name in names[start : start + 2]:
                value, look = (
                    getattr(default, name),
                    {"label": LABELS.get(name, name.replace("_", "-")), "min_width": 150},
                )
                look |= {"minimum": LEAST.get(name, 0), "step": STEPS.get(name, 1)}
                if name == "seed":
                    controls.append(gr.Number(value, precision=0, **look))
                else:
                    controls.append(gr.Slider(maximum=most[name], value=value, buttons=[], **look))
    return controls


def sampling_of(values: tuple[float, ...]) -> Sampling:
    """What the sliders say, 0 for an empty box. Raises ValueError for a value out of bounds."""
    named = dict(zip(MOST, values, strict=True))
    whole = {name: int(value or 0) for name, value in named.items() if name not in STEPS}
    return Sampling(**named | whole)


def compare(models: Models, text: str, values: tuple) -> Iterator[str]:
    """The answers while they are written."""
    try:
        sampling = sampling_of(values)
        prompt = models.read_prompt(text or "", sampling.tokens)
    except (TypeError, ValueError) as error:
        yield note(f"Not answered: {error}")
        return
    same = prompt.prompt == (text or "").strip()
    said = "" if same else note(f"The models read: {prompt.prompt}")
    shown = 0.0
    for answers in answer(models, prompt, sampling):
        done = all(one.tokens for one in answers.values())
        if done or time.monotonic() - shown > EVERY:
            shown = time.monotonic()
            yield said + cards(answers.values())


# ---------------------------------------------------------------- blind votes


def vote_tab(models: Models, votes: Votes, knobs: list) -> None:
    """Two answers without names, a choice, and whose they were."""
    names = [*models.policies, *([BEST] if models.reward and models.reference else [])]
    pairs = [" and ".join(pair) for pair in combinations(names, 2)]
    if not pairs or not models.prompts:
        gr.HTML(note("A vote needs two policies and held-out prompts. " + " ".join(models.missing)))
        return
    value = "SFT and PPO" if "SFT and PPO" in pairs else pairs[0]
    with gr.Row():
        between = gr.Dropdown(pairs, value=value, label="Which is better, of two answers by")
        draw = gr.Button("New pair", variant="primary")
    shown, state = gr.HTML(note("Draw a pair: two answers to a held-out prompt.")), gr.State(None)
    with gr.Row():
        buttons = [gr.Button(f"{side} is better", interactive=False) for side in "AB"]
    said = gr.HTML(note(tally(votes)))

    def new_pair(between: str, *values: float) -> tuple:
        try:
            pair = draw_pair(models, between.split(" and "), sampling_of(values))
        except ValueError as error:
            return None, note(f"No pair drawn: {error}"), *locked(True)
        if pair is None:
            return None, note("The two answer alike. Draw another pair."), *locked(True)
        return pair, post(pair) + blind_cards(pair.answers), *locked(False)

    def vote(pair: Pair | None, choice: int) -> tuple:
        if pair is None:
            return note("Draw a pair first."), note(tally(votes)), *locked(True)
        try:
            votes.cast(pair, choice)
            found = tally(votes)
        except OSError as error:
            found = f"The vote could not be saved: {error}"
        titles = [f"{side}: {one.policy}" for side, one in zip("AB", pair.answers)]
        titles[choice] += ", your choice"
        return post(pair) + cards(pair.answers, titles), note(found), *locked(True)

    draw.click(new_pair, [between, *knobs], [state, shown, *buttons], **private())
    for choice, button in enumerate(buttons):
        choose = partial(vote, choice=choice)
        button.click(choose, state, [shown, said, *buttons], **private())


def post(pair: Pair) -> str:
    """The prompt of a pair."""
    return f'<div class="post">{escape(pair.prompt)}</div>'


def locked(yes: bool) -> list[dict]:
    """Both buttons, to be pressed or not."""
    return [gr.update(interactive=not yes)] * 2


def draw_pair(models: Models, names: list[str], sampling: Sampling) -> Pair | None:
    """Answers of two policies to a random held-out prompt; None where they don't differ."""
    prompt, n = random.choice(models.prompts), sampling.n if BEST in names else 1
    wanted = {*names, "SFT"} & {*models.policies}
    some = replace(models, policies={name: models.policies[name] for name in wanted})
    for _ in range(TRIES):
        again = replace(sampling, seed=random.randrange(2**31), n=n)
        *_, answers = answer(some, prompt, again)
        if pair := blind(prompt.prompt, *(answers[name] for name in names)):
            return pair
    return None


def tally(votes: Votes) -> str:
    """All votes of the run, in words."""
    counts = votes.tally().most_common()
    found = ", ".join(f"{chosen} over {rejected} {n}" for (chosen, rejected), n in counts)
    return f"Votes so far: {found or 'none'}. They are in {votes.folder.parent.name}/votes."
