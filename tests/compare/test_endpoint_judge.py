"""The optional judge against an endpoint on this machine: verdicts, refusals, limits, and a key
that never shows.
"""

import json
import time
from contextlib import contextmanager

import pytest

from helpers.compare import endpoint_judge as module
from helpers.compare.endpoint_judge import (
    CRITERIA,
    MOST_FAILURES,
    OFF,
    JudgeError,
    chat_address,
    endpoint_judge,
    judge_of,
)
from helpers.compare.win_rate import PairwiseJudge, wins_by_judge
from helpers.rows.tracks import TRACKS
from helpers.run.settings import Settings, read_settings
from tests.support.local_hub import Answering, server

KEY = "sk-" + "Hidden" * 6
HTTPS = "https://example.org/v1"


@contextmanager
def serving():
    """An endpoint with a list of answers, the last one repeated; it notes what it was sent."""
    seen = {"answers": ["A"], "requests": [], "keys": [], "paths": []}

    class Handler(Answering):
        def answer(self, body: bytes) -> tuple[int, bytes, dict]:
            seen["keys"].append(self.headers.get("Authorization"))
            seen["paths"].append(self.path)
            if self.command == "GET":
                return 404, b"", {}
            seen["requests"].append(json.loads(body))
            answer = seen["answers"].pop(0) if len(seen["answers"]) > 1 else seen["answers"][0]
            answer = answer(seen["requests"][-1]) if callable(answer) else answer
            return answer if isinstance(answer, tuple) else (200, chat(answer), {})

    with server(Handler) as address:
        seen["url"] = f"{address}/v1"
        yield seen


@pytest.fixture
def endpoint():
    with serving() as seen:
        yield seen


@pytest.fixture
def other_host():
    """Another host, to which no key may go."""
    with serving() as seen:
        yield seen


@pytest.fixture(autouse=True)
def no_settings(monkeypatch):
    proxies = ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY")
    for name in ("OPENAI_API_KEY", *proxies):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(module, "PAUSES", (0.0, 0.0, 0.0))


def chat(text) -> bytes:
    return json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}]}).encode()


def error(status: int, headers: dict | None = None) -> tuple:
    return status, f'{{"error": "bad key {KEY}"}}'.encode(), headers or {}


def make(endpoint) -> PairwiseJudge:
    judge = endpoint_judge(endpoint["url"], "some-model", KEY, "tldr")
    assert KEY not in repr(judge) and KEY not in str(judge)
    return judge


def message_of(judge: PairwiseJudge, calls: int = 1) -> str:
    with pytest.raises(JudgeError) as caught:
        for _ in range(calls):
            judge("p", "x", "y")
    assert caught.value.__context__ is None
    message = str(caught.value)
    assert KEY not in message and KEY not in repr(caught.value) and "\n" not in message
    return message


def test_it_is_off_without_an_address(capsys):
    assert judge_of(Settings(), "tldr") is None
    assert capsys.readouterr().out.strip() == OFF
    with pytest.raises(JudgeError, match="--judge-model and OPENAI_API_KEY not"):
        judge_of(Settings(judge_url=HTTPS), "tldr")


def test_each_track_has_a_criterion():
    assert set(CRITERIA) == set(TRACKS)
    with pytest.raises(JudgeError, match="no criterion for the track 'chess'"):
        endpoint_judge(HTTPS, "m", KEY, "chess")


def test_from_the_settings(monkeypatch, endpoint, capsys):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    settings = read_settings({"judge_url": endpoint["url"], "judge_model": "judge-1"})
    assert KEY not in repr(settings)
    for track in TRACKS:
        assert judge_of(settings, track)("the prompt", " one", " two") == "first"
    request = endpoint["requests"][0]
    assert request.keys() <= {"model", "messages", "temperature", "stream"}
    assert request["model"] == "judge-1" and request["temperature"] == 0
    expected = "<prompt>\nthe prompt\n</prompt>\n<A>\none\n</A>\n<B>\ntwo\n</B>"
    assert request["messages"][1]["content"] == expected
    assert endpoint["keys"] == [f"Bearer {KEY}"] * 4
    assert set(endpoint["paths"]) == {"/v1/chat/completions"}
    assert KEY not in json.dumps(endpoint["requests"]) and capsys.readouterr() == ("", "")


CLEAR = {"A": "first", " B\n": "second", "tie": "tie"}
UNCLEAR = ("a", "A.", "A or B", "I choose A", "**A**", "TIE", "C", "", None, 7)


@pytest.mark.parametrize("text", [*CLEAR, *UNCLEAR])
def test_answers_are_read_strictly(endpoint, text):
    endpoint["answers"] = [text]
    assert make(endpoint)("p", "x", "y") == CLEAR.get(text)
    assert len(endpoint["requests"]) == 1  # an unclear answer is not asked for again


