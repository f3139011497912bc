"""A real S3 server (moto) for tests, and a proxy in front of it that counts requests and breaks those that it is asked to."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx

from tests.support.tool_environments import MOTO, environment

_HOP = {"transfer-encoding", "connection", "content-length", "content-encoding", "keep-alive"}


@contextlib.contextmanager
def moto_server(folder: Path) -> Iterator[str]:
    """Run moto on a free port; yield its address. Its log is in the folder."""
    python = environment("moto", MOTO)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = folder / "log"
    with log.open("wb") as sink:
        command = [str(python), "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
        process = subprocess.Popen(command, stdout=sink, stderr=sink)
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 90
        while True:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline
            try:
                httpx.get(f"{url}/moto-api/", timeout=10)
                break
            except httpx.TransportError:
                time.sleep(0.2)
        yield url
    finally:
        process.terminate()
        process.wait(20)


def make_bucket(url: str, name: str) -> None:
    """Make a bucket."""
    httpx.put(f"{url}/{name}", timeout=30).raise_for_status()


def s3_error(status: int, code: str) -> Callable[[Request], Answer]:
    """Return the fault of a store that refuses with a code of S3."""
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>planted</Message></Error>".encode()
    return lambda request: Answer(status, {"content-type": "application/xml"}, body)


@dataclass(frozen=True)
class Request:
    """What came to the proxy. path: with the query."""

    method: str
    path: str
    headers: dict[str, str]


@dataclass(frozen=True)
class Answer:
    """What the proxy says instead of the store. is_cut: the body ends after its first half, and with it the connection."""

    status: int
    headers: dict[str, str]
    body: bytes
    is_cut: bool = False


@dataclass
class FaultyProxy:
    """Forwards to a store. `fault` is asked first about each request: an answer is sent instead, "cut" cuts the store's own.

    sent, came: change what goes on to the store, and what it answers.
    """

    upstream: str
    fault: Callable[[Request], Answer | str | None] = lambda request: None
    sent: Callable[[Request], Request] = lambda request: request
    came: Callable[[Request, Answer], Answer] = lambda request, answer: answer
    seen: list[Request] = field(default_factory=list)
    url: str = ""

    def count(self, method: str, query: str = "") -> int:
        """Return how many requests of a method came whose path holds `query`."""
        return sum(one.method == method and query in one.path for one in self.seen)

    @contextlib.contextmanager
    def running(self) -> Iterator[FaultyProxy]:
        """Listen on a free port of loopback."""
        outer = self
        with httpx.Client(base_url=self.upstream, timeout=60) as client:

            class Handler(BaseHTTPRequestHandler):
                protocol_version = "HTTP/1.1"

                def handle(self) -> None:
                    with contextlib.suppress(ConnectionResetError):  # by a client that was killed
                        super().handle()

                def handle_one(self) -> None:
                    body = self.rfile.read(int(self.headers.get("content-length") or 0))
                    request = Request(self.command, self.path, {k.lower(): v for k, v in self.headers.items()})
                    outer.seen.append(request)
                    fault = outer.fault(request)
                    if isinstance(fault, Answer):
                        answer = fault
                    else:
                        answer = outer.came(request, outer._forward(client, outer.sent(request), body, fault == "cut"))
                    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the client was killed
                        self._send(answer)

                def _send(self, answer: Answer) -> None:
                    self.send_response(answer.status)
                    for name, value in answer.headers.items():
                        self.send_header(name, value)
                    if "content-length" not in answer.headers:
                        self.send_header("content-length", str(len(answer.body)))
                    self.end_headers()
                    if self.command != "HEAD":
                        self.wfile.write(answer.body[: len(answer.body) // 2] if answer.is_cut else answer.body)
                    if answer.is_cut:
                        self.close_connection = True

                do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = handle_one  # noqa: N815

                def log_message(self, *args: object) -> None:
                    """Say nothing."""

            server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
            server.daemon_threads = True
            thread = threading.Thread(target=server.serve_forever, args=(0.05,))
            thread.start()
            self.url = f"http://127.0.0.1:{server.server_port}"
            try:
                yield self
            finally:
                server.shutdown()
                thread.join(20)
                server.server_close()

    @staticmethod
    def _forward(client: httpx.Client, request: Request, body: bytes, is_cut: bool) -> Answer:
        kept = {name: value for name, value in request.headers.items() if name not in _HOP}
        answer = client.request(request.method, request.path, headers=kept, content=body)
        headers = {name: value for name, value in answer.headers.items() if name.lower() not in _HOP}
        if request.method == "HEAD":
            headers["content-length"] = answer.headers.get("content-length", "0")
        return Answer(answer.status_code, headers, answer.content, is_cut)
