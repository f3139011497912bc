"""Local accounts: one-time codes, passwords, and what somebody who guesses gets; on both databases."""

from __future__ import annotations

import threading
from datetime import timedelta

import argon2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text

from edgefleet_server.access.accounts import password_hasher
from edgefleet_server.access.accounts.guess_limits import OF_CLIENT, OF_NAME, Bucket
from edgefleet_server.access.accounts.model import AccountState
from edgefleet_server.access.accounts.password_hasher import AT_ONCE, NOBODY, WAITING, PasswordHasher
from edgefleet_server.access.accounts.password_rules import MAX_CHARS, MIN_CHARS, check_password, normal
from edgefleet_server.access.accounts.service import GUESSING
from edgefleet_server.access.errors import (
    BadInvitationError,
    BadPasswordError,
    BadTokenError,
    LoginRefusedError,
    NoAccountError,
    SignInBusyError,
    UnknownPersonError,
    WrongPasswordError,
)
from edgefleet_server.access.model import NewSession, PersonKind, Role
from edgefleet_server.access.service import AccessService
from edgefleet_server.db.database import Database
from edgefleet_server.db.keyset import PageRequest
from edgefleet_server.web.attempt_limits import TooManyLoginsError
from tests.server.access.accounts_house import OTHER, PASSWORD, QUICK, code_in, quick_hasher
from tests.support.servers import HandClock

HOME = "192.0.2.1"


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def access(db: Database, clock: HandClock) -> AccessService:
    """A server of no people."""
    return AccessService(db, clock, hasher=quick_hasher())


def code_for(access: AccessService, name: str = "ann", *roles: Role) -> str:
    """Return a one-time code."""
    return code_in(access.accounts.invite(name, roles, by="boss").url_path)


def joined(access: AccessService, name: str = "ann", role: Role = Role.OPERATOR) -> NewSession:
    """Let a person choose PASSWORD; return the session that this opens."""
    return access.accounts.use_invitation(code_for(access, name, role), PASSWORD)


def sign_in(access: AccessService, name: str = "ann", password: str = PASSWORD, address: str = HOME) -> NewSession:
    """Sign in."""
    return access.accounts.sign_in(address, name, password)


def test_a_person_chooses_a_password_and_signs_in_with_it(access: AccessService) -> None:
    first = joined(access)
    assert (first.session.principal.name, first.session.principal.roles) == ("ann", frozenset({Role.OPERATOR}))
    again = sign_in(access).session.principal
    assert (again.person, again.roles) == (access.people.person("ann").id, frozenset({Role.OPERATOR}))
    assert access.people.person("ann").account is AccountState.OPEN
    assert sign_in(access).cookie != first.cookie


def test_the_token_of_an_account_has_no_text(access: AccessService) -> None:
    own = joined(access).session.principal.id
    for secret in ("", "A" * 43):
        with pytest.raises(BadTokenError):
            access.authenticate(f"edg_{own}_{secret}")
    assert access.token(own).name == "password of ann"


def test_a_code_works_once_and_not_after_its_end(access: AccessService, clock: HandClock) -> None:
    code = code_for(access, "ann", Role.VIEWER)
    assert access.accounts.invited(code) == "ann"
    access.accounts.use_invitation(code, PASSWORD)
    for again in (code, code[:-1] + "-", "", "x"):
        with pytest.raises(LoginRefusedError):
            access.accounts.use_invitation(again, OTHER)
    sign_in(access)
    late = code_for(access, "bob", Role.VIEWER)
    clock.turn(hours=24)
    assert access.people.person("bob").account is AccountState.LAPSED
    with pytest.raises(LoginRefusedError):
        access.accounts.use_invitation(late, PASSWORD)


def test_a_password_that_is_refused_leaves_the_code(access: AccessService) -> None:
    code = code_for(access, "ann", Role.VIEWER)
    with pytest.raises(BadPasswordError):
        access.accounts.use_invitation(code, "password1234")
    access.accounts.use_invitation(code, PASSWORD)


def test_only_the_newest_code_of_a_person_works(access: AccessService) -> None:
    old, new = code_for(access, "ann", Role.VIEWER), code_for(access, "ann", Role.ADMIN)
    with pytest.raises(LoginRefusedError):
        access.accounts.use_invitation(old, PASSWORD)
    assert access.accounts.use_invitation(new, PASSWORD).session.principal.roles == {Role.ADMIN}


