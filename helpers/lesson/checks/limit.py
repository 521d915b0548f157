"""What a learner's code does instead of returning: it raises something, or it never ends."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

SECONDS = 10.0
AGAIN = 0.1  # seconds between tries, where the code catches everything
PATIENCE = 30  # tries
CAUGHT = (
    "An `except:` in this code catches everything, so nothing can stop it. Restart the kernel, and "
    "name the error that you expect, as in `except ValueError:`."
)


class TookTooLong(BaseException):
    """As KeyboardInterrupt, not an Exception: `except Exception:` does not catch it."""


@contextmanager
def time_limit(seconds: float = SECONDS) -> Iterator[None]:
    """Raises TookTooLong in the code below once it has computed for some seconds.

    The seconds are the processor's, so that neither a busy machine nor a learner at a breakpoint
    runs out of time. Does nothing where there is no such timer (Windows, other threads than the
    main one). Code that catches everything is stopped when a try meets it outside its `try:`; after
    many that did not, a line says what to do.
    """
    timed = hasattr(signal, "setitimer") and threading.current_thread() is threading.main_thread()
    if not timed or signal.getsignal(signal.SIGVTALRM) is None:  # None: set by foreign code
        yield
        return
    times = 0

    def stop(number, frame) -> None:
        nonlocal times
        times += 1
        if times == PATIENCE:
            print(CAUGHT)
        raise TookTooLong(f"did not return within {seconds:g} seconds")

    earlier = signal.setitimer(signal.ITIMER_VIRTUAL, 0)  # goes on afterwards
    handler = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds, AGAIN)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, handler)
        signal.setitimer(signal.ITIMER_VIRTUAL, *earlier)


def told(error: BaseException, where: str) -> str:
    """An error of a learner's code in a line; where: "on the case 'no pads'"."""
    if isinstance(error, TookTooLong):
        return f"{error} {where}; is there a loop that never ends?"
    if isinstance(error, RecursionError):
        return f"calls itself without end {where} (RecursionError)."
    first_line = (str(error).splitlines() or [""])[0]
    return f"raises {type(error).__name__} {where}" + (f": {first_line}" if first_line else ".")
