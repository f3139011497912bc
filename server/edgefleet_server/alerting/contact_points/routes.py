"""Routes of contact points. They only translate."""

from fastapi import APIRouter, Response

from edgefleet_server.access.dependency import Admin, Operator
from edgefleet_server.alerting.contact_points.model import ContactDelivery, ContactView
from edgefleet_server.alerting.contact_points.schemas import ContactChangeIn, ContactIn
from edgefleet_server.alerting.contact_points.service import ContactBook
from edgefleet_server.db.database import Database
from edgefleet_server.web.pagination import ListOf, NewestFirst
from edgefleet_server.web.preconditions import DryRun, IfMatch, acting, put_location, put_tag, tag_of
from edgefleet_server.web.sparse_fields import ListRoute


def build_router(contacts: ContactBook, db: Database) -> APIRouter:
    """Return the routes of contact points, to be mounted under `/api/v1`."""
    router = APIRouter(tags=["alerting"], route_class=ListRoute)

    @router.post("/contact-points", operation_id="create_contact_point", status_code=201)
    def create_contact_point(wanted: ContactIn, response: Response, dry_run: DryRun, caller: Admin) -> ContactView:
        """Send messages about alerts to a URL of Apprise from now on. The URL is never shown again."""
        looked = contacts.look(wanted.url)
        with acting(db, dry_run=dry_run):
            made = contacts.create(
                wanted.name,
                looked,
                wanted.severity,
                wanted.selector,
                caller.name,
                sends_resolved=wanted.sends_resolved,
                repeat_s=wanted.repeat_s,
            )
        put_location(response, f"/contact-points/{made.id}")
        put_tag(response, _tag(made))
        return made

    @router.get("/contact-points", operation_id="list_contact_points")
    def list_contact_points(_caller: Operator) -> ListOf[ContactView]:
        """List contact points, oldest first, without the secrets in their URLs."""
        return ListOf.whole(contacts.contacts())

    @router.get("/contact-points/{contact_id}", operation_id="get_contact_point")
    def get_contact_point(contact_id: str, response: Response, _caller: Operator) -> ContactView:
        """Return one contact point, without the secrets in its URL. The ETag names what it is, not what waits."""
        found = contacts.contact(contact_id)
        put_tag(response, _tag(found))
        return found

    _add_changes(router, contacts, db)

    @router.post("/contact-points/{contact_id}:test", operation_id="test_contact_point", status_code=202)
    def test_contact_point(contact_id: str, caller: Operator) -> ContactDelivery:
        """Send a message that says nothing, at once."""
        return contacts.test(contact_id, caller.name)

    @router.get("/contact-points/{contact_id}/deliveries", operation_id="list_contact_deliveries")
    def list_contact_deliveries(contact_id: str, page: NewestFirst, _caller: Operator) -> ListOf[ContactDelivery]:
        """List messages to a contact point, newest first, with every try."""
        found, total = contacts.deliveries(contact_id, before=page.after_number(), limit=page.limit + 1)
        return ListOf.cut(found, page, total, lambda one: str(one.id))

    return router


def _add_changes(router: APIRouter, contacts: ContactBook, db: Database) -> None:
    @router.patch("/contact-points/{contact_id}", operation_id="update_contact_point")
    def update_contact_point(
        contact_id: str,
        wanted: ContactChangeIn,
        response: Response,
        expected: IfMatch,
        dry_run: DryRun,
        _caller: Admin,
    ) -> ContactView:
        """Change a contact point; what is left out stays. A new URL is tried at once, also where the old one was failing."""
        looked = None if wanted.url is None else contacts.look(wanted.url)
        with acting(db, dry_run=dry_run), db.session():
            expected.check(lambda: _tag(contacts.contact(contact_id)))
            changed = contacts.change(contact_id, wanted.changes(), looked)
        put_tag(response, _tag(changed))
        return changed

    @router.delete(
        "/contact-points/{contact_id}", operation_id="delete_contact_point", status_code=204, response_class=Response
    )
    def delete_contact_point(contact_id: str, expected: IfMatch, dry_run: DryRun, _caller: Admin) -> Response:
        """Remove a contact point with its messages."""
        with acting(db, dry_run=dry_run), db.session():
            expected.check(lambda: _tag(contacts.contact(contact_id)))
            contacts.delete(contact_id)
        return Response(status_code=204)


def _tag(contact: ContactView) -> str:
    return tag_of(
        contact.id,
        contact.name,
        contact.severity.value,
        contact.selector,
        contact.sends_resolved,
        contact.repeat_s,
        contact.shown,
    )
