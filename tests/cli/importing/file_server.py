"""A real HTTP server of files for tests: with ranges and strong tags, over TLS if wished, and faults on demand."""

from __future__ import annotations

import hashlib
import re
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Files:
    """What the server has, by path. breaks: answers that end after so many bytes, one after the other. asked: ranges."""

    url: str = ""
    bodies: dict[str, bytes] = field(default_factory=dict)
    moved: dict[str, str] = field(default_factory=dict)
    breaks: list[int] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    authorized: list[str] = field(default_factory=list)
    has_tags: bool = True
    is_chunked: bool = False


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    files: Files

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        self.files.authorized.append(self.headers.get("authorization", ""))
        if self.files.statuses:
            return self._end(self.files.statuses.pop(0))
        if path in self.files.moved:
            return self._end(302, location=self.files.moved[path])
        body = self.files.bodies.get(path)
        if body is None:
            return self._end(404)
        return self._send(body)

    def _send(self, body: bytes) -> None:
        tag = f'"{hashlib.sha256(body).hexdigest()[:16]}"'
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("range", ""))
        self.files.asked.append(self.headers.get("range", ""))
        start = int(wanted.group(1)) if wanted and self.headers.get("if-range") == tag else 0
        self.send_response(206 if start else 200)
        if start:
            self.send_header("content-range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        if self.files.has_tags:
            self.send_header("etag", tag)
        if self.files.is_chunked:
            self.send_header("transfer-encoding", "chunked")
            self.end_headers()
            self.wfile.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body))
            return
        self.send_header("content-length", str(len(body) - start))
        self.end_headers()
        end = start + self.files.breaks.pop(0) if self.files.breaks else len(body)
        self.wfile.write(body[start:end])
        if end < len(body):
            self.close_connection = True

    def _end(self, status: int, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - name of the standard library
        """Stay silent."""


@contextmanager
def serving_files(tls: ssl.SSLContext | None = None) -> Iterator[Files]:
    """Serve files on a free port of the loopback while the block runs."""
    files = Files()
    handler = type("Handler", (_Handler,), {"files": files})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        if tls is not None:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        files.url = f"{'https' if tls else 'http'}://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield files
        finally:
            server.shutdown()
            thread.join()
