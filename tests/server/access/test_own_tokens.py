"""Tokens that people make for themselves: never more than they have, nor longer, and gone with what they were made with."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from edgefleet_server.access.errors import BadTokenError, BadTokenRequestError, ForbiddenError, UnknownTokenError
from edgefleet_server.access.grants.grant_scope import Scope
from edgefleet_server.access.model import Grant, NewToken, PersonKind, Principal, Role
from edgefleet_server.access.people.own_routes import OwnTokenIn
from edgefleet_server.access.people.own_tokens import MAX_OWN
from edgefleet_server.access.service import AccessService
from edgefleet_server.access.store import end_made_with
from edgefleet_server.db.database import Database
from tests.support.servers import HandClock

PART = Scope(sites=frozenset({"oslo"}))


class Desk:
    """An access service, and Dora, who signed in with a token of two roles."""

    def __init__(self, db: Database) -> None:
        self.clock = HandClock()
        self.access = AccessService(db, self.clock)
        self.first = self.access.create_token("dora", [Role.OPERATOR, Role.APPROVER], by="ann")
        self.dora = self.caller(self.first)

    def caller(self, made: NewToken) -> Principal:
        """Return who a token stands for. Raises BadTokenError."""
        return self.access.authenticate(made.token)

    def own(self, *grants: Grant, caller: Principal | None = None, days: int = 0) -> NewToken:
        """Make a token of one's own."""
        ends = self.clock.now() + timedelta(days=days) if days else None
        return self.access.own_tokens.create(caller or self.dora, "laptop", grants, ends)


@pytest.fixture
def desk(db: Database) -> Desk:
    return Desk(db)


def test_it_has_all_that_its_person_has_and_their_name(desk: Desk) -> None:
    made = desk.caller(desk.own())
    assert (made.roles, made.person, made.name) == (desk.dora.roles, desk.dora.person, "dora")
    assert desk.caller(desk.own(Grant(Role.VIEWER))).roles == {Role.VIEWER}
    assert desk.caller(desk.own(Grant(Role.OPERATOR, PART))).scoped == (Grant(Role.OPERATOR, PART),)


def test_it_has_what_lies_in_both_the_token_and_the_limits_of_the_person(desk: Desk) -> None:
    desk.access.people.grant("dora", Grant(Role.OPERATOR, PART))
    admin = desk.caller(desk.access.create_token("ann", [Role.ADMIN], by="x"))
    for role in (Role.OPERATOR, Role.APPROVER):
        desk.access.people.revoke_grant("dora", Grant(role), admin)
    made = desk.own(caller=desk.caller(desk.first))
    assert made.view.roles == ()
    assert made.view.scoped == (Grant(Role.OPERATOR, PART),)


ATTACKS: dict[str, tuple[Callable[[Desk], object], type[Exception]]] = {
    "more roles": (lambda d: d.own(Grant(Role.ADMIN)), BadTokenRequestError),
    "a role of two, added up": (lambda d: d.own(Grant(Role.PUBLISHER)), BadTokenRequestError),
    "longer than the token": (lambda d: d.own(days=91), BadTokenRequestError),
    "with one of one's own": (lambda d: d.own(caller=d.caller(d.own())), ForbiddenError),
    "a part becomes the whole": (
        lambda d: d.own(Grant(Role.OPERATOR), caller=d.caller(d.own(Grant(Role.OPERATOR, PART)))),
        ForbiddenError,
    ),
    "somebody else's is revoked": (
        lambda d: d.access.own_tokens.revoke(d.dora, d.access.create_token("bob", [Role.VIEWER], by="ann").view.id),
        UnknownTokenError,
    ),
    "too many": (lambda d: [d.own() for _ in range(MAX_OWN + 1)], BadTokenRequestError),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_nobody_gets_more_by_it(desk: Desk, attack: str) -> None:
    act, error = ATTACKS[attack]
    with pytest.raises(error):
        act(desk)


def test_a_service_makes_none(desk: Desk) -> None:
    desk.access.people.create("ci", PersonKind.SERVICE, by="ann")
    robot = desk.caller(desk.access.create_token("robot", [Role.VIEWER], by="ann", person="ci"))
    with pytest.raises(ForbiddenError):
        desk.own(caller=robot)


@pytest.mark.parametrize("how", ["revoked", "disabled", "by its person", "the end"])
def test_it_ends_with_what_it_was_made_with(desk: Desk, how: str) -> None:
    """A thief who made a token with a stolen one has nothing left when the stolen one is revoked."""
    made = desk.own()
    admin = desk.caller(desk.access.create_token("ann", [Role.ADMIN], by="x"))
    if how == "revoked":
        desk.access.revoke_token(desk.first.view.id)
    elif how == "disabled":
        desk.access.people.disable("dora", admin)
    elif how == "by its person":
        desk.access.own_tokens.revoke(desk.dora, desk.first.view.id)
    else:
        assert made.view.expires_at == desk.first.view.expires_at
        return
    with pytest.raises(BadTokenError):
        desk.caller(made)
    with pytest.raises(ForbiddenError):
        desk.own()  # by the caller who was known before


def test_it_ends_none_but_itself(desk: Desk) -> None:
    """A stolen token of a program must not end the password, or the admin's token, of its person."""
    own, other = desk.own(Grant(Role.VIEWER)), desk.own()
    for token_id in (desk.first.view.id, other.view.id):
        with pytest.raises(ForbiddenError):
            desk.access.own_tokens.revoke(desk.caller(own), token_id)
    assert desk.access.own_tokens.revoke(desk.caller(own), own.view.id).revoked_at is not None
    assert desk.caller(other).person == desk.dora.person


def test_none_is_made_that_may_nothing(desk: Desk) -> None:
    desk.access.people.grant("dora", Grant(Role.PUBLISHER))
    admin = desk.caller(desk.access.create_token("ann", [Role.ADMIN], by="x"))
    for role in (Role.OPERATOR, Role.APPROVER):
        desk.access.people.revoke_grant("dora", Grant(role), admin)
    with pytest.raises(BadTokenRequestError):
        desk.own(caller=desk.caller(desk.first))


def test_a_scope_without_a_role_is_refused_not_left_out() -> None:
    """Without this, who asks for `sites: [oslo]` and forgets the role gets a token for the whole fleet."""
    with pytest.raises(BadTokenRequestError, match="role"):
        OwnTokenIn(name="x", sites=["oslo"]).wanted()
    assert OwnTokenIn(name="x").wanted() == []


@pytest.mark.parametrize("how", ["disabled", "a new password"])
def test_one_made_at_that_moment_ends_too(desk: Desk, how: str) -> None:
    """What ends the tokens of a person waits for one that is being made: else it lived on, or came back when they are enabled."""
    db, people, first = desk.access.own_tokens._db, desk.access.people, desk.first.view.id
    admin = desk.caller(desk.access.create_token("ann", [Role.ADMIN], by="x"))
    is_made, made = threading.Event(), []

    def make() -> None:
        with db.session():
            made.append(desk.own())
            is_made.set()
            time.sleep(0.3)

    def end() -> None:
        with db.session() as session:
            end_made_with(session, first, desk.clock.now())

    with ThreadPoolExecutor(1) as pool:
        making = pool.submit(make)
        assert is_made.wait(60)
        if how == "disabled":
            people.disable("dora", admin)
            people.enable("dora")
        else:
            end()
        making.result()
    with pytest.raises(BadTokenError):
        desk.caller(made[0])
