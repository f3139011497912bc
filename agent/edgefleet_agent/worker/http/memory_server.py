"""Inference over memory that is shared with a caller of this machine: the worker's side of `edgefleet_protocol.memory_frames`.

1. A program that may use the unix socket may have a region: it comes over that socket. One connection, one region, which no other
   caller ever sees; it is new and full of zeros.
2. The worker makes the memfd, gives it its memory and seals its size before it hands it out, so that a caller can neither shrink it under
   the worker's hands (SIGBUS) nor fill the device with it. `MAX_REGIONS` and `MAX_REGIONS_BYTES` bound all of them.
3. A caller can keep its descriptor after the connection has ended. So the worker takes the memory out of a region when it lets go of it;
   what is written there later is the caller's own. Not while draining: then a caller may still be reading its last answer.
4. The caller can write into the region at any moment. So a body is copied once and read from the copy, as one that came over the socket.
5. From there on it is an ordinary request: the same handler, limits, counters, capture, shadow and split. `memory_connection` answers.
"""

import fcntl
import logging
import mmap
import os
import socket
import sys
from collections.abc import Callable

from edgefleet_agent.worker.http.memory_connection import Direct, MemoryConnection
from edgefleet_agent.worker.http.server import (
    HttpServer,
    Request,
    Response,
    error_response,
)
from edgefleet_protocol.memory_frames import (
    BYTES_HEADER,
    LOCATION_HEADER,
    MAX_REGIONS,
    MAX_REGIONS_BYTES,
    UPGRADE,
    region_bytes,
)

_log = logging.getLogger(__name__)
_UPGRADE = UPGRADE.encode()
_BYTES = BYTES_HEADER.encode()
_LOCATION = LOCATION_HEADER.encode()
_NOT_KEPT = frozenset({b"connection", b"upgrade", b"host", b"content-length", _BYTES})

HomeOf = Callable[[str], str | None]
DirectOf = Callable[[Request], Direct | None]


class MemoryServer:
    """The regions of one worker. Used in the event loop only."""

    def __init__(self, server: HttpServer, home_of: HomeOf, direct_of: DirectOf) -> None:
        """home_of: where requests for a target are served if not here. direct_of: what answers such requests, None: the handler."""
        self._server = server
        self._home_of = home_of
        self._direct_of = direct_of
        self._regions: dict[MemoryConnection, int] = {}

    def is_wanted(self, headers: list[tuple[bytes, bytes]]) -> bool:
        """Say whether a request asks for shared memory."""
        return any(name == b"upgrade" and value == _UPGRADE for name, value in headers)

    def take(self, request: Request, connection: socket.socket) -> Response | None:
        """Hand a region out on that connection and serve it, or return why not."""
        home = self._home_of(request.target)
        if home:
            return error_response(
                421, "Another worker of this device serves this model.", headers=[(_LOCATION, home.encode())]
            )
        text = request.header(_BYTES) or b""
        size = region_bytes(max(1, int(text))) if text.isdigit() and len(text) < 12 else 0
        if not 0 < size <= region_bytes(self._server.max_body_bytes):
            return error_response(413, f"Shared memory is for bodies up to {self._server.max_body_bytes} bytes.")
        if len(self._regions) >= MAX_REGIONS or sum(self._regions.values()) + size > MAX_REGIONS_BYTES:
            return error_response(503, "No more shared memory is given out by this worker; use the socket.")
        try:
            if sys.byteorder != "little":
                raise OSError("its tensors are not little-endian")
            descriptor = _sealed(size)
        except (OSError, AttributeError) as e:  # no memory, or a system without memfd
            return error_response(501, f"this device has no shared memory to give: {e}; use the socket")
        head = f"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: {UPGRADE}\r\n{BYTES_HEADER}: {size}\r\n\r\n"
        try:
            socket.send_fds(connection, [head.encode()], [descriptor])
            region = mmap.mmap(descriptor, size)
        except OSError as e:
            return error_response(503, f"the shared memory could not be handed over: {e}; use the socket")
        finally:
            os.close(descriptor)
        kept = [header for header in request.headers if header[0] not in _NOT_KEPT]
        asked = Request("POST", request.target, kept, b"")
        try:
            one = MemoryConnection(self._server, self._direct_of(asked), asked, connection, region, self._forget)
        except RuntimeError as e:
            _log.warning("no thread for a caller of shared memory: %s", e)
            region.close()
            connection.close()
            return None
        self._regions[one] = size
        return None

    def _forget(self, connection: "MemoryConnection") -> None:
        self._regions.pop(connection, None)


def _sealed(size: int) -> int:
    """Return a memfd of that size which has its memory and can be neither shrunk nor grown. Raises OSError, AttributeError."""
    descriptor = os.memfd_create("edgefleet-tensors", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.posix_fallocate(descriptor, 0, size)
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor
