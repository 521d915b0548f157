"""What learners read: tests/lesson/messages.md has three for each exercise, with the messages."""

import signal

import pytest

from tests.support.learners import answer_to, learners, sections
from tests.support.notebook_code import EXERCISES

LEARNERS = [
    pytest.param(*learner, id=f"{learner[0]}: {learner[1]}")  # exercise, learner, code, message
    for learner in learners()
]


@pytest.mark.parametrize("name, who, code, message", LEARNERS)
@pytest.mark.filterwarnings("ignore")  # learners' code may be old-fashioned
def test_a_learner_reads_this(name, who, code, message):
    if "did not return" in message and not hasattr(signal, "setitimer"):
        pytest.skip("this system has no timer")
    assert answer_to(name, code) == message
    assert ("✓" in message) == who.startswith("Right")


def test_the_document_has_three_learners_for_most_exercises_of_every_notebook():
    names = [section.split("\n", 1)[0] for section in sections()]
    assert [learner.values[0] for learner in LEARNERS] == [name for name in names for _ in range(3)]
    for exercises in EXERCISES.values():
        assert len(exercises.keys() & {*names}) > len(exercises) / 2


def test_no_message_shows_code_of_ours():
    for learner in LEARNERS:
        message = learner.values[3]
        assert "helpers" not in message and "Traceback" not in message
        assert max(map(len, message.splitlines())) < 200
