"""A broker process seen from the server: start it, wait until it serves, pass its log lines on, stop it.

Must be started from a thread that lives as long as the broker shall: the kernel ties mosquitto's life to that thread
(`launch`); the embedded broker ends when its stdin closes. This module imports no broker.
"""

from __future__ import annotations

import contextlib
import json
import logging
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from edgefleet_server.gateway.broker.errors import BrokerStartError, PortTakenError
from edgefleet_server.gateway.broker.model import BrokerConfig
from edgefleet_server.signing.trust import RefusedCertificates

logger = logging.getLogger(__name__)

READY_LIMIT_S = 15.0
STOP_TRIES, STOP_PAUSE_S = 5, 1.0

ReadyReader = Callable[[str], int | None]
"""Takes one line of output; returns the port once the line says that the broker serves. Raises BrokerStartError."""


@dataclass(slots=True)
class BrokerChild:
    """A running broker process."""

    process: subprocess.Popen[bytes]
    port: int

    @property
    def pid(self) -> int:
        """Return the process id."""
        return self.process.pid

    def wait(self) -> int:
        """Block until it ends; return its exit code, negative for a signal."""
        return self.process.wait()

    def reload(self) -> None:
        """Make it read its files again (mosquitto only)."""
        self.process.send_signal(signal.SIGHUP)

    def refuse(self, refused: RefusedCertificates) -> None:
        """Send the certificates to refuse from now on (embedded only). Raises OSError when it has ended."""
        if self.process.stdin is not None:
            self.process.stdin.write(json.dumps(_plain(refused)).encode() + b"\n")
            self.process.stdin.flush()

    def stop(self) -> None:
        """Ask it to end, then end it. Blocks at most about 5 s."""
        try:
            for _ in range(STOP_TRIES):  # mosquitto loses a SIGTERM that comes just after it says "running"
                self.process.terminate()
                try:
                    self.process.wait(STOP_PAUSE_S)
                    return
                except subprocess.TimeoutExpired:
                    continue
            self.process.kill()
            self.process.wait()
        finally:
            if self.process.stdin is not None:
                with contextlib.suppress(OSError):
                    self.process.stdin.close()


class _Output(threading.Thread):
    """Reads a child's output to its end: first for the ready line, then into our log."""

    def __init__(
        self, process: subprocess.Popen[bytes], read_ready: ReadyReader, is_notable: Callable[[str], bool]
    ) -> None:
        super().__init__(name=f"broker-log-{process.pid}", daemon=True)
        self._process = process
        self._read_ready = read_ready
        self._is_notable = is_notable
        self.settled = threading.Event()
        self.port: int | None = None
        self.error: BrokerStartError | None = None
        self.tail: deque[str] = deque(maxlen=12)

    def run(self) -> None:
        assert self._process.stdout is not None
        for raw in self._process.stdout:
            line = raw.decode(errors="replace").rstrip()
            if not self.settled.is_set():
                self._before_ready(line)
            elif self._is_notable(line):
                logger.warning("broker: %s", line)
        self.settled.set()

    def _before_ready(self, line: str) -> None:
        self.tail.append(line)
        try:
            self.port = self._read_ready(line)
        except BrokerStartError as error:
            self.error = error
        if self.port is not None or self.error is not None:
            self.settled.set()


def start_child(
    command: list[str], read_ready: ReadyReader, *, first_line: bytes | None = None, is_notable: Callable[[str], bool]
) -> BrokerChild:
    """Start `command` and return once it serves. Blocks up to 15 s. Raises BrokerStartError; then nothing is left running."""
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL if first_line is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C in a terminal goes to the server, which then stops its broker in order
        )
    except OSError as error:
        raise BrokerStartError(f"{command[0]} could not be started: {error}") from error
    output = _Output(process, read_ready, is_notable)
    output.start()
    if first_line is not None and process.stdin is not None:
        with contextlib.suppress(OSError):  # it has ended already: its output says why
            process.stdin.write(first_line)
            process.stdin.flush()
    output.settled.wait(READY_LIMIT_S)
    if output.port is not None:
        return BrokerChild(process, output.port)
    BrokerChild(process, 0).stop()
    output.join(1.0)
    lines = " | ".join(output.tail) or f"no output within {READY_LIMIT_S:.0f} s"
    raise output.error or BrokerStartError(f"the broker did not start (exit code {process.returncode}): {lines}")


def start_embedded(config: BrokerConfig, port: int) -> BrokerChild:
    """Start the embedded broker on `port` (0 = any). Raises BrokerStartError."""
    order = {
        "tenant": config.tenant,
        "ca_file": str(config.trusted_file),
        "cert_file": str(config.cert_file),
        "key_file": str(config.key_file),
        "host": config.host,
        "port": port,
        "refused": _plain(config.refused),
        "also_ports": list(config.also_ports),
    }
    command = [sys.executable, "-m", "edgefleet_server.gateway.broker.embedded"]
    return start_child(command, _embedded_port, first_line=json.dumps(order).encode() + b"\n", is_notable=bool)


def _plain(refused: RefusedCertificates | None) -> dict[str, list[str]]:
    if refused is None:
        return {"serials": [], "devices": []}
    return {"serials": sorted(refused.serials), "devices": sorted(refused.devices)}


def _embedded_port(line: str) -> int | None:
    if not line.startswith('{"ready"'):
        return None
    answer = json.loads(line)
    if answer["ready"]:
        return int(answer["port"])
    kind = PortTakenError if answer["code"] == PortTakenError.code else BrokerStartError
    raise kind(answer["error"])
