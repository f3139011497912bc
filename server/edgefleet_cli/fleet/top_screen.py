"""`edgectl top`: the fleet on one screen, asked for anew every few seconds.

What is shown is one plain object, so that it can be printed as JSON too.
"""

from __future__ import annotations

from collections import deque
from datetime import datetime
from typing import TYPE_CHECKING, Any

from edgefleet_cli.core.api_client import ApiClient, part
from edgefleet_cli.core.errors import ApiError
from edgefleet_cli.device.render import errors_of
from edgefleet_cli.device.telemetry.trends import trends, windows_of
from edgefleet_cli.fleet.render import EVENTS
from edgefleet_cli.render.format import age, counted, text
from edgefleet_cli.render.output import Column, Output, visible
from edgefleet_cli.render.sparkline import spark
from edgefleet_cli.rollout.render import UNSETTLED, counts_text, state_text
from edgefleet_cli.rollout.stage_tree import counts_bar

if TYPE_CHECKING:
    from rich.console import Group

Json = dict[str, Any]

EVERY_S = 5.0
DEVICES, ROLLOUTS, LAST = 6, 6, 8
_KEPT = 60
"""How many looks the line of events remembers: five minutes."""

_ROLLOUTS = (
    Column("rollout", lambda r: text(r.get("id")), keep=True),
    Column("release", lambda r: text(r.get("release"))),
    Column("state", state_text),
    Column("stage", lambda r: text(r.get("stage"))),
    Column("", lambda r: counts_bar(r.get("counts"))),
    Column("devices", lambda r: counts_text(r.get("counts"))),
)
_DEVICES = (
    Column("device", lambda d: text(d.get("id")), keep=True),
    Column("status", lambda d: text(d.get("status"))),
    Column("model", lambda d: text(d.get("model"))),
    Column("answers", lambda d: text(d.get("answers"))),
    Column("p95", lambda d: text(d.get("p95"))),
    Column("ms", lambda d: text(d.get("p95_last")).removesuffix(" ms"), right=True),
    Column("error", lambda d: text(d.get("error"))),
)


class Top:
    """Asks a server for what one screen shows, and remembers how many events each look brought."""

    def __init__(self, api: ApiClient) -> None:
        self._api = api
        self._last_id: int | None = None
        self._events: deque[float] = deque(maxlen=_KEPT)

    def look(self, now: datetime) -> Json:
        """Return the fleet as it is: counts, open rollouts, the devices that something happened to lately, the last events."""
        events = self._api.get("/events", limit=50)["items"]
        newest = max((int(one["id"]) for one in events), default=0)
        if self._last_id is not None:
            self._events.append(float(sum(int(one["id"]) > self._last_id for one in events)))
        self._last_id = newest
        return {
            "at": now.isoformat(),
            "summary": self._api.get("/fleet/summary"),
            "rollouts": self._api.get("/rollouts", state=UNSETTLED, limit=ROLLOUTS)["items"],
            "devices": [row for name in self._lately(events) for row in self._rows(name)],
            "events": events[:LAST],
            "events_per_look": list(self._events),
        }

    def _lately(self, events: list[Json]) -> list[str]:
        names = dict.fromkeys(str(one["device"]) for one in events if one.get("device"))
        if len(names) < DEVICES:
            some = self._api.get("/devices", selector="status!=revoked", limit=DEVICES)["items"]
            names |= dict.fromkeys(str(one["id"]) for one in some)
        return list(names)[:DEVICES]

    def _rows(self, name: str) -> list[Json]:
        try:
            device = self._api.get(f"/devices/{part(name)}")
        except ApiError as error:
            if error.status != 404:
                raise
            return []
        told = {"id": name, "status": device.get("status"), "error": errors_of(device)}
        return [{**told, **row} for row in trends(windows_of(self._api, name))] or [{**told, "model": None}]


def drawn(out: Output, seen: Json, now: datetime) -> Group:
    """Return what one look shows, as it is drawn on a terminal."""
    from rich.console import Group
    from rich.text import Text

    summary = seen["summary"]
    status = ", ".join(f"{count} {name}" for name, count in (summary.get("status") or {}).items() if count)
    line = spark(seen["events_per_look"])
    head = Text(visible(f"{counted(summary.get('devices') or 0, 'device')}: {status or 'none yet'}"), style="bold")
    models = ", ".join(
        f"{one.get('model')}@{one.get('version')} {one.get('state')} {one.get('devices')}"
        for one in (summary.get("models") or [])[:6]
    )
    parts: list[Any] = [head]
    parts += [Text(visible(models))] if models else []
    parts += [Text(f"events  {line}")] if line else []
    for title, rows, columns in (
        ("Rollouts", seen["rollouts"], _ROLLOUTS),
        ("Devices that something happened to lately", seen["devices"], _DEVICES),
        ("Last events", seen["events"], [_age(now), *EVENTS.columns[1:5]]),
    ):
        if rows:
            parts += [Text(f"\n{title}", style="bold"), out.grid(rows, columns)]
    return Group(*parts)


def _age(now: datetime) -> Column:
    return Column("ago", lambda e: age(e.get("at"), now), right=True, keep=True)
