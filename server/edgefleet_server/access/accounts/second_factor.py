"""Codes of an app as a second factor: RFC 6238, six digits each 30 s, one step early or late, none of them twice; and recovery codes.

The secret is sealed (ADR 0119) and shown while it is set up only. A recovery code has 80 random bits, so its plain SHA-256 is enough.
Thread-safe; calls block; writes join the caller's transaction.
"""

import base64
import hmac
import secrets
from datetime import datetime
from typing import Final

import pyotp
from sqlmodel import Session

from edgefleet_protocol.clock import Clock
from edgefleet_protocol.digest import sha256_hex
from edgefleet_server.access.accounts import store
from edgefleet_server.access.accounts.model import CodeSetup, SecondFactor
from edgefleet_server.access.accounts.tables import SecondFactorRow
from edgefleet_server.access.errors import SecondFactorError, WrongCodeError
from edgefleet_server.db.database import Database
from edgefleet_server.encryption.model import SealedValue
from edgefleet_server.encryption.service import Sealer

STEP_S: Final = 30
RECOVERY_CODES: Final = 10
ISSUER: Final = "edgefleet"


class CodeBook:
    """Sets up, checks and removes the codes of people."""

    def __init__(self, db: Database, clock: Clock, sealer: Sealer | None) -> None:
        """Wire the parts. sealer: None where nobody signs in."""
        self._db = db
        self._clock = clock
        self._sealer = sealer

    def state(self, person: str) -> SecondFactor | None:
        """Return since when a person has codes, and how many recovery codes are left; None without codes."""
        with self._db.read() as session:
            row = store.find_second_factor(session, person)
        if row is None or row.confirmed_at is None:
            return None
        return SecondFactor(row.confirmed_at, len(row.recovery_sha256))

    def begin(self, person: str, name: str) -> CodeSetup:
        """Make a secret that is in force once a code of it was seen. Raises SecondFactorError when there is one in force."""
        secret = pyotp.random_base32()
        with self._db.session() as session:
            row = store.find_second_factor(session, person, lock=True)
            if row is not None and row.confirmed_at is not None:
                raise SecondFactorError("codes are on already", next_step="turn them off first, with your password")
            sealed = self._seal(person, secret)
            made = SecondFactorRow(person_id=person, secret=sealed, made_at=self._clock.now(), last_step=0)
            session.merge(made)
        return _setup(secret, name)

    def pending(self, person: str, name: str) -> CodeSetup:
        """Return what is being set up. Raises SecondFactorError when nothing is."""
        with self._db.read() as session:
            row = store.find_second_factor(session, person)
        if row is None or row.confirmed_at is not None:
            raise _not_begun()
        return _setup(self._open(row), name)

    def confirm(self, person: str, code: str) -> list[str]:
        """Put what is being set up into force; return new recovery codes. Raises SecondFactorError, WrongCodeError."""
        made = [_grouped(base64.b32encode(secrets.token_bytes(10)).decode().lower()) for _ in range(RECOVERY_CODES)]
        with self._db.session() as session:
            row = store.find_second_factor(session, person, lock=True)
            if row is None or row.confirmed_at is not None:
                raise _not_begun()
            step = self._step_of(row, code)
            if step is None:
                raise WrongCodeError(
                    "this code is not right",
                    next_step="type the one that the app shows now; see that its clock is right",
                )
            row.confirmed_at, row.last_step = self._clock.now(), step
            row.recovery_sha256 = [_digest(one) for one in made]
            session.add(row)
        return made

    def turn_off(self, person: str) -> None:
        """Remove a person's codes."""
        with self._db.session() as session:
            store.delete_second_factor(session, person)

    def is_passed(self, session: Session, person: str, code: str) -> bool:
        """Return whether a person may sign in with this code, and use it up; a person without codes always may."""
        row = store.find_second_factor(session, person, lock=True)
        if row is None or row.confirmed_at is None:
            return True
        digest = _digest(code)
        if digest in row.recovery_sha256:
            row.recovery_sha256 = [one for one in row.recovery_sha256 if one != digest]
        elif (step := self._step_of(row, code)) is not None:
            row.last_step = step
        else:
            return False
        session.add(row)
        session.flush()
        return True

    def _step_of(self, row: SecondFactorRow, code: str) -> int | None:
        """Return the step that a code is of, None when it is of none that is near and was not used before."""
        typed = "".join(code.split())
        source, now = pyotp.TOTP(self._open(row), interval=STEP_S), _step(self._clock.now())
        found = None
        for step in (now - 1, now, now + 1):
            is_same = hmac.compare_digest(source.generate_otp(step).encode(), typed.encode("utf-8", "replace"))
            if is_same and step > row.last_step:
                found = step
        return found

    def _seal(self, person: str, secret: str) -> str:
        assert self._sealer is not None
        return self._sealer.seal(store.SEALED.place(person), secret)

    def _open(self, row: SecondFactorRow) -> str:
        assert self._sealer is not None
        return self._sealer.open(SealedValue(store.SEALED.place(row.person_id), row.secret))


def _step(now: datetime) -> int:
    return int(now.timestamp()) // STEP_S


def _setup(secret: str, name: str) -> CodeSetup:
    return CodeSetup(
        _grouped(secret), pyotp.TOTP(secret, interval=STEP_S).provisioning_uri(name=name, issuer_name=ISSUER)
    )


def _grouped(text: str) -> str:
    return " ".join(text[at : at + 4] for at in range(0, len(text), 4))


def _digest(code: str) -> str:
    return sha256_hex("".join(code.split()).lower().encode("utf-8", "replace"))


def _not_begun() -> SecondFactorError:
    return SecondFactorError("no codes are being set up", next_step="turn them on on the page of your account")
