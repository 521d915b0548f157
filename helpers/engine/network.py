"""Network calls with a time limit, and messages without tokens."""

import os
import re
import threading
from collections.abc import Callable
from typing import Any

TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACE_TOKEN")


def within(seconds: float, call: Callable[[], Any]) -> Any:
    """The result of a call, or its exception; TimeoutError when neither comes in time.

    In a thread, because a DNS lookup is bound by no library's own limit (HF_HUB_ETAG_TIMEOUT and
    HF_HUB_DOWNLOAD_TIMEOUT neither).
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
    """A text as one line of at most 200 characters, with Hugging Face tokens replaced by ***."""
    for name in TOKENS:
        if os.environ.get(name, "").strip():
            text = text.replace(os.environ[name].strip(), "***")
    return " ".join(re.sub(r"\bhf_\w+", "***", text).split())[:200]
