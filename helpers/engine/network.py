"""Two cares with the network: never wait long for an answer, never show a token."""

import os
import re
import threading
from collections.abc import Callable
from typing import Any

TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACE_TOKEN")


def within(seconds: float, call: Callable[[], Any]) -> Any:
    """The result of a call, or its exception; TimeoutError when there is neither after so many
    seconds.

    A look-up of a name may hang for longer than any library's own limit, so the call runs in a
    thread of its own.
    """
    outcome: list = []

    def work() -> None:
        try:
            outcome.append((call(), None))
        except BaseException as error:
            outcome.append((None, error))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(seconds)
    if not outcome:
        raise TimeoutError(f"no answer within {seconds:g} seconds")
    result, error = outcome[0]
    if error is not None:
        raise error
    return result


def redact(text: str) -> str:
    """A text in one line of at most 200 characters, without anything that is or looks like a
    Hugging Face token.
    """
    for name in TOKENS:
        if os.environ.get(name, "").strip():
            text = text.replace(os.environ[name].strip(), "***")
    return " ".join(re.sub(r"\bhf_\w+", "***", text).split())[:200]
