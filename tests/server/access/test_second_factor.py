"""Codes of an app: RFC 6238's own figures, no code twice, recovery codes, and who turns them on and off; on both databases."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pyotp
import pytest
from sqlalchemy import text

from edgefleet_server.access.accounts.guess_limits import OF_NAME
from edgefleet_server.access.accounts.second_factor import RECOVERY_CODES, STEP_S
from edgefleet_server.access.accounts.service import CODE_REFUSED
from edgefleet_server.access.errors import LoginRefusedError, SecondFactorError, WrongCodeError, WrongPasswordError
from edgefleet_server.access.model import NewSession, Role
from edgefleet_server.access.service import AccessService
from edgefleet_server.db.database import Database
from edgefleet_server.db.keyset import PageRequest
from edgefleet_server.encryption.key_sources import KeyText
from edgefleet_server.encryption.rules import PREFIX
from edgefleet_server.encryption.service import Sealer
from tests.server.access.accounts_house import OTHER, PASSWORD, code_in, quick_hasher
from tests.support.servers import HandClock

KEY = "QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE="


class Phone:
    """A person with a password, and the app with the secret."""

    def __init__(self, db: Database) -> None:
        self.clock = HandClock()
        sealer = Sealer(db, KeyText(KEY), self.clock)
        self.access = AccessService(db, self.clock, hasher=quick_hasher(), sealer=sealer)
        code = code_in(self.access.accounts.invite("ann", [Role.OPERATOR], by="boss").url_path)
        self.own = self.access.accounts.use_invitation(code, PASSWORD)
        self.totp = pyotp.TOTP(self.access.accounts.begin_codes(self.own.session, PASSWORD).secret.replace(" ", ""))

    def code(self, steps: int = 0) -> str:
        """Return what the app shows now, or some steps of 30 s later."""
        return self.totp.at(self.clock.now() + timedelta(seconds=steps * STEP_S))

    def turn_on(self) -> list[str]:
        """Confirm; return the recovery codes. Then the next step begins."""
        made = self.access.accounts.confirm_codes(self.own.session, self.code())
        self.clock.turn(seconds=2 * STEP_S)
        return made

    def sign_in(self, code: str = "", password: str = PASSWORD) -> NewSession:
        """Sign in."""
        return self.access.accounts.sign_in("192.0.2.1", "ann", password, code)


@pytest.fixture
def phone(db: Database) -> Phone:
    """A person who has begun to set up codes."""
    return Phone(db)


def test_codes_are_those_of_the_standard() -> None:
    source = pyotp.TOTP("GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ", digits=8)
    for second, code in ((59, "94287082"), (1111111109, "07081804"), (20000000000, "65353130")):
        assert source.at(datetime.fromtimestamp(second, UTC)) == code


def test_nothing_is_asked_before_the_first_code_was_seen(phone: Phone) -> None:
    phone.sign_in()
    with pytest.raises(WrongCodeError):
        phone.access.accounts.confirm_codes(phone.own.session, "000000" if phone.code() != "000000" else "111111")
    phone.sign_in()
    assert len(phone.turn_on()) == RECOVERY_CODES
    with pytest.raises(LoginRefusedError):
        phone.sign_in()
    phone.sign_in(phone.code())
    with pytest.raises(SecondFactorError):
        phone.access.accounts.confirm_codes(phone.own.session, phone.code())


def test_a_code_works_once_and_one_step_early_or_late(phone: Phone) -> None:
    phone.turn_on()
    early, now, late = phone.code(-1), phone.code(), phone.code(1)
    phone.sign_in(f"{early[:3]} {early[3:]}")
    phone.sign_in(late)
    for used in (early, now, late, phone.code(2), phone.code(-2), ""):  # the one of now is older than the last one used
        with pytest.raises(LoginRefusedError):
            phone.sign_in(used)
    phone.clock.turn(seconds=2 * STEP_S)
    phone.sign_in(phone.code())


def test_the_code_that_turned_them_on_signs_nobody_in(phone: Phone) -> None:
    first = phone.code()
    phone.access.accounts.confirm_codes(phone.own.session, first)
    with pytest.raises(LoginRefusedError):
        phone.sign_in(first)


def test_a_recovery_code_works_once(phone: Phone) -> None:
    made = phone.turn_on()
    phone.sign_in(made[3].upper().replace(" ", ""))
    with pytest.raises(LoginRefusedError):
        phone.sign_in(made[3])
    phone.sign_in(made[4])
    state = phone.access.accounts.codes.state(phone.own.session.principal.person)
    assert state is not None
    assert state.recovery_left == RECOVERY_CODES - 2


def test_a_right_password_without_the_code_is_refused_like_a_wrong_one_and_told(phone: Phone) -> None:
    phone.turn_on()
    said = set()
    for password in (PASSWORD, OTHER):
        with pytest.raises(LoginRefusedError) as refused:
            phone.sign_in("123", password)
        said.add((refused.value.message, refused.value.next_step))
    assert len(said) == 1
    told = [one.actor for one in phone.access.audit(PageRequest()).items if one.action == CODE_REFUSED]
    assert told == ["ann"]


def test_codes_cannot_be_guessed_by_who_knows_the_password(phone: Phone) -> None:
    phone.turn_on()
    for _ in range(OF_NAME.most):
        with pytest.raises(LoginRefusedError):
            phone.sign_in("12345")
    with pytest.raises(Exception, match="too many passwords were tried"):
        phone.sign_in(phone.code())


def test_codes_are_turned_on_and_off_with_the_password_only(phone: Phone) -> None:
    accounts, own = phone.access.accounts, phone.own.session
    other = phone.sign_in()
    phone.turn_on()
    with pytest.raises(LoginRefusedError):
        phone.access.logins.session_of(other.cookie)
    for act in (accounts.begin_codes, accounts.end_codes):
        with pytest.raises(WrongPasswordError):
            act(own, OTHER)
    with pytest.raises(SecondFactorError, match="on already"):
        accounts.begin_codes(own, PASSWORD)
    accounts.end_codes(own, PASSWORD)
    phone.sign_in()


def test_a_new_one_time_address_removes_them(phone: Phone) -> None:
    phone.turn_on()
    code = code_in(phone.access.accounts.invite("ann", [], by="boss").url_path)
    phone.access.accounts.use_invitation(code, OTHER)
    phone.sign_in(password=OTHER)


def test_the_secret_is_sealed_and_recovery_codes_are_hashed(phone: Phone, db: Database) -> None:
    made = phone.turn_on()
    with db.read() as session:
        secret, recovery = session.execute(text("SELECT secret, recovery_sha256 FROM access_second_factors")).one()
    assert secret.startswith(PREFIX)
    assert phone.totp.secret not in secret
    assert not any(one in str(recovery) or one.replace(" ", "") in str(recovery) for one in made)
