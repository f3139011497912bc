"""SQL of prediction logs. Every function works in the caller's session and never commits."""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import delete, func, select, update
from sqlmodel import Session, col

from edgefleet_server.telemetry.predictions.tables import PredictionErasure, PredictionFile, PredictionPart
from edgefleet_server.telemetry.tables import TelemetryCapture


class Totals(NamedTuple):
    """Of one model."""

    devices: int = 0
    rows: int = 0
    lost: int = 0
    waiting: int = 0
    newest_at: datetime | None = None


def part(
    session: Session, model: str, device: str, log: str, number: int, *, lock: bool = False
) -> PredictionPart | None:
    """Return one part."""
    return session.get(
        PredictionPart, (model, device, log, number), with_for_update=lock or None, populate_existing=lock
    )


def parts(session: Session, model: str, device: str) -> Sequence[PredictionPart]:
    """Return all parts of a model and a device, in the order of their logs."""
    row = PredictionPart
    statement = select(row).where(col(row.model) == model, col(row.device_id) == device)
    return session.execute(statement.order_by(col(row.log), col(row.part))).scalars().all()


def unpacked(session: Session, model: str, limit: int | None, *, lock: bool = False) -> Sequence[PredictionPart]:
    """Return the oldest parts that are in no file, all without a limit."""
    row = PredictionPart
    statement = select(row).where(col(row.model) == model, col(row.body).is_not(None)).limit(limit)
    order = (col(row.received_at), col(row.device_id), col(row.log), col(row.part))
    statement = statement.order_by(*order)
    return session.execute(statement.with_for_update() if lock else statement).scalars().all()


def devices(session: Session, model: str) -> Sequence[str]:
    """Return the devices that sent parts of a model."""
    return (
        session.execute(select(col(PredictionPart.device_id)).where(col(PredictionPart.model) == model).distinct())
        .scalars()
        .all()
    )


def waiting(session: Session) -> dict[str, tuple[int, datetime]]:
    """Return rows and time of the oldest part that are in no file, by model."""
    statement = (
        select(col(PredictionPart.model), func.sum(col(PredictionPart.rows)), func.min(col(PredictionPart.received_at)))
        .where(col(PredictionPart.body).is_not(None))
        .group_by(col(PredictionPart.model))
    )
    return {str(model): (int(rows), at) for model, rows, at in session.execute(statement)}


def totals(session: Session, model: str = "") -> dict[str, Totals]:
    """Return how much there is, by model, of one or of all."""
    row = PredictionPart
    counted = (func.count(func.distinct(col(row.device_id))), func.sum(col(row.rows)), func.sum(col(row.lost)))
    statement = select(col(row.model), *counted, func.count(col(row.body)), func.max(col(row.received_at)))
    statement = statement.group_by(col(row.model))
    if model:
        statement = statement.where(col(row.model) == model)
    return {
        str(name): Totals(int(devices), int(rows), int(lost), int(waiting_), at)
        for name, devices, rows, lost, waiting_, at in session.execute(statement)
    }


def file_bytes(session: Session, model: str = "") -> dict[str, int]:
    """Return the bytes of all files, by model, of one or of all."""
    statement = select(col(PredictionFile.model), func.sum(col(PredictionFile.bytes)))
    statement = statement.group_by(col(PredictionFile.model))
    if model:
        statement = statement.where(col(PredictionFile.model) == model)
    return {str(name): int(size) for name, size in session.execute(statement)}


def waiting_bytes(session: Session) -> dict[str, int]:
    """Return the bytes of all parts that are in no file, by model."""
    row = PredictionPart
    statement = select(col(row.model), func.sum(func.length(col(row.body)))).where(col(row.body).is_not(None))
    return {str(name): int(size) for name, size in session.execute(statement.group_by(col(row.model)))}


def files(session: Session, model: str) -> Sequence[PredictionFile]:
    """Return the files of a model, oldest first."""
    statement = select(PredictionFile).where(col(PredictionFile.model) == model, col(PredictionFile.is_whole))
    return (
        session.execute(statement.order_by(col(PredictionFile.received_from), col(PredictionFile.sha256)))
        .scalars()
        .all()
    )


def file(session: Session, sha256: str, *, lock: bool = False) -> PredictionFile | None:
    """Return one file."""
    return session.get(PredictionFile, sha256, with_for_update=lock or None, populate_existing=lock)


def half_files(session: Session, before: datetime) -> Sequence[PredictionFile]:
    """Return files that were begun before a time and have not become whole."""
    statement = select(PredictionFile).where(
        col(PredictionFile.is_whole).is_(False), col(PredictionFile.made_at) < before
    )
    return session.execute(statement).scalars().all()


