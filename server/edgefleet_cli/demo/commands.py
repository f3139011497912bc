"""`edgectl demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgefleet_cli.core.session import Session


def demo(
    ctx: typer.Context,
    devices: Annotated[int, typer.Option("--devices", "-n", min=1, max=64, help="How many device processes.")] = 8,
    data: Annotated[
        Path | None, typer.Option("--data", metavar="DIR", help="Keep everything here; a temporary folder else.")
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="Tell the story, clean up and exit.")] = False,
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Port of the API, 0 = a free one.")] = 0,
    broker: Annotated[str | None, typer.Option("--broker", help="auto, embedded or mosquitto.")] = None,
    examples: Annotated[
        Path | None, typer.Option("--examples", metavar="DIR", help="Folder of the digits example.")
    ] = None,
) -> None:
    """Start a server and N devices here, publish, deploy, measure, and refuse bad models. Ctrl-C removes it all."""
    from edgefleet_cli.demo.run import DemoRequest, run_demo

    request = DemoRequest(devices=devices, data=data, once=once, port=port, broker=broker, examples=examples)
    raise typer.Exit(run_demo(Session.of(ctx), request))
