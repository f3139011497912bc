"""What the page of a device says of its health: reasons, the worst first and since when, and what was measured and is well. Pure.

Rules:
1. The rules of health (`fleet.health_state`) go first; an open alert about the device adds a reason, unless a reason says the same already.
2. So does a rise of latency that lasts, where no alert says it, a clock that heat or voltage holds back, and a temperature at which the
   kernel of the device acts, where it says which that is.
3. *Fine* is only what was measured: 0 failures of 0 requests are no good news, and a device that is away says nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from edgefleet_protocol.heat_limits import CRITICAL_AT, THROTTLES_AT, heat_limits
from edgefleet_server.alerting.active_alerts.model import AlertState, AlertView
from edgefleet_server.dashboard.core.filters import SEVERITY_KINDS
from edgefleet_server.fleet.health_state import Health
from edgefleet_server.fleet.inventory.views import DeviceView
from edgefleet_server.telemetry.latency.views import LatencyCause, LatencyExplanation
from edgefleet_server.telemetry_views import Latest, WindowView
from edgefleet_terms.device_figures import figure_text, size_text

KINDS: Final = {
    Health.FAILING: "bad",
    Health.OFFLINE: "off",
    Health.DEGRADED: "warn",
    Health.UNKNOWN: "off",
    Health.UPDATING: "run",
    Health.HEALTHY: "ok",
    Health.REVOKED: "off",
}
ABSENT: Final = (Health.OFFLINE, Health.UNKNOWN, Health.REVOKED)
SAME: Final = {"device_offline": Health.OFFLINE, "device_suspect": Health.DEGRADED, "update_failed": Health.DEGRADED}
"""Alerts that say what a reason says already; an update that failed may have left nothing running."""
FRESH: Final = timedelta(hours=2)
"""Older figures say nothing of how it is now: devices on a metered link report every hour."""
ACTIVE: Final = "active"
THROTTLED: Final = 0.05
"""A smaller share of the clock is the governor at work."""
HEAT: Final = "temperature_celsius"
WORST: Final = ("bad", "off", "warn", "run", "ok")
MIB: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class HealthRow:
    """One thing that is as it should not be. kind: of the state; more: what it rests on; since: None where nobody knows.

    is_measured: figures say it, not the rules of health. is_heat: heat or low voltage is why.
    """

    kind: str
    text: str
    more: str = ""
    since: datetime | None = None
    is_measured: bool = False
    is_heat: bool = False


@dataclass(frozen=True, slots=True)
class HealthPanel:
    """The health of a device. word: of its state; rows: the worst first; fine: what was measured and is well."""

    kind: str
    word: str
    rows: Sequence[HealthRow]
    fine: Sequence[str]
    measured_at: datetime | None


def health_panel(
    device: DeviceView,
    alerts: Sequence[AlertView],
    latest: Latest | None,
    now: datetime,
    rises: Sequence[LatencyExplanation] = (),
) -> HealthPanel:
    """Return what the page says. alerts: the open ones about the device; rises: why the latency of its models rose."""
    health = device.health
    said = {one.health for one in device.health_reasons}
    firing = [one for one in alerts if one.state is AlertState.FIRING and SAME.get(one.rule) not in said]
    reasons = [HealthRow(KINDS[one.health], one.text, "", one.since) for one in device.health_reasons]
    measured = None if latest is None else latest.received_at
    is_known = health not in ABSENT and latest is not None and now - latest.received_at <= FRESH
    found = [_of_alert(one) for one in firing]
    if is_known and latest is not None:
        loud_models = {one.labels.get("model") for one in firing if one.rule == "latency_up"}
        found += [_of_rise(one) for one in lasting(rises) if one.model not in loud_models]
        found += _heat(latest, heat_limits(device.facts))
    rows = [*reasons, *found]
    if health not in ABSENT:
        rows.sort(key=lambda row: WORST.index(row.kind))
    kind, word = KINDS[health], health.value
    heard = [(SEVERITY_KINDS[one.severity], one.title) for one in firing if not one.suppressed_by]
    loud = [*heard, *((row.kind, "degraded") for row in found if row.is_measured)]
    if loud and health in {Health.HEALTHY, Health.UPDATING}:
        kind, word = min(loud, key=lambda one: WORST.index(one[0]))
    fine = _fine(device, {one.rule for one in alerts}, latest, now) if is_known and latest is not None else []
    return HealthPanel(kind, word, rows, fine, measured)


def lasting(rises: Sequence[LatencyExplanation]) -> list[LatencyExplanation]:
    """Return the rises of latency that are not over."""
    return [one for one in rises if one.state == "rise" and one.rise is not None and not one.rise.is_over]


def cleared_release(one: LatencyExplanation) -> LatencyCause | None:
    """Return the release among the causes of a rise where it is known not to be the cause, else None."""
    is_clear = {"unlikely", "unchanged", "ruled_out"}
    return next((cause for cause in one.causes if cause.kind == "release" and cause.verdict in is_clear), None)


def answering(latest: Latest, now: datetime) -> list[WindowView]:
    """Return the newest windows of the models that answered lately: what answered long ago says nothing of now."""
    return [one for one in latest.windows if one.lane == ACTIVE and one.n > 0 and now - one.received_at <= FRESH]


def _of_rise(one: LatencyExplanation) -> HealthRow:
    """Return a rise as a row. one: of `lasting`."""
    rise = one.rise
    before, after = (
        ("", "") if rise is None else (figure_text("p95_ms", rise.before_ms), figure_text("p95_ms", rise.after_ms))
    )
    release = cleared_release(one)
    more = one.said.rpartition(". ")[2]
    if release is not None:
        more += f" The release is not the cause{': ' + release.against[0] if release.against else ''}."
    text = f"{one.model} is slow: p95 is {after}, it was {before}"
    return HealthRow("warn", text, more, None if rise is None else rise.since, is_measured=True)


def _heat(latest: Latest, limits: Mapping[str, float]) -> list[HealthRow]:
    """Return what heat does to it. limits: of its kernel, none where it says none."""
    share, celsius = latest.system.get("throttled_ratio"), latest.system.get(HEAT)
    heat, found = figure_text(HEAT, celsius), []
    at, ends = (figure_text(HEAT, limits.get(key)) for key in (THROTTLES_AT, CRITICAL_AT))
    if share is not None and share >= THROTTLED:
        text = f"The clock is throttled by {share:.0%}{' at ' + heat if heat else ''}"
        why = f"Heat or low voltage holds the processor back{'; heat does from ' + at + ' on' if at else ''}."
        found.append(HealthRow("warn", text, why, is_measured=True, is_heat=True))
    elif _reaches(celsius, limits.get(THROTTLES_AT)):
        why = f"From {at} on its kernel takes away clock."
        found.append(HealthRow("warn", f"It is {heat} hot", why, is_measured=True, is_heat=True))
    if _reaches(celsius, limits.get(CRITICAL_AT)):
        why = f"At {ends} its kernel switches it off."
        found.append(HealthRow("bad", f"It is {heat} hot", why, is_measured=True, is_heat=True))
    return found


def _reaches(celsius: float | None, limit: float | None) -> bool:
    return celsius is not None and limit is not None and celsius >= limit


def _of_alert(one: AlertView) -> HealthRow:
    kind = SEVERITY_KINDS[one.severity]
    model = one.labels.get("model", "")
    text = f"{model}: {one.summary}" if model else f"It {one.summary}"
    quiet = [f"Silenced: {one.suppressed_by}"] if one.suppressed_by else []
    return HealthRow(kind, text, ". ".join([*quiet, *one.evidence]), one.since)


def _fine(device: DeviceView, open_rules: set[str], latest: Latest, now: datetime) -> list[str]:
    """Return what was measured and is well."""
    found = _answers(answering(latest, now))
    left = device.cert_not_after - now
    if left > timedelta() and "certificate_ends" not in open_rules:
        found.append(f"certificate valid for {left.days} days")
    if device.free_mb is not None and "disk_full" not in open_rules:
        found.append(f"{size_text(device.free_mb * MIB)} of disk free")
    return [*found, *_cool(latest, heat_limits(device.facts))]


def _cool(latest: Latest, limits: Mapping[str, float]) -> list[str]:
    """Return what is well of clock and temperature; without a limit and a clock nothing says whether a temperature is too high."""
    share, celsius, limit = latest.system.get("throttled_ratio"), latest.system.get(HEAT), limits.get(THROTTLES_AT)
    found, heat = ["clock not throttled"] if share == 0 else [], figure_text(HEAT, celsius)
    if heat and limit is not None and not _reaches(celsius, limit) and (share is None or share < THROTTLED):
        found.append(f"{heat}, throttles at {figure_text(HEAT, limit)}")
    elif heat and limit is None and share == 0 and not _reaches(celsius, limits.get(CRITICAL_AT)):
        found.append(heat)
    return found


def _answers(windows: Sequence[WindowView]) -> list[str]:
    found = []
    whole = sum(one.n for one in windows)
    if not whole:
        return []
    if not sum(one.errors + one.timeouts + one.crashes for one in windows):
        found.append(f"no failed request of {whole}")
    if not sum(one.nonfinite for one in windows):
        found.append("all answers finite" if whole > 1 else "its answer is finite")
    return found
