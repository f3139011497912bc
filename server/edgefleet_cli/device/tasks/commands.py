"""`edgectl device diag | logs | restart | tasks`: what a device is asked to do once, through its signed document."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgefleet_cli.core import api, completion
from edgefleet_cli.core.errors import UsageError
from edgefleet_cli.core.session import Session
from edgefleet_cli.core.transport.reply import Reply
from edgefleet_cli.core.transport.request import part

DeviceArgument = Annotated[str, typer.Argument(metavar="ID", help="Device id.", autocompletion=completion.devices)]
Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="Wait for the device (--timeout, by default 120 s).")]


def add_task_commands(app: typer.Typer) -> None:
    """Put the commands into `edgectl device`."""
    app.command("diag")(diag)
    app.command("logs")(logs)
    app.command("restart")(restart)
    app.command("tasks")(tasks)


def diag(
    ctx: typer.Context,
    device_id: DeviceArgument,
    out: Annotated[Path | None, typer.Option("--out", help="File to write; default: ID-diag.tar.gz.")] = None,
    wait: Wait = True,
) -> None:
    """Fetch a diagnosis archive from a device: at most 1 MB, without secrets."""
    from edgefleet_cli.device.tasks.client import ask, result, save, task_sheet

    session = Session.of(ctx)
    task = ask(session, device_id, api.task.TaskIn(kind="diag"), wait=wait)
    file = out or Path(f"{device_id}-diag.tar.gz")
    if wait:
        save(result(session, device_id, task.value), file)
        task = Reply({**task.raw, "file": str(file)}, api.task.Task)
    where = f"wrote {file}" if wait else "queued"
    session.out.one(task, task_sheet(session.clock.now()), lambda _: session.out.note(where))


def logs(
    ctx: typer.Context,
    device_id: DeviceArgument,
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, max=5000, help="Number of lines, from the end.")] = 200,
    contains: Annotated[str | None, typer.Option("--contains", help="Only lines with this text.")] = None,
    wait: Wait = True,
) -> None:
    """Show the last log lines of a device, without secrets."""
    from edgefleet_cli.core.structs import UNSET
    from edgefleet_cli.device.tasks.client import ask, result, task_sheet
    from edgefleet_cli.render.output import visible

    session = Session.of(ctx)
    task = ask(session, device_id, api.task.TaskIn(kind="logs", lines=lines, contains=contains or UNSET), wait=wait)
    found = result(session, device_id, task.value).decode("utf-8", "replace").splitlines() if wait else []

    def show(_task: object) -> None:
        for line in found:
            session.out.line(visible(line))

    answer = Reply({**task.raw, "lines": found}, api.task.Task) if wait else task
    session.out.one(answer, task_sheet(session.clock.now()), show)


def restart(
    ctx: typer.Context,
    device_id: DeviceArgument,
    model: Annotated[
        str | None, typer.Option("--model", help="Only the worker of this model; default: the agent.")
    ] = None,
    wait: Wait = True,
) -> None:
    """Restart the agent of a device, or the worker of one model. No request is lost."""
    from edgefleet_cli.core.structs import UNSET
    from edgefleet_cli.device.tasks.client import ask, task_sheet

    session = Session.of(ctx)
    if model == "":
        raise UsageError("--model is empty", why="", next_step="name a model, or leave it out")
    body = api.task.TaskIn(kind="restart", what="worker" if model else "agent", model=model or UNSET)
    task = ask(session, device_id, body, wait=wait)
    done = f"{device_id}: {'the worker of ' + model if model else 'the agent'} restarts" if wait else "queued"
    session.out.one(task, task_sheet(session.clock.now()), lambda _: session.out.note(done))


def tasks(ctx: typer.Context, device_id: DeviceArgument) -> None:
    """List the tasks of a device, newest first."""
    from edgefleet_cli.device.tasks.client import task_sheet

    session = Session.of(ctx)
    page = session.api.page(f"/devices/{part(device_id)}/tasks", api.task.Task)
    session.out.items(page, task_sheet(session.clock.now()))
