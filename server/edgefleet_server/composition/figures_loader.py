"""Loads the figures of fleet and models for `/metrics` from the services that know them (docs/operate/monitoring.md).

Only releases and groups that the server itself knows have series: what a device says of itself makes none.
"""

import shutil
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Final

from edgefleet_protocol.clock import Clock
from edgefleet_server.alerting.active_alerts.service import ActiveAlerts
from edgefleet_server.alerting.alert_rules.drift_rules import FRESH
from edgefleet_server.alerting.alert_rules.rule_table import RULES
from edgefleet_server.events.log import EventLog
from edgefleet_server.fleet.inventory.fleet_counts import FleetCounter, FleetCounts, Limits
from edgefleet_server.objectives.model import BudgetState
from edgefleet_server.objectives.service import ObjectiveBook
from edgefleet_server.observability.fleet_figures import figure_table as table
from edgefleet_server.observability.fleet_figures.values import BY_GROUP, BY_RELEASE, FigureValues, put_sums
from edgefleet_server.registry.service import RegistryService
from edgefleet_server.signing.errors import RepositoryMissingError
from edgefleet_server.signing.service import SigningService
from edgefleet_server.telemetry.drift.device_words import DeviceWords
from edgefleet_server.telemetry.rollups.model import Dimension
from edgefleet_server.telemetry.rollups.rollup_reader import RollupReader

CERTIFICATE_ENDS: Final = timedelta(days=RULES["certificate_ends"].threshold)
LEAST_FREE_MB: Final = RULES["disk_full"].threshold
REAL: Final = {Dimension.LANE: ("active",)}
"""Answers to real requests."""
TROUBLED: Final = ("failed", "rolled_back")


@dataclass(frozen=True, slots=True)
class FigureSources:
    """Where figures come from. folder: of the data, on the disk whose space is a figure."""

    counter: FleetCounter
    registry: RegistryService
    feed: EventLog
    alerts: ActiveAlerts
    signing: SigningService
    folder: Path
    rollups: RollupReader
    objectives: ObjectiveBook


class FiguresLoader:
    """Loads figures. Thread-safe; calls block."""

    def __init__(self, sources: FigureSources, clock: Clock) -> None:
        """Wire the sources."""
        self._sources = sources
        self._clock = clock
        self._words = DeviceWords(sources.feed, clock)

    def load(self) -> FigureValues:
        """Return the values of now."""
        values, source = FigureValues(), self._sources
        values.put(table.BUILD, 1, version("edgefleet"))
        bundles = source.registry.bundle_counts()
        models = {model for model, _version in bundles}
        now = self._clock.now()
        counts = source.counter.count(Limits(now - FRESH, now + CERTIFICATE_ENDS, LEAST_FREE_MB))
        _put_fleet(values, counts)
        _put_releases(values, counts, bundles, models)
        _put_totals(values, source.rollups, bundles, {one.group for one in counts.groups})
        self._put_drift(values, counts, models)
        self._put_objectives(values)
        self._put_alerts(values)
        self._put_server(values)
        return values

    def _put_drift(self, values: FigureValues, counts: FleetCounts, models: set[str]) -> None:
        """Put the devices whose state says drift, as alerts count them; how strong it is stands in their events."""
        drifting = {(one.model, one.device) for one in counts.drifts if one.model in models}
        devices = Counter(model for model, _device in drifting)
        effects: dict[str, float] = dict.fromkeys(models, 0.0)
        for word in self._words.open() if drifting else ():
            if (word.model, word.device) in drifting:
                effects[word.model] = max(effects[word.model], word.psi)
        values.put_all(table.DRIFTING, {model: devices[model] for model in models}.items())
        values.put_all(table.DRIFT_EFFECT, effects.items())

    def _put_objectives(self, values: FigureValues) -> None:
        for slo in self._sources.objectives.slos():
            labels = (slo.model, slo.name)
            values.put(table.SLO_TARGET, slo.target, *labels)
            if slo.left is not None:
                values.put(table.SLO_LEFT, slo.left, *labels)
            for state in BudgetState:
                values.put(table.SLO_STATE, float(state is slo.state), *labels, state.value)

    def _put_alerts(self, values: FigureValues) -> None:
        for rule in RULES.values():  # a rule that finds nothing has a series, too: rates and graphs begin at 0
            values.put(table.ALERTS, 0, rule.name, rule.severity.value, "firing")
        values.put_all(table.ALERTS, self._sources.alerts.counts_by_rule().items())

    def _put_server(self, values: FigureValues) -> None:
        try:
            roles = self._sources.signing.roles()
        except RepositoryMissingError:
            roles = []
        values.put_all(table.METADATA_END, {role.name: role.expires.timestamp() for role in roles}.items())
        count, size = self._sources.registry.unnamed.total()
        values.put(table.UNNAMED, count)
        values.put(table.UNNAMED_SIZE, size)
        disk = shutil.disk_usage(self._sources.folder)
        values.put(table.DISK_FREE, disk.free)
        values.put(table.DISK_SIZE, disk.total)


def _put_fleet(values: FigureValues, counts: FleetCounts) -> None:
    status = {"online": counts.online, "offline": counts.offline, "unknown": counts.unknown, "revoked": counts.revoked}
    values.put_all(table.DEVICES, status.items())
    values.put(table.AWAY, counts.away)
    values.put_all(table.PROFILES, counts.profiles.items())
    values.put_all(table.GROUPS, {one.group: one.devices for one in counts.groups}.items())
    values.put_all(table.GROUPS_AWAY, {one.group: one.away for one in counts.groups}.items())
    values.put(table.LOW_DISK, counts.low_disk)
    values.put(table.CERTIFICATES, counts.certificates_end)
    if counts.first_certificate_end is not None:
        values.put(table.FIRST_CERTIFICATE, counts.first_certificate_end.timestamp())


def _put_releases(
    values: FigureValues, counts: FleetCounts, bundles: Mapping[tuple[str, str], int], models: set[str]
) -> None:
    values.put_all(table.BUNDLES, bundles.items())
    values.put_all(table.RUNNING, {release: counts.versions.get(release, 0) for release in bundles}.items())
    values.put_all(table.UPDATES, {(model, state): 0 for model in models for state in TROUBLED}.items())
    values.put_all(table.UPDATES, {key: n for key, n in counts.updates.items() if key[0] in models}.items())


def _put_totals(
    values: FigureValues, rollups: RollupReader, releases: Collection[tuple[str, str]], groups: Collection[str]
) -> None:
    models = {model for model, _version in releases}
    for (model, number), sums in rollups.totals(by=(Dimension.MODEL, Dimension.VERSION), where=REAL).items():
        if (model, number) in releases:
            put_sums(values, BY_RELEASE, (model, number), sums)
    for (group, model), sums in rollups.totals(by=(Dimension.GROUP, Dimension.MODEL), where=REAL).items():
        if group in groups and model in models:
            put_sums(values, BY_GROUP, (group, model), sums)
