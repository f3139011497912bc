"""People and services: tokens belong to them, end by default, and end at once with a person who is disabled; on both databases."""

from datetime import UTC, datetime, timedelta

import pytest
from alembic import command
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text
from sqlmodel import Session

from edgefleet_server import migrations
from edgefleet_server.access.errors import (
    BadTokenError,
    BadTokenRequestError,
    LoginRefusedError,
    OwnAccountError,
    PersonExistsError,
    UnknownPersonError,
)
from edgefleet_server.access.model import PersonKind, Role
from edgefleet_server.access.people.model import MAX_PERSON_LIFE, TOKEN_LIFE, end_of_token
from edgefleet_server.access.service import AccessService
from edgefleet_server.db.database import Database
from edgefleet_server.db.keyset import PageRequest
from tests.support.servers import ApiHouse, HandClock

API = "/api/v1"
DAY = timedelta(days=1)
STARTS = st.datetimes(datetime(2020, 1, 1), datetime(2090, 1, 1))
ANN, ROBOT = PersonKind.PERSON, PersonKind.SERVICE


def test_tokens_of_one_name_belong_to_one_person_and_others_to_whom_they_are_made_for(db: Database) -> None:
    access = AccessService(db, HandClock())
    first, second = (access.create_token("ann", [Role.VIEWER], by="x") for _ in range(2))
    laptop = access.create_token("laptop", [Role.APPROVER], by="x", person="ann")
    found = [access.authenticate(one.token) for one in (first, second, laptop)]
    assert {one.person for one in found} == {found[0].person}
    assert {one.name for one in found} == {"ann"}
    assert [one.name for one in access.people.people(PageRequest()).items] == ["ann"]
    assert access.people.person("ann").tokens == 3


def test_a_token_for_nobody_known_is_not_made(db: Database) -> None:
    access = AccessService(db, HandClock())
    with pytest.raises(UnknownPersonError, match="no person or service 'bob'"):
        access.create_token("laptop", [Role.VIEWER], by="x", person="bob")
    access.people.create("bob", ANN, by="x")
    with pytest.raises(PersonExistsError):
        access.people.create("bob", ROBOT, by="x")


def test_a_person_who_is_disabled_loses_tokens_links_and_sessions_at_once_and_for_good(db: Database) -> None:
    access = AccessService(db, HandClock())
    boss = access.authenticate(access.create_token("boss", [Role.ADMIN], by="x").token)
    tokens = [
        access.create_token(name, [Role.APPROVER], by="x", person=who).token
        for name, who in (("ann", ""), ("b", "ann"))
    ]
    caller = access.authenticate(tokens[0])
    code = access.logins.create_link(caller).url_path.partition("=")[2]
    cookie = access.logins.open_session(caller).cookie
    gone = access.people.disable("ann", boss)
    assert (gone.tokens, gone.disabled_at is not None) == (0, True)
    for token in tokens:
        with pytest.raises(BadTokenError):
            access.authenticate(token)
    with pytest.raises(LoginRefusedError):
        access.logins.session_of(cookie)
    with pytest.raises(LoginRefusedError):
        access.logins.use_link(code)
    with pytest.raises(LoginRefusedError):
        access.logins.open_session(caller)
    for person in ("", "ann"):
        with pytest.raises(UnknownPersonError, match="ann is disabled"):
            access.create_token("ann", [Role.VIEWER], by="x", person=person)
    assert access.people.enable("ann").disabled_at is None
    with pytest.raises(BadTokenError):
        access.authenticate(tokens[0])
    access.authenticate(access.create_token("ann", [Role.VIEWER], by="x").token)


def test_a_row_that_only_says_disabled_is_enough(db: Database) -> None:
    access = AccessService(db, HandClock())
    token = access.create_token("ann", [Role.VIEWER], by="x").token
    cookie = access.logins.open_session(access.authenticate(token)).cookie
    with db.session() as session:
        session.execute(text("UPDATE access_people SET disabled_at = '2026-11-01 00:00:00+00:00'"))
    with pytest.raises(BadTokenError):
        access.authenticate(token)
    with pytest.raises(LoginRefusedError):
        access.logins.session_of(cookie)


def test_nobody_disables_themselves(db: Database) -> None:
    access = AccessService(db, HandClock())
    boss = access.authenticate(access.create_token("boss", [Role.ADMIN], by="x").token)
    with pytest.raises(OwnAccountError):
        access.people.disable("boss", boss)
    assert access.people.person(boss.person).disabled_at is None


@pytest.mark.parametrize(
    ("kind", "wanted", "is_endless", "ends"),
    [
        (ANN, None, False, TOKEN_LIFE),
        (ROBOT, None, False, TOKEN_LIFE),
        (ANN, DAY, False, DAY),
        (ANN, MAX_PERSON_LIFE, False, MAX_PERSON_LIFE),
        (ANN, MAX_PERSON_LIFE + DAY, False, "within 366 days"),
        (ROBOT, 10 * MAX_PERSON_LIFE, False, 10 * MAX_PERSON_LIFE),
        (ANN, timedelta(0), False, "expired already"),
        (ROBOT, -DAY, False, "expired already"),
        (ANN, None, True, "always ends"),
        (ROBOT, None, True, None),
        (ROBOT, DAY, True, "to end and not to end"),
    ],
)
def test_when_a_token_ends(
    kind: PersonKind, wanted: timedelta | None, is_endless: bool, ends: timedelta | str | None
) -> None:
    now = HandClock().now()
    asked = None if wanted is None else now + wanted
    if isinstance(ends, str):
        with pytest.raises(BadTokenRequestError, match=ends):
            end_of_token(kind, asked, now, is_endless=is_endless)
    else:
        assert end_of_token(kind, asked, now, is_endless=is_endless) == (None if ends is None else now + ends)


