"""Routes of why latency rose. They only translate."""

from typing import Annotated

from fastapi import APIRouter, Query

from edgefleet_protocol.clock import Clock
from edgefleet_protocol.ids import parse_model_name
from edgefleet_server.access.dependency import Viewer
from edgefleet_server.telemetry.latency.service import LatencyExplainer
from edgefleet_server.telemetry.latency.views import LatencyExplanation
from edgefleet_server.telemetry.timelines.routes import Since, Until, span_of
from edgefleet_server.web.sparse_fields import ListRoute

OfDevice = Annotated[str, Query(max_length=63, description="Only this device, compared with others with its bundles.")]


def build_router(explainer: LatencyExplainer, clock: Clock) -> APIRouter:
    """Return the routes, to be mounted under `/api/v1`."""
    router = APIRouter(tags=["telemetry"], route_class=ListRoute)

    @router.get("/models/{name}/latency-explanation", operation_id="explain_latency")
    def explain_latency(
        name: str, _caller: Viewer, device: OfDevice = "", since: Since = None, until: Until = None
    ) -> LatencyExplanation:
        """Say whether a model's answers got slower, since when and where, and what changed with it, the most likely cause first."""
        return explainer.explain(parse_model_name(name), *span_of(clock, since, until), device)

    return router
