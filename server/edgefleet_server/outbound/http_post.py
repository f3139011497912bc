"""Sends one request to a URL that a user named, and returns what came back: bounded in time and size, no redirect followed.

Webhooks and gates POST alike; documents of issuers of ID tokens are read with GET, and their codes exchanged with POST. The name is looked
up once, its addresses are checked (`address_policy`), and the connection goes to a checked address; TLS is still verified against the
name. Blocks; thread-safe; each call has its own connection.
"""

import contextlib
import socket
import ssl
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import h11

from edgefleet_protocol.clock import Clock
from edgefleet_protocol.errors import EdgefleetError
from edgefleet_server.outbound.address_policy import PORTS, Network, Resolve, Target, addresses_of, parse_target

MAX_ANSWER: Final = 16 * 1024
"""Bytes of an answer's body that are read; the rest is cut off."""
MAX_HEAD: Final = 64 * 1024
_CHUNK: Final = 16 * 1024


class PostError(EdgefleetError):
    """No HTTP answer came: nothing listens, it took too long, or what came was not HTTP."""

    code = "webhook.unavailable"


@dataclass(frozen=True, slots=True)
class Posted:
    """An HTTP answer. retry_after: the header of that name, "" without it; body: its first MAX_ANSWER bytes as text."""

    status: int
    retry_after: str
    body: str
    took_s: float


@dataclass(frozen=True, slots=True)
class Fetched:
    """A whole HTTP answer."""

    status: int
    body: bytes


@dataclass(frozen=True, slots=True)
class _Sent:
    """A request, and how many bytes of its answer's body are read."""

    method: str
    body: bytes
    headers: Mapping[str, str]
    limit: int = MAX_ANSWER


class HttpPoster:
    """Posts to checked addresses. resolve: instead of the machine's name service, for tests."""

    def __init__(
        self, networks: Sequence[Network], clock: Clock, *, ca_file: Path | None = None, resolve: Resolve | None = None
    ) -> None:
        self._networks = tuple(networks)
        self._clock = clock
        self._resolve = resolve
        self._ca_file = ca_file
        self._tls: ssl.SSLContext | None = None

    def check(self, url: str) -> None:
        """Raise BadUrlError or UnresolvedError when a URL cannot be called now."""
        addresses_of(parse_target(url), self._networks, self._resolve)

    def post(self, url: str, body: bytes, headers: Mapping[str, str], timeout_s: float) -> Posted:
        """Send a body and return the answer, whatever its status. timeout_s: for all of it, the name service left out.

        An answer that breaks off is none, whatever its first line said. Raises PostError, BadUrlError, UnresolvedError.
        """
        start_s = self._clock.monotonic_s()
        sent = _Sent("POST", body, {"content-length": str(len(body)), **headers})
        answer, read = self._exchanged(parse_target(url), sent, timeout_s)
        named = {name.decode("latin-1"): value.decode("latin-1") for name, value in answer.headers}
        text = read[:MAX_ANSWER].decode("utf-8", "replace")
        took_s = self._clock.monotonic_s() - start_s
        return Posted(answer.status_code, named.get("retry-after", ""), text, took_s)

    def get(self, url: str, timeout_s: float, limit: int) -> Fetched:
        """Return what a URL answers, whatever its status. timeout_s: for all of it; limit: bytes of its body.

        A larger body is no answer: half a document is none. Raises PostError, BadUrlError, UnresolvedError.
        """
        return self._whole(url, _Sent("GET", b"", {"accept": "application/json"}, limit + 1), timeout_s)

    def send(self, url: str, body: bytes, headers: Mapping[str, str], timeout_s: float, limit: int) -> Fetched:
        """POST a body and return the whole answer, whatever its status. Otherwise as `get`."""
        sent = {"content-length": str(len(body)), **headers}
        return self._whole(url, _Sent("POST", body, sent, limit + 1), timeout_s)

    def _whole(self, url: str, sent: _Sent, timeout_s: float) -> Fetched:
        target, limit = parse_target(url), sent.limit - 1
        answer, read = self._exchanged(target, sent, timeout_s)
        if len(read) > limit:
            raise PostError(
                f"{target.host}:{target.port}: the answer is larger than {limit} bytes", next_step="correct the address"
            )
        return Fetched(answer.status_code, read)

    def _exchanged(self, target: Target, sent: _Sent, timeout_s: float) -> tuple[h11.Response, bytes]:
        addresses = addresses_of(target, self._networks, self._resolve)
        left = _Left(self._clock, self._clock.monotonic_s() + timeout_s)
        try:
            with self._connection(target, addresses, left) as connection:
                return _exchange(connection, target, sent, left)
        except (OSError, h11.ProtocolError) as error:
            raise _post_error(target, error, timeout_s) from error

    @contextlib.contextmanager
    def _connection(self, target: Target, addresses: Sequence[str], left: "_Left") -> Iterator[socket.socket]:
        connection = _connect(addresses, target.port, left)
        try:
            if target.scheme == "https":
                connection.settimeout(left.now_s())  # the whole handshake has this time
                connection = self._context().wrap_socket(connection, server_hostname=target.host)
            yield connection
        finally:
            with contextlib.suppress(OSError):
                connection.close()

    def _context(self) -> ssl.SSLContext:
        if self._tls is None:
            made = ssl.create_default_context()
            if self._ca_file is not None:
                made.load_verify_locations(self._ca_file)
            self._tls = made
        return self._tls


