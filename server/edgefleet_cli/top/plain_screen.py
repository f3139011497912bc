"""`edgectl top`: the fleet on one screen, asked for again every few seconds. What is shown can be printed as JSON too."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from edgefleet_cli.core.api.device import Device
from edgefleet_cli.core.api.fleet import Event, FleetSummary
from edgefleet_cli.core.api.rollout import Rollout
from edgefleet_cli.core.errors import ApiError
from edgefleet_cli.core.structs import Struct
from edgefleet_cli.core.transport.api_client import ApiClient
from edgefleet_cli.core.transport.reply import Document, Page, Reply, reply_of
from edgefleet_cli.core.transport.request import part
from edgefleet_cli.device.render import errors_of
from edgefleet_cli.fleet.render import EVENTS
from edgefleet_cli.render.format import age, counted, text
from edgefleet_cli.render.output import Column, Output, visible
from edgefleet_cli.render.sparkline import spark
from edgefleet_cli.rollout.render import UNSETTLED, counts_text, state_text
from edgefleet_cli.rollout.stage_tree import counts_bar
from edgefleet_cli.timelines.trends import trends, windows_of

if TYPE_CHECKING:
    from rich.console import Group

EVERY_S = 5.0
DEVICES, ROLLOUTS, LAST = 6, 6, 8
_KEPT = 60
"""How many looks the line of events remembers: five minutes."""

_ROLLOUTS: tuple[Column[Rollout], ...] = (
    Column("rollout", lambda r: text(r.id), keep=True),
    Column("release", lambda r: text(r.release)),
    Column("state", state_text),
    Column("stage", lambda r: text(r.stage)),
    Column("", lambda r: counts_bar(r.counts)),
    Column("devices", lambda r: counts_text(r.counts)),
)


class DeviceRow(Struct, frozen=True, omit_defaults=True):
    """One device and, where it has reported figures, one of its models."""

    id: str
    name: str
    status: str
    error: str
    model: str | None
    answers: str | None = None
    answers_last: int | None = None
    p95: str | None = None
    p95_last: str | None = None


_DEVICES: tuple[Column[DeviceRow], ...] = (
    Column("name", lambda d: text(d.name or None)),
    Column("device", lambda d: text(d.id), keep=True),
    Column("status", lambda d: text(d.status)),
    Column("model", lambda d: text(d.model)),
    Column("answers", lambda d: text(d.answers)),
    Column("p95", lambda d: text(d.p95)),
    Column("ms", lambda d: text(d.p95_last).removesuffix(" ms"), right=True),
    Column("error", lambda d: text(d.error)),
)


@dataclass(frozen=True)
class Look:
    """What one look at the fleet saw. events_per_look: of this look and those before."""

    at: datetime
    summary: Reply[FleetSummary]
    rollouts: Page[Rollout]
    devices: list[DeviceRow]
    events: Sequence[Reply[Event]]
    events_per_look: list[float]

    def document(self) -> Document:
        """Return it as one plain object, to be printed as JSON."""
        return {
            "at": self.at.isoformat(),
            "summary": self.summary.raw,
            "rollouts": [rollout.raw for rollout in self.rollouts.replies],
            "devices": [reply_of(device).raw for device in self.devices],
            "events": [event.raw for event in self.events],
            "events_per_look": self.events_per_look,
        }


class Top:
    """Asks a server for what one screen shows, and remembers how many events each look brought."""

    def __init__(self, api: ApiClient) -> None:
        self._api = api
        self._last_id: int | None = None
        self._events: deque[float] = deque(maxlen=_KEPT)

    def look(self, now: datetime) -> Look:
        """Return the fleet as it is: counts, open rollouts, the devices that something happened to lately, the last events."""
        page = self._api.page("/events", Event, limit=50)
        events = list(page)
        newest = max((one.id for one in events), default=0)
        if self._last_id is not None:
            self._events.append(float(sum(one.id > self._last_id for one in events)))
        self._last_id = newest
        return Look(
            now,
            self._api.get("/fleet/summary", FleetSummary),
            self._api.page("/rollouts", Rollout, state=UNSETTLED, limit=ROLLOUTS),
            [row for name in self._lately(events) for row in self._rows(name)],
            page.replies[:LAST],
            list(self._events),
        )

    def _lately(self, events: list[Event]) -> list[str]:
        names = dict.fromkeys(one.device for one in events if one.device)
        if len(names) < DEVICES:
            some = self._api.page("/devices", Device, selector="status!=revoked", limit=DEVICES)
            names |= dict.fromkeys(one.id for one in some)
        return list(names)[:DEVICES]

    def _rows(self, name: str) -> list[DeviceRow]:
        try:
            device = self._api.get(f"/devices/{part(name)}", Device).value
        except ApiError as error:
            if error.status != 404:
                raise
            return []
        head = (name, device.display_name, device.status, errors_of(device))
        rows = [
            DeviceRow(*head, one.model, one.answers, one.answers_last, one.p95, one.p95_last)
            for one in trends(windows_of(self._api, name))
        ]
        return rows or [DeviceRow(*head, None)]


def drawn(out: Output, seen: Look, now: datetime) -> Group:
    """Return what one look shows, as it is drawn on a terminal."""
    from rich.console import Group
    from rich.text import Text

    summary = seen.summary.value
    status = ", ".join(f"{count} {name}" for name, count in summary.status.items() if count)
    line = spark(seen.events_per_look)
    head = Text(visible(f"{counted(summary.devices, 'device')}: {status or 'none yet'}"), style="bold")
    models = ", ".join(f"{one.model}@{one.version} {one.state} {one.devices}" for one in summary.models[:6])
    parts: list[Any] = [head]
    parts += [Text(visible(models))] if models else []
    parts += [Text(f"events  {line}")] if line else []
    rollouts, events = list(seen.rollouts), [event.value for event in seen.events]
    tables = {
        "Rollouts": out.grid(rollouts, _ROLLOUTS) if rollouts else None,
        "Devices with recent events": out.grid(seen.devices, _DEVICES) if seen.devices else None,
        "Last events": out.grid(events, [_age(now), *EVENTS.columns[1:6]]) if events else None,
    }
    for title, table in tables.items():
        if table is not None:
            parts += [Text(f"\n{title}", style="bold"), table]
    return Group(*parts)


def _age(now: datetime) -> Column[Event]:
    return Column("ago", lambda e: age(e.at, now), right=True, keep=True)
