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


class Labelling:
    """The questions, the answers given so far, and what is shown of both."""

    def __init__(self, asked: Sequence[Question], file: LabelFile):
        """Raises LabelError for a file that can't be read."""
        self.asked, self.file = asked, file
        self.answers: list[Answer] = file.read()
        self.text, self.progress = words(), words()
        self.show()

    def still_open(self) -> list[Question]:
        """The questions without an answer, in their order."""
        done = {(answer.prompt, answer.a, answer.b) for answer in self.answers}
        return [q for q in self.asked if (q.prompt, q.a, q.b) not in done]

    def show(self, problem: str = "") -> None:
        """Show the next open question, and a problem or how many are answered."""
        left = self.still_open()
        answered = f"{len(self.asked) - len(left)} of {len(self.asked)} answered"
        self.progress.value = escape(problem or f"{answered}, kept in {self.file.path.name}")
        if not left:
            self.text.value = "<b>That was the last pair. Thank you!</b>"
            return
        cards = "".join(
            f'<div style="{CARD}"><b>{side}</b><br>{in_lines(completion.strip())}</div>'
            for side, completion in (("A", left[0].a), ("B", left[0].b))
        )
        cards = f'<div style="display:flex;flex-wrap:wrap">{cards}</div>'
        self.text.value = post_html(left[0].prompt) + cards

    def change(self, edit: Callable[[], object]) -> None:
        """Edit the answers as the file has them now, and write them at once."""
        try:
            self.answers = self.file.read()
            edit()
            self.file.write(self.answers)
        except (LabelError, OSError) as error:
            with suppress(LabelError, OSError):
                self.answers = self.file.read()
            self.show(f"not saved: {error}")
        else:
            self.show()

    def choose(self, key: str) -> None:
        """Answer the question that is shown. The same notebook may be open in another kernel, so
        only if the file has no answer to it yet.
        """
        if not (left := self.still_open()):
            return
        question = left[0]

        def answer() -> None:
            if question in self.still_open():
                self.answers.append(Answer(question.prompt, question.a, question.b, key))

        self.change(answer)

    def undo(self) -> None:
        """Take the last answer back."""
        self.change(lambda: self.answers.pop() if self.answers else None)

    def typed(self, change: dict) -> None:
        """Answer for each letter that was typed, take one back for each that was deleted."""
        old, new = change["old"].lower(), change["new"].lower()
        same = len(commonprefix([old, new]))
        if len(old) - same > AT_ONCE:
            return
        for key in old[same:]:  # quick keys arrive together: "ab" may become "at"
            if key in CHOICES:
                self.undo()
        for key in new[same:]:
            if key in CHOICES:
                self.choose(key)


def label_pairs(asked: Sequence[Question], file: LabelFile) -> widgets.Widget:
    """Questions one after the other. Every answer is written to the file at once; after a restart
    of the kernel the next open question comes.

    Keys a, b, t and s in the box below the texts do what the buttons do; backspace takes the last
    answer back.
    """
    try:
        labelling = Labelling(asked, file)
    except LabelError as error:
        return Explorer([widgets.HTML(f"<b>{escape(str(error))}</b>")])
    buttons = {key: widgets.Button(description=f"{name} ({key})") for key, name in CHOICES.items()}
    for key, button in buttons.items():
        button.on_click(lambda _, key=key: labelling.choose(key))
    back = widgets.Button(description="undo")
    back.on_click(lambda _: labelling.undo())
    keys = widgets.Text(
        placeholder="click here, then type a, b, t or s; backspace takes one back",
        layout={"width": "460px", "max_width": "100%"},
    )
    keys.observe(labelling.typed, names="value")
    row = side_by_side(*buttons.values(), back)
    return Explorer([labelling.text, row, keys, labelling.progress])
