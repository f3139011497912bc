"""The child's end of the socket to agentd. Blocking, one thread. Work that comes while an answer is waited for is kept in order."""

import select
import socket
from collections import deque

from edgefleet_agent.install.verifier_protocol import (
    MAX_PACKET_BYTES,
    Blocks,
    Fetch,
    Finish,
    FromChild,
    Meta,
    Relink,
    ToChild,
    decode_to_child,
    encode_packet,
)


class ChannelClosedError(Exception):
    """agentd is gone or has closed the socket: the child has nobody to work for."""


class Channel:
    """Packets to and from agentd."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._kept: deque[ToChild] = deque()

    def send(self, message: FromChild) -> None:
        """Send one packet. Blocks while the socket is full. Raises ChannelClosedError."""
        try:
            self._sock.send(encode_packet(message))
        except OSError as error:
            raise ChannelClosedError(str(error)) from error

    def receive(self) -> ToChild:
        """Return the next packet, kept ones first. Raises ChannelClosedError."""
        return self._kept.popleft() if self._kept else self._read()

    def wait_answer(self, timeout_s: float) -> Meta | Blocks | Relink | None:
        """Return the next answer to something asked, None after the timeout; new work that comes meanwhile is kept."""
        while select.select([self._sock], [], [], timeout_s)[0]:
            packet = self._read()
            if isinstance(packet, Meta | Blocks | Relink):
                return packet
            if isinstance(packet, Fetch | Finish):
                self._kept.append(packet)
        return None

    def _read(self) -> ToChild:
        try:
            data = self._sock.recv(MAX_PACKET_BYTES)
        except OSError as error:
            raise ChannelClosedError(str(error)) from error
        if not data:
            raise ChannelClosedError("end of file")
        return decode_to_child(data)
