"""The operator and the device app on the house's services, without sockets."""

from typing import Any, cast

from fastapi.testclient import TestClient

from edgefleet_server.access.model import Role
from edgefleet_server.access.trusted_pipelines.service import PipelineBook
from edgefleet_server.alerting.alert_rules.drift_rules import FRESH
from edgefleet_server.alerting.service import AlertService
from edgefleet_server.composition.alarm_container import Watched, build_alarm
from edgefleet_server.composition.container import (
    Parts,
    build_access,
    build_identities,
    build_prediction_logs,
    build_prover,
)
from edgefleet_server.composition.judge_container import build_governance
from edgefleet_server.composition.objective_container import build_costing, build_objectives
from edgefleet_server.composition.timeline_container import build_timelines
from edgefleet_server.composition.trigger_container import Sources, build_retraining
from edgefleet_server.dashboard.core.readings import Readings
from edgefleet_server.dashboard.story.today import TodayReader
from edgefleet_server.fleet.inventory.fleet_counts import VersionPlaces
from edgefleet_server.fleet.presence.fleet_samples import FleetSampler
from edgefleet_server.observability.health import Health
from edgefleet_server.observability.prometheus import Metrics
from edgefleet_server.rollout.retirement import ReleaseRetirement
from edgefleet_server.rollout.service import RolloutService
from edgefleet_server.search.service import SearchService
from edgefleet_server.telemetry.captures import CaptureService
from edgefleet_server.telemetry.live_predictions import LivePredictions
from edgefleet_server.telemetry.predictions.erasure import Erasures
from edgefleet_server.telemetry.release_comparison import Comparisons
from edgefleet_server.telemetry.rollups.model import KEPT
from tests.server.access.accounts_house import quick_hasher
from tests.server.fleet.house import House
from tests.support.apps import shared_app, shared_device_app


def parts_of(house: House) -> Parts:
    """Return the parts that routes get."""
    rollout = RolloutService(house.db, house.fleet, house.registry, house.clock, house.telemetry)
    access = build_access(house.db, house.clock, house.fleet, house.webhooks.sealer, hasher=quick_hasher())
    predictions = build_prediction_logs(house.settings, house.db, house.clock, house.fleet, access)
    objectives = build_objectives(
        *(house.db, house.fleet, house.registry, house.telemetry, house.accuracy, house.clock, house.clock)
    )
    watched = Watched(
        *(house.fleet, house.telemetry, house.signing, house.webhooks),
        *(house.registry, house.drift, objectives, access),
    )
    alarm = build_alarm(house.db, watched, clock=house.clock, shared=house.clock, settings=house.settings)
    return Parts(
        settings=house.settings,
        clock=house.clock,
        shared=house.clock,
        db=house.db,
        access=access,
        pipelines=PipelineBook(house.db, house.clock, access, house.poster.get, house.settings.dashboard_address),
        identities=build_identities(house.db, house.clock, access, house.poster, house.settings),
        sealer=house.webhooks.sealer,
        signing=house.signing,
        registry=house.registry,
        conversion=cast("Any", house.jobs),
        prover=build_prover(house.settings, house.registry, house.signing, house.clock),
        fleet=house.fleet,
        sampler=FleetSampler(house.db, house.clock, KEPT, FRESH, house.drift.is_measured),
        places=VersionPlaces(house.db, house.clock),
        rollout=rollout,
        retirement=ReleaseRetirement(
            house.db, house.registry, house.signing, cast("Any", house.jobs), rollout, house.fleet
        ),
        telemetry=house.telemetry,
        costs=house.costs,
        drift=house.drift,
        truth=house.truth,
        timelines=build_timelines(house.db, house.clock, house.fleet, house.registry, house.telemetry, house.drift),
        comparisons=Comparisons(house.registry, house.costs, house.telemetry, house.clock),
        captures=CaptureService(house.db, house.clock, house.fleet.reader, house.fleet.sampling, house.fleet.desired),
        predictions=predictions,
        erasures=Erasures(house.db, house.clock, house.fleet.logging, predictions, house.fleet.feed),
        today=TodayReader(house.fleet.feed, house.fleet.health, cast("Any", house.registry), house.clock),
        readings=Readings(house.clock),
        poster=house.poster,
        webhooks=house.webhooks,
        alerts=AlertService(house.db, rollout, house.clock),
        objectives=objectives,
        costing=build_costing(
            *(house.db, house.clock, house.fleet, house.registry, house.telemetry, cast("Any", house.jobs)),
            predictions,
        ),
        alarm=alarm,
        retraining=build_retraining(
            house.db, Sources(watched, alarm, rollout, house.webhooks.sealer, {}), house.clock, house.clock
        ),
        watching=LivePredictions(house.db, house.clock, house.fleet.reader, house.fleet.desired),
        governance=build_governance(house.db, house.clock, house.registry, house.signing, access.chain),
        search=SearchService(house.db, house.fleet.finder, house.registry, rollout),
        metrics=Metrics(),
        health=Health(),
    )


class Operators:
    """A client of the operator routes for each role."""

    def __init__(self, house: House) -> None:
        self.parts = parts_of(house)
        self.app = shared_app(self.parts)

    def as_role(self, role: Role | None, name: str = "ann") -> TestClient:
        """Return a client with a fresh token of a person."""
        headers = {}
        if role is not None:
            made = self.parts.access.create_token(name, [role], by="test")
            headers["authorization"] = f"Bearer {made.token}"
        return TestClient(self.app, base_url="http://server.test/api/v1", headers=headers)


def device_client(house: House) -> TestClient:
    """Return a client of the device listener's app."""
    return TestClient(shared_device_app(parts_of(house)), base_url="https://server.test/device/v1")
