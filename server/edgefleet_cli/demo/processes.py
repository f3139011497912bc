"""The demo's child processes: each in a session of its own, its output in a log file, watched by the guard.

A terminal's Ctrl-C reaches only the demo, which then stops its children in order: agents first, the server last, so that
agents can still say goodbye.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgefleet_cli.core.clock import SystemClock
from edgefleet_cli.core.errors import CliError
from edgefleet_cli.core.subprocesses import python_module
from edgefleet_cli.demo.guard import signal_group

STOP_S = 10.0
_POLL_S = 0.05
_LOG_TAIL_BYTES = 4000


class ChildError(CliError):
    """A process of the demo ended too early."""

    code = "demo.child"


@dataclass(frozen=True)
class Child:
    """One running process, leader of its own group."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def has_ended(self) -> bool:
        """Tell whether it runs no more; it is not reaped by this, so its group's number stays ours."""
        if self.process.returncode is not None:
            return True
        return os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None

    def last_words(self) -> str:
        """Return the last line it wrote."""
        with contextlib.suppress(OSError), self.log.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - _LOG_TAIL_BYTES))
            lines = [line.strip() for line in file.read().decode("utf-8", "replace").splitlines() if line.strip()]
            if lines:
                return lines[-1]
        return f"exit code {self.process.returncode}, nothing written"


class ProcessGroup:
    """All processes of one demo. Use as a context manager; leaving it stops them all."""

    def __init__(self, logs: Path, clock: SystemClock) -> None:
        self._logs = logs
        self._clock = clock
        self._children: list[Child] = []
        self._guard = subprocess.Popen(
            python_module("edgefleet_cli.demo.guard"),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )

    def __enter__(self) -> ProcessGroup:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def remove_at_end(self, folder: Path) -> None:
        """Have the guard remove `folder` once everything has ended."""
        self._tell(f"rm {folder}")

    def keep(self, folder: Path) -> None:
        """Take `remove_at_end` back."""
        self._tell(f"keep {folder}")

    def start(
        self, name: str, command: list[str], environment: Mapping[str, str] | None = None, *, feed: str | None = None
    ) -> Child:
        """Start a process, give it `feed` (a few kB at most) on standard input; its output goes to `NAME.log`."""
        log = self._logs / f"{name}.log"
        with log.open("ab") as output:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL if feed is None else subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(environment or {})},
                start_new_session=True,
            )
        self._tell(f"+{process.pid}")
        child = Child(name, process, log)
        self._children.append(child)
        if process.stdin is not None and feed is not None:
            with contextlib.suppress(BrokenPipeError), process.stdin as stdin:
                stdin.write(feed.encode())
        return child

    def wait(self, children: list[Child], wait_s: float) -> None:
        """Wait until these processes have ended with exit code 0. Raises ChildError for any other end."""
        deadline_s = self._clock.monotonic_s() + wait_s
        for child in children:
            if not self._await_end(child, deadline_s):
                raise ChildError(
                    f"{child.name} takes longer than {wait_s:g} s",
                    why=child.last_words(),
                    next_step=f"read {child.log}",
                )
            self._bury(child)
            if child.process.returncode != 0:
                raise ChildError(f"{child.name} failed", why=child.last_words(), next_step=f"read {child.log}")

    def check(self) -> None:
        """Raise ChildError when a process that should run has ended."""
        for child in self._children:
            if child.has_ended:
                raise ChildError(
                    f"{child.name} ended unexpectedly", why=child.last_words(), next_step=f"read {child.log}"
                )

    def close(self) -> None:
        """Stop all processes: the first one still there (the server) after all others, which are stopped together."""
        if self._guard.stdin is None or self._guard.stdin.closed:
            return
        agents, first = self._children[1:], self._children[:1]
        self._stop(agents)
        self._stop(first)
        with contextlib.suppress(BrokenPipeError):
            self._guard.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._guard.wait(timeout=STOP_S)

    def _stop(self, children: list[Child]) -> None:
        for child in children:
            signal_group(child.process.pid, signal.SIGTERM)
        deadline_s = self._clock.monotonic_s() + STOP_S
        for child in children:
            self._await_end(child, deadline_s)
            self._bury(child)

    def _await_end(self, child: Child, deadline_s: float) -> bool:
        while not child.has_ended:
            if self._clock.monotonic_s() > deadline_s:
                return False
            self._clock.sleep(_POLL_S)
        return True

    def _bury(self, child: Child) -> None:
        """Kill what is left of the process's group, then reap it: in this order, so the number cannot be a stranger's."""
        if child.process.returncode is None:
            signal_group(child.process.pid, signal.SIGKILL)
            child.process.wait()
        self._children.remove(child)
        self._tell(f"-{child.process.pid}")

    def _tell(self, line: str) -> None:
        assert self._guard.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._guard.stdin.write(line.encode() + b"\n")
            self._guard.stdin.flush()


def read_json(path: Path) -> dict[str, Any] | None:
    """Return the JSON object that a process has written, None as long as there is none."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return document if isinstance(document, dict) else None
