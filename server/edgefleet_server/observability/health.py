"""Is the process alive (`/healthz`), and is it ready to work (`/readyz`): database, keys, broker, engine, conversion workers.

Each part that runs in this process registers one check: a function that returns a line of detail or raises. A check that
raises makes the process not ready; the answer names it and what to do.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy.exc import SQLAlchemyError

from edgefleet_protocol.errors import EdgefleetError


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What one check found."""

    name: str
    is_ok: bool
    detail: str
    next_step: str


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
