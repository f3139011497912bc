"""`edgectl server up` and `down`: one command from nothing to a running server that this user is logged in at, and its end.

`server start` is the server process itself; `up` starts one and lets go of it.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgefleet_cli.admin.data_folder import check_new, data_flag, default_data, holds_server
from edgefleet_cli.core.session import Session
from edgefleet_cli.core.subprocesses import child_flags, require
from edgefleet_cli.render.output import Column, Sheet

if TYPE_CHECKING:
    from edgefleet_cli.admin.background_server import Up

Data = Annotated[
    Path | None,
    typer.Option("--data", metavar="DIR", help="Data folder of the server; default: in the user's data folder."),
]

UP: Sheet[Up] = Sheet(
    "servers",
    [
        Column("url", lambda one: one.url, keep=True),
        Column("pid", lambda one: str(one.pid)),
        Column("log", lambda one: one.log),
    ],
    lambda one: one.url,
)


def up(  # noqa: PLR0913, PLR0917 - the flags of the command
    ctx: typer.Context,
    data: Data = None,
    port: Annotated[
        int | None, typer.Option("--port", min=0, max=65535, help="Port of the API and the pages; 0 = any free port.")
    ] = None,
    device_port: Annotated[
        int | None, typer.Option("--device-port", min=0, max=65535, help="Port of the device listener.")
    ] = None,
    public_host: Annotated[
        str | None, typer.Option("--public-host", help="Name under which devices reach this server.")
    ] = None,
    broker: Annotated[
        str | None, typer.Option("--broker", metavar="B", help="auto, embedded, mosquitto or mqtts://host:port.")
    ] = None,
    with_device: Annotated[
        bool, typer.Option("--with-device", help="Also enrol this machine as a device and run the agent.")
    ] = False,
    name: Annotated[str, typer.Option("--name", help="Name of the saved context.")] = "local",
) -> None:
    """Start a server in the background and log in to it."""
    from edgefleet_cli.admin import background_server
    from edgefleet_cli.core.transport.reply import reply_of

    require("fastapi", "server")
    session = Session.of(ctx)
    folder = (data or default_data()).resolve()
    is_new = not holds_server(folder)
    if is_new:
        check_new(folder)
        background_server.make(session, folder, public_host=public_host, broker=broker)
    running = background_server.running_server(folder)
    known = session.contexts.contexts.get(name)
    if running is None:
        flags = child_flags(port=port, device_port=device_port, public_host=public_host, broker=broker)
        start = background_server.started_new if is_new else background_server.started
        running = start(session, folder, flags, known.ca_file if known else None)
    else:
        session.out.note("already running")
    background_server.log_in(session, folder, running.api_url, name, known)
    device, state = _device_here(session, name) if with_device else ("", "")
    made = reply_of(
        background_server.Up(
            url=running.api_url,
            pid=running.pid,
            data=str(folder),
            log=str(folder / "run" / background_server.LOG),
            token=str(folder / "admin.token"),
            context=name,
            contexts=str(session.contexts.path.absolute()),
            device=device,
            state=state,
        )
    )
    session.out.one(made, UP, lambda _: session.out.fields([(key, str(value)) for key, value in made.raw.items()]))
    _say_what_next(session, folder, state)


def _device_here(session: Session, name: str) -> tuple[str, str]:
    """Return the device that this machine is, and its state folder. Its agent is enrolled and started if need be."""
    from edgefleet_cli.admin import device_here
    from edgefleet_cli.core.transport.api_client import ApiClient

    saved = session.contexts.contexts[name]
    with ApiClient(saved.server, saved.token, ca_file=saved.ca_file) as server:
        return device_here.ensure(server)


def _say_what_next(session: Session, folder: Path, state: str) -> None:
    flag, agent = data_flag(folder), "`edge-agent stop` and " if state else ""
    first = "" if state else ", `edgectl device enroll` for a device"
    session.out.note(f"next: `edgectl dashboard` for a browser{first}")
    session.out.note(f"stop: {agent}`edgectl server down{flag}`; `edgectl server up{flag}` starts it again")
    session.out.note(f"remove: stop it, then `rm -r {shlex.join(filter(None, (str(folder), state)))}`")


def down(ctx: typer.Context, data: Data = None) -> None:
    """Stop the server gracefully. Devices keep running their models."""
    from edgefleet_cli.admin import background_server

    session = Session.of(ctx)
    folder = (data or default_data()).resolve()
    running = background_server.running_server(folder)
    if running is None:
        session.out.note(f"no server runs on {folder}")
        return
    background_server.stop(session, folder, running.pid)
    session.out.note(f"the server (process {running.pid}) has stopped; its data stays in {folder}")
