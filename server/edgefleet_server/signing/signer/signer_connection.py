"""Asks the signing process: connections are kept, and made again when it was started again."""

import socket
import time
from pathlib import Path
from threading import Lock
from typing import Final, TypeVar

import msgspec

from edgefleet_server.signing import errors
from edgefleet_server.signing.errors import SigningError, SigningProcessDownError
from edgefleet_server.signing.signer.messages import AnyQuestion, answer_of, frame
from edgefleet_server.signing.signer.unix_sockets import connect, read_frame

PATIENCE_S: Final = 5.0
"""How long a question waits for a signing process that is just being started again."""
ANSWER_S: Final = 60.0
MAX_IDLE: Final = 4
"""Connections that are kept: the signing process has places for few, and replicas share them."""
_PAUSE_S: Final = 0.05
_ERRORS: Final = {
    kind.code: kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, SigningError)
}
T = TypeVar("T")


class SignerConnection:
    """The signing process behind one socket. Thread-safe: a question has a connection to itself."""

    def __init__(self, path: Path, patience_s: float = PATIENCE_S) -> None:
        """Remember where it listens; nothing is opened."""
        self.path = path
        self._patience_s = patience_s
        self._idle: list[socket.socket] = []
        self._lock = Lock()

    def ask(self, question: AnyQuestion, kind: type[T], patience_s: float | None = None) -> T:
        """Return the answer. Blocks. Raises SigningProcessDownError, and what the signing process refuses.

        A question is asked again when the process ended before it answered: each may be asked twice.
        """
        data = frame(question)
        until_s = time.monotonic() + (self._patience_s if patience_s is None else patience_s)
        while True:
            try:
                body = self._exchange(data)
                break
            except OSError as error:
                if time.monotonic() >= until_s:
                    raise SigningProcessDownError(
                        f"the signing process at {self.path} does not answer: {error}"
                    ) from error
                time.sleep(_PAUSE_S)
        answer = answer_of(body)
        if answer.code:
            raise _ERRORS.get(answer.code, SigningError)(answer.message, next_step=answer.next_step)
        return msgspec.msgpack.decode(answer.value, type=kind)

    def close(self) -> None:
        """Close what is open."""
        with self._lock:
            idle, self._idle = self._idle, []
        for one in idle:
            one.close()

    def _exchange(self, data: bytes) -> bytes:
        with self._lock:
            connection = self._idle.pop() if self._idle else None
        try:
            if connection is None:
                connection = connect(self.path, ANSWER_S)
            connection.sendall(data)
            body = read_frame(connection)
            if body is None:
                raise ConnectionResetError("it closed the connection")
        except OSError:
            if connection is not None:
                connection.close()
            raise
        with self._lock:
            is_kept = len(self._idle) < MAX_IDLE
            if is_kept:
                self._idle.append(connection)
        if not is_kept:
            connection.close()
        return body
