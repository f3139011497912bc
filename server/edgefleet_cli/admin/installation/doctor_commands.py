"""`edgectl doctor`: what stands between this user and the server."""

from __future__ import annotations

import typer

from edgefleet_cli.core.errors import EXIT_FAILED, EXIT_OK
from edgefleet_cli.core.session import Session


def doctor(ctx: typer.Context) -> None:
    """Check this side: saved contexts, address, TLS, token, versions, clocks, completion. Exit 1 when something fails.

    The server's own side is `edgectl server check`, a device's `edge-agent doctor`.
    """
    from edgefleet_cli.admin.installation.doctor import FAIL, FINDINGS, examine

    session = Session.of(ctx)
    rows = [finding.as_json() for finding in examine(session)]
    failed = sum(row["status"] == FAIL for row in rows)
    session.out.rows({"ok": not failed, "items": rows}, rows, FINDINGS)
    raise typer.Exit(EXIT_FAILED if failed else EXIT_OK)
