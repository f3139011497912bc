"""Values of local accounts. Pure."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from edgefleet_server.access.model import Role

CODE_LIFE: Final = timedelta(hours=24)
MAX_CODE_LIFE: Final = timedelta(days=7)


class AccountState(StrEnum):
    """How far an account is. Public: never renamed."""

    NONE = "none"
    INVITED = "invited"
    """A one-time code waits to be used, and nobody can sign in yet."""
    LAPSED = "lapsed"
    """The one-time code has ended unused."""
    OPEN = "open"
    """The person signs in with a password."""
    CLOSED = "closed"
    """Its token was revoked, or the person is disabled."""


@dataclass(frozen=True, slots=True)
class Invitation:
    """A one-time code just made: the path that a browser opens, whose it is, what it will give, and until when it works."""

    person: str
    roles: tuple[Role, ...]
    url_path: str
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class SecondFactor:
    """Codes of a person, in force. since: when they were turned on; recovery_left: how many recovery codes were not used."""

    since: datetime
    recovery_left: int


@dataclass(frozen=True, slots=True)
class CodeSetup:
    """What an app needs for codes. secret: base32 in groups of four; uri: the same with names, as a QR picture has it."""

    secret: str = field(repr=False)
    uri: str = field(repr=False)


def state_of(*, has_password: bool, is_in_force: bool, code_ends_at: datetime | None, now: datetime) -> AccountState:
    """Return how far an account is. is_in_force: its token is, and its person enabled; code_ends_at: of the code that waits."""
    if not is_in_force:
        return AccountState.CLOSED
    if has_password:
        return AccountState.OPEN
    return AccountState.INVITED if code_ends_at is not None and code_ends_at > now else AccountState.LAPSED
