"""What `edgectl top` shows, worked out from what the server said: the sentence about the fleet, tiles, rows. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, NamedTuple

from edgefleet_cli.core import api
from edgefleet_cli.render.format import age, counted, duration, milliseconds, text
from edgefleet_cli.render.sparkline import bar
from edgefleet_cli.rollout.render import REGRESSED, WAITS_FOR_A_PERSON, is_final

WORST_FIRST: Final = ("failing", "offline", "degraded", "unknown", "updating", "healthy")
"""Healths as the server judges them (docs/how-to/find-devices.md); what it does not know yet comes first."""
ATTENTION: Final = ("failing", "offline", "degraded", "unknown")
GOES_BACK: Final = ("rolling_back", REGRESSED)
"""States of an open rollout that are bad news for the fleet, as on the overview page."""
MARKS: Final[Mapping[str, str]] = {
    "failing": "✗", "offline": "◌", "degraded": "▲", "unknown": "?", "updating": "◐", "healthy": "●", "revoked": "–",
}  # fmt: skip
STYLES: Final[Mapping[str, str]] = {
    "failing": "bold red", "offline": "magenta", "degraded": "yellow", "unknown": "magenta", "updating": "cyan",
    "healthy": "green", "revoked": "dim",
}  # fmt: skip
KIND_STYLES: Final[Mapping[str, str]] = {
    "ok": "bold green", "run": "bold cyan", "warn": "bold yellow", "bad": "bold red", "off": "bold",
}  # fmt: skip
KIND_MARKS: Final[Mapping[str, str]] = {"ok": "●", "run": "◐", "warn": "▲", "bad": "✗", "off": "○"}
SPANS: Final = {"1h": timedelta(hours=1), "24h": timedelta(hours=24)}
"""Times that charts are of."""


@dataclass(frozen=True)
class FleetView:
    """What one look brought. counts: devices by health, exact; devices: the worst first, not all of a large fleet.

    more_rollouts, more_alerts: how many there are beyond those that were read.
    """

    at: datetime
    counts: Mapping[str, int]
    online: int
    devices: Sequence[api.device.Device]
    rollouts: Sequence[api.rollout.Rollout]
    alerts: Sequence[api.alert.Alert]
    more_rollouts: int = 0
    more_alerts: int = 0

    @property
    def open_rollouts(self) -> int:
        """Return how many rollouts still have something to say; without one the list has the last ones."""
        return self.more_rollouts + sum(one.state == REGRESSED or not is_final(one) for one in self.rollouts)

    @property
    def total(self) -> int:
        """Return how many devices there are."""
        return sum(self.counts.values())


class Sentence(NamedTuple):
    """A state in words. kind: ok, run, warn, bad or off."""

    kind: str
    text: str


def sentence(view: FleetView) -> Sentence:
    """Return how the fleet is, in one sentence with its reasons; a device that says nothing never counts as well."""
    if not view.total:
        return Sentence("off", "No device is enrolled yet: `edgectl device enroll` makes the line that enrols one.")
    bad = {health: view.counts.get(health, 0) for health in ATTENTION if view.counts.get(health)}
    firing = [one for one in view.alerts if one.state == "firing" and not one.suppressed_by]
    waiting = sum(one.state in WAITS_FOR_A_PERSON for one in view.rollouts)
    back = sum(one.state in GOES_BACK for one in view.rollouts)
    more = [f"{counted(back, 'rollout')} {'goes' if back == 1 else 'go'} back"] if back else []
    more += [f"{counted(waiting, 'rollout')} {'waits' if waiting == 1 else 'wait'} for a person"] if waiting else []
    least = "at least " if view.more_alerts else ""
    more += [f"{least}{counted(len(firing), 'alert')} {'fires' if len(firing) == 1 else 'fire'}"] if firing else []
    is_grave = bool(back) or any(one.severity == "critical" for one in firing)
    reasons = [*(f"{count} {health}" for health, count in bad.items()), *more]
    if bad:
        count = sum(bad.values())
        is_bad = is_grave or "failing" in bad or count == view.total
        return Sentence("bad" if is_bad else "warn", f"{_unwell(count, view.total)}: {', '.join(reasons)}.")
    updating = view.counts.get("updating", 0)
    said = "The only device is healthy" if view.total == 1 else f"All {counted(view.total, 'device')} are healthy"
    if updating:
        said = f"The fleet works; {counted(updating, 'device')} {'is' if updating == 1 else 'are'} updating"
    if not more:
        return Sentence("run" if updating else "ok", f"{said}.")
    return Sentence("bad" if is_grave else "warn", f"{said}{',' if updating else ';'} {', '.join(more)}.")


def _unwell(count: int, total: int) -> str:
    """Return how many devices need attention; a fleet of which more than half do is not said to work."""
    if count == total:
        return "No device is well" if total > 1 else "The only device is not well"
    needs = f"{count} of {counted(total, 'device')} {'needs' if count == 1 else 'need'} attention"
    return needs if 2 * count > total else f"The fleet works, but {needs}"


class DeviceRow(NamedTuple):
    """One device in the table."""

    id: str
    health: str
    name: str
    why: str
    runs: str
    seen: str
    last_seen: str


def device_row(device: api.device.Device, now: datetime) -> DeviceRow:
    """Return the row of a device: its name before its id, the worst reason first."""
    runs = ", ".join(one.release or f"{one.model} -" for one in device.models) or "-"
    why = device.health_reasons[0].text if device.health_reasons else ""
    seen = age(device.last_seen, now)
    return DeviceRow(
        device.id, device.health or "unknown", device.display_name or device.id, why, runs, seen, text(device.last_seen)
    )


SORTS: Final[Mapping[str, Callable[[DeviceRow], tuple[object, ...]]]] = {
    "worst first": lambda row: (_rank(row.health), row.name.lower()),
    "name": lambda row: (row.name.lower(), row.id),
    "seen last": lambda row: (row.last_seen,),
    "release": lambda row: (row.runs, _rank(row.health)),
}
"""By name, the orders that the table can have; what was not seen for the longest comes first."""


def _rank(health: str) -> int:
    return WORST_FIRST.index(health) if health in WORST_FIRST else -1


def device_rows(view: FleetView, order: str, wanted: str) -> list[DeviceRow]:
    """Return the rows of the table in an order, of devices that have every wanted word in what the row or its labels say."""
    words = wanted.lower().split()
    rows = []
    for device in view.devices:
        row = device_row(device, view.at)
        labels = " ".join(f"{key}={value}" for key, value in device.labels.items())
        said = f"{row.id} {row.health} {row.name} {row.why} {row.runs} {device.profile} {labels}".lower()
        if all(word in said for word in words):
            rows.append(row)
    return sorted(rows, key=SORTS[order])


class Tile(NamedTuple):
    """One figure of the fleet over time, or a picture in its place."""

    title: str
    value: str
    values: Sequence[float | None]
    picture: str = ""


def shown_span(timeline: api.device.Timeline | None, chosen: str) -> str:
    """Return the time that charts are of: the chosen one, or a shorter one of a young fleet."""
    if timeline is None:
        return chosen
    length = datetime.fromisoformat(timeline.until) - datetime.fromisoformat(timeline.since)
    return duration(length.total_seconds()) if 2 * length <= SPANS[chosen] else chosen


def tiles(timeline: api.device.Timeline | None) -> Iterator[Tile]:
    """Yield requests, the share of errors and p95 of all devices; what was not measured is said so, and no zero."""
    line = timeline.lines[0] if timeline and timeline.lines else None
    yield _tile("Requests", [] if line is None else line.requests_per_s, lambda value: f"{value:.3g}/s")
    errors = [] if line is None else [_share(bad, n) for bad, n in zip(line.errors, line.requests, strict=False)]
    yield _tile("Errors", errors, lambda value: f"{value:.2%}")
    yield _tile("Latency p95", [] if line is None else line.p95_ms, milliseconds)


def online_tile(view: FleetView | None, timeline: api.device.Timeline | None) -> Tile:
    """Return how many devices are online now, and which share was; a bar of now where nobody sampled it."""
    if view is None or not view.total:
        return Tile("Online", "", [])
    shares: Sequence[float | None] = timeline.system.get("online_ratio", []) if timeline else []
    picture = "" if any(one is not None for one in shares) else bar([("█", view.online)], view.total, 16)
    return Tile("Online", f"{view.online} of {view.total}", shares, picture)


def _tile(title: str, values: Sequence[float | None], show: Callable[[float], str]) -> Tile:
    last = next((value for value in reversed(values) if value is not None), None)
    return Tile(title, "" if last is None else show(last), values)


def _share(bad: float | None, requests: float | None) -> float | None:
    return bad / requests if bad is not None and requests else None
