"""`edgectl demo`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from edgefleet_cli.core.session import Session

LOOP_DEVICES = 4


def demo(  # noqa: PLR0913, PLR0917 - the flags of the command
    ctx: typer.Context,
    devices: Annotated[int, typer.Option("--devices", "-n", min=1, max=64, help="Number of devices.")] = 8,
    data: Annotated[
        Path | None,
        typer.Option("--data", metavar="DIR", help="Folder to keep everything in; default: a temporary folder."),
    ] = None,
    loop: Annotated[
        bool, typer.Option("--loop", help="Fog comes: the model is retrained, approved and rolled out; 4 devices.")
    ] = False,
    once: Annotated[bool, typer.Option("--once", help="Run once, clean up and exit.")] = False,
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Port of the API; 0 = any free port.")] = 0,
    broker: Annotated[str | None, typer.Option("--broker", help="auto, embedded or mosquitto.")] = None,
    examples: Annotated[
        Path | None, typer.Option("--examples", metavar="DIR", help="Folder of the digits example.")
    ] = None,
) -> None:
    """Run a whole fleet on this machine: server, devices, rollouts. Ctrl-C removes it."""
    from edgefleet_cli.demo.run import DemoRequest, run_demo

    request = DemoRequest(devices=devices, data=data, once=once, port=port, broker=broker, examples=examples)
    if loop:
        from edgefleet_cli.demo.loop_run import play_loop

        raise typer.Exit(run_demo(Session.of(ctx), replace(request, devices=LOOP_DEVICES), play_loop))
    raise typer.Exit(run_demo(Session.of(ctx), request))
