"""Process entry of a conversion worker: takes jobs from the database until it is asked to stop.

    python -m edgefleet_server.process.conversion_worker          (settings as one JSON line on stdin)

Stdin is also the life line: when the server that holds its other end is gone, even by kill -9, the worker ends at once and the
kernel takes the conversion child with it. SIGTERM and SIGINT give the job in hand back to the queue.
"""

import json
import logging
import os
import shutil
import signal
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

from sqlalchemy.exc import SQLAlchemyError

from edgefleet_protocol.clock import Clock
from edgefleet_protocol.errors import EdgefleetError
from edgefleet_server.clock import SystemClock
from edgefleet_server.composition.worker_container import build_converter_parts, child_limits
from edgefleet_server.conversion.engine import ConversionEngine
from edgefleet_server.conversion.errors import LeaseLostError, StoppedError
from edgefleet_server.conversion.model import ClaimedJob
from edgefleet_server.conversion.sandbox import Converter, converter_command
from edgefleet_server.conversion.service import ConversionService
from edgefleet_server.db.database import Database
from edgefleet_server.observability import logs
from edgefleet_server.registry.service import RegistryService
from edgefleet_server.settings import ServerSettings, load_settings, secret_names
from edgefleet_server.signing.service import SigningService

_log = logging.getLogger(__name__)
IDLE_WAIT_S = 0.3
TROUBLE_WAIT_S = 3.0


class WorkerParts(Protocol):
    """What a worker uses."""

    @property
    def settings(self) -> ServerSettings:
        """Folders, limits, the command of the child."""
        ...

    @property
    def clock(self) -> Clock:
        """This machine's time."""
        ...

    @property
    def db(self) -> Database:
        """Where jobs and releases are."""
        ...

    @property
    def signing(self) -> SigningService:
        """Signs what was made."""
        ...

    @property
    def conversion(self) -> ConversionService:
        """The queue."""
        ...

    @property
    def registry(self) -> RegistryService:
        """Takes what was made."""
        ...


class Worker:
    """Claims jobs and works on them, one after another."""

    def __init__(self, parts: WorkerParts, name: str) -> None:
        self._parts = parts
        self._name = name
        self._stop = threading.Event()
        settings = parts.settings
        self._engine = ConversionEngine(
            parts.db,
            parts.conversion,
            parts.registry,
            parts.signing,
            parts.clock,
            Converter(converter_command(settings.converter_command), settings.tools_folder, settings.data_dir),
            child_limits(settings, settings.job_timeout_s),
        )
        self._folder = settings.run_dir / "jobs" / name

    def stop(self) -> None:
        """Ask the worker to end; the job in hand goes back to the queue."""
        self._stop.set()

    def run(self) -> None:
        """Work until stopped. Blocks."""
        shutil.rmtree(self._folder, ignore_errors=True)
        while not self._stop.is_set():
            try:
                is_idle = not self.run_once()
            except StoppedError:
                break
            except SQLAlchemyError as error:
                _log.warning("the database does not answer the conversion worker", extra={"error": repr(error)})
                self._stop.wait(TROUBLE_WAIT_S)
                continue
            if is_idle:
                self._stop.wait(IDLE_WAIT_S)
        shutil.rmtree(self._folder, ignore_errors=True)

    def run_once(self) -> bool:
        """Work on one job if one waits; return whether there was something to do. Raises StoppedError."""
        job, given_up = self._parts.conversion.claim(self._name)
        if given_up is not None:
            self._parts.registry.refresh_state(given_up)
            return True
        if job is None:
            return False
        self._work(job)
        return True

    def _work(self, job: ClaimedJob) -> None:
        try:
            self._engine.work(job, self._folder / f"{job.id}-{job.attempt}", self._stop.is_set)
        except LeaseLostError:
            _log.warning("the job was cancelled, or another worker took it over", extra={"job": job.id})


_NOT_FOR_WORKERS = frozenset({"secrets_key", "secrets_vault_token", "keys_passphrase"})
"""A worker opens no secret of the database, and no key: it asks the signing process."""


def dump_settings(settings: ServerSettings) -> bytes:
    """Return settings as the line that a worker reads; holds passwords, so it goes through a pipe only."""
    document = settings.model_dump(mode="json", exclude={*secret_names(), "identity_providers"})
    for name in set(secret_names()) - _NOT_FOR_WORKERS:
        value = getattr(settings, name)
        document[name] = None if value is None else value.get_secret_value()
    return json.dumps(document).encode() + b"\n"


def read_settings(line: bytes) -> ServerSettings:
    """Return the settings in a line of :func:`dump_settings`. Raises SettingsError."""
    document: dict[str, Any] = json.loads(line)
    return load_settings(Path(document.pop("data_dir")), **document)


def _read_line(descriptor: int) -> bytes:
    line = b""
    while not line.endswith(b"\n") and (piece := os.read(descriptor, 65536)):
        line += piece
    return line


def _end_with(life_line: int) -> None:
    """Block until the other end of the life line is closed, then end this process."""
    while os.read(life_line, 1):  # the raw descriptor: a buffered reader's lock would be missed at interpreter shutdown
        pass
    os._exit(0)  # threads of the database driver must not hold the end up; the kernel kills the child with us


def main() -> int:
    """Run one worker. Returns the exit code."""
    life_line = sys.stdin.fileno()
    settings = read_settings(_read_line(life_line))
    logs.set_up("converter", settings.log_level, settings.log_format)
    number = sys.argv[1] if len(sys.argv) > 1 else "1"
    parts = build_converter_parts(settings, SystemClock())
    worker = Worker(parts, f"{settings.instance}-{number}")

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        worker.stop()

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C reaches the whole group; the server decides and closes the pipe
    threading.Thread(target=_end_with, args=(life_line,), name="life-line", daemon=True).start()
    try:
        worker.run()
    except EdgefleetError as error:
        _log.error("the conversion worker ends: %s", error.message)
        return 1
    finally:
        parts.db.dispose()
    return 0


if __name__ == "__main__":
    sys.exit(main())
