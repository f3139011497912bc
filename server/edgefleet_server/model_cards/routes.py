"""Routes of model cards. They only translate."""

from typing import Any, Final

from fastapi import APIRouter, Request
from fastapi.responses import PlainTextResponse, Response

from edgefleet_protocol.ids import ReleaseRef
from edgefleet_server.access.dependency import Publisher, Viewer
from edgefleet_server.db.database import Database
from edgefleet_server.model_cards.card_pdf import pdf
from edgefleet_server.model_cards.card_text import markdown
from edgefleet_server.model_cards.model import ModelCard
from edgefleet_server.model_cards.schemas import ModelCardIn
from edgefleet_server.model_cards.service import ModelCards
from edgefleet_server.registry.service import RegistryService
from edgefleet_server.web.guarded_route import GuardedRoute
from edgefleet_server.web.preconditions import DryRun, IfMatch, acting, put_tag, tag_of

PDF: Final = "application/pdf"
BYTES: Final = "application/octet-stream"
_FILE: Final = {"schema": {"type": "string", "format": "binary"}}
_PDF: Final[dict[int | str, dict[str, Any]]] = {200: {"content": {PDF: _FILE, BYTES: _FILE}}, 501: {}}
_MARKDOWN: Final[dict[int | str, dict[str, Any]]] = {
    200: {"content": {"text/markdown": {"schema": {"type": "string"}}}}
}


def build_router(cards: ModelCards, registry: RegistryService, db: Database) -> APIRouter:
    """Return the routes of model cards, to be mounted under `/api/v1`."""
    router = APIRouter(tags=["registry"], route_class=GuardedRoute)

    @router.get("/releases/{ref}/card", operation_id="get_model_card")
    def get_card(ref: str, response: Response, _caller: Viewer) -> ModelCard:
        """Return the model card of a release: what was measured, what people state, and what is missing.

        The ETag names what people state of this release itself.
        """
        wanted = registry.resolve(ref)
        put_tag(response, _tag(cards, wanted))
        return cards.card(wanted)

    @router.get(
        "/releases/{ref}/card.md",
        operation_id="get_model_card_text",
        response_class=Response,
        responses=_MARKDOWN,
    )
    def get_card_text(ref: str, _caller: Viewer) -> Response:
        """Return the model card as Markdown."""
        return PlainTextResponse(markdown(cards.card(registry.resolve(ref))), media_type="text/markdown")

    @router.get("/releases/{ref}/card.pdf", operation_id="get_model_card_pdf", response_class=Response, responses=_PDF)
    def get_card_pdf(ref: str, request: Request, _caller: Viewer) -> Response:
        """Return the model card as PDF, where the server has the library for it. Whose Accept names bytes alone gets the same as bytes."""
        wanted = registry.resolve(ref)
        headers = {"content-disposition": f'attachment; filename="{wanted.model}-{wanted.version}-card.pdf"'}
        form = BYTES if request.headers.get("accept") == BYTES else PDF
        return Response(pdf(cards.card(wanted)), media_type=form, headers=headers)

    @router.put("/releases/{ref}/card", operation_id="put_model_card")
    def put_card(
        ref: str, wanted: ModelCardIn, response: Response, expected: IfMatch, dry_run: DryRun, caller: Publisher
    ) -> ModelCard:
        """State what people have to say of a release: owner, licence, use, limits. What was stated before is replaced."""
        release = registry.resolve(ref)
        with acting(db, dry_run=dry_run), db.session():
            expected.check(lambda: _tag(cards, release))
            card = cards.state(release, wanted.as_given(), caller.name)
        put_tag(response, _tag(cards, release))
        return card

    return router


def _tag(cards: ModelCards, ref: ReleaseRef) -> str:
    changed = cards.changed_at(ref)
    return tag_of(str(ref), "" if changed is None else changed.isoformat())
