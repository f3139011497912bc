"""Tables of the access feature. Only `store.py` reads and writes them."""

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, Column, Index, Integer, LargeBinary
from sqlmodel import Field, SQLModel

from edgefleet_server.db.database import UtcDateTime


class PersonRow(SQLModel, table=True):
    """A person or a service: the owner of tokens. Never deleted, so that a name in the audit trail stays one owner's."""

    __tablename__ = "access_people"

    id: str = Field(primary_key=True, max_length=16)
    name: str = Field(max_length=80, unique=True)
    kind: str = Field(max_length=16)
    created_at: datetime = Field(sa_type=UtcDateTime)
    created_by: str = Field(max_length=80)
    disabled_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    grants: list[dict[str, Any]] | None = Field(default=None, sa_column=Column(JSON(none_as_null=True), nullable=True))
    """What limits all tokens of theirs (`grants.rules.stored`); None: nothing is said, and each token decides."""


class TokenRow(SQLModel, table=True):
    """An operator token. The secret itself is never stored, only its SHA-256. person_id: None where a server of before people made it."""

    __tablename__ = "access_tokens"

    id: str = Field(primary_key=True, max_length=16)
    name: str = Field(max_length=80)
    secret_sha256: str = Field(max_length=64)
    roles: list[str] = Field(sa_column=Column(JSON, nullable=False))
    """Over the whole fleet."""
    created_at: datetime = Field(sa_type=UtcDateTime)
    created_by: str = Field(max_length=80)
    expires_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    last_used_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    revoked_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    person_id: str | None = Field(default=None, max_length=16, nullable=True, index=True)
    grants: list[dict[str, Any]] = Field(
        default_factory=list, sa_column=Column(JSON, nullable=False, server_default="[]")
    )
    """Of a part of the fleet. Not among the roles: a server of the version before would give them over all of it."""
    made_with: str = Field(default="", max_length=16, sa_column_kwargs={"server_default": ""})
    """The token with which its person made it, "" for one that an admin made: both end when that is revoked."""


class PipelineRow(SQLModel, table=True):
    """A trusted pipeline. repository_id: "" until its first token. environment, workflow: "" = any."""

    __tablename__ = "access_pipelines"

    name: str = Field(primary_key=True, max_length=63)
    provider: str = Field(max_length=16)
    issuer: str = Field(max_length=255)
    repository: str = Field(max_length=255)
    repository_id: str = Field(max_length=64)
    ref: str = Field(max_length=255)
    environment: str = Field(max_length=255)
    workflow: str = Field(max_length=255)
    roles: list[str] = Field(sa_column=Column(JSON, nullable=False))
    created_at: datetime = Field(sa_type=UtcDateTime)
    created_by: str = Field(max_length=120)
    last_used_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    grants: list[dict[str, Any]] = Field(
        default_factory=list, sa_column=Column(JSON, nullable=False, server_default="[]")
    )
    """Of a part of the fleet; not among the roles, as in a token's row."""


class PipelineTokenRow(SQLModel, table=True):
    """An ID token that was exchanged, and the operator token it was exchanged for; kept until both have ended."""

    __tablename__ = "access_pipeline_tokens"

    id_token_sha256: str = Field(primary_key=True, max_length=64)
    pipeline: str = Field(max_length=63, index=True)
    token_id: str = Field(max_length=16)
    ends_at: datetime = Field(sa_type=UtcDateTime, index=True)


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
    """One attempt to change something: who, what, when, with which answer. Rows are only ever added.

    n, hash: place and hash in the chain. A server of before the chain writes rows without them; they get both later.
    """

    __tablename__ = "audit"
    __table_args__ = (Index("ix_audit_at", "at"), Index("ix_audit_n", "n", unique=True))

    id: int | None = Field(
        default=None, sa_column=Column(BigInteger().with_variant(Integer, "sqlite"), primary_key=True)
    )
    at: datetime = Field(sa_type=UtcDateTime)
    actor: str = Field(max_length=120)
    action: str = Field(max_length=120)
    object: str = Field(max_length=255)
    status: int
    request_id: str = Field(max_length=64)
    n: int | None = Field(default=None, sa_column=Column(BigInteger, nullable=True))
    hash: str | None = Field(default=None, max_length=64, nullable=True)


class AuditTailRow(SQLModel, table=True):
    """The single row with the last place and hash of the chain. Who appends locks it, as the last thing of a transaction."""

    __tablename__ = "audit_tail"

    id: int = Field(sa_column=Column(Integer, primary_key=True, autoincrement=False))
    n: int = Field(sa_column=Column(BigInteger, nullable=False))
    hash: str = Field(max_length=64)


class AuditHeadRow(SQLModel, table=True):
    """A head: the tree over the first `size` entries. Never changed, never deleted."""

    __tablename__ = "audit_head"

    size: int = Field(sa_column=Column(BigInteger, primary_key=True, autoincrement=False))
    at: datetime = Field(sa_type=UtcDateTime)
    chain: str = Field(max_length=64)
    root: str = Field(max_length=64)


class AuditNodeRow(SQLModel, table=True):
    """A whole subtree of 2^level entries, levels 8, 16, 24 …: what proofs and heads need so that no tree is built from its leaves."""

    __tablename__ = "audit_node"

    level: int = Field(sa_column=Column(Integer, primary_key=True, autoincrement=False))
    place: int = Field(sa_column=Column(BigInteger, primary_key=True, autoincrement=False))
    hash: str = Field(max_length=64)


class AuditCheckRow(SQLModel, table=True):
    """The single row with how far the server has read its own trail again. broken_n: entry that does not follow, 0 = none.

    n, hash: the last entry of this round that holds; whole_at: when a round last reached the end.
    """

    __tablename__ = "audit_check"

    id: int = Field(sa_column=Column(Integer, primary_key=True, autoincrement=False))
    n: int = Field(sa_column=Column(BigInteger, nullable=False))
    hash: str = Field(max_length=64)
    whole_at: datetime | None = Field(default=None, sa_type=UtcDateTime, nullable=True)
    broken_n: int = Field(sa_column=Column(BigInteger, nullable=False))


class RepeatRow(SQLModel, table=True):
    """One `Idempotency-Key` of a token. status: None while it is being done; sealed: the answer, for that token's eyes only."""

    __tablename__ = "access_repeats"

    token_id: str = Field(primary_key=True, max_length=16)
    key_sha256: str = Field(primary_key=True, max_length=64)
    request_sha256: str = Field(max_length=64)
    created_at: datetime = Field(sa_type=UtcDateTime, index=True)
    status: int | None = Field(default=None, nullable=True)
    sealed: bytes = Field(default=b"", sa_column=Column(LargeBinary, nullable=False))
