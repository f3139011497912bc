"""Login links and browser sessions: made, used once, expired, ended with their token, on both databases."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest
from sqlmodel import select

from edgefleet_server.access.errors import ForgedFormError, LoginRefusedError
from edgefleet_server.access.logins import MAX_LINKS, LoginBook
from edgefleet_server.access.model import NewToken, Role, SignedIn, is_in_force
from edgefleet_server.access.service import AccessService
from edgefleet_server.access.tables import LoginLinkRow, SessionRow
from edgefleet_server.db.database import Database
from tests.support.servers import ApiHouse, HandClock


class Door:
    """An access service with one token, and how often a code of it still works."""

    def __init__(self, db: Database, *roles: Role, lasts: timedelta | None = None) -> None:
        self.clock = HandClock()
        self.access = AccessService(db, self.clock)
        ends = None if lasts is None else self.clock.now() + lasts
        self.made: NewToken = self.access.create_token("ann", roles or [Role.VIEWER], by="test", expires_at=ends)

    @property
    def logins(self) -> LoginBook:
        """Return the part under test."""
        return self.access.logins

    def code(self) -> str:
        """Return the code of a fresh link."""
        self.clock.turn(seconds=1)
        link = self.logins.create_link(self.access.authenticate(self.made.token))
        assert link.url_path.startswith("/login?code=")
        return link.url_path.partition("=")[2]


def test_a_link_opens_one_session_with_the_roles_of_its_token(db: Database) -> None:
    door = Door(db, Role.OPERATOR)
    code = door.code()
    opened = door.logins.use_link(code)
    assert opened.session.principal.roles == {Role.OPERATOR}
    assert door.logins.session_of(opened.cookie) == opened.session
    with pytest.raises(LoginRefusedError, match="used already"):
        door.logins.use_link(code)


def test_of_many_browsers_with_one_link_one_gets_in(db: Database) -> None:
    door = Door(db)
    code = door.code()

    def attempt(_: int) -> bool:
        try:
            door.logins.use_link(code)
        except LoginRefusedError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(attempt, range(16))) == 1


def test_no_secret_is_in_the_database(db: Database) -> None:
    door = Door(db)
    code = door.code()
    cookie = door.logins.use_link(door.code()).cookie
    with db.read() as session:
        link = session.get(LoginLinkRow, code.partition("_")[0])
        opened = session.get(SessionRow, cookie.partition("_")[0])
    assert link is not None
    assert opened is not None
    assert code.partition("_")[2] not in repr(link.model_dump())
    assert cookie.partition("_")[2] not in repr(opened.model_dump())


def test_codes_and_cookies_are_256_bits_of_their_own(db: Database) -> None:
    door = Door(db)
    secrets = {door.code().partition("_")[2] for _ in range(20)}
    assert len(secrets) == 20
    assert {len(secret) for secret in secrets} == {43}  # base64url of 32 bytes


@pytest.mark.parametrize("change", ["", "x", "aaaaaaaaaaaa_" + "A" * 43, "swap", "token"])
def test_wrong_codes_and_cookies_are_refused_without_saying_why(db: Database, change: str) -> None:
    door = Door(db)
    code, cookie = door.code(), door.logins.use_link(door.code()).cookie
    wrong = {"swap": code[:-2] + ("AA" if code[-2:] != "AA" else "BB"), "token": door.made.token}.get(change, change)
    with pytest.raises(LoginRefusedError, match="this login link does not work"):
        door.logins.use_link(wrong)
    wrong = cookie[:-2] + ("AA" if cookie[-2:] != "AA" else "BB") if change == "swap" else wrong
    with pytest.raises(LoginRefusedError, match="not signed in"):
        door.logins.session_of(wrong)
    door.logins.use_link(code)  # a wrong attempt uses nothing up


def test_a_link_lasts_ten_minutes_and_a_session_twelve_hours(db: Database) -> None:
    door = Door(db)
    early, late = door.code(), door.code()
    door.clock.turn(minutes=9, seconds=58)
    cookie = door.logins.use_link(early).cookie
    door.clock.turn(seconds=2)
    with pytest.raises(LoginRefusedError):
        door.logins.use_link(late)
    door.clock.turn(hours=11, minutes=59)
    door.logins.session_of(cookie)
    door.clock.turn(minutes=1)
    with pytest.raises(LoginRefusedError):
        door.logins.session_of(cookie)


def test_revoking_a_token_ends_its_links_and_sessions_and_no_others(db: Database) -> None:
    door, other = Door(db), Door(db)
    code, cookie, kept = (
        door.code(),
        door.logins.use_link(door.code()).cookie,
        other.logins.use_link(other.code()).cookie,
    )
    door.access.revoke_token(door.made.view.id)
    with pytest.raises(LoginRefusedError):
        door.logins.use_link(code)
    with pytest.raises(LoginRefusedError):
        door.logins.session_of(cookie)
    other.logins.session_of(kept)
    with db.read() as session:
        assert session.get(SessionRow, cookie.partition("_")[0]) is None


HOUR = timedelta(hours=1)


@pytest.mark.parametrize(
    ("ends", "revoked", "is_valid"),
    [
        (None, None, True),
        (HOUR, None, True),
        (timedelta(0), None, False),
        (-HOUR, None, False),
        (None, -HOUR, False),
        (HOUR, -HOUR, False),
        (-HOUR, -HOUR, False),
    ],
)
def test_a_session_holds_while_it_and_its_token_hold(
    ends: timedelta | None, revoked: timedelta | None, is_valid: bool
) -> None:
    now = HandClock().now()
    token_ends = None if ends is None else now + ends
    revoked_at = None if revoked is None else now + revoked
    assert is_in_force(token_ends, revoked_at, now) == is_valid
    found = SignedIn("s", "", now + HOUR, "t", "ann", [], token_ends, revoked_at)
    assert found.is_valid(now) == is_valid
    assert not found.is_valid(now + HOUR)


def test_no_session_is_opened_for_a_token_that_was_revoked_or_ended_since(db: Database) -> None:
    door = Door(db, lasts=HOUR)
    principal = door.access.authenticate(door.made.token)
    assert door.logins.open_session(principal).session.principal == principal
    door.clock.turn(hours=1)
    with pytest.raises(LoginRefusedError, match="not valid any more"):
        door.logins.open_session(principal)
    other = Door(db)
    principal = other.access.authenticate(other.made.token)
    other.access.revoke_token(principal.id)
    with pytest.raises(LoginRefusedError, match="not valid any more"):
        other.logins.open_session(principal)


def test_a_session_does_not_outlive_its_token(db: Database) -> None:
    door = Door(db, lasts=timedelta(hours=1))
    opened = door.logins.use_link(door.code())
    assert opened.session.expires_at == door.made.view.expires_at
    code = door.code()
    door.clock.turn(hours=1)
    with pytest.raises(LoginRefusedError):
        door.logins.session_of(opened.cookie)
    with pytest.raises(LoginRefusedError):
        door.logins.use_link(code)


def test_signing_out_needs_the_key_of_the_sessions_own_pages(db: Database) -> None:
    door = Door(db)
    mine, other = door.logins.use_link(door.code()), door.logins.use_link(door.code())
    assert mine.session.form_key != other.session.form_key
    for key in ("", other.session.form_key):
        with pytest.raises(ForgedFormError):
            door.logins.end_session(mine.cookie, key)
    door.logins.end_session(mine.cookie, mine.session.form_key)
    with pytest.raises(LoginRefusedError):
        door.logins.session_of(mine.cookie)
    door.logins.session_of(other.cookie)


def test_old_links_give_way_and_expired_ones_are_removed(db: Database) -> None:
    door = Door(db)
    first, *_rest = [door.code() for _ in range(MAX_LINKS + 1)]
    with pytest.raises(LoginRefusedError):
        door.logins.use_link(first)
    door.clock.turn(minutes=11)
    newest = door.code()
    with db.read() as session:
        rows = session.scalars(select(LoginLinkRow)).all()
    assert [row.id for row in rows] == [newest.partition("_")[0]]


@pytest.mark.parametrize("role", list(Role))
def test_every_role_gets_a_link_over_rest_and_it_is_audited(house: ApiHouse, role: Role) -> None:
    made = house.client(role).post("/api/v1/login-links")
    assert made.status_code == 201
    assert set(made.json()) == {"url", "url_path", "expires_at"}
    assert made.json()["url"] == "", "no `dashboard_url`"
    code = made.json()["url_path"].partition("=")[2]
    assert house.parts.access.logins.use_link(code).session.principal.roles == {role}
    rows = house.client(Role.ADMIN).get("/api/v1/audit").json()["items"]
    assert [(row["action"], row["status"]) for row in rows] == [("create_login_link", 201)]
    assert code not in repr(rows)


def test_a_link_has_the_address_that_people_use(tmp_path: Path) -> None:
    house = ApiHouse(tmp_path / "server", dashboard_url="https://fleet.example/")
    try:
        made = house.client(Role.VIEWER).post("/api/v1/login-links").json()
    finally:
        house.close()
    assert made["url"] == f"https://fleet.example{made['url_path']}"
