"""Receivers of webhooks and gates for tests: real HTTP servers on the loopback, which keep what they got."""

import json
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

LOOPBACK = ("127.0.0.0/8",)


@dataclass(frozen=True)
class Got:
    """One request: path, headers in lower case, the very bytes of its body."""

    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)

    @property
    def id(self) -> str:
        """Its `webhook-id`."""
        return self.headers["webhook-id"]


Answer = int | tuple[int, Mapping[str, str], bytes]


@dataclass
class Receiver:
    """Answers each request with what `answer` returns for it: a status, or status, headers and body. `got`: in order of arrival."""

    url: str = ""
    answer: Callable[[Got], Answer] = lambda _got: 204
    got: list[Got] = field(default_factory=list)
    news: threading.Condition = field(default_factory=threading.Condition)

    def take(self, request: Got) -> Answer:
        """Keep a request, and return its answer."""
        with self.news:
            self.got.append(request)
            self.news.notify_all()
        return self.answer(request)

    def wait(self, enough: Callable[[list[Got]], bool], timeout_s: float = 60.0) -> list[Got]:
        """Return what came once `enough` holds for it."""
        with self.news:
            assert self.news.wait_for(lambda: enough(self.got), timeout_s), [one.id for one in self.got]
            return list(self.got)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    receiver: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        headers = {name.lower(): value for name, value in self.headers.items()}
        answer = self.receiver.take(Got(self.path, headers, body))
        status, more, text = (answer, {}, b"") if isinstance(answer, int) else answer
        self.send_response(status)
        for name, value in more.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    do_GET = do_POST  # noqa: N815 - names of the standard library
    do_PATCH = do_POST  # noqa: N815

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - name of the standard library
        """Stay silent."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no error of a test."""


@contextmanager
def receiving(answer: Callable[[Got], Answer] | None = None, tls: ssl.SSLContext | None = None) -> Iterator[Receiver]:
    """Run a receiver on a free port while the block runs."""
    receiver = Receiver()
    if answer is not None:
        receiver.answer = answer
    handler = type("Handler", (_Handler,), {"receiver": receiver})
    with _Server(("127.0.0.1", 0), handler) as server:
        if tls is not None:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        receiver.url = f"{'http' if tls is None else 'https'}://127.0.0.1:{server.server_address[1]}/hook"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield receiver
        finally:
            server.shutdown()
            thread.join()
