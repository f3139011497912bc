"""The page of costs: what models and groups cost, what would save, and the prices."""

import json
from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from edgefleet_protocol.clock import Clock
from edgefleet_protocol.ids import parse_model_name
from edgefleet_server.costing import price_list
from edgefleet_server.costing.model import CostBy
from edgefleet_server.costing.service import CostBook
from edgefleet_server.dashboard.core.layout import Shell
from edgefleet_server.dashboard.costs.cost_words import EXAMPLE, amount, energy, energy_part, headline
from edgefleet_server.dashboard.timelines.time_range import AskedQuery, TimeRange

TAB: Final = "cost"
SPANS: Final[Mapping[str, timedelta]] = {
    "24h": timedelta(days=1),
    "7d": timedelta(days=7),
    "30d": timedelta(days=30),
    "1y": timedelta(days=365),
}
USUAL: Final = "30d"
Name = Annotated[str, Query(max_length=63)]


def add_pages(router: APIRouter, shell: Shell, costs: CostBook, clock: Clock) -> None:
    """Add the page."""

    @router.get("/cost", operation_id="show_cost")
    def show_cost(
        request: Request, asked: AskedQuery, by: CostBy = CostBy.MODEL, model: Name = "", group: Name = ""
    ) -> Response:
        """Show what models or groups cost in a span of time, in units and in money, and what would save."""

        def build() -> dict[str, Any]:
            chosen, now = asked.span if asked.span in SPANS else USUAL, clock.now()
            window = asked.window(now)
            since, until = window or (now - SPANS[chosen], None)
            known = parse_model_name(model) if model else ""
            found = costs.report(model=known, group=group, by=by, since=since, until=until)
            prices = costs.known_prices()
            days = max(1, round((found.until - found.since).total_seconds() / 86_400))
            return {
                "is_still": True,
                "found": found,
                "head": headline(found, days),
                "amount": amount,
                "energy": energy,
                "energy_part": energy_part,
                "document": EXAMPLE if prices is None else json.dumps(price_list.document_of(prices), indent=2),
                "is_priced": prices is not None,
                "period": TimeRange(
                    span="" if window else chosen,
                    spans=list(SPANS),
                    usual=USUAL,
                    window=asked.kept(*window) if window else None,
                    other=(("by", "" if by is CostBy.MODEL else by.value), ("model", known), ("group", group)),
                ),
                "choices": [(one.value, one is by) for one in CostBy],
            }

        return shell.shown(request, "costs/cost.html", build, tab=TAB)
