"""The page of a model card: what was measured and stated of a release, ready to be printed, and the form to state it."""

from typing import Annotated, Any, Final

from fastapi import APIRouter, Path, Request
from fastapi.responses import Response

from edgefleet_protocol.ids import ReleaseRef
from edgefleet_server.access.model import Role
from edgefleet_server.dashboard.core.layout import Shell
from edgefleet_server.dashboard.core.login import to_login
from edgefleet_server.model_cards.card_text import ORIGINS
from edgefleet_server.model_cards.service import ModelCards
from edgefleet_terms.feature_importance import read_importance
from edgefleet_terms.heat_picture import PICTURES, png_of

Number = Annotated[int, Path(ge=0, lt=PICTURES)]
_KEPT: Final = {"cache-control": "private, max-age=3600"}


def add_pages(router: APIRouter, shell: Shell, cards: ModelCards) -> None:
    """Add the page and its pictures."""

    @router.get("/models/{name}/{version}/card", operation_id="show_model_card")
    def show_model_card(request: Request, name: str, version: str) -> Response:
        """Show the model card of a release."""

        def build() -> dict[str, Any]:
            ref = ReleaseRef.parse(f"{name}@{version}")
            card = cards.card(ref)
            maps = read_importance(card.importance).maps[:PICTURES]
            return {"card": card, "release": ref, "origins": ORIGINS, "maps": maps, "kinds": _KINDS}

        return shell.shown(request, "registry/card.html", build, tab="models")

    @router.get("/models/{name}/{version}/card/{number}.png", operation_id="show_part_map")
    def show_part_map(request: Request, name: str, version: str, number: Number) -> Response:
        """Give the picture of the parts that matter: 0 of all pictures, then of each class."""
        session = shell.gate.session_of(request)
        if session is None or not session.principal.may(Role.VIEWER):
            return to_login(request)
        maps = read_importance(cards.card(ReleaseRef.parse(f"{name}@{version}")).importance).maps[:PICTURES]
        if not 0 <= number < len(maps):
            return Response(status_code=404)
        return Response(png_of(maps[number]), media_type="image/png", headers=_KEPT)


_KINDS: Final = {
    "measured": "ok", "recorded": "off", "stated": "run", "not_measured": "warn", "not_stated": "warn",
}  # fmt: skip
