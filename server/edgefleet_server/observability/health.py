"""Is the process alive (`/healthz`), and is it ready to work (`/readyz`): database (it can write), disk, keys, broker,
engine, conversion workers.

Each part that runs in this process registers one check: a function that returns a line of detail or raises. A check that
raises makes the process not ready; the answer names it and what to do.
"""

import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sqlalchemy.exc import SQLAlchemyError

from edgefleet_protocol.clock import Clock
from edgefleet_protocol.errors import EdgefleetError

MIB: Final = 1024 * 1024
RECENT_S: Final = 2.0
SLOW_S: Final = 15.0


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What one check found."""

    name: str
    is_ok: bool
    detail: str
    next_step: str


class DiskSpaceError(EdgefleetError):
    """The disk of the data folder is full, or nearly so."""

    code = "server.disk_space_unavailable"


class SlowCheckError(EdgefleetError):
    """A check of the server's readiness does not end."""

    code = "server.check_unavailable"


class Recent:
    """A check of which one thread at a time asks again, every RECENT_S at most; the others get what it found last. Thread-safe.

    `/readyz` needs no token: asking it often must not make the server write, nor must a check that hangs hold its threads.
    """

    def __init__(self, check: Callable[[], str], clock: Clock) -> None:
        """Wrap `check`, which returns a line of detail or raises."""
        self._check = check
        self._clock = clock
        self._lock = threading.Lock()
        self._found: str | Exception = SlowCheckError("the first check is still running", next_step="ask again")
        self._asked_s = float("-inf")
        self._is_asking = False

    def __call__(self) -> str:
        """Return what the check found, or raise it. Raises SlowCheckError when it does not end."""
        now_s = self._clock.monotonic_s()
        with self._lock:
            since_s = now_s - self._asked_s
            is_mine = not self._is_asking and since_s >= RECENT_S
            if is_mine:
                self._is_asking, self._asked_s = True, now_s
        if is_mine:
            self._ask()
        elif self._is_asking and since_s >= SLOW_S:
            raise SlowCheckError(f"it has been running for {since_s:.0f} s", next_step="see the server's log")
        found = self._found
        if isinstance(found, Exception):
            raise found
        return found

    def _ask(self) -> None:
        try:
            self._found = self._check()
        except (EdgefleetError, SQLAlchemyError, OSError) as error:
            self._found = error
        finally:
            with self._lock:
                self._is_asking, self._asked_s = False, self._clock.monotonic_s()


def disk_line(folder: Path, least_bytes: int) -> str:
    """Return how much of the disk is free. Raises DiskSpaceError below the floor, OSError."""
    free = shutil.disk_usage(folder).free
    if free < least_bytes:
        raise DiskSpaceError(
            f"the disk of {folder} has {free // MIB} MiB left, the floor is {least_bytes // MIB} MiB (`min_free_bytes`)",
            next_step="free space or enlarge the disk; until then uploads, reports and events may fail",
        )
    return f"{free // MIB} MiB free"


class Health:
    """The checks of one server process, run one after another when asked. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._checks: dict[str, Callable[[], str]] = {}

    def add(self, name: str, check: Callable[[], str]) -> None:
        """Register a check under a name; the same name again replaces it."""
        with self._lock:
            self._checks[name] = check

    def run(self) -> list[CheckResult]:
        """Run all checks and return what they found, in the order of registration."""
        with self._lock:
            checks = list(self._checks.items())
        return [_run_one(name, check) for name, check in checks]


def _run_one(name: str, check: Callable[[], str]) -> CheckResult:
    try:
        return CheckResult(name, True, check(), "")
    except EdgefleetError as error:
        return CheckResult(name, False, error.message, error.next_step)
    except SQLAlchemyError as error:  # its text may hold a statement, and nobody needs a token to ask
        return CheckResult(name, False, f"the database failed: {type(error).__name__}", "see the server's log")
    except OSError as error:
        return CheckResult(name, False, f"{type(error).__name__}: {error}", "see the server's log")
