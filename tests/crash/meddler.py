"""A line that reads MQTT: it ends the device's TLS with the broker's certificate and goes on as the device, and meddles in between.

What a bad network and an overloaded broker do to messages: QoS 0 is lost, doubled or overtaken; QoS 1 comes twice (with the DUP flag), as
MQTT allows. A kernel's packet loss would need netem, which not every machine has; TCP turns such loss into delay and cut connections.
"""

import contextlib
import random
import socket
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PUBLISH = 3
DUP = 0x08


@dataclass
class Meddling:
    """What happens to messages, each a chance from 0 to 1."""

    lose: float = 0.0
    double: float = 0.0
    overtake: float = 0.0


class Meddler:
    """Listens on `port` of loopback; counts what it lets through to the device."""

    def __init__(self, target: tuple[str, int], server: tuple[Path, Path], identity: Path, seed: int) -> None:
        self._target = target
        self._inside = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._inside.load_cert_chain(*server)
        self._outside = ssl.create_default_context(cafile=identity / "ca.pem")
        self._outside.check_hostname = False
        self._outside.load_cert_chain(identity / "cert.pem", identity / "key.pem")
        self._rng = random.Random(seed)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.meddling = Meddling()
        self.taken_bytes = 0
        self._open: set[ssl.SSLSocket] = set()
        threading.Thread(target=self._accept, name="meddler", daemon=True).start()

    def cut(self) -> None:
        """End every connection; new ones are taken."""
        for end in list(self._open):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Stop."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        while True:
            try:
                raw, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(raw,), daemon=True).start()

    def _serve(self, raw: socket.socket) -> None:
        with contextlib.suppress(OSError, ssl.SSLError):
            near = self._inside.wrap_socket(raw, server_side=True)
            far = self._outside.wrap_socket(socket.create_connection(self._target))
            self._open |= {near, far}
            lock = threading.Lock()
            for source, sink, is_down in ((near, far, False), (far, near, True)):
                threading.Thread(target=self._pass_on, args=(source, sink, is_down, lock), daemon=True).start()

    def _pass_on(self, source: ssl.SSLSocket, sink: ssl.SSLSocket, is_down: bool, lock: threading.Lock) -> None:
        held: list[bytes] = []
        with contextlib.suppress(OSError, ssl.SSLError):
            for packet in _packets(source):
                for out in self._meddled(packet, held):
                    if is_down and out[0] >> 4 == PUBLISH and not out[0] >> 1 & 3:
                        self.taken_bytes += len(out)
                    sink.sendall(out)
        with lock:
            both = {source, sink}
            is_last = not both & self._open
            self._open -= both
        for end in both:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        if is_last:
            for end in both:
                end.close()

    def _meddled(self, packet: bytes, held: list[bytes]) -> list[bytes]:
        """Return what goes on in the place of this packet. held: packets that are to be overtaken."""
        waiting, held[:] = list(held), []
        if packet[0] >> 4 != PUBLISH:
            return [*waiting, packet]
        chance, plan = self._rng.random(), self.meddling
        if packet[0] >> 1 & 3:
            again = bytes((packet[0] | DUP,)) + packet[1:]
            return [*waiting, packet, again] if chance < plan.double else [*waiting, packet]
        if chance < plan.lose:
            return waiting
        if not waiting and chance < plan.overtake:
            held.append(packet)
            return []
        return [packet, packet, *waiting] if chance < plan.double else [packet, *waiting]


def _packets(source: ssl.SSLSocket) -> Iterator[bytes]:
    """Yield MQTT packets whole. Raises OSError; ends with the stream."""
    buffer = bytearray()
    while data := source.recv(65_536):
        buffer += data
        while (size := _size(buffer)) and len(buffer) >= size:
            yield bytes(buffer[:size])
            del buffer[:size]


def _size(buffer: bytearray) -> int:
    """Return the length of the first packet, header included; 0 while that is not known."""
    length = 0
    for i in range(1, min(5, len(buffer))):
        length |= (buffer[i] & 0x7F) << 7 * (i - 1)
        if not buffer[i] & 0x80:
            return length + i + 1
    return 0
