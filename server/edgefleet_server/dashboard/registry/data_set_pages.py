"""The page of data sets: which were written from captured records, by whom and where, and which hold records of an erased person."""

from typing import Annotated, Any, Final, Protocol

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from edgefleet_server.dashboard.core.layout import Shell
from edgefleet_server.db.keyset import PageRequest
from edgefleet_server.telemetry.predictions.model import WrittenDataSetView

SHOWN: Final = 50
KINDS: Final = {"there": "ok", "purged": "off", "holds_erased": "warn"}
Pick = Annotated[str, Query(max_length=63)]


class DataSets(Protocol):
    """What is needed of the registry of data sets."""

    def data_sets(self, model: str, digest: str, page: PageRequest) -> tuple[list[WrittenDataSetView], int]:
        """Return up to `limit` + 1 data sets, newest first, and how many there are."""
        ...


def add_pages(router: APIRouter, shell: Shell, data_sets: DataSets) -> None:
    """Add the page."""

    @router.get("/data-sets", operation_id="show_data_sets")
    def show_data_sets(request: Request, model: Pick = "") -> Response:
        """Show data sets, newest first, of all models or of one."""

        def build() -> dict[str, Any]:
            found, total = data_sets.data_sets(model, "", PageRequest(SHOWN))
            shown = found[:SHOWN]
            holding = sum(one.state == "holds_erased" for one in shown)
            return {"sets": shown, "total": total, "holding": holding, "model": model, "kinds": KINDS}

        return shell.shown(request, "registry/data_sets.html", build, tab="models")
