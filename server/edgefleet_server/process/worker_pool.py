"""Conversion workers as child processes of the server: started, started again when they end, stopped with the server.

This is process care, not conversion: it knows a worker by its command line and its life line (stdin) only.
"""

import logging
import signal
import subprocess
import sys
import threading
import time
from typing import IO

from edgefleet_protocol.errors import EdgefleetError
from edgefleet_server.process.conversion_worker import dump_settings
from edgefleet_server.settings import ServerSettings

_log = logging.getLogger(__name__)
_BACKOFF_S = (0.5, 2.0, 10.0, 30.0)
_QUIET_S = 60.0  # a worker that ran so long did not fail at its start: the next one begins at once again
_STOP_WAIT_S = 3.0


class WorkersDownError(EdgefleetError):
    """No conversion worker runs."""

    code = "conversion.workers_unavailable"


class WorkerPool:
    """Keeps `count` conversion workers running. Thread-safe."""

    def __init__(self, settings: ServerSettings, count: int) -> None:
        self._settings = settings
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._running: dict[int, subprocess.Popen[bytes]] = {}
        self._threads = [
            threading.Thread(target=self._keep, args=(number,), name=f"converter-{number}", daemon=True)
            for number in range(1, count + 1)
        ]

    def start(self) -> None:
        """Start all workers. Returns at once."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Stop all workers; a job in hand goes back to the queue. Blocks for at most a few seconds."""
        self._stopping.set()
        self._signal(signal.SIGTERM)
        killer = threading.Timer(_STOP_WAIT_S, self._signal, (signal.SIGKILL,))
        killer.start()
        for thread in self._threads:
            thread.join(_STOP_WAIT_S + 1.0)
        killer.cancel()

    def check(self) -> str:
        """Return a line for `/readyz`. Raises WorkersDownError."""
        with self._lock:
            alive = sum(process.poll() is None for process in self._running.values())
        if alive == 0:
            raise WorkersDownError(
                "no conversion worker runs", next_step="see the server's log for the reason; they are restarted"
            )
        return f"{alive} of {len(self._threads)} conversion workers run"

    def _signal(self, number: signal.Signals) -> None:
        with self._lock:
            running = list(self._running.values())
        for process in running:
            process.send_signal(number)

    def _keep(self, number: int) -> None:
        failures = 0
        while not self._stopping.is_set():
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "edgefleet_server.process.conversion_worker", str(number)],
                stdin=subprocess.PIPE,
            )
            began_s = time.monotonic()
            with self._lock:
                self._running[number] = process
            if self._stopping.is_set():  # stop() may have looked just before this process was in the table
                process.terminate()
            assert process.stdin is not None
            self._hand_over(process.stdin)
            code = process.wait()
            process.stdin.close()
            with self._lock:
                del self._running[number]
            if self._stopping.is_set():
                return
            failures = 0 if time.monotonic() - began_s > _QUIET_S else failures
            pause_s = _BACKOFF_S[min(failures, len(_BACKOFF_S) - 1)]
            failures += 1
            _log.warning("a conversion worker ended", extra={"worker": number, "code": code, "next_start_s": pause_s})
            self._stopping.wait(pause_s)

    def _hand_over(self, pipe: IO[bytes]) -> None:
        try:
            pipe.write(dump_settings(self._settings))
            pipe.flush()
        except BrokenPipeError:
            _log.warning("a conversion worker ended before it read its settings")
