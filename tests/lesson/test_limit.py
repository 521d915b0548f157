"""A learner's code that never returns is stopped, and nothing else is."""

import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from helpers.lesson.checks import limit, loops, ppo
from helpers.lesson.checks.limit import TookTooLong, time_limit
from helpers.losses import whiten
from tests.support.courses import course_in
from tests.support.notebook_code import solution_of

CHECK = replace(ppo.check_whiten, seconds=0.2)
timed = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no timer")


def for_ever() -> Iterator[None]:
    """A loop over this would end some day, so that a test without the limit fails."""
    end = time.process_time() + 20
    while time.process_time() < end:
        yield


def my_whiten(x, mask):
    for _ in for_ever():
        x = x + 1


def catches_errors(x, mask):
    for _ in for_ever():
        try:
            my_whiten(x, mask)
        except Exception:
            pass


def catches_everything(x, mask):
    for _ in for_ever():
        try:
            x = x + x.softmax(-1)
        except:  # noqa: E722
            pass


@timed
@pytest.mark.parametrize("function", [my_whiten, catches_errors, catches_everything])
def test_a_loop_that_never_ends_is_stopped_with_a_message(function, capsys):
    assert CHECK(function) is False
    first, where, *_ = capsys.readouterr().out.splitlines()
    assert first == (
        "✗ my_whiten: did not return within 0.2 seconds on the case 'three lengths'; "
        "is there a loop that never ends?"
    )
    assert where.startswith("    in line ")


@timed
def test_code_that_cannot_be_stopped_is_told_what_to_do(monkeypatch, capsys):
    monkeypatch.setattr(limit, "PATIENCE", 3)

    def catches_four(x, mask):
        for _ in range(4):
            try:
                my_whiten(x, mask)
            except:  # noqa: E722
                pass

    one_case = replace(CHECK, cases={"one": CHECK.cases["another"]})
    assert one_case(catches_four) is False
    assert capsys.readouterr().out.count(limit.CAUGHT) == 1


@timed
def test_course_use_stops_what_never_returns(tmp_path, capsys):
    solution = solution_of("whiten")

    def my_whiten(x, mask):
        if not mask.any():  # right in the check, endless in the place of the library's
            list(for_ever())
        return solution(x, mask)

    place = replace(CHECK.place, cases=tuple((x, mask & False) for x, mask in CHECK.place.cases))
    check = replace(CHECK, place=place, seconds=0.2)
    assert course_in(tmp_path).use(my_whiten, whiten, check) is whiten
    assert "did not return within 0.2 seconds on cpu" in capsys.readouterr().out


def test_an_interrupt_by_hand_is_no_mistake():
    def interrupted(x, mask):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        CHECK(interrupted)


@timed
def test_an_earlier_timer_and_its_handler_go_on():
    rings = []
    handler = signal.signal(signal.SIGVTALRM, lambda *_: rings.append(1))
    signal.setitimer(signal.ITIMER_VIRTUAL, 0.3)
    try:
        with pytest.raises(TookTooLong), time_limit(0.1):
            list(for_ever())
        assert not rings
        end = time.process_time() + 5
        while not rings and time.process_time() < end:
            pass
        assert rings
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, handler)


@timed
def test_no_timer_is_left_behind():
    handler = signal.getsignal(signal.SIGVTALRM)
    assert CHECK(solution_of("whiten")) is True
    assert signal.getitimer(signal.ITIMER_VIRTUAL) == (0, 0)
    assert signal.getsignal(signal.SIGVTALRM) == handler


def test_other_threads_and_systems_without_a_timer_have_no_limit(monkeypatch):
    results = []
    thread = threading.Thread(target=lambda: results.append(CHECK(solution_of("whiten"))))
    thread.start()
    thread.join()
    monkeypatch.delattr(signal, "setitimer", raising=False)
    assert [*results, CHECK(solution_of("whiten"))] == [True, True]


def test_training_has_more_time():
    assert loops.check_ppo_loop.seconds >= 60 > ppo.check_gae.seconds
