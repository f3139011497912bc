"""What `edgectl top` asks the server for: devices worst first with exact counts, open rollouts, alerts, figures over time."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

from edgefleet_cli.core import api
from edgefleet_cli.core.errors import ApiError
from edgefleet_cli.core.transport.api_client import ApiClient
from edgefleet_cli.core.transport.reply import Page
from edgefleet_cli.core.transport.request import part
from edgefleet_cli.rollout.render import UNSETTLED
from edgefleet_cli.timelines.commands import USUAL_SPAN
from edgefleet_cli.timelines.timeline_table import later_beginning
from edgefleet_cli.top.fleet_view import SPANS, WORST_FIRST, FleetView

OF_EACH_HEALTH: Final = 200
"""Devices that are read of each health; how many there are is exact all the same."""
ROLLOUTS: Final = 8
DETAILED: Final = 3
"""Rollouts of which is read what they wait for."""
PAST_ROLLOUTS: Final = 3
"""Shown while none is open."""
ALERTS: Final = 50
EVENTS: Final = 12
POINTS: Final = 120


def fleet_view(reader: ApiClient, now: datetime) -> FleetView:
    """Return the fleet as it is."""
    counts: dict[str, int] = {}
    devices: dict[str, api.device.Device] = {}  # one whose health changes between two requests is kept as it was first
    for health in WORST_FIRST:
        page = reader.page("/devices", api.device.Device, selector=f"health={health}", limit=OF_EACH_HEALTH)
        counts[health] = int(page.raw.get("total") or len(page.replies))
        devices = {one.id: one for one in page} | devices
    rollouts = reader.page("/rollouts", api.rollout.Rollout, state=UNSETTLED, limit=ROLLOUTS)
    more_rollouts = _more(rollouts)
    opened = [_whole(reader, one) if place < DETAILED else one for place, one in enumerate(rollouts)]
    if not opened:
        opened = list(reader.page("/rollouts", api.rollout.Rollout, limit=PAST_ROLLOUTS))
    alerts = reader.page("/alerts", api.alert.Alert, limit=ALERTS)
    more_alerts = _more(alerts)
    online = reader.get("/fleet/summary", api.fleet.FleetSummary).value.status.get("online", 0)
    return FleetView(now, counts, online, list(devices.values()), opened, list(alerts), more_rollouts, more_alerts)


def _more(page: Page[Any]) -> int:
    """Return how many there are beyond those of a first page."""
    return max(0, int(page.raw.get("total") or 0) - len(page.replies))


def _whole(reader: ApiClient, rollout: api.rollout.Rollout) -> api.rollout.Rollout:
    """Return a rollout with what it waits for, which lists leave out; as it is in the list where it is gone."""
    try:
        return reader.get(f"/rollouts/{part(rollout.id)}", api.rollout.Rollout).value
    except ApiError as error:
        if error.status != 404:
            raise
        return rollout


def timeline(reader: ApiClient, path: str, span: str, **query: str) -> api.device.Timeline:
    """Return figures over a span that ends now, by the server's clock: edgectl's may be wrong. A young fleet has a shorter one."""
    day = reader.get(path, api.device.Timeline, points=POINTS, **query).value
    begins = [] if span == USUAL_SPAN else [(datetime.fromisoformat(day.until) - SPANS[span]).isoformat()]
    if young := later_beginning(day):
        begins.append(young)
    if not begins:
        return day
    since = max(begins, key=datetime.fromisoformat)
    return reader.get(path, api.device.Timeline, points=POINTS, since=since, **query).value


def fleet_timeline(reader: ApiClient, span: str) -> api.device.Timeline:
    """Return the figures of the whole fleet over a span."""
    return timeline(reader, "/fleet/metrics", span, by="none")


class DeviceDetails:
    """One device with its figures over a span and its newest events."""

    def __init__(self, reader: ApiClient, name: str, now: datetime, span: str) -> None:
        """Raises ApiError for a device that is not there."""
        path = f"/devices/{part(name)}"
        self.at = now
        self.device = reader.get(path, api.device.Device).value
        self.timeline: api.device.Timeline | None = None
        try:
            self.timeline = timeline(reader, f"{path}/metrics", span)
        except ApiError as error:
            if error.status != 404:
                raise
        self.events = list(reader.page("/events", api.fleet.Event, device=name, limit=EVENTS))
