"""`edgectl server broker-files`: the files of a broker that the server does not run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgefleet_cli.admin.data_folder import default_data
from edgefleet_cli.core.session import Session
from edgefleet_cli.core.subprocesses import child_flags, server_answer

KINDS = "mosquitto, rabbitmq, emqx, hivemq or aws-iot"

Data = Annotated[
    Path | None,
    typer.Option("--data", metavar="DIR", help="Data folder of the server; default: in the user's data folder."),
]


def broker_files(  # noqa: PLR0913, PLR0917 - the flags of the command
    ctx: typer.Context,
    kind: Annotated[str, typer.Option("--kind", metavar="KIND", help=f"{KINDS}.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder to write; what is good in it is kept.")],
    host: Annotated[
        list[str],
        typer.Option("--host", help="Name or address under which devices and servers reach the broker; repeatable."),
    ],
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="Port of the broker.")] = 8883,
    folder: Annotated[
        str | None, typer.Option("--folder", metavar="PATH", help="Where the broker sees the folder; default: DIR.")
    ] = None,
    account: Annotated[
        list[str] | None,
        typer.Option(
            "--account", metavar="NAME", help="Further server account (srv-…); repeatable. Replicas, bridges."
        ),
    ] = None,
    bridge_to: Annotated[
        str | None,
        typer.Option(
            "--bridge-to", metavar="URL", help="mosquitto: mqtts://host:port of the broker to pass all on to."
        ),
    ] = None,
    site: Annotated[
        str | None, typer.Option("--site", metavar="NAME", help="Name of the site whose broker is bridged.")
    ] = None,
    data: Data = None,
) -> None:
    """Write configuration, access rules, certificates and the revocation list for a broker that the server does not run."""
    session = Session.of(ctx)
    flags = child_flags(kind=kind, out=out, port=port, folder=folder, bridge_to=bridge_to, site=site)
    flags += [part for name in host for part in ("--host", name)]
    flags += [part for name in account or () for part in ("--account", name)]
    done = server_answer(
        "edgefleet_server.process.external_broker.files_writer", "--data", str(data or default_data()), *flags
    )

    def show() -> None:
        session.out.line(f"{len(done['files'])} files for {done['kind']} in {done['folder']}:")
        session.out.line("  " + " ".join(done["files"]))
        session.out.line(f"certificate of the broker until {done['certificate_ends'][:10]}")
        for step in done["next"]:
            session.out.note(step)

    session.out.facts(done, show)
