"""Tables of identities. Only `store.py` reads and writes them."""

from datetime import datetime

from sqlalchemy import UniqueConstraint
from sqlmodel import Field, SQLModel

from edgefleet_server.db.database import UtcDateTime


class IdentityRow(SQLModel, table=True):
    """Somebody as an issuer knows them. Kept once it was somebody's: whose it was is remembered.

    person_id: whose it is or was last, "" until an admin said so; is_linked: whether it is; token_id: the token, without a text, with the
    roles of the last sign-in, "" before the first.
    """

    __tablename__ = "access_identities"
    __table_args__ = (UniqueConstraint("issuer", "subject", name="uq_access_identities_issuer"),)

    id: str = Field(primary_key=True, max_length=16)
    issuer: str = Field(max_length=255)
    subject: str = Field(max_length=255)
    provider: str = Field(max_length=32)
    name: str = Field(max_length=80)
    email: str = Field(max_length=254)
    person_id: str = Field(max_length=16, index=True)
    is_linked: bool
    token_id: str = Field(max_length=16)
    first_seen_at: datetime = Field(sa_type=UtcDateTime)
    last_seen_at: datetime = Field(sa_type=UtcDateTime)


class SignInRow(SQLModel, table=True):
    """A sign-in that a browser began and has not come back from. The browser's secret is not stored, and no proof can be made of this."""

    __tablename__ = "access_sign_ins"

    state_sha256: str = Field(primary_key=True, max_length=64)
    provider: str = Field(max_length=32)
    next_page: str = Field(max_length=800)
    ends_at: datetime = Field(sa_type=UtcDateTime, index=True)