def test_a_new_code_ends_the_password_and_its_sessions_at_once_and_keeps_the_roles(access: AccessService) -> None:
    cookie = joined(access).cookie
    link = code_in(access.logins.create_link(access.logins.session_of(cookie).principal).url_path)
    code = code_for(access)
    for refused in (
        lambda: access.logins.session_of(cookie),
        lambda: access.logins.use_link(link),
        lambda: sign_in(access),
    ):
        with pytest.raises(LoginRefusedError):
            refused()
    assert access.people.person("ann").account is AccountState.INVITED
    assert access.accounts.use_invitation(code, OTHER).session.principal.roles == {Role.OPERATOR}
    with pytest.raises(LoginRefusedError):
        sign_in(access)


@pytest.mark.parametrize(
    ("name", "roles", "life", "why"),
    [
        ("ann", [], timedelta(hours=1), "has no account yet"),
        ("robot", [Role.VIEWER], timedelta(hours=1), "is a service"),
        ("ann", [Role.VIEWER], timedelta(days=7, seconds=1), "within 7 days"),
        ("ann", [Role.VIEWER], timedelta(0), "within 7 days"),
    ],
)
def test_codes_that_are_not_made(
    access: AccessService, clock: HandClock, name: str, roles: list[Role], life: timedelta, why: str
) -> None:
    access.people.create("robot", PersonKind.SERVICE, by="x")
    with pytest.raises(BadInvitationError, match=why):
        access.accounts.invite(name, roles, by="boss", expires_at=clock.now() + life)


def test_a_disabled_person_has_neither_code_nor_password_and_needs_a_new_code_afterwards(access: AccessService) -> None:
    boss = access.authenticate(access.create_token("boss", [Role.ADMIN], by="x").token)
    cookie = joined(access).cookie
    waiting = code_for(access, "bob", Role.VIEWER)
    for name in ("ann", "bob"):
        access.people.disable(name, boss)
        with pytest.raises(UnknownPersonError, match="is disabled"):
            code_for(access, name, Role.ADMIN)
        access.people.enable(name)
        assert access.people.person(name).account is AccountState.CLOSED
    for refused in (
        lambda: access.logins.session_of(cookie),
        lambda: sign_in(access),
        lambda: access.accounts.use_invitation(waiting, PASSWORD),
    ):
        with pytest.raises(LoginRefusedError):
            refused()
    access.accounts.use_invitation(code_for(access), OTHER)


def test_a_row_that_only_says_disabled_is_enough(access: AccessService, db: Database) -> None:
    joined(access)
    code = code_for(access, "bob", Role.VIEWER)
    with db.session() as session:
        session.execute(text("UPDATE access_people SET disabled_at = '2026-11-01 00:00:00+00:00'"))
    with pytest.raises(LoginRefusedError):
        sign_in(access)
    with pytest.raises(LoginRefusedError):
        access.accounts.use_invitation(code, PASSWORD)


def test_every_refusal_of_a_sign_in_says_the_same_and_checks_one_hash(
    access: AccessService, monkeypatch: pytest.MonkeyPatch
) -> None:
    boss = access.authenticate(access.create_token("boss", [Role.ADMIN], by="x").token)
    joined(access)
    joined(access, "gone")
    access.people.disable("gone", boss)
    code_for(access, "new", Role.VIEWER)
    checked: list[str] = []
    verify = argon2.PasswordHasher.verify

    def counted(self: argon2.PasswordHasher, stored: str, given: str) -> bool:
        checked.append(stored)
        return verify(self, stored, given)

    monkeypatch.setattr(argon2.PasswordHasher, "verify", counted)
    said = set()
    for name in ("ann", "nobody", "gone", "new", "boss", ""):
        with pytest.raises(LoginRefusedError) as refused:
            sign_in(access, name, OTHER)
        said.add((refused.value.message, refused.value.next_step))
    assert len(said) == 1
    assert len(checked) == 6
    assert all(argon2.extract_parameters(one) == QUICK for one in checked)


def test_who_has_no_account_costs_what_accounts_cost() -> None:
    assert argon2.extract_parameters(NOBODY) == argon2.profiles.RFC_9106_LOW_MEMORY
    hasher = PasswordHasher()
    with hasher.turn():
        made = hasher.hash(PASSWORD)
    assert not hasher.is_outdated(made)
    assert argon2.extract_parameters(made) == argon2.extract_parameters(NOBODY)


