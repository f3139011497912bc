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
    from edgefleet_cli.core.transport.reply import reply_of

    session = Session.of(ctx)
    found = list(examine(session))
    failed = sum(finding.status == FAIL for finding in found)
    session.out.rows({"ok": not failed, "items": [reply_of(one).raw for one in found]}, found, FINDINGS)
    raise typer.Exit(EXIT_FAILED if failed else EXIT_OK)
