"""Conversion workers as child processes of the server: started with the first job, again when they end, stopped with the server.

Most processes of a server never convert, and a worker takes a second of processor time and its memory. So none runs before a job waits.

This is process care, not conversion: it knows a worker by its command line and its life line (stdin) only.
"""

import logging
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import IO

from sqlalchemy.exc import SQLAlchemyError

from edgefleet_protocol.errors import EdgefleetError
from edgefleet_server.process.conversion_worker import dump_settings
from edgefleet_server.settings import ServerSettings

_log = logging.getLogger(__name__)
_BACKOFF_S = (0.5, 2.0, 10.0, 30.0)
_QUIET_S = 60.0  # a worker that ran so long did not fail at its start: the next one begins at once again
_STOP_WAIT_S = 3.0
_LOOK_S = 0.3
"""As often as an idle worker looks for jobs."""
_TROUBLE_WAIT_S = 3.0


class WorkersDownError(EdgefleetError):
    """No conversion worker runs."""

    code = "conversion.workers_unavailable"


class WorkerPool:
    """Keeps `count` conversion workers running once a job has waited. Thread-safe."""

    def __init__(self, settings: ServerSettings, count: int, has_work: Callable[[], bool]) -> None:
        """Start nothing yet. has_work: says whether a job waits for a worker; may raise SQLAlchemyError."""
        self._settings = settings
        self._has_work = has_work
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._running: dict[int, subprocess.Popen[bytes]] = {}
        self._threads = [
            threading.Thread(target=self._keep, args=(number,), name=f"converter-{number}", daemon=True)
            for number in range(1, count + 1)
        ]
        self._looking = threading.Thread(target=self._start_with_first_job, name="converter-start", daemon=True)

    def start(self) -> None:
        """Start all workers as soon as a job waits. Returns at once."""
        self._looking.start()

    def stop(self) -> None:
        """Stop all workers; a job in hand goes back to the queue. Blocks for at most a few seconds."""
        self._stopping.set()
        self._looking.join()
        self._signal(signal.SIGTERM)
        killer = threading.Timer(_STOP_WAIT_S, self._signal, (signal.SIGKILL,))
        killer.start()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(_STOP_WAIT_S + 1.0)
        killer.cancel()

    def check(self) -> str:
        """Return a line for `/readyz`. Raises WorkersDownError."""
        if self._looking.is_alive():
            return f"conversion workers start with the first job, {len(self._threads)} at most"
        with self._lock:
            alive = sum(process.poll() is None for process in self._running.values())
        if alive == 0:
            raise WorkersDownError(
                "no conversion worker runs", next_step="see the server's log for the reason; they are restarted"
            )
        return f"{alive} of {len(self._threads)} conversion workers run"

    def _start_with_first_job(self) -> None:
        pause_s = _LOOK_S
        while not self._stopping.wait(pause_s):
            try:
                has_work, pause_s = self._has_work(), _LOOK_S
            except SQLAlchemyError as error:
                _log.warning("the database does not say whether a conversion waits", extra={"error": repr(error)})
                has_work, pause_s = False, _TROUBLE_WAIT_S
            if has_work:
                for thread in self._threads:
                    thread.start()
                return

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