@pytest.mark.parametrize("name", ["ann", "nobody"])
def test_guesses_at_a_name_end_from_all_clients_together_whether_it_exists_or_not(
    access: AccessService, clock: HandClock, name: str
) -> None:
    joined(access)
    for n in range(OF_NAME.most):
        with pytest.raises(LoginRefusedError):
            sign_in(access, name, OTHER, f"198.51.100.{n}")
    with pytest.raises(TooManyLoginsError) as refused:
        sign_in(access, name, PASSWORD, HOME)
    assert refused.value.retry_after_s == OF_NAME.every_s
    told = [(one.actor, one.object) for one in access.audit(PageRequest()).items if one.action == GUESSING]
    assert told == ([("ann", f"person {access.people.person('ann').id}")] if name == "ann" else [])
    clock.turn(seconds=OF_NAME.every_s)
    if name == "ann":
        sign_in(access)
        sign_in(access)  # and it counts from zero again


def test_the_count_of_a_name_survives_a_restart(access: AccessService, db: Database, clock: HandClock) -> None:
    joined(access)
    for n in range(OF_NAME.most):
        with pytest.raises(LoginRefusedError):
            sign_in(access, "ann", OTHER, f"198.51.100.{n}")
    with pytest.raises(TooManyLoginsError):
        sign_in(AccessService(db, clock, hasher=quick_hasher()))


def test_one_client_cannot_try_one_password_for_all_names(access: AccessService, clock: HandClock) -> None:
    joined(access)
    for n in range(OF_CLIENT.most):
        with pytest.raises(LoginRefusedError):
            sign_in(access, f"name{n}", PASSWORD, f"2001:db8::{n}")
    with pytest.raises(TooManyLoginsError):
        sign_in(access, "ann", PASSWORD, "2001:db8::ffff")  # another address of the same /64
    sign_in(access, "ann", PASSWORD, HOME)
    clock.turn(seconds=OF_CLIENT.every_s)
    sign_in(access, "ann", PASSWORD, "2001:db8::1")


