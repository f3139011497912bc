"""`edgectl top`: the fleet, live on one screen."""

from __future__ import annotations

import math
import sys
from importlib.util import find_spec
from typing import Annotated, Final

import typer

from edgefleet_cli.core.errors import EXIT_TIMEOUT
from edgefleet_cli.core.session import Session

_SCREEN: Final = "a live screen with charts, filters and acts"
PLAIN_HINT: Final = f"{_SCREEN}: `pip install 'edgefleet[tui]'`, then `edgectl top` on a terminal with UTF-8"
TERMINAL_HINT: Final = f"on a terminal with UTF-8 `edgectl top` is {_SCREEN}"


def top(
    ctx: typer.Context,
    plain: Annotated[
        bool,
        typer.Option("--plain", help="Text that is drawn again every 5 s, without keys; the default without Textual."),
    ] = False,
) -> None:
    """Show health, charts, devices, rollouts, alerts and events on one screen, live; pause, promote or roll back there.

    Without a terminal it shows them once, as text or with -o json as one object. `?` shows the keys.
    """
    session = Session.of(ctx)
    has_textual = find_spec("textual") is not None
    has_characters = sys.stdout.encoding.lower().startswith("utf")
    if session.out.is_live and not plain and has_textual and has_characters:
        _run_screen(session)
    else:
        _run_plain(session, "" if plain else TERMINAL_HINT if has_textual else PLAIN_HINT)


def _run_screen(session: Session) -> None:
    from edgefleet_cli.top.fleet_screen import Dashboard

    dashboard = Dashboard(session, session.options.timeout_s)
    error = dashboard.run()
    if error is not None:
        raise error
    raise typer.Exit(dashboard.return_code or 0)


def _run_plain(session: Session, hint: str) -> None:
    from edgefleet_cli.core.transport.server_retry import ServerRetry
    from edgefleet_cli.top.plain_screen import EVERY_S, Top, drawn

    out, clock = session.out, session.clock
    look = Top(session.api)
    seen = look.look(clock.now())
    if not out.is_live:
        out.facts(seen.document(), lambda: out.data.print(drawn(out, seen, clock.now())))
        if hint and out.is_for_eyes:
            out.note(hint)
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
    if hint:
        out.note(hint)
    raise typer.Exit(EXIT_TIMEOUT)
