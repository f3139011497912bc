"""Tables of local accounts. Only `store.py` reads and writes them."""

from datetime import datetime

from sqlalchemy import JSON, BigInteger, Column
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


class SecondFactorRow(SQLModel, table=True):
    """The codes of a person. secret: sealed; confirmed_at: None until a first code was seen; last_step: of 30 s, that was used last."""

    __tablename__ = "access_second_factors"

    person_id: str = Field(primary_key=True, max_length=16)
    secret: str = Field(max_length=512)
    made_at: datetime = Field(sa_type=UtcDateTime)
    confirmed_at: datetime | None = Field(default=None, sa_type=UtcDateTime, nullable=True)
    last_step: int = Field(sa_column=Column(BigInteger, nullable=False))
    recovery_sha256: list[str] = Field(default_factory=list, sa_column=Column(JSON, nullable=False))


class GuessRow(SQLModel, table=True):
    """How many passwords were tried for a name, known or not. key: SHA-256 of the name; level: of its bucket at that time."""

    __tablename__ = "access_guesses"

    key: str = Field(primary_key=True, max_length=64)
    level: float
    at: datetime = Field(sa_type=UtcDateTime, index=True)
