"""The live picture of a load test: on a terminal a table that is drawn again each second, else a line every ten.

It says all the time which limit is nearest, or broken, and how many devices the server's processor has room for, by the last KEPT looks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from edgefleet_cli.render.output import Output
from edgefleet_cli.rollout.simulation.fleet_verdict import Limits, verdict
from edgefleet_protocol.sketch import LatencySketch

if TYPE_CHECKING:
    from rich.table import Table

    from edgefleet_cli.rollout.simulation.fleet_run import Look

KEPT: Final = 10
LINE_S: Final = 10.0


@contextmanager
def screen(out: Output, workers: int) -> Iterator[Callable[[Look], None]]:
    """Yield what shows a look; nothing when quiet. workers: processes of the simulator."""
    kept: list[Look] = []
    if out.quiet:
        yield lambda _look: None
    elif out.remarks.is_terminal:
        from rich.live import Live

        with Live(console=out.remarks, auto_refresh=False, transient=True) as live:

            def draw(look: Look) -> None:
                kept.append(look)
                live.update(picture(kept[-KEPT:], workers), refresh=True)

            yield draw
    else:
        said_s = 0.0

        def write(look: Look) -> None:
            nonlocal said_s
            kept.append(look)
            if look.at_s - said_s >= LINE_S:
                said_s = look.at_s
                out.note("  ".join(f"{name} {value}" for name, value in pairs(kept[-KEPT:], workers)))

        yield write


def pairs(looks: list[Look], workers: int) -> list[tuple[str, str]]:
    """Return name and text of each figure; latencies are of all these looks."""
    last = looks[-1]
    acks = LatencySketch.merged(one.acks for one in looks)
    p50, p99 = acks.quantile_s(0.5), acks.quantile_s(0.99)
    found = [
        ("connected", f"{last.connected}/{last.wanted}"),
        ("messages/s", f"{last.messages_per_s:.0f}"),
        ("ack p50/p99", f"{p50 * 1000:.0f}/{p99 * 1000:.0f} ms" if p50 is not None and p99 is not None else "-"),
        ("unacknowledged", str(last.unacked)),
        ("reconnects", str(last.reconnects)),
        ("API", f"{last.api_s * 1000:.0f} ms" if last.api_s >= 0 else "-"),
    ]
    if last.server_cores >= 0:
        found.append(("server", f"{last.server_cores:.2f} core, {last.server_rss_mb:.0f} MB"))
    if last.waiting >= 0:
        found.append(("waiting in the server", f"{last.waiting:.0f}"))
    if last.dropped:
        found.append(("dropped by the server", f"{last.dropped:.0f}"))
    return [*found, *_verdict_of(looks, workers)]


def _verdict_of(looks: list[Look], workers: int) -> list[tuple[str, str]]:
    """Return which limit is broken or nearest now, and the room: nothing before two looks saw connected devices."""
    from edgefleet_cli.rollout.simulation.fleet_run import step_of

    if len(looks) < 2 or not looks[0].connected:
        return []
    found = verdict([step_of(looks, looks[-1].connected)], Limits(), workers)
    if found.first:
        return [("breaks first", found.first)]
    told = [("nearest limit", f"{found.nearest}: {found.nearest_ratio:.0%} used")]
    if looks[-1].server_cores >= 0:
        most = " or more" if found.is_bounded else ""
        told.append(("room", f"{found.room} devices{most}, by the server's processor"))
    return told


def picture(looks: list[Look], workers: int) -> Table:
    """Return the picture of a terminal."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(no_wrap=True)
    for name, value in pairs(looks, workers):
        table.add_row(name, value)
    return table
