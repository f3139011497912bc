"""`edgectl server up` and `down`: one command from nothing to a running server that this user is logged in at, and its end.

`server start` is the server process itself; `up` starts one and lets go of it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgefleet_cli.core.session import Session
from edgefleet_cli.core.subprocesses import child_flags, require
from edgefleet_cli.render.output import Column, Sheet

if TYPE_CHECKING:
    from edgefleet_cli.admin.background_server import Up

UP: Sheet[Up] = Sheet(
    "servers",
    [
        Column("url", lambda one: one.url, keep=True),
        Column("pid", lambda one: str(one.pid)),
        Column("log", lambda one: one.log),
    ],
    lambda one: one.url,
)


def up(
    ctx: typer.Context,
    data: Annotated[Path, typer.Option("--data", metavar="DIR", help="The server's data folder; made if need be.")],
    port: Annotated[
        int | None, typer.Option("--port", min=0, max=65535, help="Port of API and UI, 0 = a free one.")
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
    name: Annotated[str, typer.Option("--name", help="Name of the saved context.")] = "local",
) -> None:
    """Run a server in the background and log in at it: makes DIR if it is new, waits until all is ready."""
    from edgefleet_cli.admin import background_server
    from edgefleet_cli.core.transport.reply import reply_of

    require("fastapi", "server")
    session = Session.of(ctx)
    folder = data.resolve()
    if not (folder / "keys").is_dir():
        background_server.make(session, folder, public_host=public_host, broker=broker)
    running = background_server.running_server(folder)
    known = session.contexts.contexts.get(name)
    if running is None:
        flags = child_flags(port=port, device_port=device_port, public_host=public_host, broker=broker)
        running = background_server.started(session, folder, flags, known.ca_file if known else None)
    else:
        session.out.note("it runs already")
    background_server.log_in(session, folder, running.api_url, name, known)
    made = reply_of(
        background_server.Up(
            running.api_url, running.pid, str(folder), str(folder / "run" / background_server.LOG), name
        )
    )
    session.out.one(made, UP, lambda _: session.out.fields([(key, str(value)) for key, value in made.raw.items()]))
    session.out.note(
        f"next: `edgectl dashboard` for a browser, `edgectl device enroll` for a device; `edgectl server down --data {data}` stops it"
    )


def down(
    ctx: typer.Context, data: Annotated[Path, typer.Option("--data", metavar="DIR", help="The server's data folder.")]
) -> None:
    """Stop the server of DIR, in order. Devices go on with what they have."""
    from edgefleet_cli.admin import background_server

    session = Session.of(ctx)
    running = background_server.running_server(data.resolve())
    if running is None:
        session.out.note("no server runs on this folder")
        return
    background_server.stop(session, data, running.pid)
    session.out.note("the server has stopped")
