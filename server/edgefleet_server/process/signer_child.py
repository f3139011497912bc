"""The signing process as a child of the server: started, started again when it ends, ended with the server.

This is process care, not signing: it knows the child by its command line and its life line (stdin) only.
"""

import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path

from edgefleet_server.composition.container import Parts
from edgefleet_server.settings import ServerSettings
from edgefleet_server.signing.signer.messages import AskStatus, Status
from edgefleet_server.signing.signer.signer_connection import SignerConnection

_log = logging.getLogger(__name__)
_BACKOFF_S = (0.0, 0.5, 2.0, 10.0)
_QUIET_S = 60.0
_START_S = 20.0
_STOP_WAIT_S = 3.0
_OURS = "EDGEFLEET_SERVER_"
"""Settings, and secrets among them: the child is given what it needs. Those of key services have other names."""


class SignerChild:
    """Keeps the signing process of one server running. Thread-safe."""

    def __init__(self, settings: ServerSettings) -> None:
        self._settings = settings
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._running: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._keep, name="signer", daemon=True)

    def start(self) -> None:
        """Start the process; it answers a little later, and questions wait for it. Returns at once."""
        self._thread.start()

    def stop(self) -> None:
        """End the process. Blocks for at most a few seconds."""
        self._stopping.set()
        with self._lock:
            running = self._running
        if running is not None:
            _end(running)
        self._thread.join(_STOP_WAIT_S)
        if running is not None and running.poll() is None:
            running.kill()
            self._thread.join(1.0)
        self._settings.own_signer_socket.unlink(missing_ok=True)

    def _keep(self) -> None:
        failures = 0
        while not self._stopping.is_set():
            began_s = time.monotonic()
            try:
                process = self._begin()
                code = process.wait()
                _end(process)
            except OSError as error:  # no memory, no process, no descriptor left: the next try may have one
                _log.error("the signing process cannot be started", extra={"error": repr(error)})
                code = -1
            if self._stopping.is_set():
                return
            failures = 0 if time.monotonic() - began_s > _QUIET_S else failures
            pause_s = _BACKOFF_S[min(failures, len(_BACKOFF_S) - 1)]
            failures += 1
            _log.error("the signing process ended", extra={"code": code, "next_start_s": pause_s})
            self._stopping.wait(pause_s)

    def _begin(self) -> subprocess.Popen[bytes]:
        settings = self._settings
        command = [sys.executable, "-P", "-m", "edgefleet_server.signing.signer.signer_process", "--child"]
        command += ["--keys", str(settings.keys_dir), "--socket", str(settings.own_signer_socket)]
        command += ["--log-level", settings.log_level, "--log-format", settings.log_format]
        if settings.keys_passphrase_file is not None:
            command += ["--passphrase-file", str(settings.keys_passphrase_file)]
        kept = {name: value for name, value in os.environ.items() if not name.upper().startswith(_OURS)}
        process = subprocess.Popen(command, stdin=subprocess.PIPE, env=kept)
        with self._lock:
            self._running = process
        assert process.stdin is not None
        try:
            process.stdin.write(json.dumps({"passphrase": settings.keys_secret}).encode() + b"\n")
            process.stdin.flush()
        except (BrokenPipeError, ValueError):
            _log.warning("the signing process ended before it read its passphrase")
        if self._stopping.is_set():  # stop() may have looked just before this process was there
            _end(process)
        return process


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Let go of the life line."""
    assert process.stdin is not None
    try:
        process.stdin.close()
    except BrokenPipeError:
        _log.debug("the signing process had ended")


def wait_for_signer(path: Path) -> None:
    """Return when the signing process at a socket answers. Blocks. Raises SigningProcessDownError."""
    connection = SignerConnection(path, patience_s=_START_S)
    connection.ask(AskStatus(), Status)
    connection.close()


def watch_signer(parts: Parts) -> None:
    """Let `/readyz` and the metrics of these parts ask the signing process how it is."""
    path = parts.settings.signer_socket
    if path is None:
        return
    connection = SignerConnection(path, patience_s=0.0)

    def counts() -> tuple[Mapping[str, int], Mapping[str, int]]:
        status = connection.ask(AskStatus(), Status)
        return status.signed, status.refused

    def line() -> str:
        signed, refused = counts()
        return f"the signing process answers: {sum(signed.values())} signed, {sum(refused.values())} refused"

    parts.health.add("signer", line)
    parts.metrics.watch_signer(counts)