def test_a_flood_of_other_names_does_not_clear_the_count_of_one(
    access: AccessService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgefleet_server.access.accounts.store.MAX_GUESSES", 5)
    joined(access)
    for n in range(OF_NAME.most):
        with pytest.raises(LoginRefusedError):
            sign_in(access, "ann", OTHER, f"198.51.100.{n}")
    for n in range(12):
        with pytest.raises(LoginRefusedError):
            sign_in(access, f"name{n}", OTHER, f"203.0.113.{n}")
    with pytest.raises(TooManyLoginsError):
        sign_in(access)


def test_few_passwords_are_hashed_at_once_and_a_flood_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    hasher = quick_hasher()
    inside, most, go = [0], [0], threading.Event()
    lock, refused = threading.Lock(), [0]

    def one() -> None:
        try:
            with hasher.turn():
                with lock:
                    inside[0] += 1
                    most[0] = max(most[0], inside[0])
                go.wait(60)
                with lock:
                    inside[0] -= 1
        except SignInBusyError:
            with lock:
                refused[0] += 1
                if refused[0] == 5:
                    go.set()

    threads = [threading.Thread(target=one) for _ in range(AT_ONCE + WAITING + 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert (most[0], refused[0], inside[0]) == (AT_ONCE, 5, 0)


def test_changing_a_password_needs_the_present_one_and_ends_other_sessions(access: AccessService) -> None:
    joined(access)
    own, other = sign_in(access), sign_in(access)
    with pytest.raises(WrongPasswordError):
        access.accounts.change_password(own.session, OTHER, OTHER)
    with pytest.raises(BadPasswordError):
        access.accounts.change_password(own.session, PASSWORD, "short")
    access.logins.session_of(other.cookie)
    access.accounts.change_password(own.session, PASSWORD, OTHER)
    access.logins.session_of(own.cookie)
    with pytest.raises(LoginRefusedError):
        access.logins.session_of(other.cookie)
    with pytest.raises(LoginRefusedError):
        sign_in(access)
    assert access.accounts.end_other_sessions(own.session) == 0
    sign_in(access, password=OTHER)
    assert access.accounts.end_other_sessions(own.session) == 1


def test_guessing_at_the_form_that_changes_it_ends_too(access: AccessService) -> None:
    own = joined(access)
    for _ in range(OF_NAME.most):
        with pytest.raises(WrongPasswordError):
            access.accounts.change_password(own.session, OTHER, OTHER)
    with pytest.raises(TooManyLoginsError):
        access.accounts.change_password(own.session, PASSWORD, OTHER)


def test_who_has_a_token_only_has_no_password_to_change(access: AccessService) -> None:
    caller = access.authenticate(access.create_token("ann", [Role.VIEWER], by="x").token)
    session = access.logins.open_session(caller).session
    for act in (
        lambda: access.accounts.change_password(session, PASSWORD, OTHER),
        lambda: access.accounts.end_other_sessions(session),
    ):
        with pytest.raises(NoAccountError, match="signs in without a password"):
            act()


def test_a_password_that_is_changed_while_it_is_checked_opens_nothing(
    access: AccessService, monkeypatch: pytest.MonkeyPatch
) -> None:
    joined(access)
    right = password_hasher.PasswordHasher.is_right

    def slow(self: PasswordHasher, stored: str | None, given: str) -> bool:
        found = right(self, stored, given)
        monkeypatch.undo()
        code_for(access)  # an admin resets it now
        return found

    monkeypatch.setattr(password_hasher.PasswordHasher, "is_right", slow)
    with pytest.raises(LoginRefusedError):
        sign_in(access)


def test_a_hash_of_another_cost_is_made_again_at_the_next_sign_in(access: AccessService, db: Database) -> None:
    joined(access)
    dearer = argon2.PasswordHasher(time_cost=2, memory_cost=16, parallelism=1)
    with db.session() as session:
        session.execute(text("UPDATE access_accounts SET password_hash = :made"), {"made": dearer.hash(PASSWORD)})
    sign_in(access)
    with db.read() as session:
        stored = str(session.execute(text("SELECT password_hash FROM access_accounts")).scalar())
    assert argon2.extract_parameters(stored) == QUICK
    sign_in(access)


@pytest.mark.parametrize(
    ("password", "name", "why"),
    [
        ("x" * (MIN_CHARS - 1), "ann", "has 11 characters, and 12 are needed"),
        ("blue whale " * 30, "ann", "longer than 256"),
        *((one, "ann miller", "easily guessed") for one in (
            "password1234", "passwordpassword", "Summer2026!!!!", "qwertyuiop12", "123456789012", "aaaaaaaaaaaa", "P@ssw0rd2024!",
            "ann-edgefleet-2026", "ann.miller1987", "1qaz2wsx3edc", "changeme12345", "abcabcabcabc", "adminadmin123!", "letmein-please",
        )),
    ],
)  # fmt: skip
def test_passwords_that_are_refused(password: str, name: str, why: str) -> None:
    with pytest.raises(BadPasswordError, match=why) as refused:
        check_password(password, name)
    assert password not in refused.value.message + refused.value.next_step


@pytest.mark.parametrize(
    "password",
    [PASSWORD, OTHER, "correct horse battery", "kX9#vq2LmZ8w", "é" * 6 + "wölfchen", "密码是十二个字的一句话吗"],
)
def test_passwords_that_are_taken(password: str) -> None:
    check_password(password, "ann")


@given(st.text(max_size=300), st.text(max_size=40))
def test_any_text_is_judged_in_its_normal_form(password: str, name: str) -> None:
    def verdict(text: str) -> str:
        try:
            check_password(text, name)
        except BadPasswordError as error:
            return error.message
        return ""

    assert verdict(password) == verdict(normal(password))
    if not verdict(password):
        assert MIN_CHARS <= len(normal(password)) <= MAX_CHARS


def test_one_password_typed_on_two_keyboards_is_one(access: AccessService) -> None:
    access.accounts.use_invitation(code_for(access, "ann", Role.VIEWER), "cafe\u0301 au lait 42!")
    sign_in(access, password="caf\u00e9 au lait 42!")


@given(st.integers(1, 50), st.floats(0.1, 1e4), st.lists(st.floats(-1e3, 1e5), max_size=40))
def test_a_bucket_never_lets_more_through_than_it_says(most: int, every_s: float, gaps: list[float]) -> None:
    bucket, level, taken, passed = Bucket(most, every_s), 0.0, 0, 0.0
    for gap in gaps:
        level, passed = bucket.level(level, gap), passed + max(0.0, gap)
        wait_s = bucket.wait_s(level)
        if wait_s:
            assert bucket.wait_s(bucket.level(level, wait_s)) == 0
        else:
            level, taken = level + 1, taken + 1
    assert taken <= most + passed / every_s + 1e-6
