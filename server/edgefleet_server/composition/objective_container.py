"""Objectives, wired on one database."""

from edgefleet_protocol.clock import Clock
from edgefleet_server.composition.fleet_container import Fleet
from edgefleet_server.db.database import Database
from edgefleet_server.objectives.service import ObjectiveBook
from edgefleet_server.objectives.slo_indicators import Indicators
from edgefleet_server.registry.service import RegistryService
from edgefleet_server.telemetry.ground_truth.accuracy import AccuracyService
from edgefleet_server.telemetry.service import TelemetryService


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
