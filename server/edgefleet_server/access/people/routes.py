"""Routes of people and services, the owners of tokens. They only translate."""

from typing import Annotated

from fastapi import APIRouter, Response

from edgefleet_server.access.dependency import Admin
from edgefleet_server.access.grants.schemas import GrantIn
from edgefleet_server.access.people.schemas import PersonChangeIn, PersonIn, PersonOut
from edgefleet_server.access.people.service import PeopleBook
from edgefleet_server.db.database import Database
from edgefleet_server.db.keyset import PageRequest
from edgefleet_server.web.pagination import ListOf, paged
from edgefleet_server.web.preconditions import DryRun, IfMatch, acting, put_location, put_tag, tag_of
from edgefleet_server.web.sparse_fields import ListRoute

PeoplePage = Annotated[PageRequest, paged("name", "-name")]


def build_router(people: PeopleBook, db: Database) -> APIRouter:
    """Return the routes of people, to be mounted under `/api/v1`."""
    router = APIRouter(tags=["access"], route_class=ListRoute)

    @router.get("/people", operation_id="list_people")
    def list_people(page: PeoplePage, _caller: Admin) -> ListOf[PersonOut]:
        """List people and services, by name."""
        return ListOf.of(people.people(page), PersonOut.of)

    @router.post("/people", operation_id="create_person", status_code=201)
    def create_person(wanted: PersonIn, response: Response, dry_run: DryRun, caller: Admin) -> PersonOut:
        """Add a person or a service. It can do nothing until it has a token; a service never approves."""
        with acting(db, dry_run=dry_run):
            made = PersonOut.of(people.create(wanted.name, wanted.kind, by=caller.name))
        put_location(response, f"/people/{made.id}")
        put_tag(response, _tag(made))
        return made

    @router.get("/people/{person_id}", operation_id="get_person")
    def get_person(person_id: str, response: Response, _caller: Admin) -> PersonOut:
        """Return a person or a service, by id or name."""
        found = PersonOut.of(people.person(person_id))
        put_tag(response, _tag(found))
        return found

    @router.patch("/people/{person_id}", operation_id="update_person")
    def update_person(
        person_id: str, change: PersonChangeIn, response: Response, expected: IfMatch, dry_run: DryRun, caller: Admin
    ) -> PersonOut:
        """Disable a person or a service, which ends its tokens and sessions for good, or let it have tokens again."""
        with acting(db, dry_run=dry_run), db.session():
            expected.check(lambda: _tag(PersonOut.of(people.person(person_id))))
            changed = people.disable(person_id, caller) if change.disabled else people.enable(person_id)
        found = PersonOut.of(changed)
        put_tag(response, _tag(found))
        return found

    @router.post("/people/{person_id}:grant", operation_id="grant_role")
    def grant_role(person_id: str, wanted: GrantIn, dry_run: DryRun, _caller: Admin) -> PersonOut:
        """Grant a role in a scope. With the first grant, what was granted limits all their tokens; what these hold is kept."""
        with acting(db, dry_run=dry_run):
            return PersonOut.of(people.grant(person_id, wanted.to_grant()))

    @router.post("/people/{person_id}:revoke-grant", operation_id="revoke_grant")
    def revoke_grant(person_id: str, wanted: GrantIn, dry_run: DryRun, caller: Admin) -> PersonOut:
        """Take a grant away, from all their tokens and sessions at once."""
        with acting(db, dry_run=dry_run):
            return PersonOut.of(people.revoke_grant(person_id, wanted.to_grant(), caller))

    return router


def _tag(person: PersonOut) -> str:
    return tag_of(person.model_dump(mode="json", exclude={"tokens"}))
