"""The child's end of the socket to agentd. Blocking, one thread; packets that nobody waits for yet are kept in order."""

import select
import socket
from collections import deque

from edgefleet_agent.install.child_protocol import (
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

    def receive(self, timeout_s: float | None) -> ToChild | None:
        """Return the next packet, kept ones first; None after the timeout. Raises ChannelClosedError."""
        return self._kept.popleft() if self._kept else self._read(timeout_s)

    def wait_answer(self, timeout_s: float) -> Meta | Blocks | Relink | None:
        """Return the next answer to something asked, None after the timeout; new work that comes meanwhile is kept."""
        while True:
            packet = self._read(timeout_s)
            if packet is None or isinstance(packet, Meta | Blocks | Relink):
                return packet
            self.keep(packet)

    def keep(self, packet: ToChild) -> None:
        """Put a packet back for `receive`. Only work is kept: an answer that nobody waits for is late and worthless."""
        if isinstance(packet, Fetch | Finish):
            self._kept.append(packet)

    def _read(self, timeout_s: float | None) -> ToChild | None:
        readable, _, _ = select.select([self._sock], [], [], timeout_s)
        if not readable:
            return None
        try:
            data = self._sock.recv(MAX_PACKET_BYTES)
        except OSError as error:
            raise ChannelClosedError(str(error)) from error
        if not data:
            raise ChannelClosedError("end of file")
        return decode_to_child(data)
