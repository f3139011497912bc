"""`--watch`: a list that is shown again as it changes. On a terminal it is redrawn; otherwise each new or changed item is one line."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from edgefleet_cli.core.options import Format
from edgefleet_cli.core.session import Session
from edgefleet_cli.core.transport.reply import Document, Page
from edgefleet_cli.core.transport.server_retry import ServerRetry
from edgefleet_cli.render.frame import frames
from edgefleet_cli.render.output import Output, Sheet

T = TypeVar("T")
EVERY_S = 2.0


def watch_list(session: Session, ask: Callable[[], Page[T]], sheet: Callable[[], Sheet[T]]) -> None:
    """Show what `ask` returns, every 2 s until `--timeout` or Ctrl-C. `sheet` is asked each time: ages are counted from now.

    Raises what the first question raises; later a server that is away is waited for.
    """
    clock, wait_s = session.clock, session.options.timeout_s
    deadline_s = math.inf if wait_s is None else clock.monotonic_s() + wait_s
    page = ask()
    retry = ServerRetry(session.out.note, clock)
    with _screen(session.out) as show:
        while True:
            show(page, sheet())
            left_s = deadline_s - clock.monotonic_s()
            if left_s <= 0:
                return
            clock.sleep(min(EVERY_S, left_s))
            page = retry.ask(ask, until_s=deadline_s) or page


@contextmanager
def _screen(out: Output) -> Iterator[Callable[[Page[T], Sheet[T]], None]]:
    if not out.is_live:
        yield _records(out)
        return
    from rich.console import Group
    from rich.text import Text

    with frames(out) as screen:

        def show(page: Page[T], sheet: Sheet[T]) -> None:
            items = [reply.value for reply in page.replies[: max(1, out.data.height - 3)]]
            left = len(page.replies) - len(items)
            grid = out.grid(items, sheet.columns) if items else Text(f"no {sheet.plural}")
            screen.draw(Group(grid, Text(f"and {left} more")) if left else grid)

        yield show


def _records(out: Output) -> Callable[[Page[T], Sheet[T]], None]:
    seen: dict[str, Document] = {}
    is_first = True

    def show(page: Page[T], sheet: Sheet[T]) -> None:
        nonlocal is_first
        now: dict[str, Document] = {}
        for reply in page.replies:
            name = sheet.name(reply.value)
            now[name] = reply.raw
            is_new = name not in seen
            if is_new or (seen[name] != reply.raw and out.form is not Format.NAME):
                out.record(reply, sheet, is_first=is_first)
                is_first = False
        seen.clear()
        seen.update(now)

    return show
