"""An HTTP server on 127.0.0.1 that serves bytes with or without ranges, breaks off, and changes its files."""

from __future__ import annotations

import hashlib
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from streamrec_dist.data import download as downloading

CONTENT = random.Random(1).randbytes(300_000)
MD5 = f"md5:{hashlib.md5(CONTENT).hexdigest()}"
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@dataclass
class FileServer:
    """What is served, and what was asked for.

    `breaks` holds for each coming answer the number of bytes after which the connection is closed, after
    `silence` seconds; `statuses` the errors with which the next answers begin. `sent` records (path, Range
    header, status, bytes sent).
    """

    files: dict[str, bytes] = field(default_factory=dict)
    moved: dict[str, str] = field(default_factory=dict)
    etag: str | None = '"one"'
    last_modified: str | None = None
    ranges: bool = True
    lengths: bool = True
    breaks: list[int] = field(default_factory=list)
    silence: float = 0.0
    statuses: list[int] = field(default_factory=list)
    sent: list[tuple[str, str | None, int, int]] = field(default_factory=list)
    address: str = ""


@contextmanager
def serving() -> Iterator[FileServer]:
    """A server that runs until the block ends."""
    state = FileServer()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            answer(self, state)

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        state.address = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield state
        finally:
            server.shutdown()
            thread.join(timeout=10)


def answer(request: BaseHTTPRequestHandler, state: FileServer) -> None:
    request.close_connection = True
    asked = request.headers.get("Range")
    if state.statuses or (request.path not in state.files and request.path not in state.moved):
        status = state.statuses.pop(0) if state.statuses else 404
        state.sent.append((request.path, asked, status, 0))
        request.send_error(status)
        return
    if request.path in state.moved:
        state.sent.append((request.path, asked, 302, 0))
        request.send_response(302)
        request.send_header("Location", state.moved[request.path])
        request.send_header("Content-Length", "0")
        request.end_headers()
        return
    content = state.files[request.path]
    validator = request.headers.get("If-Range")
    start = 0
    if asked and state.ranges and validator in (state.etag, state.last_modified):
        start = int(asked.removeprefix("bytes=").removesuffix("-"))
    status = 200 if not start else 206 if start < len(content) else 416
    body = content[start:] if status != 416 else b""
    request.send_response(status)
    if status == 206:
        request.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
    elif status == 416:
        request.send_header("Content-Range", f"bytes */{len(content)}")
    for name, value in (("ETag", state.etag), ("Last-Modified", state.last_modified)):
        if value:
            request.send_header(name, value)
    if state.lengths:
        request.send_header("Content-Length", str(len(body)))
    broken = bool(state.breaks)
    part = body[: state.breaks.pop(0)] if broken else body
    # Before the headers go out: a client may act on them at once.
    state.sent.append((request.path, asked, status, len(part)))
    request.end_headers()
    request.wfile.write(part)
    if broken:
        request.wfile.flush()
        time.sleep(state.silence)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(downloading, "PAUSES", (0.0, 0.0))
    monkeypatch.setattr(downloading, "SILENCE", 5.0)
    with serving() as state:
        state.files["/a.gz"] = CONTENT
        yield state
