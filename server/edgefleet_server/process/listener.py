"""One listener: a socket that counts its connections, and the uvicorn server on it, on a thread of its own.

uvicorn has limits for the time between two requests and for graceful shutdown. It has none for a head or a body that never
ends, and its cap on concurrency answers 503 to everybody alike. `web.connection_budget` has the rules; they reach uvicorn by what it
offers: the socket that it accepts from, a wrapper around the app, and a function that it calls every second.
"""

import asyncio
import errno
import fcntl
import logging
import os
import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

import uvicorn
from sqlalchemy.exc import SQLAlchemyError
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from edgefleet_protocol.errors import EdgefleetError
from edgefleet_server.web.connection_budget import Budget, ConnectionTable, Ending, Peer

_log = logging.getLogger(__name__)
_START_WAIT_S: Final = 20.0
_CLOSE_WAIT_S: Final = 1.0
_NO_FILES: Final = frozenset({errno.EMFILE, errno.ENFILE})
KEEP_ALIVE_S: Final = 5
CONFIG: Final[dict[str, Any]] = {
    "log_config": None,
    "access_log": False,
    "server_header": False,
    "timeout_graceful_shutdown": 2,
    "timeout_keep_alive": KEEP_ALIVE_S,
    "lifespan": "off",
    "loop": "asyncio",  # uvloop accepts connections itself, past our socket
    "ws": "none",
    "timeout_notify": 0,  # each second
}


class ListenError(EdgefleetError):
    """The server cannot listen on an address."""

    code = "server.cannot_listen"


class ListenerDiedError(EdgefleetError):
    """A listener ended by itself."""

    code = "server.listener_died"


class ConnectionFigures(Protocol):
    """Where a listener counts."""

    def count_endings(self, listener: str, reason: str, n: int) -> None:
        """Count connections that were ended or refused."""
        ...

    def watch_connections(self, listener: str, count: Callable[[], int]) -> None:
        """Show how many connections are open."""
        ...


class ListeningSocket(socket.socket):
    """A listening socket that refuses connections above the budget. Without a guard it takes all.

    file_floor: connections get descriptors from this number on, so that what is below stays free for files, the database and
    libraries that wait with `select`, which knows 1,024 descriptors.
    """

    guard: "ConnectionGuard | None" = None
    file_floor: int = 0
    _reserve: int | None = None

    def accept(self) -> tuple[socket.socket, Any]:
        """Return the next connection that may stay. Raises BlockingIOError when there is none, as for any socket."""
        if self.guard is None:
            return super().accept()
        if self._reserve is None:
            self._reserve = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        try:
            plain, address = super().accept()
            try:
                descriptor = fcntl.fcntl(plain.fileno(), fcntl.F_DUPFD_CLOEXEC, self.file_floor)
            finally:
                plain.close()
        except OSError as error:
            if error.errno not in _NO_FILES:
                raise
            self._drop_next()
            self.guard.count(Ending.REFUSED)
            raise BlockingIOError(errno.EAGAIN, "no free descriptor") from error
        accepted = AcceptedSocket(self.family, self.type, self.proto, descriptor)
        if not self.guard.admit(accepted, (address[0], address[1])):
            accepted.close()
            raise BlockingIOError(
                errno.EAGAIN, "connection refused by the budget"
            )  # the next turn of the loop asks again
        return accepted, address

    def close(self) -> None:
        """Close the socket and the descriptor that is kept in reserve."""
        super().close()
        if self._reserve is not None:
            os.close(self._reserve)
            self._reserve = None

    def _drop_next(self) -> None:
        """Refuse the next connection with the descriptor in reserve: left in the queue it would wake the loop for ever."""
        assert self._reserve is not None
        os.close(self._reserve)
        self._reserve = None
        refused, _ = super().accept()
        refused.close()
        self._reserve = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)


class AcceptedSocket(socket.socket):
    """A connection that says when it is closed."""

    on_close: Callable[[], None] | None = None

    def close(self) -> None:
        """Close the connection; the budget has room again."""
        super().close()
        if self.on_close is not None:
            self.on_close()
            self.on_close = None

    def cut(self) -> None:
        """End the connection for both sides; its owner closes it as one that its peer has left."""
        try:
            self.shutdown(socket.SHUT_RDWR)
        except OSError:
            return  # gone already


class ConnectionGuard:
    """Carries the budget of one listener out. Belongs to the listener's event loop; `admit` and the rest never block."""

    def __init__(self, name: str, budget: Budget, figures: ConnectionFigures) -> None:
        self._name = name
        self._table = ConnectionTable(budget)
        self._sockets: dict[Peer, AcceptedSocket] = {}
        self._figures = figures
        self._ended: Counter[Ending] = Counter()
        figures.watch_connections(name, lambda: len(self._table))

    def admit(self, accepted: AcceptedSocket, peer: Peer) -> bool:
        """Return whether a new connection may stay; another may be ended for it."""
        may_stay, replaced = self._table.admit(peer, time.monotonic())
        if not may_stay:
            self.count(Ending.REFUSED)
            return False
        if replaced is not None:
            self._cut(replaced, Ending.REPLACED)
        self._sockets[peer] = accepted
        accepted.on_close = lambda: self._closed(peer, accepted)
        return True

    def count(self, ending: Ending) -> None:
        """Count a connection that was ended or refused."""
        self._ended[ending] += 1
        self._figures.count_endings(self._name, ending.value, 1)

    async def sweep(self) -> None:
        """End what is overdue, and log what was ended since the last time."""
        for peer, ending in self._table.overdue(time.monotonic()):
            self._table.forget(peer)
            self._cut(peer, ending)
        if self._ended:
            reasons = ",".join(f"{ending}:{n}" for ending, n in sorted(self._ended.items()))
            _log.warning("connections ended", extra={"listener": self._name, "reasons": reasons})
            self._ended.clear()

    def wrap(self, app: ASGIApp) -> ASGIApp:
        """Return the app with an eye on how fast its clients send and read."""

        async def watched(scope: Scope, receive: Receive, send: Send) -> None:
            connection = None
            if scope["type"] == "http" and scope.get("client"):
                peer: Peer = scope["client"]
                connection = self._table.begin(peer)
            if connection is None:
                await app(scope, receive, send)
                return
            is_read = False

            async def watched_receive() -> Message:
                nonlocal is_read
                if is_read:
                    return await receive()
                connection.reading(time.monotonic())
                message = await receive()
                connection.read(len(message.get("body", b"")), time.monotonic())
                is_read = not message.get("more_body", False)
                return message

            async def watched_send(message: Message) -> None:
                connection.sent_from_s = time.monotonic()
                await send(message)
                connection.sent_from_s = None

            try:
                await app(scope, watched_receive, watched_send)
            finally:
                self._table.rest(peer, time.monotonic())

        return watched

    def _cut(self, peer: Peer, ending: Ending) -> None:
        self.count(ending)
        accepted = self._sockets.pop(peer, None)
        if accepted is not None:
            accepted.cut()

    def _closed(self, peer: Peer, accepted: AcceptedSocket) -> None:
        if self._sockets.get(peer) is accepted:
            del self._sockets[peer]
            self._table.forget(peer)


