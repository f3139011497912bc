"""Routes of ground truth. They only translate."""

from typing import Annotated

from fastapi import APIRouter, Query, Response
from pydantic import AwareDatetime

from edgefleet_protocol.ids import parse_model_name
from edgefleet_server.access.dependency import Operator, Viewer
from edgefleet_server.telemetry.ground_truth.accuracy import AccuracyBy, AccuracyService
from edgefleet_server.telemetry.ground_truth.schemas import FeedbackIn
from edgefleet_server.telemetry.ground_truth.upload_views import FeedbackUploadView
from edgefleet_server.telemetry.ground_truth.uploads import FeedbackUploads
from edgefleet_server.telemetry.ground_truth.views import ModelAccuracy
from edgefleet_server.web.pagination import ListOf
from edgefleet_server.web.preconditions import put_location
from edgefleet_server.web.sparse_fields import ListRoute

Version = Annotated[str, Query(max_length=63, description="Version or alias; without it all versions.")]
Since = Annotated[
    AwareDatetime | None, Query(description="Beginning of the period; without it 30 days before its end.")
]
Until = Annotated[AwareDatetime | None, Query(description="End of the period; without it now.")]
Limit = Annotated[int, Query(ge=1, le=200)]
LinesBy = Annotated[AccuracyBy, Query(description="What each line is of.")]


def build_router(accuracy: AccuracyService, uploads: FeedbackUploads) -> APIRouter:
    """Return the routes of ground truth, to be mounted under `/api/v1`."""
    router = APIRouter(tags=["telemetry"], route_class=ListRoute)

    @router.get("/models/{name}/accuracy", operation_id="get_model_accuracy")
    def get_model_accuracy(
        name: str,
        _caller: Viewer,
        version: Version = "",
        by: LinesBy = AccuracyBy.RELEASE,
        since: Since = None,
        until: Until = None,
    ) -> ModelAccuracy:
        """Return what labels say of a model over time: accuracy with its interval, errors of numbers, business figures."""
        return accuracy.of_model(parse_model_name(name), version=version, by=by, since=since, until=until)

    @router.post("/models/{name}/feedback", operation_id="send_feedback", status_code=202)
    def send_feedback(name: str, wanted: FeedbackIn, response: Response, caller: Operator) -> FeedbackUploadView:
        """Send labels that came later: the devices that gave the answers get them, pair them and count."""
        taken = uploads.take(parse_model_name(name), wanted.rows(), f"{caller.name} ({caller.id})")
        put_location(response, f"/models/{taken.model}/feedback/{taken.id}")
        return taken

    @router.get("/models/{name}/feedback", operation_id="list_feedback")
    def list_feedback(name: str, _caller: Viewer, limit: Limit = 50) -> ListOf[FeedbackUploadView]:
        """List labels of a model that were sent in bulk, newest first, and how they fared."""
        return ListOf.whole(uploads.uploads(parse_model_name(name), limit))

    @router.get("/models/{name}/feedback/{upload_id}", operation_id="get_feedback")
    def get_feedback(name: str, upload_id: str, _caller: Viewer) -> FeedbackUploadView:
        """Return how labels that were sent in bulk fared: matched, unmatched, late; rows that could not be read; devices that failed."""
        return uploads.upload(upload_id, parse_model_name(name))

    return router
