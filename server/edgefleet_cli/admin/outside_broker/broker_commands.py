"""`edgectl server broker-files` and `check broker`: the files of a broker that the server does not run, and what it does with them."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Annotated, Any

import typer

from edgefleet_cli.admin.data_folder import default_data
from edgefleet_cli.core.session import Session
from edgefleet_cli.core.subprocesses import child_flags, python_module, require, server_answer
from edgefleet_cli.render.output import Column
from edgefleet_cli.render.progress import count_bar

UNFIT = 3
"""Exit code of the server's module when something that is needed is missing."""
EXPECTED_CHECKS = 39
"""Of the catalogue of the server; only the bar goes by it."""
_CHECKS: list[Column[dict[str, Any]]] = [
    Column("check", lambda c: c["check"], keep=True),
    Column("outcome", lambda c: c["outcome"], keep=True),
    Column("found", lambda c: c["found"]),
    Column("need", lambda c: c["need"], wide=True),
    Column("s", lambda c: f"{c['took_s']:.1f}", right=True, wide=True),
]
_REMEDIES: list[Column[dict[str, Any]]] = [
    Column("check", lambda c: c["check"], keep=True),
    Column("need", lambda c: c["need"], keep=True),
    Column("why", lambda c: c["why"]),
    Column("configure", lambda c: c["remedy"]),
]
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


def check_broker(
    ctx: typer.Context,
    url: Annotated[str, typer.Argument(metavar="URL", help="The broker, mqtts://host:port.")],
    ca: Annotated[
        Path | None,
        typer.Option("--ca", metavar="FILE", help="CA of the broker's certificate; default: the device CA."),
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option("--only", metavar="CHECK", help="Run only this check; repeatable.")
    ] = None,
    data: Data = None,
) -> None:
    """Check whether a broker does what edgefleet needs, with devices of its own, next to a fleet too. Exit code 1: it lacks something."""
    session = Session.of(ctx)
    require("fastapi", "server")
    flags = child_flags(url=url, ca=ca) + [part for name in only or () for part in ("--only", name)]
    command = python_module(
        "edgefleet_server.process.external_broker.contract_run", "--data", str(data or default_data()), *flags
    )
    lines: list[dict[str, Any]] = []
    with (
        count_bar(session.out, "check", len(only or ()) or EXPECTED_CHECKS) as advance,
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running,
    ):
        assert running.stdout is not None
        for line in running.stdout:
            lines.append(json.loads(line))
            advance(1)
    if running.returncode not in (0, UNFIT):
        raise typer.Exit(running.returncode)
    findings, verdict = lines[:-1], lines[-1]
    wrong = [one for one in findings if one["outcome"] in ("failed", "not supported") and one["need"] != "figure"]

    def show() -> None:
        session.out.table(findings, _CHECKS)
        if wrong:
            session.out.heading("Lacking")
            session.out.table(wrong, _REMEDIES)
        missing = len(verdict["missing"])
        session.out.line(
            "edgefleet can use this broker."
            if verdict["fit"]
            else f"{missing} things that edgefleet needs are missing."
        )

    session.out.facts({**verdict, "url": url, "checks": findings}, show)
    if not verdict["fit"]:
        raise typer.Exit(1)