def listening_socket(host: str, port: int) -> ListeningSocket:
    """Return a socket that listens on an address, port 0 for a free one. Raises ListenError.

    Its connections take over from it that they send at once. The head and the body of an answer are two packets; where the second waits
    for the acknowledgement of the first, each request but the first of a connection takes 40 ms. asyncio sees to that only for
    sockets that it made itself.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        made = socket.create_server((host, port), family=family, backlog=512)
    except OSError as error:
        raise ListenError(
            f"cannot listen on {host}:{port}: {error.strerror or error}",
            next_step="stop what uses the port, or choose another with --port / --device-port (0 = a free one)",
        ) from error
    listening = ListeningSocket(made.family, made.type, made.proto, made.detach())
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening


def further_sockets(host: str, ports: Sequence[int]) -> list[ListeningSocket]:
    """Return sockets that listen on further ports, which the server can do without: one that is not to be had is left out, and said."""
    made = []
    for port in ports:
        try:
            made.append(listening_socket(host, port))
        except ListenError as error:
            _log.error("the server does not listen where its move needs it", extra={"reason": error.message})
    return made


def _stamp_of(files: Sequence[Path]) -> list[tuple[int, int]]:
    return [(found.st_ino, found.st_mtime_ns) for found in (one.stat() for one in files if one.exists())]


class Listener:
    """One uvicorn server on its own thread.

    config: what uvicorn gets in addition to CONFIG; timeout_graceful_shutdown: s that running requests may go
    on. each_second: also done there, off the event loop; may block, and fail for the database.
    """

    def __init__(
        self,
        name: str,
        app: ASGIApp,
        listening: ListeningSocket,
        guard: ConnectionGuard,
        config: dict[str, Any],
        each_second: Callable[[], None] = lambda: None,
    ) -> None:
        self.name = name
        listening.guard = guard
        self._guard = guard
        config = CONFIG | config
        self._finish_s: int = config["timeout_graceful_shutdown"]
        self._each_second = each_second
        self._tls_files = [Path(config[name]) for name in ("ssl_certfile", "ssl_keyfile") if name in config]
        self._tls_stamp = _stamp_of(self._tls_files)
        self._chore: asyncio.Task[None] | None = None
        self._server = uvicorn.Server(
            uvicorn.Config(guard.wrap(app), callback_notify=self._on_second, proxy_headers=False, **config)
        )
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [listening]}, name=f"listener-{name}", daemon=True
        )

    async def _on_second(self) -> None:
        await self._guard.sweep()
        self._take_certificate()
        if self._chore is None or self._chore.done():  # a database that does not answer must not hold the sweep up
            self._chore = asyncio.create_task(self._do_chore())

    async def _do_chore(self) -> None:
        try:
            await asyncio.to_thread(self._each_second)
        except SQLAlchemyError as error:
            _log.warning("refused requests could not be counted in the audit trail", extra={"error": repr(error)})

    def _take_certificate(self) -> None:
        """Show new connections the certificate that lies there now: it changes with the CA, and near its end."""
        stamp = _stamp_of(self._tls_files)
        context = self._server.config.ssl
        if stamp == self._tls_stamp or context is None:
            return
        try:
            cert, key = self._tls_files
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key)  # a pair half written breaks nothing
            context.load_cert_chain(cert, key)
        except (OSError, ValueError) as error:
            _log.warning("new certificate of a listener not taken yet", extra={"reason": repr(error)})
            return
        self._tls_stamp = stamp
        _log.info("new certificate of a listener taken", extra={"listener": self.name})

    @property
    def is_alive(self) -> bool:
        """Whether the listener still serves."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Start and wait until it accepts. Raises ListenerDiedError."""
        self._thread.start()
        wait = threading.Event()
        for _ in range(int(_START_WAIT_S / 0.02)):
            if self._server.started:
                return
            if not self._thread.is_alive():
                break
            wait.wait(0.02)
        raise ListenerDiedError(f"the {self.name} listener did not start", next_step="see the log above")

    def leave(self) -> None:
        """Stop accepting. Returns at once."""
        self._server.should_exit = True

    def stop(self) -> None:
        """Stop accepting, and wait until running requests have ended or their time is over."""
        self.leave()
        if self._thread.ident is not None:
            self._thread.join(self._finish_s + _CLOSE_WAIT_S)
