"""Tables of the registry. Only `store.py` reads and writes them."""

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, Column, Text, UniqueConstraint
from sqlmodel import Field, SQLModel

from edgefleet_server.db.database import UtcDateTime


class BlobRow(SQLModel, table=True):
    """A blob that is completely and durably in the blob store. Written after the bytes.

    renewed_at: when it was last uploaded or asked for again, None = not since `created_at`; unnamed_since: since when no row names it, as
    a collection of garbage saw it (ADR 0159). discarded_at: since when its bytes are to be removed; no reader sees it as a blob then.
    """

    __tablename__ = "blobs"

    sha256: str = Field(primary_key=True, max_length=64)
    length: int = Field(sa_type=BigInteger)
    created_at: datetime = Field(sa_type=UtcDateTime)
    discarded_at: datetime | None = Field(default=None, sa_type=UtcDateTime, nullable=True)
    renewed_at: datetime | None = Field(default=None, sa_type=UtcDateTime, nullable=True)
    unnamed_since: datetime | None = Field(default=None, sa_type=UtcDateTime, nullable=True)


class ModelRow(SQLModel, table=True):
    """A named line of releases."""

    __tablename__ = "models"

    name: str = Field(primary_key=True, max_length=63)
    created_at: datetime = Field(sa_type=UtcDateTime)
    created_by: str = Field(max_length=80)


class ReleaseRow(SQLModel, table=True):
    """One version of a model. `identity` is the digest of source, data and options: same identity = same release.

    attempt: how often the version was published with other content, since nothing was signed before; withdrawn_at: None = not.
    """

    __tablename__ = "releases"
    __table_args__ = (UniqueConstraint("model", "version"),)

    id: int | None = Field(default=None, primary_key=True)
    model: str = Field(foreign_key="models.name", max_length=63)
    version: str = Field(max_length=63)
    state: str = Field(max_length=16)
    source_sha256: str = Field(max_length=64)
    identity: str = Field(max_length=64)
    source: dict[str, Any] = Field(sa_column=Column(JSON, nullable=False))
    data: dict[str, Any] = Field(sa_column=Column(JSON, nullable=False))
    options: dict[str, Any] = Field(sa_column=Column(JSON, nullable=False))
    profiles_reason: str = Field(sa_column=Column(Text, nullable=False))
    lineage: dict[str, Any] = Field(default_factory=dict, sa_column=Column(JSON, nullable=False, server_default="{}"))
    created_at: datetime = Field(sa_type=UtcDateTime)
    created_by: str = Field(max_length=80)
    attempt: int = Field(default=1, sa_column_kwargs={"server_default": "1"})
    withdrawn_at: datetime | None = Field(default=None, sa_type=UtcDateTime, nullable=True)
    withdrawn_by: str = Field(default="", max_length=80, sa_column_kwargs={"server_default": ""})
    withdrawn_reason: str = Field(default="", sa_column=Column(Text, nullable=False, server_default=""))


class AttemptRow(SQLModel, table=True):
    """A publication that signed nothing, and whose version was then published with other content. `jobs`: how each profile ended."""

    __tablename__ = "release_attempts"

    model: str = Field(primary_key=True, max_length=63)
    version: str = Field(primary_key=True, max_length=63)
    number: int = Field(primary_key=True, sa_column_kwargs={"autoincrement": False})
    state: str = Field(max_length=16)
    source_sha256: str = Field(max_length=64)
    source: dict[str, Any] = Field(sa_column=Column(JSON, nullable=False))
    data: dict[str, Any] = Field(sa_column=Column(JSON, nullable=False))
    options: dict[str, Any] = Field(sa_column=Column(JSON, nullable=False))
    lineage: dict[str, Any] = Field(sa_column=Column(JSON, nullable=False))
    jobs: list[dict[str, Any]] = Field(sa_column=Column(JSON, nullable=False))
    created_at: datetime = Field(sa_type=UtcDateTime)
    created_by: str = Field(max_length=80)


class RemovedVersionRow(SQLModel, table=True):
    """A version that had a signed bundle and was deleted. It is never published again: somebody may have the signed bytes."""

    __tablename__ = "removed_versions"

    model: str = Field(primary_key=True, max_length=63)
    version: str = Field(primary_key=True, max_length=63)
    removed_at: datetime = Field(sa_type=UtcDateTime)
    removed_by: str = Field(max_length=80)
    reason: str = Field(sa_column=Column(Text, nullable=False))


class AliasRow(SQLModel, table=True):
    """A name of a release that moves."""

    __tablename__ = "model_aliases"

    model: str = Field(primary_key=True, foreign_key="models.name", max_length=63)
    alias: str = Field(primary_key=True, max_length=63)
    version: str = Field(max_length=63)
    set_at: datetime = Field(sa_type=UtcDateTime)
    set_by: str = Field(max_length=80)


class BundleRow(SQLModel, table=True):
    """One signed bundle of a release. Never replaced."""

    __tablename__ = "bundles"
    __table_args__ = (UniqueConstraint("release_id", "profile"),)

    id: int | None = Field(default=None, primary_key=True)
    release_id: int = Field(foreign_key="releases.id")
    profile: str = Field(max_length=63)
    target: str = Field(max_length=255, unique=True)
    sha256: str = Field(foreign_key="blobs.sha256", max_length=64, index=True)
    length: int = Field(sa_type=BigInteger)
    leaves: str = Field(foreign_key="blobs.sha256", max_length=64, index=True)
    runtime: str = Field(max_length=32)
    precision: str = Field(max_length=32)
    report: dict[str, Any] = Field(sa_column=Column(JSON, nullable=False))
    signed_at: datetime = Field(sa_type=UtcDateTime)
    sealed_key: str | None = Field(default=None, max_length=255)
    """Of a bundle whose model is sealed: its key, sealed to the fleet key."""


class UnsignedBundleRow(SQLModel, table=True):
    """One bundle that was converted and waits for the signatures of its model's team."""

    __tablename__ = "unsigned_bundles"

    release_id: int = Field(foreign_key="releases.id", primary_key=True)
    profile: str = Field(max_length=63, primary_key=True)
    target: str = Field(max_length=255)
    sha256: str = Field(foreign_key="blobs.sha256", max_length=64)
    length: int = Field(sa_type=BigInteger)
    leaves: str = Field(foreign_key="blobs.sha256", max_length=64)
    runtime: str = Field(max_length=32)
    precision: str = Field(max_length=32)
    report: dict[str, Any] = Field(sa_column=Column(JSON, nullable=False))
    sealed_key: str | None = Field(default=None, max_length=255)
    """As of `BundleRow`."""


class ProfileRow(SQLModel, table=True):
    """A hardware profile that came with a publication, in addition to those that edgefleet ships."""

    __tablename__ = "profiles"

    name: str = Field(primary_key=True, max_length=63)
    facts: dict[str, Any] = Field(sa_column=Column(JSON, nullable=False))
    created_at: datetime = Field(sa_type=UtcDateTime)
    created_by: str = Field(max_length=80)
