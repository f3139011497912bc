"""`edgectl device metrics`: how a device's figures went."""

from __future__ import annotations

from typing import Annotated

import typer

from edgefleet_cli.core import completion
from edgefleet_cli.core.session import Session

MOST = 5_000


def add_metrics_command(app: typer.Typer) -> None:
    """Put the command into `edgectl device`."""
    app.command("metrics")(metrics)


def metrics(
    ctx: typer.Context,
    device_id: Annotated[str, typer.Argument(metavar="ID", help="Device id.", autocompletion=completion.devices)],
    since: Annotated[
        str | None, typer.Option("--since", metavar="T", help="Only since then: 24h, or RFC 3339.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, max=MOST, help="At most this many windows; default: 48.")
    ] = None,
) -> None:
    """Show requests, errors, latency and memory of each model on a device over time.

    `-o json`, `yaml`, `csv` and `name` have the telemetry windows themselves, newest first.
    """
    from edgefleet_cli.core.options import time_of
    from edgefleet_cli.device.telemetry.metric_windows import METRICS, WINDOWS, metric_rows, windows_since
    from edgefleet_cli.device.telemetry.trends import WINDOWS as USUAL

    session = Session.of(ctx)
    begin = None if since is None else time_of(since, session.clock.now()).isoformat()
    usual = USUAL if since is None else MOST
    page = windows_since(session.api, device_id, limit=limit or usual, begin=begin)
    if session.out.is_for_eyes and page.replies:
        session.out.table(metric_rows(list(page)), METRICS)
    else:
        session.out.items(page, WINDOWS)
