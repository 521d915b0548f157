"""Network calls with a time limit, and messages without tokens."""

import os
import re
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Any

TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACE_TOKEN")


def within(seconds: float, call: Callable[[], Any]) -> Any:
    """The result of a call, or its exception; TimeoutError when neither comes in time.

    In a thread, because a DNS lookup is bound by no library's own limit (HF_HUB_ETAG_TIMEOUT and
    HF_HUB_DOWNLOAD_TIMEOUT neither).
    """
    answer: Future = Future()

    def work() -> None:
        try:
            answer.set_result(call())
        except BaseException as error:
            answer.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    if not wait([answer], seconds).done:
        raise TimeoutError(f"no answer within {seconds:g} seconds")
    return answer.result()


def redact(text: str) -> str:
    """A text as one line of at most 200 characters, with Hugging Face tokens replaced by ***."""
    for name in TOKENS:
        if os.environ.get(name, "").strip():
            text = text.replace(os.environ[name].strip(), "***")
    return " ".join(re.sub(r"\bhf_\w+", "***", text).split())[:200]
