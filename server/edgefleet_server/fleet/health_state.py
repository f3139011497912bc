"""The health of a device in one word, and its reasons with the worst first. Pure.

Rules:
1. Presence goes first: what a device said before it went away is old news, and a device that says nothing is never healthy.
2. *Failing*: a model that it should run does not run at all. *Degraded*: it runs, but an update failed or was rolled back, a signal of a
   model drifts, or its words are not trusted. *Updating*: it has not taken its newest document yet, or is installing.
3. The word is that of the first rule that holds; the reasons are all that hold.
Lists find devices by it in SQL (`selectors.health_condition`), which a test holds against `judge`.
Source: docs/how-to/find-devices.md.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Final

from edgefleet_protocol.messages import Phase
from edgefleet_server.fleet.model import DeviceStatus


class Health(StrEnum):
    """How a device is. Public: a value of the selector key `health`."""

    FAILING = "failing"
    OFFLINE = "offline"
    DEGRADED = "degraded"
    UNKNOWN = "unknown"
    UPDATING = "updating"
    HEALTHY = "healthy"
    REVOKED = "revoked"


WORST_FIRST: Final = tuple(Health)
ATTENTION: Final = (Health.FAILING, Health.OFFLINE, Health.DEGRADED, Health.UNKNOWN)
"""What needs a look: a device that says nothing does, too."""
TROUBLED: Final = frozenset({Phase.FAILED, Phase.ROLLED_BACK})
SETTLED: Final = frozenset({Phase.IDLE, Phase.COMMITTED, *TROUBLED})


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What a device says of one model. version: what runs, "" when nothing does; why: in its own words; since: of its phase."""

    model: str
    version: str
    phase: str
    why: str = ""
    since: datetime | None = None


@dataclass(frozen=True, slots=True)
class HealthFacts:
    """What health is judged by. is_behind: it has not reported its newest document; drifting: models with signals that drift.

    Times say since when it is away, suspect, and behind; None where nobody knows.
    """

    status: DeviceStatus
    has_report: bool
    is_behind: bool = False
    is_suspect: bool = False
    drifting: Sequence[str] = ()
    models: Sequence[ModelFacts] = ()
    away_since: datetime | None = None
    suspect_since: datetime | None = None
    behind_since: datetime | None = None


@dataclass(frozen=True, slots=True)
class HealthReason:
    """One thing that keeps a device from being healthy. since: null where nobody knows."""

    health: Health
    text: str
    since: datetime | None = None


@dataclass(frozen=True, slots=True)
class Judgement:
    """How a device is, and why: the worst first; no reasons when it is healthy."""

    health: Health
    reasons: Sequence[HealthReason]


_ABSENT: Final[Mapping[DeviceStatus, HealthReason]] = {
    DeviceStatus.REVOKED: HealthReason(Health.REVOKED, "It was revoked."),
    DeviceStatus.OFFLINE: HealthReason(
        Health.OFFLINE, "It is offline: its session ended, and what it said before may be old."
    ),
    DeviceStatus.UNKNOWN: HealthReason(
        Health.UNKNOWN, "Nothing was heard of it: it never connected, or not since the server started."
    ),
}


def judge(facts: HealthFacts) -> Judgement:
    """Return the health of a device and its reasons."""
    reasons = sorted(_said(facts), key=lambda one: WORST_FIRST.index(one.health))
    absent = _ABSENT.get(facts.status)
    if absent is None and not facts.has_report:
        absent = HealthReason(Health.UNKNOWN, "It is connected and has not sent its state yet.")
    if absent is not None:
        absent = replace(absent, since=facts.away_since)
        reasons = [absent, *reasons]
    return Judgement(reasons[0].health if reasons else Health.HEALTHY, reasons)


def _said(facts: HealthFacts) -> list[HealthReason]:
    found = []
    for one in facts.models:
        because = f": {one.why}" if one.why else ""
        if one.phase in TROUBLED and not one.version:
            found.append(HealthReason(Health.FAILING, f"{one.model} does not run{because}", one.since))
        elif one.phase in TROUBLED:
            deed = "was rolled back" if one.phase == Phase.ROLLED_BACK else "failed to update"
            found.append(
                HealthReason(Health.DEGRADED, f"{one.model} {deed} and runs {one.version}{because}", one.since)
            )
        elif one.phase not in SETTLED:
            found.append(HealthReason(Health.UPDATING, f"{one.model} is installing ({one.phase})", one.since))
    if facts.is_suspect:
        found.append(
            HealthReason(
                Health.DEGRADED,
                "Its words are not trusted: others refuted a failure that it reported.",
                facts.suspect_since,
            )
        )
    found += [HealthReason(Health.DEGRADED, f"The inputs or answers of {model} drift.") for model in facts.drifting]
    if facts.is_behind:
        found.append(HealthReason(Health.UPDATING, "It has not taken its newest document yet.", facts.behind_since))
    return found