@dataclass(frozen=True, slots=True)
class _Left:
    """How much time is left. A receiver may send a byte at a time, so each wait gets what is left of all of it."""

    clock: Clock
    end_s: float

    def now_s(self) -> float:
        """Return the seconds that are left. Raises TimeoutError when there are none."""
        left_s = self.end_s - self.clock.monotonic_s()
        if left_s <= 0:
            raise TimeoutError
        return left_s


def _connect(addresses: Sequence[str], port: int, left: _Left) -> socket.socket:
    """Return a connection to the first address that answers; all of them share the time."""
    last: OSError | None = None
    for tried, address in enumerate(addresses):
        try:
            made = socket.create_connection((address, port), timeout=left.now_s() / (len(addresses) - tried))
        except OSError as error:
            last = error
        else:
            made.setsockopt(
                socket.IPPROTO_TCP, socket.TCP_NODELAY, 1
            )  # the request follows the end of the TLS handshake at once
            return made
    assert last is not None, "there is at least one address"
    raise last


def _exchange(connection: socket.socket, target: Target, sent: _Sent, left: _Left) -> tuple[h11.Response, bytes]:
    """Send one request and return the head of the answer and the beginning of its body."""
    http = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD)
    headers = {"host": _host(target), "user-agent": "edgefleet", "connection": "close", **sent.headers}
    request = h11.Request(method=sent.method, target=target.path, headers=list(headers.items()))
    parts = [http.send(event) for event in (request, h11.Data(data=sent.body), h11.EndOfMessage())]
    connection.settimeout(left.now_s())
    connection.sendall(b"".join(one for one in parts if one))
    answer: h11.Response | None = None
    read = b""
    while True:
        event = http.next_event()
        if event is h11.NEED_DATA:
            connection.settimeout(left.now_s())
            http.receive_data(connection.recv(_CHUNK))
        elif isinstance(event, h11.Response):
            answer = event
        elif isinstance(event, h11.Data):
            read += event.data
        if answer is not None and (isinstance(event, h11.EndOfMessage) or len(read) >= sent.limit):
            return answer, read


def _host(target: Target) -> str:
    host = f"[{target.host}]" if ":" in target.host else target.host
    return host if target.port == PORTS[target.scheme] else f"{host}:{target.port}"


def _post_error(target: Target, error: Exception, timeout_s: float) -> PostError:
    if isinstance(error, TimeoutError):
        what = f"no answer within {timeout_s:g} s"
    elif isinstance(error, ssl.SSLError):
        what = f"TLS failed ({error.reason or error})"
    elif isinstance(error, OSError):
        what = error.strerror or str(error) or type(error).__name__
    else:
        what = f"what came is no whole HTTP answer ({error})"
    return PostError(f"{target.host}:{target.port}: {what}", next_step="see that the receiver runs and answers")
