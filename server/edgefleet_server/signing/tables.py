"""Tables of the signing feature: TUF metadata, issued certificates, requests for signatures of holders and teams, the writer lock row."""

from datetime import datetime

from sqlalchemy import BigInteger, Column, Integer, LargeBinary
from sqlmodel import Field, SQLModel

from edgefleet_server.db.database import UtcDateTime

LOCK_ROW = 1


class SigningMetadata(SQLModel, table=True):
    """One signed TUF file: role `name` at `version`, exactly the bytes that clients get."""

    __tablename__ = "signing_tuf_metadata"

    name: str = Field(primary_key=True, max_length=80)
    version: int = Field(sa_column=Column(BigInteger, primary_key=True, autoincrement=False))
    data: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    created_at: datetime = Field(sa_type=UtcDateTime)


class SigningCertificate(SQLModel, table=True):
    """One certificate that the device CA issued; `subject` is its CN, `kind` device, service or server."""

    __tablename__ = "signing_certificate"

    serial: str = Field(primary_key=True, max_length=48)
    subject: str = Field(index=True, max_length=64)
    kind: str = Field(max_length=16)
    key_sha256: str = Field(max_length=64)
    not_before: datetime = Field(sa_type=UtcDateTime)
    not_after: datetime = Field(sa_type=UtcDateTime)
    revoked_at: datetime | None = Field(default=None, sa_type=UtcDateTime, index=True)
    issuer: str = Field(default="", max_length=64, sa_column_kwargs={"server_default": ""})
    """SHA-256 of the CA's certificate (DER); "": it was not noted yet."""


class SigningLock(SQLModel, table=True):
    """The single row that every writer of metadata updates first, so that writers come one after another."""

    __tablename__ = "signing_lock"

    id: int = Field(sa_column=Column(Integer, primary_key=True, autoincrement=False))
    turns: int = Field(default=0, sa_column=Column(BigInteger, nullable=False))


class SigningRequestRow(SQLModel, table=True):
    """One request for signatures of offline keys, as its file is, with the signatures so far. state: waiting, done, dropped."""

    __tablename__ = "signing_request"

    id: str = Field(primary_key=True, max_length=16)
    state: str = Field(max_length=16, index=True)
    purpose: str = Field(max_length=200)
    document: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    made_at: datetime = Field(sa_type=UtcDateTime)
    ended_at: datetime | None = Field(default=None, sa_type=UtcDateTime)


class TeamRequestRow(SQLModel, table=True):
    """One request for signatures of a model's team, as its file is, with the signatures so far. state: waiting, ready, done, dropped.

    options: what is to hold of new models once a team takes its model over: "", close or open.
    """

    __tablename__ = "signing_team_request"

    id: str = Field(primary_key=True, max_length=16)
    model: str = Field(max_length=63, index=True)
    act: str = Field(max_length=16)
    version: str = Field(max_length=63)
    state: str = Field(max_length=16, index=True)
    options: str = Field(default="", max_length=16)
    document: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    made_at: datetime = Field(sa_type=UtcDateTime)
    ended_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
