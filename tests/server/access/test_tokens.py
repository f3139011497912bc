"""Tokens: made, used, expired, revoked, on both databases; and what the audit trail keeps."""

from datetime import timedelta

import pytest

from edgefleet_server.access.errors import BadTokenError, BadTokenRequestError, ExpiredTokenError, UnknownTokenError
from edgefleet_server.access.model import Role
from edgefleet_server.access.service import AccessService
from edgefleet_server.access.tables import TokenRow
from edgefleet_server.db.database import Database
from edgefleet_server.db.keyset import PageRequest
from tests.support.servers import ApiHouse, HandClock


def test_a_token_authenticates_and_its_secret_is_not_stored(db: Database) -> None:
    access = AccessService(db, HandClock())
    made = access.create_token("ci", [Role.PUBLISHER], by="admin")
    assert access.authenticate(made.token).roles == {Role.PUBLISHER}
    with db.read() as session:
        row = session.get(TokenRow, made.view.id)
    assert row is not None
    assert made.token.split("_", 2)[2] not in repr(row.model_dump())


@pytest.mark.parametrize("change", ["", "x", "edg_", "edg_aaaaaaaaaaaa_" + "A" * 43, "swap"])
def test_wrong_tokens_are_refused_without_saying_why(db: Database, change: str) -> None:
    access = AccessService(db, HandClock())
    token = access.create_token("ci", [Role.VIEWER], by="admin").token
    wrong = token[:-1] + ("A" if token[-1] != "A" else "B") if change == "swap" else change
    with pytest.raises(BadTokenError, match="unknown, wrong or revoked"):
        access.authenticate(wrong)


def test_an_expired_token_says_so(db: Database) -> None:
    clock = HandClock()
    access = AccessService(db, clock)
    token = access.create_token("ci", [Role.VIEWER], by="a", expires_at=clock.now() + timedelta(hours=1)).token
    clock.turn(minutes=59)
    access.authenticate(token)
    clock.turn(minutes=1)
    with pytest.raises(ExpiredTokenError, match=r"of ci expired at 2026-"):
        access.authenticate(token)


def test_a_revoked_token_is_worth_nothing_at_once(db: Database) -> None:
    access = AccessService(db, HandClock())
    made = access.create_token("ci", [Role.VIEWER], by="a")
    first = access.revoke_token(made.view.id)
    assert access.revoke_token(made.view.id).revoked_at == first.revoked_at
    with pytest.raises(BadTokenError):
        access.authenticate(made.token)
    with pytest.raises(UnknownTokenError):
        access.revoke_token("nothere")


def test_the_time_of_use_is_kept_by_the_minute(db: Database) -> None:
    clock = HandClock()
    access = AccessService(db, clock)
    token = access.create_token("ci", [Role.VIEWER], by="a").token
    start = clock.now()
    access.authenticate(token)
    clock.turn(seconds=30)
    access.authenticate(token)
    assert access.tokens(PageRequest()).items[0].last_used_at == start
    clock.turn(seconds=31)
    access.authenticate(token)
    assert access.tokens(PageRequest()).items[0].last_used_at == clock.now()


def test_tokens_without_roles_or_time_are_refused(db: Database) -> None:
    clock = HandClock()
    access = AccessService(db, clock)
    with pytest.raises(BadTokenRequestError):
        access.create_token("ci", [], by="a")
    with pytest.raises(BadTokenRequestError):
        access.create_token("ci", [Role.VIEWER], by="a", expires_at=clock.now())


def test_an_admin_makes_lists_and_revokes_tokens_over_rest(house: ApiHouse) -> None:
    admin = house.client(Role.ADMIN)
    made = admin.post("/api/v1/tokens", json={"name": "ci", "roles": ["publisher", "viewer"]})
    assert made.status_code == 201
    assert made.json()["token"].startswith(f"edg_{made.json()['id']}_")
    listed = admin.get("/api/v1/tokens", params={"limit": 1}).json()
    assert listed["total"] == 2
    assert "token" not in listed["items"][0]
    rest = admin.get("/api/v1/tokens", params={"limit": 1, "cursor": listed["next_cursor"]}).json()
    assert rest["next_cursor"] is None
    assert {listed["items"][0]["id"], rest["items"][0]["id"]} >= {made.json()["id"]}
    assert admin.delete(f"/api/v1/tokens/{made.json()['id']}").json()["revoked_at"]


def test_changes_and_refused_attempts_are_audited_reads_are_not(house: ApiHouse) -> None:
    house.client(Role.VIEWER).post("/api/v1/releases", json={}, headers={"x-request-id": "try-1"})
    house.client().post("/api/v1/tokens", json={})
    admin = house.client(Role.ADMIN)
    admin.get("/api/v1/models")
    rows = admin.get("/api/v1/audit").json()["items"]
    assert [(row["action"], row["status"]) for row in rows] == [("create_token", 401), ("create_release", 403)]
    assert rows[1]["request_id"] == "try-1"
    assert rows[1]["actor"].startswith("test (")
    assert rows[0]["actor"] == "unknown"
