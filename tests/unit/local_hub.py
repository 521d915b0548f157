"""A Hub on this machine, for tests of what talks to the real one."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler], token: str, monkeypatch) -> Iterator[str]:
    """Let huggingface_hub talk to `handler`, with this token; gives the server's address."""
    import huggingface_hub

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
