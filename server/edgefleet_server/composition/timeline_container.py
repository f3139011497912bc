"""Figures over time and the question why latency rose, wired on one database."""

from dataclasses import dataclass

from edgefleet_protocol.clock import Clock
from edgefleet_server.composition.fleet_container import Fleet
from edgefleet_server.db.database import Database
from edgefleet_server.registry.service import RegistryService
from edgefleet_server.telemetry.drift.device_words import DeviceWords
from edgefleet_server.telemetry.drift.service import DriftService
from edgefleet_server.telemetry.latency.evidence_loader import EvidenceLoader
from edgefleet_server.telemetry.latency.service import LatencyExplainer
from edgefleet_server.telemetry.service import TelemetryService
from edgefleet_server.telemetry.timelines.service import TimelineReader, check_of


@dataclass(frozen=True, slots=True)
class Timelines:
    """Both parts. Thread-safe; calls block."""

    reader: TimelineReader
    explainer: LatencyExplainer


def build_timelines(
    db: Database,
    clock: Clock,
    fleet: Fleet,
    registry: RegistryService,
    telemetry: TelemetryService,
    drift: DriftService,
) -> Timelines:
    """Wire the parts. Touches nothing."""
    check = check_of(registry.model, fleet.groups.editable, fleet.reader.check)
    loader = EvidenceLoader(db, clock, telemetry.rollups, fleet.reader.crowds_of, DeviceWords(fleet.feed, clock))
    return Timelines(
        TimelineReader(db, clock, telemetry.rollups, fleet.feed, drift, fleet.presence, check, fleet.reader.facts_of),
        LatencyExplainer(loader, registry.model, fleet.reader.check),
    )
