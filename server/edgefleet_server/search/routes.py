"""The route of the search. It only translates."""

from typing import Annotated

from fastapi import APIRouter, Query

from edgefleet_server.access.dependency import Viewer
from edgefleet_server.search.model import Hit
from edgefleet_server.search.service import EACH, SearchService
from edgefleet_server.web.pagination import ListOf
from edgefleet_server.web.sparse_fields import ListRoute


def build_router(search: SearchService) -> APIRouter:
    """Return the route, to be mounted under `/api/v1`."""
    router = APIRouter(tags=["search"], route_class=ListRoute)

    @router.get("/search", operation_id="find_anything")
    def find_anything(
        _caller: Viewer,
        q: Annotated[str, Query(min_length=1, max_length=128, description="a part of a name, or of a label's value")],
        limit: Annotated[int, Query(ge=1, le=50, description="of each kind")] = EACH,
    ) -> ListOf[Hit]:
        """Find devices, groups, models, releases and rollouts by a part of their names; the best of each kind first."""
        found = search.find(q, limit)
        return ListOf.whole(found)

    return router
