"""Tables of the access feature. Only `store.py` reads and writes them."""

from datetime import datetime

from sqlalchemy import JSON, BigInteger, Column, Index, Integer, LargeBinary
from sqlmodel import Field, SQLModel

from edgefleet_server.db.database import UtcDateTime


class TokenRow(SQLModel, table=True):
    """An operator token. The secret itself is never stored, only its SHA-256."""

    __tablename__ = "access_tokens"

    id: str = Field(primary_key=True, max_length=16)
    name: str = Field(max_length=80)
    secret_sha256: str = Field(max_length=64)
    roles: list[str] = Field(sa_column=Column(JSON, nullable=False))
    created_at: datetime = Field(sa_type=UtcDateTime)
    created_by: str = Field(max_length=80)
    expires_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    last_used_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    revoked_at: datetime | None = Field(default=None, sa_type=UtcDateTime)


class LoginLinkRow(SQLModel, table=True):
    """A one-time login link that nobody has used yet. Its secret is never stored, only its SHA-256."""

    __tablename__ = "access_login_links"

    id: str = Field(primary_key=True, max_length=16)
    secret_sha256: str = Field(max_length=64)
    token_id: str = Field(index=True, max_length=16)
    created_at: datetime = Field(sa_type=UtcDateTime)
    expires_at: datetime = Field(sa_type=UtcDateTime)


class SessionRow(SQLModel, table=True):
    """A browser that is signed in, by the right of a token. Its secret is never stored, only its SHA-256."""

    __tablename__ = "access_sessions"

    id: str = Field(primary_key=True, max_length=16)
    secret_sha256: str = Field(max_length=64)
    token_id: str = Field(index=True, max_length=16)
    created_at: datetime = Field(sa_type=UtcDateTime)
    expires_at: datetime = Field(sa_type=UtcDateTime)


class AuditRow(SQLModel, table=True):
    """One attempt to change something: who, what, when, with which answer. Rows are only ever added."""

    __tablename__ = "audit"
    __table_args__ = (Index("ix_audit_at", "at"),)

    id: int | None = Field(
        default=None, sa_column=Column(BigInteger().with_variant(Integer, "sqlite"), primary_key=True)
    )
    at: datetime = Field(sa_type=UtcDateTime)
    actor: str = Field(max_length=120)
    action: str = Field(max_length=120)
    object: str = Field(max_length=255)
    status: int
    request_id: str = Field(max_length=64)


class RepeatRow(SQLModel, table=True):
    """One `Idempotency-Key` of a token. status: None while it is being done; sealed: the answer, for that token's eyes only."""

    __tablename__ = "access_repeats"

    token_id: str = Field(primary_key=True, max_length=16)
    key_sha256: str = Field(primary_key=True, max_length=64)
    request_sha256: str = Field(max_length=64)
    created_at: datetime = Field(sa_type=UtcDateTime, index=True)
    status: int | None = Field(default=None, nullable=True)
    sealed: bytes = Field(default=b"", sa_column=Column(LargeBinary, nullable=False))
