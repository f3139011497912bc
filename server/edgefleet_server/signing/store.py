"""Reads and writes signed metadata and issued certificates. The only SQL of this feature.

Every function works inside the caller's session and never commits.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import and_, case, delete, func, or_, select, tuple_, update
from sqlmodel import Session, col

from edgefleet_server.signing.authority import Issued
from edgefleet_server.signing.tables import (
    LOCK_ROW,
    SigningCertificate,
    SigningLock,
    SigningMetadata,
    SigningRequestRow,
    TeamRequestRow,
)
from edgefleet_server.signing.trust import CertificatesView, StoredFile

CANARY = "canary"
"""Kind of certificates that are only there to be refused."""


class Timed(NamedTuple):
    """One file of a role, and when it was made (aware UTC)."""

    version: int
    data: bytes
    made_at: datetime


def take_turn(session: Session) -> None:
    """Wait until this transaction is the only writer of metadata; holds until it ends."""
    statement = update(SigningLock).where(col(SigningLock.id) == LOCK_ROW).values(turns=col(SigningLock.turns) + 1)
    if session.execute(statement).rowcount == 0:  # type: ignore[attr-defined]  # CursorResult of an UPDATE
        session.add(SigningLock(id=LOCK_ROW, turns=1))
        session.flush()


def latest(session: Session, name: str) -> tuple[int, bytes] | None:
    """Return version and bytes of the newest file of role `name`."""
    statement = (
        select(col(SigningMetadata.version), col(SigningMetadata.data))
        .where(col(SigningMetadata.name) == name)
        .order_by(col(SigningMetadata.version).desc())
        .limit(1)
    )
    row = session.execute(statement).first()
    return None if row is None else (int(row[0]), bytes(row[1]))


def version_of(session: Session, name: str, version: int) -> bytes | None:
    """Return the bytes of one version of role `name`."""
    row = session.get(SigningMetadata, (name, version))
    return None if row is None else bytes(row.data)


def timed(session: Session, name: str, version: int) -> Timed | None:
    """Return one version of role `name` with the time when it was made."""
    row = session.get(SigningMetadata, (name, version))
    return None if row is None else Timed(row.version, bytes(row.data), row.created_at)


def all_versions(session: Session, name: str) -> Sequence[tuple[int, bytes]]:
    """Return every stored version of role `name`, oldest first."""
    statement = (
        select(col(SigningMetadata.version), col(SigningMetadata.data))
        .where(col(SigningMetadata.name) == name)
        .order_by(col(SigningMetadata.version))
    )
    return [(int(version), bytes(data)) for version, data in session.execute(statement)]


def names(session: Session) -> list[str]:
    """Return the names of all roles, sorted."""
    statement = select(col(SigningMetadata.name)).distinct().order_by(col(SigningMetadata.name))
    return [str(name) for name in session.execute(statement).scalars()]


def newest_made(session: Session) -> Sequence[tuple[str, datetime]]:
    """Return each role's name and when its newest file was made; the files themselves are not read."""
    newest = (
        select(col(SigningMetadata.name), func.max(col(SigningMetadata.version)))
        .group_by(col(SigningMetadata.name))
        .subquery()
    )
    statement = select(col(SigningMetadata.name), col(SigningMetadata.created_at)).where(
        tuple_(col(SigningMetadata.name), col(SigningMetadata.version)).in_(select(newest))
    )
    return [(str(name), made_at) for name, made_at in session.execute(statement)]


def newest_files(session: Session, names: Sequence[str]) -> dict[str, StoredFile]:
    """Return the newest file of each of these roles that has one."""
    found = {}
    for name in names:
        statement = (
            select(SigningMetadata)
            .where(col(SigningMetadata.name) == name)
            .order_by(col(SigningMetadata.version).desc())
            .limit(1)
        )
        row = session.execute(statement).scalars().first()
        if row is not None:
            found[name] = StoredFile(row.version, bytes(row.data), row.created_at)
    return found


def count_certificates(session: Session, now: datetime) -> list[CertificatesView]:
    """Return how many certificates of each kind are valid, revoked and over, and when the first of the valid ones ends."""
    row = SigningCertificate
    is_live = col(row.revoked_at).is_(None)
    is_valid = and_(is_live, col(row.not_after) > now)
    statement = (
        select(
            col(row.kind),
            func.sum(case((is_valid, 1), else_=0)),
            func.sum(case((is_live, 0), else_=1)),
            func.sum(case((and_(is_live, col(row.not_after) <= now), 1), else_=0)),
            func.min(case((is_valid, col(row.not_after)), else_=None)),
        )
        .where(col(row.kind) != CANARY)
        .group_by(col(row.kind))
        .order_by(col(row.kind))
    )
    return [
        CertificatesView(str(kind), int(valid), int(revoked), int(ended), first)
        for kind, valid, revoked, ended, first in session.execute(statement)
    ]


def put(session: Session, name: str, version: int, data: bytes, now: datetime) -> None:
    """Store a newly signed file."""
    session.add(SigningMetadata(name=name, version=version, data=data, created_at=now))
    session.flush()


def prune(session: Session, name: str, *, below: int, older_than: datetime) -> None:
    """Delete versions of `name` below `below` made before `older_than`; clients in mid-refresh still find the rest."""
    session.execute(
        delete(SigningMetadata).where(
            col(SigningMetadata.name) == name,
            col(SigningMetadata.version) < below,
            col(SigningMetadata.created_at) < older_than,
        )
    )


