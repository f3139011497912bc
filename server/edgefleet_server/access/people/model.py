"""People and services as they are shown, and how long their tokens last. Pure."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from edgefleet_server.access.accounts.model import AccountState
from edgefleet_server.access.errors import BadTokenRequestError
from edgefleet_server.access.model import Grant, PersonKind

TOKEN_LIFE: Final = timedelta(days=90)
"""Of a token for which no end was asked."""
MAX_PERSON_LIFE: Final = timedelta(days=366)
"""Of a token of a person: there is no person who cannot fetch a new one within a year."""
ENDS_SOON: Final = timedelta(days=14)
"""Before its end a token is marked for so long."""


@dataclass(frozen=True, slots=True)
class PersonView:
    """A person or a service. tokens: how many of theirs are in force; disabled_at: since when nothing of theirs works, None: it does.

    account: whether the person signs in with a password;
    grants: what limits all their tokens, None: nothing is said, and each token decides.
    """

    id: str
    name: str
    kind: PersonKind
    created_at: datetime
    created_by: str
    disabled_at: datetime | None
    tokens: int
    account: AccountState = AccountState.NONE
    grants: tuple[Grant, ...] | None = None


def end_of_token(kind: PersonKind, wanted: datetime | None, now: datetime, *, is_endless: bool) -> datetime | None:
    """Return when a new token ends, None: never. wanted: None = as usual. Raises BadTokenRequestError."""
    if is_endless:
        if wanted is not None:
            raise BadTokenRequestError("the token is to end and not to end", next_step="leave one of the two out")
        if kind is not PersonKind.SERVICE:
            raise BadTokenRequestError(
                "a token of a person always ends", next_step="give an end, or make the token for a service"
            )
        return None
    if wanted is None:
        return now + TOKEN_LIFE
    if wanted <= now:
        raise BadTokenRequestError("the token would have expired already", next_step="give a later time")
    if kind is PersonKind.PERSON and wanted - now > MAX_PERSON_LIFE:
        raise BadTokenRequestError(
            f"a token of a person ends within {MAX_PERSON_LIFE.days} days",
            next_step="give an earlier time, or make the token for a service",
        )
    return wanted


def ends_soon(expires_at: datetime | None, now: datetime) -> bool:
    """Return whether a token that is in force ends within ENDS_SOON."""
    return expires_at is not None and now < expires_at <= now + ENDS_SOON
