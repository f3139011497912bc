"""A line between an agent and its broker that can be cut, and flaps: bytes are passed on unread."""

import contextlib
import socket
import threading


class Line:
    """Listens on `port` of loopback and passes connections on to another one."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._is_whole = True
        threading.Thread(target=self._accept, name="line", daemon=True).start()

    def cut(self) -> None:
        """End what is open and refuse what comes."""
        self._is_whole = False
        self._end_all()

    def mend(self) -> None:
        """Pass connections on again."""
        self._is_whole = True

    def lead_to(self, host: str, port: int) -> None:
        """End what is open; what comes is passed on to there."""
        self._target = (host, port)
        self._end_all()

    def close(self) -> None:
        """Stop listening."""
        self.cut()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _end_all(self) -> None:
        with self._lock:
            ends, self._open = self._open, set()
        for end in ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            far = None
            if self._is_whole:
                with contextlib.suppress(OSError):
                    far = socket.create_connection(self._target)
            if far is None:
                near.close()
                continue
            with self._lock:
                self._open |= {near, far}
            for source, sink in ((near, far), (far, near)):
                source.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                threading.Thread(target=self._pass_on, args=(source, sink), daemon=True).start()

    def _pass_on(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65_536):
                sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        with self._lock:
            is_last = source not in self._open
            self._open -= {source, sink}
        if is_last:
            source.close()
            sink.close()
