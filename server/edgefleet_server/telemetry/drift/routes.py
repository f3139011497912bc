"""Routes of drift. They only translate."""

from typing import Annotated

from fastapi import APIRouter, Query, Response

from edgefleet_protocol.ids import ReleaseRef, parse_model_name
from edgefleet_server.access.dependency import Operator, Viewer
from edgefleet_server.db.database import Database
from edgefleet_server.telemetry.drift.schemas import BaselineIn
from edgefleet_server.telemetry.drift.service import DriftService
from edgefleet_server.telemetry.drift.views import DriftBaselineView, ModelDrift, SignalDriftDetail
from edgefleet_server.telemetry.signals.model import Scale
from edgefleet_server.web.preconditions import DryRun, IfMatch, acting, put_tag, tag_of
from edgefleet_server.web.sparse_fields import ListRoute

Version = Annotated[
    str, Query(max_length=63, description="Version or alias; without it the one that most devices report.")
]
AtScale = Annotated[
    Scale | None, Query(description="Over how long answers are added up; without it an hour, or a day where no hour has figures.")
]  # fmt: skip


def build_router(drift: DriftService, db: Database) -> APIRouter:
    """Return the routes, to be mounted under `/api/v1`."""
    router = APIRouter(tags=["telemetry"], route_class=ListRoute)
    baselines = drift.baselines

    @router.get("/models/{name}/drift", operation_id="get_model_drift")
    def get_model_drift(name: str, _caller: Viewer, version: Version = "", scale: AtScale = None) -> ModelDrift:
        """Say whether what a model is asked or answers differs from its reference, signal by signal, and where in the fleet."""
        return drift.of_model(parse_model_name(name), version, scale)

    @router.get("/models/{name}/drift/{signal}", operation_id="get_signal_drift")
    def get_signal_drift(
        name: str, signal: str, _caller: Viewer, version: Version = "", scale: AtScale = None
    ) -> SignalDriftDetail:
        """Return one signal with its histograms before and after, by cohort, and the devices with the largest effect."""
        return drift.of_signal(parse_model_name(name), signal, version, scale)

    @router.get("/releases/{ref}/drift-baseline", operation_id="get_drift_baseline")
    def get_drift_baseline(ref: str, response: Response, _caller: Viewer) -> DriftBaselineView:
        """Return the period that was chosen as normal for a release."""
        found = baselines.get(ReleaseRef.parse(ref))
        put_tag(response, _tag(found))
        return found

    @router.put(
        "/releases/{ref}/drift-baseline",
        operation_id="set_drift_baseline",
        responses={201: {"model": DriftBaselineView, "description": "it is new"}},
    )
    def set_drift_baseline(
        ref: str, wanted: BaselineIn, response: Response, expected: IfMatch, dry_run: DryRun, caller: Operator
    ) -> DriftBaselineView:
        """Judge a release by what devices counted of it in a period, each device with the same weight."""
        parsed = ReleaseRef.parse(ref)
        with acting(db, dry_run=dry_run), db.session():
            expected.check(lambda: _tag(baselines.get(parsed)))
            found, is_new = baselines.set(parsed, *wanted.period(), by=caller.name)
        drift.forget(parsed.model)
        response.status_code = 201 if is_new else 200
        put_tag(response, _tag(found))
        return found

    @router.delete(
        "/releases/{ref}/drift-baseline",
        operation_id="clear_drift_baseline",
        status_code=204,
        response_class=Response,
    )
    def clear_drift_baseline(ref: str, expected: IfMatch, dry_run: DryRun, _caller: Operator) -> Response:
        """Judge a release by the references of its bundles again."""
        parsed = ReleaseRef.parse(ref)
        with acting(db, dry_run=dry_run), db.session():
            expected.check(lambda: _tag(baselines.get(parsed)))
            baselines.clear(parsed)
        drift.forget(parsed.model)
        return Response(status_code=204)

    return router


def _tag(found: DriftBaselineView) -> str:
    return tag_of(found.release, found.since, found.until, found.set_at)