def add_certificate(session: Session, issued: Issued, kind: str) -> None:
    """Record an issued certificate."""
    session.add(
        SigningCertificate(
            serial=issued.serial,
            subject=issued.subject,
            kind=kind,
            key_sha256=issued.key_sha256,
            not_before=issued.not_before,
            not_after=issued.not_after,
            issuer=issued.issuer,
        )
    )
    session.flush()


def revoke_subject(session: Session, subject: str, now: datetime) -> int:
    """Mark every live certificate of `subject` revoked; return how many there were."""
    statement = (
        update(SigningCertificate)
        .where(col(SigningCertificate.subject) == subject, col(SigningCertificate.revoked_at).is_(None))
        .values(revoked_at=now)
    )
    return int(session.execute(statement).rowcount)  # type: ignore[attr-defined]


def revocation_mark(session: Session) -> tuple[int, datetime | None]:
    """Return how many certificates were revoked and when the last was: another answer means that there are new ones."""
    row = SigningCertificate
    statement = select(func.count(), func.max(col(row.revoked_at))).where(
        col(row.revoked_at).is_not(None), col(row.kind) != CANARY
    )
    count, newest = session.execute(statement).one()
    return int(count), newest


def forget_canaries(session: Session, now: datetime) -> None:
    """Delete canaries that have ended."""
    row = SigningCertificate
    session.execute(
        delete(row).where(col(row.kind) == CANARY, col(row.revoked_at).is_not(None), col(row.not_after) < now)
    )


def revoked_certificates(session: Session, ends_after: datetime) -> tuple[list[str], set[str]]:
    """Return the serials of revoked certificates that end after a moment, and the devices that have no other certificate."""
    row = SigningCertificate
    is_revoked = and_(col(row.revoked_at).is_not(None), col(row.not_after) > ends_after)
    serials, subjects = [], set()
    for serial, subject, kind in session.execute(
        select(col(row.serial), col(row.subject), col(row.kind)).where(is_revoked).order_by(col(row.serial))
    ):
        serials.append(str(serial))
        if kind == "device":
            subjects.add(str(subject))
    revoked = select(col(row.subject)).where(is_revoked, col(row.kind) == "device")
    living = select(col(row.subject)).where(col(row.revoked_at).is_(None), col(row.subject).in_(revoked)).distinct()
    return serials, subjects - {str(subject) for subject in session.execute(living).scalars()}


def certificate(session: Session, serial: str) -> SigningCertificate | None:
    """Return an issued certificate."""
    return session.get(SigningCertificate, serial)


def revoke_key(session: Session, subject: str, key_sha256: str, now: datetime) -> int:
    """Mark the live certificates of a subject for one key revoked; return how many there were."""
    row = SigningCertificate
    mine = (col(row.subject) == subject, col(row.key_sha256) == key_sha256, col(row.revoked_at).is_(None))
    return int(session.execute(update(row).where(*mine).values(revoked_at=now)).rowcount)  # type: ignore[attr-defined]


def revoke_older(session: Session, used: SigningCertificate, replaced_key_sha256: str, now: datetime) -> int:
    """Mark the live certificates of a subject revoked that are older than the used one, or for the replaced key; return how many."""
    row = SigningCertificate
    statement = (
        update(row)
        .where(
            col(row.subject) == used.subject,
            col(row.kind) == used.kind,
            col(row.serial) != used.serial,
            col(row.revoked_at).is_(None),
            or_(col(row.not_before) < used.not_before, col(row.key_sha256) == replaced_key_sha256),
        )
        .values(revoked_at=now)
    )
    return int(session.execute(statement).rowcount)  # type: ignore[attr-defined]


def add_request(session: Session, row: SigningRequestRow) -> None:
    """Store a new request for signatures. One whose content is that of a dropped one takes its place."""
    session.merge(row)
    session.flush()


def waiting_request(session: Session) -> SigningRequestRow | None:
    """Return the request that waits for signatures; there is at most one."""
    row = SigningRequestRow
    statement = select(row).where(col(row.state) == "waiting").order_by(col(row.made_at).desc()).limit(1)
    return session.execute(statement).scalars().first()


def requests(session: Session, limit: int) -> Sequence[SigningRequestRow]:
    """Return requests for signatures, the newest first."""
    row = SigningRequestRow
    statement = select(row).order_by(col(row.made_at).desc(), col(row.id)).limit(limit)
    return session.execute(statement).scalars().all()


def add_team_request(session: Session, row: TeamRequestRow) -> None:
    """Store a new request to a team. One whose content is that of a dropped one takes its place."""
    session.merge(row)
    session.flush()


def open_team_request(session: Session, model: str) -> TeamRequestRow | None:
    """Return the request to a model's team that is not over; there is at most one."""
    row = TeamRequestRow
    statement = select(row).where(col(row.model) == model, col(row.ended_at).is_(None))
    return session.execute(statement.order_by(col(row.made_at).desc()).limit(1)).scalars().first()


def team_requests_in(session: Session, state: str) -> Sequence[TeamRequestRow]:
    """Return the requests to teams in a state, the oldest first."""
    row = TeamRequestRow
    statement = select(row).where(col(row.state) == state).order_by(col(row.made_at), col(row.id))
    return session.execute(statement).scalars().all()


def team_request(session: Session, request_id: str) -> TeamRequestRow | None:
    """Return a request to a team."""
    return session.get(TeamRequestRow, request_id)


def team_requests(session: Session, limit: int) -> Sequence[TeamRequestRow]:
    """Return requests to teams, the newest first."""
    row = TeamRequestRow
    statement = select(row).order_by(col(row.made_at).desc(), col(row.id)).limit(limit)
    return session.execute(statement).scalars().all()
