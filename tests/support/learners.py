"""Three learners for each exercise, and what its check says to them: tests/lesson/messages.md.

python -m tests.support.learners    writes the messages of that document anew
"""

import io
import linecache
import re
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path

from helpers.lesson.checks import limit
from helpers.run import answers
from tests.support.notebook_code import EXERCISES, namespace_once

DOCUMENT = Path(__file__).resolve().parent.parent / "lesson" / "messages.md"
SECONDS = 0.5
LEARNER = re.compile(
    r"^(?P<who>[^\n]+):\n\n```python\n(?P<code>.*?)\n```\n(?:\n```text\n(?P<message>.*?)\n```\n)?",
    re.MULTILINE | re.DOTALL,
)


def learners() -> Iterator[tuple[str, str, str, str | None]]:
    """(exercise, learner, code, message) of the document."""
    for section in sections():
        for learner in LEARNER.finditer(section):
            yield section.split("\n", 1)[0], *learner.group("who", "code", "message")


def sections() -> list[str]:
    """The document's sections, each beginning with the name of its exercise."""
    return DOCUMENT.read_text(encoding="utf-8").split("\n## ")[1:]


def answer_to(name: str, code: str) -> str:
    """What a learner reads who runs this code in the notebook's exercise cell."""
    (stage,) = (stage for stage, exercises in EXERCISES.items() if name in exercises)
    names, file = dict(namespace_once(stage)), f"my_{name}"
    linecache.cache[file] = (len(code), None, code.splitlines(keepends=True), file)
    exec(compile(code, file, "exec"), names)
    check = names[f"check_{name}"]
    if getattr(check, "seconds", None) == limit.SECONDS:  # training has more
        check = replace(check, seconds=SECONDS)
    answers.SOLVED.clear()
    with redirect_stdout(io.StringIO()) as printed:
        check(names[f"my_{name}"])
    return printed.getvalue().rstrip("\n")


def write() -> None:
    """Run all learners and write their messages into the document."""

    def with_message(name: str) -> Callable[[re.Match], str]:
        def learner(match: re.Match) -> str:
            message = answer_to(name, match["code"])
            return (
                f"{match['who']}:\n\n```python\n{match['code']}\n```\n\n```text\n{message}\n```\n"
            )

        return learner

    text = DOCUMENT.read_text(encoding="utf-8").split("\n## ", 1)[0]
    for section in sections():
        text += "\n## " + LEARNER.sub(with_message(section.split("\n", 1)[0]), section)
    DOCUMENT.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write()
