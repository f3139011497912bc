"""Loads the facts that rules look at, from the services that know them."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final, Protocol

from edgefleet_protocol.messages import EventKind
from edgefleet_server.alerting.alert_facts.drift_verdicts import DriftVerdicts
from edgefleet_server.alerting.alert_facts.model_facts import ModelFacts
from edgefleet_server.alerting.alert_rules.device_rules import DISK_CLEARS_AT
from edgefleet_server.alerting.alert_rules.drift_rules import FRESH
from edgefleet_server.alerting.alert_rules.fleet_facts import (
    BrokenGlassFact,
    DeviceFact,
    DiskFact,
    DriftWordFact,
    Facts,
    GroupFact,
    KeyFact,
    Look,
    ModelFact,
    ProtectionFact,
    RunTroubleFact,
    TokenFact,
    TrailFact,
    UpdateFact,
)
from edgefleet_server.alerting.alert_rules.model_rules import in_question, taken
from edgefleet_server.alerting.alert_rules.rule_table import RULES
from edgefleet_server.alerting.alert_rules.server_rules import AFTERWARDS
from edgefleet_server.fleet.inventory.device_health import DeviceHealth, DeviceHealthReader, DeviceNeeds
from edgefleet_server.fleet.inventory.device_list import Trouble
from edgefleet_server.fleet.protection.model import ProtectionRule
from edgefleet_server.fleet.reported.absence import habit_s
from edgefleet_server.telemetry.series import SeriesReader, WindowFigures

SETTLED: Final = timedelta(seconds=10)
MAX_WINDOWS: Final = 20_000
MAX_UPDATES: Final = 1_000
MAX_RUNS: Final = 2_000
RUN_REACH: Final = timedelta(hours=24)
RUN_KINDS: Final = (EventKind.RUN_FAILED.value, EventKind.RUN_MISSED.value)
TOKENS_AHEAD: Final = timedelta(days=RULES["token_ends"].most)
Records = Mapping[tuple[str, str], ModelFact]


class Role(Protocol):
    """A role of signed metadata."""

    @property
    def name(self) -> str:
        """Its name."""
        ...

    @property
    def expires(self) -> datetime:
        """When it ends."""
        ...

    @property
    def resign_at(self) -> datetime | None:
        """When the server signs it again, None: a person does."""
        ...


class OwnCheck(Protocol):
    """What the server found when it read its audit trail again."""

    @property
    def broken_n(self) -> int:
        """The first entry that does not follow the one before it, 0: all that was read holds."""
        ...

    @property
    def whole_at(self) -> datetime | None:
        """When it was last read to its end without a break."""
        ...


class EndingToken(Protocol):
    """A token that nobody revoked, as `access` shows it."""

    @property
    def id(self) -> str:
        """Its id, which is not secret."""
        ...

    @property
    def name(self) -> str:
        """Its name."""
        ...

    @property
    def person(self) -> str:
        """Who owns it."""
        ...

    @property
    def created_at(self) -> datetime:
        """When it was made."""
        ...

    @property
    def expires_at(self) -> datetime | None:
        """When it ends."""
        ...

    @property
    def last_used_at(self) -> datetime | None:
        """When it was last used, None: never."""
        ...


@dataclass(frozen=True)
class Sources:
    """Where facts come from. troubled: the newest failed updates, at most so many; roles: of signed metadata; ca_ends: when
    the CAs of devices end; trail: of the audit trail; tokens: that end between two times; folder: on the disk;
    devices_that_said: kind, model and device of events of some kinds since a moment, at most so many.
    """

    health: DeviceHealthReader
    series: SeriesReader
    troubled: Callable[[int], Sequence[Trouble]]
    roles: Callable[[], Sequence[Role]]
    ca_ends: Callable[[], Sequence[datetime]]
    trail: Callable[[], OwnCheck]
    tokens: Callable[[datetime, datetime], Sequence[EndingToken]]
    folder: Path
    verdicts: DriftVerdicts
    models: ModelFacts
    protections: Callable[[], Sequence[ProtectionRule]]
    devices_that_said: Callable[[Sequence[str], datetime, int], Sequence[tuple[str, str, str]]]


class FactsLoader:
    """Loads facts. Thread-safe; calls block."""

    def __init__(self, sources: Sources) -> None:
        """Wire the sources."""
        self._sources = sources

    def windows(self, position: int | None, now: datetime) -> tuple[list[WindowFigures], int]:
        """Return the windows after a position, and the next position. None: nothing was read before, so begin at the newest."""
        series = self._sources.series
        if position is None:
            return [], series.position()
        found = series.after(position, now - SETTLED, MAX_WINDOWS)
        return found, found[-1].id if found else position

    def load(self, now: datetime, models: Records, thresholds: Mapping[str, float]) -> Facts:
        """Return all facts of now: of devices those that a rule may say something of (ADR 0165).

        thresholds: of the rules that are enabled, by name.
        """
        found = self._fleet_facts(now, models)
        counts = self._sources.health.counts()
        devices = self._sources.health.devices(_needs(found, thresholds))
        return replace(found, devices=[_device(one, now) for one in devices], live=counts.live, sites=counts.sites)

    def _fleet_facts(self, now: datetime, models: Records) -> Facts:
        """Return all facts but those of devices."""
        source = self._sources
        verdicts, names = source.verdicts.known()
        disk = shutil.disk_usage(source.folder)
        trail = source.trail()
        return Facts(
            now=now,
            groups=[GroupFact(one.group, one.devices, one.away) for one in source.health.groups()],
            updates=[
                UpdateFact(one.device, one.model, one.state, one.error_class, one.reason, one.changed_at)
                for one in source.troubled(MAX_UPDATES)
            ],
            models=list(models.values()),
            keys=[KeyFact(f"TUF role {one.name}", one.expires, one.resign_at) for one in source.roles()],
            ca_ends=source.ca_ends(),
            disks=[DiskFact("the data folder", disk.total, disk.free)],
            trail=TrailFact(trail.broken_n, trail.whole_at),
            tokens=[_token(one) for one in source.tokens(now - AFTERWARDS, now + TOKENS_AHEAD)],
            drift_words=[
                DriftWordFact(one.device, one.model, one.signals)
                for one in source.health.drifts(now - FRESH)
                if one.model in names
            ],
            drift_verdicts=verdicts,
            slos=source.models.slos(),
            totals=[one for one in source.models.totals(now) if one.model in names],
            protections=[_protection(one) for one in source.protections()],
            run_troubles=[
                RunTroubleFact(device, model, kind == EventKind.RUN_MISSED.value)
                for kind, model, device in source.devices_that_said(RUN_KINDS, now - RUN_REACH, MAX_RUNS)
                if model in names
            ],
        )

    def refresh(self, now: datetime) -> None:
        """Do what takes longer, for the next evaluation."""
        self._sources.verdicts.refresh(now)


def with_windows(known: Records, windows: Sequence[WindowFigures]) -> dict[tuple[str, str], ModelFact]:
    """Return the records that windows change, as they are then."""
    changed: dict[tuple[str, str], ModelFact] = {}
    for one in windows:
        key = (one.device, one.model)
        look = Look(one.at, one.n, one.bad, one.nonfinite, one.p95_ms)
        changed[key] = taken(changed.get(key) or known.get(key), one.device, one.model, one.version, look)
    return changed


def _needs(facts: Facts, thresholds: Mapping[str, float]) -> DeviceNeeds:
    """Return which devices the rules have to know, next to those that are away or suspect."""
    days, room_mb = thresholds.get("certificate_ends"), thresholds.get("disk_full")
    judged = (signal.devices for verdict in facts.drift_verdicts for signal in verdict.signals)
    return DeviceNeeds(
        ends_before=None if days is None else facts.now + timedelta(days=days),
        free_below_mb=None if room_mb is None else room_mb * DISK_CLEARS_AT,
        named={
            *in_question(facts.models, facts.now, thresholds),
            *(one.device for one in facts.updates),
            *(one.device for one in facts.drift_words),
            *(one.device for one in facts.run_troubles),
            *(device for devices in judged for device in devices),
        },
    )


def _token(one: EndingToken) -> TokenFact:
    assert one.expires_at is not None  # it was asked for by its end
    return TokenFact(one.id, one.name, one.person, one.created_at, one.expires_at, one.last_used_at)


def _protection(one: ProtectionRule) -> ProtectionFact:
    broken = [BrokenGlassFact(glass.by, glass.reason, glass.until) for glass in one.broken]
    return ProtectionFact(one.name, one.devices, one.ends_at, one.ending_by, broken)


def _device(one: DeviceHealth, now: datetime) -> DeviceFact:
    is_away = one.offline_since is not None and one.is_online is not True
    away_s = (now - one.offline_since).total_seconds() if is_away and one.offline_since is not None else None
    return DeviceFact(
        id=one.id,
        name=one.name,
        profile=one.profile,
        site=one.site,
        away_s=None if away_s is None else max(0.0, away_s),
        habit_s=habit_s(one.absences) if one.absences else None,
        cert_not_after=one.cert_not_after,
        free_mb=one.free_mb,
        suspect_since=one.suspect_since,
        suspect_reason=one.suspect_reason,
    )
