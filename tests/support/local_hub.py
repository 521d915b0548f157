"""A Hub on this machine, for tests of what talks to the real one."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest


class Answering(BaseHTTPRequestHandler):
    """Answers each request with what `answer` gives for its body: status, content, headers."""

    def answer(self, body: bytes) -> tuple[int, bytes, dict]:
        raise NotImplementedError

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        status, content, headers = self.answer(body)
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(content))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST

    def log_message(self, *_):
        pass


@contextmanager
def server(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """A server on this machine; gives its address."""
    http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    http.handle_error = lambda *_: None  # a client that no longer waits is no error here
    threading.Thread(target=http.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{http.server_port}"
    finally:
        http.shutdown()
        http.server_close()


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler], token: str, monkeypatch) -> Iterator[str]:
    """Let huggingface_hub talk to `handler`, with this token; gives the server's address."""
    import huggingface_hub.constants

    with server(handler) as address:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", address)
        monkeypatch.setenv("HF_TOKEN", token)
        yield address


def served(monkeypatch, rows) -> list:
    """Let `datasets` give these rows (by split where a dict; or raise this error) after the Hub has
    agreed.

    Returns the calls.
    """
    datasets = pytest.importorskip("datasets")
    calls = []

    def load_dataset(*names, **options):
        calls.append((*names, options))
        if isinstance(rows, Exception):
            raise rows
        wanted = rows[options["split"]] if isinstance(rows, dict) else rows
        return datasets.IterableDataset.from_generator(lambda: iter(wanted))

    monkeypatch.setattr("helpers.rows.hub.check_hub", lambda data: None)
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return calls
