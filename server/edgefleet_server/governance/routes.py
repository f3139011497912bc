"""Routes of governance. They only translate."""

from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Request
from fastapi.responses import StreamingResponse

from edgefleet_protocol.ids import parse_model_name
from edgefleet_server.access.dependency import Auditor
from edgefleet_server.access.service import AccessService
from edgefleet_server.governance.api_reader import ApiReader
from edgefleet_server.governance.archive_stream import in_own_thread
from edgefleet_server.governance.evidence_maker import EvidenceMaker
from edgefleet_server.registry.service import RegistryService
from edgefleet_server.web import problems
from edgefleet_server.web.sparse_fields import ListRoute
from edgefleet_server.web.strict_types import Moment

BYTES: Final = "application/octet-stream"
_ARCHIVE: Final[dict[int | str, dict[str, Any]]] = {
    200: {"description": "a tar archive", "content": {BYTES: {"schema": {"type": "string", "format": "binary"}}}}
}


def build_evidence_router(maker: EvidenceMaker, registry: RegistryService, access: AccessService) -> APIRouter:
    """Return the routes, to be mounted under `/api/v1`."""
    router = APIRouter(tags=["governance"], route_class=ListRoute)

    @router.get(
        "/models/{name}/evidence",
        operation_id="get_model_evidence",
        response_class=StreamingResponse,
        responses=_ARCHIVE,
    )
    def get_model_evidence(
        name: str,
        caller: Auditor,
        request: Request,
        release: Annotated[str, Query(max_length=127, description="only this release, MODEL@VERSION")] = "",
        since: Moment | None = None,
    ) -> StreamingResponse:
        """Return the evidence of a model as one archive, whose manifest is signed by the key of the audit trail. Reading it is audited."""
        model = registry.model(parse_model_name(name)).name
        if release:
            release = str(registry.resolve(release))
        who = f"{caller.name} ({caller.id})"
        access.record(who, "get_model_evidence", request.url.path, 200, problems.request_id_of(request))
        api = ApiReader(request.app, request.scope, caller)
        pieces = maker.archive(api, model, by=who, release=release, since=since)
        return StreamingResponse(in_own_thread(pieces), media_type=BYTES)

    return router
