"""Asking a device to do something once, and waiting until it is over: `edgectl device diag | logs | restart`."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from edgefleet_cli.core.api.task import Task, TaskIn
from edgefleet_cli.core.errors import EXIT_TIMEOUT, CliError, UsageError
from edgefleet_cli.core.session import Session
from edgefleet_cli.core.transport.reply import Reply
from edgefleet_cli.core.transport.request import part
from edgefleet_cli.core.transport.server_retry import ServerRetry
from edgefleet_cli.render.format import age, moment, size, text
from edgefleet_cli.render.output import Column, Sheet

POLL_S = 0.5
DEFAULT_WAIT_S = 120.0
_OVER = frozenset({"done", "failed", "expired", "cancelled"})


class TaskFailedError(CliError):
    """The device did not do it."""

    code = "cli.task_failed"


class TaskTimeoutError(CliError):
    """The device has not done it yet."""

    code = "cli.task_timeout"
    exit_code = EXIT_TIMEOUT


def task_sheet(now: datetime) -> Sheet[Task]:
    """Return how tasks are listed; ages are counted from `now`."""
    return Sheet(
        "tasks; ask for one with `edgectl device diag DEVICE`, `logs` or `restart`",
        [
            Column("id", lambda t: text(t.id), keep=True),
            Column("kind", lambda t: text(t.kind)),
            Column("state", lambda t: text(t.state)),
            Column("asked", lambda t: age(t.created_at, now), right=True),
            Column("result", lambda t: size(t.result_bytes) if t.result_bytes else "-", right=True),
            Column("by", lambda t: text(t.created_by)),
            Column("reason", lambda t: _refusal(t) or "-"),
            Column("until", lambda t: moment(t.until), wide=True),
        ],
        lambda t: text(t.id),
    )


def _refusal(task: Task) -> str:
    return ": ".join(word for word in (task.code, task.reason) if word)


def ask(session: Session, device: str, body: TaskIn, *, wait: bool) -> Reply[Task]:
    """Make a task and, with `wait`, follow it to its end; each step is a note. Returns the task as it is then.

    Raises TaskFailedError, TaskTimeoutError.
    """
    task = session.api.post(f"/devices/{part(device)}/tasks", body, Task)
    made = task.value
    session.out.note(f"{device}: {made.id} {made.kind} queued in document {made.gen}")
    return _follow(session, device, task) if wait else task


def _follow(session: Session, device: str, reply: Reply[Task]) -> Reply[Task]:
    limit_s = session.options.timeout_s or DEFAULT_WAIT_S
    deadline_s = session.clock.monotonic_s() + limit_s
    retry = ServerRetry(session.out.note, session.clock)
    task = reply.value
    path = f"/devices/{part(device)}/tasks/{part(task.id)}"
    state = task.state
    while state not in _OVER:
        left_s = deadline_s - session.clock.monotonic_s()
        if left_s <= 0:
            raise TaskTimeoutError(
                f"{device} did not finish {task.id} within {limit_s:.0f} s; it is {state}",
                why="it may be offline, or busy with an install"
                if state in ("queued", "accepted")
                else text(task.reason),
                next_step=f"the request is valid until {moment(task.until)}; see `edgectl device tasks {device}`",
            )
        session.clock.sleep(min(POLL_S, left_s))
        found = retry.ask(lambda: session.api.get(path, Task), until_s=deadline_s)
        if found is None:
            continue
        reply, task = found, found.value
        if task.state != state:
            state = task.state
            session.out.note(f"{device}: {task.id} {state}")
    if state != "done":
        raise TaskFailedError(
            f"{device} did not do {task.id}: {state}",
            why=_refusal(task) or "it expired",
            next_step=f"see `edgectl device events {device}`, and ask again",
        )
    return reply


def result(session: Session, device: str, task: Task) -> bytes:
    """Return what the device sent."""
    return session.api.read(f"/devices/{part(device)}/tasks/{part(task.id)}/result")


def save(data: bytes, file: Path) -> None:
    """Write a result for its owner's eyes only. Raises UsageError."""
    import os

    try:
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as out:
            out.write(data)
    except OSError as error:
        raise UsageError(f"cannot write {file}", why=str(error), next_step="give another file with --out") from error