def parts_of_file(session: Session, sha256: str) -> Sequence[PredictionPart]:
    """Return the parts that are in a file, in an order in which they can be locked."""
    row = PredictionPart
    statement = select(row).where(col(row.file) == sha256)
    return session.execute(statement.order_by(col(row.device_id), col(row.log), col(row.part))).scalars().all()


def is_in_use(session: Session, sha256: str) -> bool:
    """Return whether a part points to a file."""
    return bool(
        session.scalar(select(select(col(PredictionPart.part)).where(col(PredictionPart.file) == sha256).exists()))
    )


def expired_files(session: Session, model: str, before: datetime) -> Sequence[PredictionFile]:
    """Return the files of a model whose newest part came before a time."""
    statement = select(PredictionFile).where(
        col(PredictionFile.model) == model, col(PredictionFile.received_to) < before, col(PredictionFile.is_whole)
    )
    return session.execute(statement).scalars().all()


def let_go(session: Session, sha256: str) -> None:
    """Take the content from the parts of a file, and what lies behind the newest of each log: the floor stays.

    A part that goes before an older one stays until that has gone, too.
    """
    session.execute(
        update(PredictionPart).where(col(PredictionPart.file) == sha256).values(file="", body=None, rows=0, lost=0)
    )
    session.execute(update(PredictionFile).where(col(PredictionFile.sha256) == sha256).values(is_whole=False))
    row = PredictionPart
    newer, older = (row.__table__.alias(name) for name in ("newer", "older"))  # type: ignore[attr-defined]
    is_newer = (
        (newer.c.model == col(row.model)) & (newer.c.device_id == col(row.device_id)) & (newer.c.log == col(row.log))
        & (newer.c.part == col(row.part) + 1) & newer.c.body.is_(None) & (newer.c.file == "")
    )  # fmt: skip
    is_older = (
        (older.c.model == col(row.model)) & (older.c.device_id == col(row.device_id)) & (older.c.log == col(row.log))
        & (older.c.part < col(row.part)) & (older.c.body.is_not(None) | (older.c.file != ""))
    )  # fmt: skip
    gone = col(row.body).is_(None) & (col(row.file) == "")
    session.execute(
        delete(row)
        .where(gone, select(newer.c.part).where(is_newer).exists(), ~select(older.c.part).where(is_older).exists())
        .execution_options(synchronize_session=False)
    )


def is_behind_floor(session: Session, model: str, device: str, log: str, number: int) -> bool:
    """Return whether a newer part of a log has gone after its days."""
    row = PredictionPart
    newer = select(col(row.part)).where(col(row.model) == model, col(row.device_id) == device, col(row.log) == log)
    gone = newer.where(col(row.part) > number, col(row.body).is_(None), col(row.file) == "")
    return bool(session.scalar(select(gone.exists())))


def erased_since(session: Session, model: str) -> dict[bytes, int]:
    """Return until when (unix milliseconds) each erased subject of a model is erased."""
    statement = select(col(PredictionErasure.subject), func.max(col(PredictionErasure.until_ms)))
    found = session.execute(
        statement.where(col(PredictionErasure.model) == model).group_by(col(PredictionErasure.subject))
    )
    return {bytes.fromhex(subject): int(until) for subject, until in found}


def erasures(session: Session, erasure_id: str | None = None) -> Sequence[PredictionErasure]:
    """Return the rows of all receipts, or of one, newest first."""
    statement = select(PredictionErasure)
    if erasure_id is not None:
        statement = statement.where(col(PredictionErasure.id) == erasure_id)
    order = (col(PredictionErasure.asked_at).desc(), col(PredictionErasure.id), col(PredictionErasure.model))
    return session.execute(statement.order_by(*order)).scalars().all()


def erasure(session: Session, erasure_id: str, model: str) -> PredictionErasure:
    """Return the row of one erasure and model, which is there."""
    found = session.get(PredictionErasure, (erasure_id, model))
    assert found is not None, "written before"
    return found


def delete_captures(session: Session, device: str, trace_ids: Collection[str]) -> int:
    """Remove captured records of these answers; return how many."""
    chosen = list(trace_ids)
    n = 0
    for start in range(0, len(chosen), 500):
        some = col(TelemetryCapture.trace_id).in_(chosen[start : start + 500])
        done = session.execute(delete(TelemetryCapture).where(col(TelemetryCapture.device_id) == device, some))
        n += int(getattr(done, "rowcount", 0))
    return n
