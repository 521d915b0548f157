"""Be the annotator: choose the better of two texts, by mouse or by keyboard."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from html import escape
from os.path import commonprefix

import ipywidgets as widgets

from helpers.lesson.own_labels import CHOICES, Answer, LabelError, LabelFile, Question
from helpers.lesson.widgets.core import Explorer, in_lines, post_html, side_by_side, words

CARD = "flex:1 1 300px;border:1px solid #8888;border-radius:6px;padding:2px 12px;margin:4px"
AT_ONCE = 3  # letters deleted together by backspace; more have been selected, and nothing is lost


def label_pairs(asked: Sequence[Question], file: LabelFile) -> widgets.Widget:
    """Questions one after the other. Every answer is written to the file at once; after a restart
    of the kernel the next open question comes.

    Keys a, b, t and s in the box below the texts do what the buttons do; backspace takes the last
    answer back.
    """
    text, progress = words(), words()
    keys = widgets.Text(
        placeholder="click here, then type a, b, t or s; backspace takes one back",
        layout={"width": "460px", "max_width": "100%"},
    )
    buttons = {key: widgets.Button(description=f"{name} ({key})") for key, name in CHOICES.items()}
    back = widgets.Button(description="undo")
    answers: list[Answer] = []

    def still_open() -> list[Question]:
        done = {(answer.prompt, answer.a, answer.b) for answer in answers}
        return [q for q in asked if (q.prompt, q.a, q.b) not in done]

    def show(problem: str = "") -> None:
        left = still_open()
        done = f"{len(asked) - len(left)} of {len(asked)} answered, kept in {file.path.name}"
        progress.value = escape(problem or done)
        if not left:
            text.value = "<b>That was the last pair. Thank you!</b>"
            return
        cards = "".join(
            f'<div style="{CARD}"><b>{side}</b><br>{in_lines(completion.strip())}</div>'
            for side, completion in (("A", left[0].a), ("B", left[0].b))
        )
        cards = f'<div style="display:flex;flex-wrap:wrap">{cards}</div>'
        text.value = post_html(left[0].prompt) + cards

    def change(edit: Callable[[], object]) -> None:
        """Edit the answers as the file has them now, and write them at once."""
        try:
            answers[:] = file.read()
            edit()
            file.write(answers)
        except (LabelError, OSError) as error:
            with suppress(LabelError, OSError):
                answers[:] = file.read()
            show(f"not saved: {error}")
        else:
            show()

    def choose(key: str) -> None:
        if left := still_open():
            change(lambda: answer(left[0], key))

    def answer(question: Question, key: str) -> None:
        """Once: the same notebook may be open in another kernel."""
        if question in still_open():
            answers.append(Answer(question.prompt, question.a, question.b, key))

    def undo(button: widgets.Button | None = None) -> None:
        change(lambda: answers.pop() if answers else None)

    def typed(change: dict) -> None:
        old, new = change["old"].lower(), change["new"].lower()
        same = len(commonprefix([old, new]))
        if len(old) - same > AT_ONCE:
            return
        for key in old[same:]:  # quick keys arrive together: "ab" may become "at"
            if key in CHOICES:
                undo()
        for key in new[same:]:
            if key in CHOICES:
                choose(key)

    try:
        answers += file.read()
    except LabelError as error:
        return Explorer([widgets.HTML(f"<b>{escape(str(error))}</b>")])
    for key, button in buttons.items():
        button.on_click(lambda _, key=key: choose(key))
    back.on_click(undo)
    keys.observe(typed, names="value")
    show()
    return Explorer([text, side_by_side(*buttons.values(), back), keys, progress])
