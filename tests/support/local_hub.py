"""A Hub on this machine, for tests of what talks to the real one."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler], token: str, monkeypatch) -> Iterator[str]:
    """Let huggingface_hub talk to `handler`, with this token; gives the server's address."""
    import huggingface_hub.constants

    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    address = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", address)
    monkeypatch.setenv("HF_TOKEN", token)
    try:
        yield address
    finally:
        server.shutdown()
        server.server_close()


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
