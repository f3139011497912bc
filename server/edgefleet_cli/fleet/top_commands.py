"""`edgectl top`: the fleet, live on one screen."""

from __future__ import annotations

import math

import typer

from edgefleet_cli.core.errors import EXIT_TIMEOUT
from edgefleet_cli.core.session import Session


def top(ctx: typer.Context) -> None:
    """Show devices, rollouts and events on one screen, refreshed every 5 s.

    Without a terminal it shows them once, as text or with -o json as one object.
    """
    from edgefleet_cli.core.transport.server_retry import ServerRetry
    from edgefleet_cli.fleet.top_screen import EVERY_S, Top, drawn

    session = Session.of(ctx)
    out, clock = session.out, session.clock
    look = Top(session.api)
    seen = look.look(clock.now())
    if not out.is_live:
        out.facts(seen.document(), lambda: out.data.print(drawn(out, seen, clock.now())))
        return
    from rich.live import Live

    wait_s = session.options.timeout_s
    deadline_s = math.inf if wait_s is None else clock.monotonic_s() + wait_s
    retry = ServerRetry(out.note, clock)
    with Live(console=out.data, screen=True, auto_refresh=False, vertical_overflow="crop") as live:
        while True:
            live.update(drawn(out, seen, clock.now()), refresh=True)
            left_s = deadline_s - clock.monotonic_s()
            if left_s <= 0:
                break
            clock.sleep(min(EVERY_S, left_s))
            seen = retry.ask(lambda: look.look(clock.now()), until_s=deadline_s) or seen
    raise typer.Exit(EXIT_TIMEOUT)