def test_both_orders_through_the_win_rate(endpoint):
    def shorter(request):
        parts = request["messages"][1]["content"].split("\n")
        first, second = parts[parts.index("<A>") + 1], parts[parts.index("<B>") + 1]
        return "A" if len(first) < len(second) else "B" if len(second) < len(first) else "tie"

    endpoint["answers"] = [shorter]
    judged = wins_by_judge(make(endpoint), ["p"] * 3, ["xx", "x", "x"], ["y", "yy", "y"])
    assert judged.wins.tolist() == [0, 1, 0.5] and not judged.flipped.any()
    assert len(endpoint["requests"]) == 6
    endpoint["answers"] = ["A"]
    assert wins_by_judge(make(endpoint), ["p"], ["x"], ["y"]).flipped.tolist() == [True]


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422])
def test_a_refusal_ends_it_at_once_without_the_key(endpoint, status):
    endpoint["answers"] = [error(status)]
    assert f"127.0.0.1 refused the request (HTTP {status})" in message_of(make(endpoint))
    assert len(endpoint["requests"]) == 1


BODIES = {
    "html": b"<html>",
    "no choices": b'{"a": 1}',
    "list": b"[]",
    "bytes": b"\xff",
    "too deep": b"[" * 200_000,
    "too deep within": b'{"choices": [{"message": {"content": '
    + b"[" * 5000
    + b"]" * 5000
    + b"}}]}",
    "too long a number": b'{"choices": [{"message": {"content": ' + b"9" * 5000 + b"}}]}",
    "cut off": b'{"choices": [' + b'{"message": {"content": "A"}}, ' * 10,
    "number": b"7",
}


@pytest.mark.parametrize("trouble", [429, 500, 503, *BODIES])
def test_trouble_is_tried_again_so_many_times(endpoint, trouble, monkeypatch):
    answer = (200, BODIES[trouble], {}) if trouble in BODIES else error(trouble)
    endpoint["answers"] = [answer, answer, "B"]
    assert make(endpoint)("p", "x", "y") == "second"
    assert len(endpoint["requests"]) == 3
    endpoint["answers"] = [answer]
    monkeypatch.setattr(module, "PAUSES", (0.0, 0.0))
    assert make(endpoint)("p", "x", "y") is None
    assert len(endpoint["requests"]) == 3 + 2


def test_a_dead_endpoint_is_given_up(endpoint):
    endpoint["answers"] = [error(500)]
    message = message_of(make(endpoint), MOST_FAILURES)
    assert f"to {MOST_FAILURES} comparisons, the last time HTTP 500" in message
    assert len(endpoint["requests"]) == MOST_FAILURES * 3
    nobody = endpoint_judge("http://127.0.0.1:9/v1", "m", KEY, "tldr")
    assert "no answer from 127.0.0.1" in message_of(nobody, MOST_FAILURES)


def test_a_large_answer_is_no_answer_and_is_not_shown(endpoint, capsys):
    endpoint["answers"] = [chat("A" * 5_000_000)]
    assert make(endpoint)("p", "x", "y") is None
    assert capsys.readouterr() == ("", "")


def test_a_slow_answer_is_not_waited_for(endpoint, monkeypatch):
    endpoint["answers"] = [lambda _: time.sleep(8) or "A"]
    monkeypatch.setattr(module, "SECONDS", 0.2)
    started = time.perf_counter()
    assert make(endpoint)("p", "x", "y") is None
    assert time.perf_counter() - started < 6


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_the_key_does_not_follow_a_redirect_to_another_host(endpoint, other_host, status):
    endpoint["answers"] = [error(status, {"Location": other_host["url"]})]
    judge = make(endpoint)
    try:
        judge("p", "x", "y")
    except JudgeError as refused:
        assert KEY not in str(refused)
    assert len(endpoint["paths"]) <= 3 and set(other_host["keys"]) <= {None}


def test_the_key_does_not_go_to_a_proxy(endpoint, other_host, monkeypatch):
    """Plain http to this machine is safe, but not through a proxy on another one."""
    for name in ("http_proxy", "all_proxy"):
        with monkeypatch.context() as patch:
            patch.setenv(name, other_host["url"])
            patch.delenv("no_proxy", raising=False)
            with pytest.raises(JudgeError, match="set no_proxy=127.0.0.1") as refused:
                make(endpoint)
            assert KEY not in str(refused.value)
            patch.setenv("no_proxy", "example.org, 127.0.0.1")
            assert make(endpoint)("p", "x", "y") == "first"
    assert len(endpoint["keys"]) == 2 and not other_host["keys"] and not other_host["paths"]


@pytest.mark.parametrize("key", [KEY + "\nX: y", KEY + "\u00e9", KEY + " x", KEY + "\u2028"])
def test_a_key_that_no_header_can_hold_is_not_quoted(key):
    with pytest.raises(JudgeError) as caught:
        endpoint_judge(HTTPS, "m", key, "tldr")
    assert KEY not in str(caught.value)


def test_addresses(endpoint):
    for url in (HTTPS, f"{HTTPS}/", f" {HTTPS}/chat/completions "):
        assert chat_address(url) == f"{HTTPS}/chat/completions"
    odd = ("example.org/v1", "file:///etc/passwd", "https://", "http://[half")
    for url in (*odd, "https://user:word@example.org/v1", f"{HTTPS}?key=1"):
        with pytest.raises(JudgeError, match="must look like https://HOST/v1"):
            chat_address(url)
    with pytest.raises(JudgeError, match="http only on this machine"):
        chat_address("http://example.org/v1")
    endpoint["url"] = endpoint["url"].replace("/v1", "/v2/openai")
    assert make(endpoint)("p", "x", "y") == "first"
    assert endpoint["paths"] == ["/v2/openai/chat/completions"]