@given(seconds=st.none() | st.integers(-(10**8), 10**9), is_endless=st.booleans(), start=STARTS)
def test_no_token_of_a_person_lasts_longer_than_a_year(seconds: int | None, is_endless: bool, start: datetime) -> None:
    now = start.replace(tzinfo=UTC)
    wanted = None if seconds is None else now + timedelta(seconds=seconds)
    try:
        ends = end_of_token(ANN, wanted, now, is_endless=is_endless)
    except BadTokenRequestError:
        return
    assert ends is not None
    assert now < ends <= now + MAX_PERSON_LIFE


def test_the_first_admins_token_has_no_end_and_no_other_of_a_person(db: Database) -> None:
    clock = HandClock()
    access = AccessService(db, clock)
    first = access.create_first_admin("server init")
    usual = access.create_token("ann", [Role.VIEWER], by="x")
    assert (first.view.expires_at, usual.view.expires_at) == (None, clock.now() + TOKEN_LIFE)


def test_people_over_rest(any_house: ApiHouse) -> None:
    admin = any_house.client(Role.ADMIN)
    made = admin.post(f"{API}/people", json={"name": "ci", "kind": "service"})
    assert (made.status_code, made.json()["kind"], made.json()["tokens"]) == (201, "service", 0)
    at = made.headers["location"]
    body = {"name": "deploy", "roles": ["operator"], "person": "ci", "never_expires": True}
    token = admin.post(f"{API}/tokens", json=body)
    assert (token.status_code, token.json()["expires_at"], token.json()["person"]) == (201, None, "ci")
    person = admin.post(f"{API}/tokens", json={**body, "person": "test"})
    assert (person.status_code, person.json()["code"]) == (422, "access.bad_token_request")
    listed = admin.get(f"{API}/people").json()["items"]
    assert [(one["name"], one["kind"], one["tokens"]) for one in listed] == [
        ("ci", "service", 1),
        ("test", "person", 1),
    ]
    tried = admin.patch(at, params={"dry_run": True}, json={"disabled": True})
    assert (tried.status_code, tried.json()["tokens"]) == (200, 0)
    assert admin.get(at).json()["disabled_at"] is None
    assert admin.patch(f"{API}/people/ci", json={"disabled": True}).json()["disabled_at"] is not None
    assert admin.patch(f"{API}/people/test", json={"disabled": True}).json()["code"] == "access.own_account_conflict"
    assert admin.get(f"{API}/people/nobody").json()["code"] == "access.person_unknown"
    me = admin.get(f"{API}/whoami").json()
    assert (me["name"], me["kind"], me["expires_at"] is not None) == ("test", "person", True)
    for role in set(Role) - {Role.ADMIN}:
        assert any_house.client(role).get(f"{API}/people").status_code == 403


def pairs(session: Session, query: str) -> dict[str, str]:
    """Return the two columns of a query."""
    return {str(key): str(value) for key, value in session.execute(text(query))}


def test_the_step_makes_a_person_of_each_name_and_a_maker_of_each_rollout(empty_database_url: str) -> None:
    db = Database(empty_database_url)
    token = (
        "INSERT INTO access_tokens (id, name, secret_sha256, roles, created_at, created_by)"
        " VALUES (:id, :name, 's', '[\"viewer\"]', '2026-01-01 00:00:00+00:00', 'x')"
    )
    rollout = (
        "INSERT INTO rollout (id, name, model, version, selector, spec, salt, state, code, reason, created_at, created_by,"
        " is_braked, lease_owner, fence) VALUES (:id, '', 'm', '1', '', '{}', 's', 'finished', '', '', '2026-01-01 00:00:00+00:00',"
        " :by, false, '', 0)"
    )
    try:
        command.upgrade(migrations.config(db), "1021")
        with db.session() as session:
            for key, name in (("t1", "ann"), ("t2", "ann"), ("t3", "ci")):
                session.execute(text(token), {"id": key, "name": name})
            for key, name in (("r1", "ann"), ("r2", "nobody"), ("r3", "ci")):
                session.execute(text(rollout), {"id": key, "by": name})
        migrations.upgrade(db)
        with db.read() as session:
            people = pairs(session, "SELECT name, id FROM access_people WHERE kind = 'person'")
            owned = pairs(session, "SELECT id, person_id FROM access_tokens")
            makers = pairs(session, "SELECT id, CAST(makers AS TEXT) FROM rollout")
        assert set(people) == {"ann", "ci"}
        assert owned == {"t1": people["ann"], "t2": people["ann"], "t3": people["ci"]}
        assert makers == {"r1": f'["{people["ann"]}"]', "r2": "[]", "r3": f'["{people["ci"]}"]'}
    finally:
        db.dispose()
