"""Tables of local accounts. Only `store.py` reads and writes them."""

from datetime import datetime

from sqlmodel import Field, SQLModel

from edgefleet_server.db.database import UtcDateTime


class AccountRow(SQLModel, table=True):
    """A person's account. token_id: the token with its roles, which has no text; password_hash: "" until the person chose a password."""

    __tablename__ = "access_accounts"

    person_id: str = Field(primary_key=True, max_length=16)
    token_id: str = Field(max_length=16)
    password_hash: str = Field(default="", max_length=255)
    password_at: datetime | None = Field(default=None, sa_type=UtcDateTime, nullable=True)


class InvitationRow(SQLModel, table=True):
    """A one-time code that nobody has used yet, one a person. Its secret is never stored, only its SHA-256."""

    __tablename__ = "access_invitations"

    id: str = Field(primary_key=True, max_length=16)
    secret_sha256: str = Field(max_length=64)
    person_id: str = Field(max_length=16, unique=True)
    created_at: datetime = Field(sa_type=UtcDateTime)
    expires_at: datetime = Field(sa_type=UtcDateTime)


class GuessRow(SQLModel, table=True):
    """How many passwords were tried for a name, known or not. key: SHA-256 of the name; level: of its bucket at that time."""

    __tablename__ = "access_guesses"

    key: str = Field(primary_key=True, max_length=64)
    level: float
    at: datetime = Field(sa_type=UtcDateTime, index=True)
