"""Values of identities. Pure."""

from dataclasses import dataclass, field
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Identity:
    """Somebody as an issuer knows them: issuer and subject, which never change. Names are for reading only.

    person: name of the person it is, "" while it waits for an admin's word.
    """

    id: str
    provider: str
    issuer: str
    subject: str
    name: str
    email: str
    person: str
    person_id: str
    first_seen_at: datetime
    last_seen_at: datetime


@dataclass(frozen=True, slots=True)
class ProviderButton:
    """An identity provider as the sign-in page shows it."""

    name: str
    title: str


@dataclass(frozen=True, slots=True)
class Departure:
    """A sign-in that was begun: the address of the issuer that the browser goes to, and what its cookie holds until it is back."""

    url: str
    title: str
    cookie: str = field(repr=False)
