"""Objectives and costs, wired on one database."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgefleet_protocol.clock import Clock
from edgefleet_server.composition.fleet_container import Fleet
from edgefleet_server.conversion.reports import load_report
from edgefleet_server.conversion.service import ConversionService
from edgefleet_server.costing.service import CostBook, Sources
from edgefleet_server.costing.traffic_ledger import TrafficLedger
from edgefleet_server.db.database import Database
from edgefleet_server.fleet.inventory.fleet_counts import FleetCounter
from edgefleet_server.objectives.service import ObjectiveBook
from edgefleet_server.objectives.slo_indicators import Indicators
from edgefleet_server.registry.model import BundleView
from edgefleet_server.registry.service import RegistryService
from edgefleet_server.telemetry.captures import CaptureService
from edgefleet_server.telemetry.ground_truth.accuracy import AccuracyService
from edgefleet_server.telemetry.predictions.service import PredictionLogs
from edgefleet_server.telemetry.service import TelemetryService


@dataclass(frozen=True, slots=True)
class Costing:
    """What reads costs, and what counts bytes where they pass."""

    book: CostBook
    traffic: TrafficLedger


def build_costing(  # what costs come from
    db: Database,
    clock: Clock,
    fleet: Fleet,
    registry: RegistryService,
    telemetry: TelemetryService,
    conversion: ConversionService,
    predictions: PredictionLogs,
) -> Costing:
    """Wire the parts. Touches nothing."""

    def report(bundle: BundleView) -> Mapping[str, Any] | None:
        jobs = registry.release(bundle.ref).jobs
        return next((load_report(registry, one.report) for one in jobs if one.profile == bundle.profile), None)

    captures = CaptureService(db, clock, fleet.reader, fleet.sampling, fleet.desired)
    sources = Sources(
        conversion.seconds_by_model,
        predictions.stored_bytes,
        captures.stored_bytes,
        FleetCounter(db).running_bundles,
        fleet.groups.editable,
        report,
    )
    return Costing(
        CostBook(db, clock, registry, telemetry.rollups, sources),
        TrafficLedger(db, clock, registry, fleet.memberships.of),
    )


def build_objectives(  # what they count from, and two clocks
    db: Database,
    fleet: Fleet,
    registry: RegistryService,
    telemetry: TelemetryService,
    accuracy: AccuracyService,
    clock: Clock,
    shared: Clock,
) -> ObjectiveBook:
    """Wire objectives. Touches nothing. shared: the clock that all processes of the database go by."""
    indicators = Indicators(db, telemetry.rollups, fleet.devices, registry, accuracy)
    return ObjectiveBook(db, indicators, registry, clock, shared)
