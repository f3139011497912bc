"""Routes of costs. They only translate."""

from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Response

from edgefleet_protocol.ids import parse_model_name
from edgefleet_server.access.dependency import Operator, Viewer
from edgefleet_server.costing import price_list
from edgefleet_server.costing.model import CostBy, CostReport, KnownPrices
from edgefleet_server.costing.schemas import CostIn, PricesIn
from edgefleet_server.costing.service import CostBook
from edgefleet_server.db.database import Database
from edgefleet_server.web.preconditions import DryRun, IfMatch, acting, put_tag, tag_of
from edgefleet_server.web.sparse_fields import ListRoute
from edgefleet_server.web.strict_types import Moment

Model = Annotated[str, Query(max_length=63, description="Only of this model.")]
Group = Annotated[str, Query(max_length=63, description="Only of devices in this group.")]
By = Annotated[CostBy, Query(description="A line for each of these.")]
Since = Annotated[Moment | None, Query(description="Beginning; without it 30 days before the end.")]
Until = Annotated[Moment | None, Query(description="End; without it now.")]
_NONE_SET: Final[dict[int | str, dict[str, Any]]] = {404: {}}
"""No name in the address can be unknown: that no prices are set is said here."""


def build_router(costs: CostBook, db: Database) -> APIRouter:
    """Return the routes of costs, to be mounted under `/api/v1`."""
    router = APIRouter(tags=["cost"], route_class=ListRoute)

    @router.get("/cost", operation_id="get_cost")
    def get_cost(
        _caller: Viewer,
        model: Model = "",
        group: Group = "",
        by: By = CostBy.MODEL,
        since: Since = None,
        until: Until = None,
    ) -> CostReport:
        """Return what models or groups cost in a span of time, in units, in money at the prices that are set, and what would save."""
        return costs.report(
            model=parse_model_name(model) if model else "", group=group, by=by, since=since, until=until
        )

    @router.post("/cost:price", operation_id="price_cost")
    def price_cost(asked: CostIn, _caller: Viewer) -> CostReport:
        """Return what models or groups cost, in money at prices that come with the question; nothing is kept."""
        return costs.report(
            model=parse_model_name(asked.model) if asked.model else "",
            group=asked.group,
            by=asked.by,
            since=asked.since,
            until=asked.until,
            prices=price_list.parsed(asked.prices.document()),
        )

    _add_prices(router, costs, db)
    return router


def _add_prices(router: APIRouter, costs: CostBook, db: Database) -> None:
    @router.get("/prices", operation_id="get_prices", responses=_NONE_SET)
    def get_prices(response: Response, _caller: Viewer) -> KnownPrices:
        """Return the prices that are set."""
        found = costs.prices()
        put_tag(response, _tag(found))
        return found

    @router.put("/prices", operation_id="set_prices")
    def set_prices(
        wanted: PricesIn, response: Response, expected: IfMatch, dry_run: DryRun, caller: Operator
    ) -> KnownPrices:
        """Set the prices that costs are shown at, in the place of those before."""
        with acting(db, dry_run=dry_run), db.session():
            expected.check(lambda: _tag(costs.prices()))
            made = costs.set_prices(wanted.document(), caller.name)
        put_tag(response, _tag(made))
        return made

    @router.delete(
        "/prices", operation_id="remove_prices", status_code=204, response_class=Response, responses=_NONE_SET
    )
    def remove_prices(expected: IfMatch, dry_run: DryRun, _caller: Operator) -> Response:
        """Remove the prices: costs are shown in units alone."""
        with acting(db, dry_run=dry_run), db.session():
            expected.check(lambda: _tag(costs.prices()))
            costs.remove_prices()
        return Response(status_code=204)


def _tag(found: KnownPrices) -> str:
    return tag_of("prices", price_list.document_of(found.prices))
