"""SQL of prediction logs. Every function works in the caller's session and never commits."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import delete, func, insert, select, update
from sqlmodel import Session, col

from edgefleet_server.db.bulk import insert_into
from edgefleet_server.telemetry.ground_truth import store as truth_store
from edgefleet_server.telemetry.ground_truth import upload_store
from edgefleet_server.telemetry.predictions.tables import (
    DataSet,
    DataSetPurge,
    DataSetRecord,
    ErasedAnswer,
    PredictionErasure,
    PredictionFile,
    PredictionPart,
)
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


def forget_answers(session: Session, erasure_id: str, device: str, trace_ids: Collection[str]) -> int:
    """Remove what else is here of answers whose rows go: captured records, labels; and ask data sets for their records of them.

    Return how many captured records that were.
    """
    truth_store.delete_labels(session, device, trace_ids)
    upload_store.drop_items(session, device, trace_ids)
    if erasure_id:
        mark_records(session, erasure_id, device, trace_ids)
    return delete_captures(session, device, trace_ids)


def mark_records(session: Session, erasure_id: str, device: str, trace_ids: Collection[str]) -> None:
    """Note that data sets have to lose the records of these answers."""
    row, chosen = DataSetRecord, list(trace_ids)
    counts: Counter[str] = Counter()
    for start in range(0, len(chosen), 500):
        some = col(row.trace_id).in_(chosen[start : start + 500])
        mine = (col(row.device_id) == device, col(row.erasure) == "", some)
        counts.update(session.execute(select(col(row.data_set)).where(*mine)).scalars())
        session.execute(update(row).where(*mine).values(erasure=erasure_id))
    for data_set, count in sorted(counts.items()):
        known = session.get(DataSetPurge, (erasure_id, data_set))
        if known is None:
            session.add(DataSetPurge(erasure=erasure_id, data_set=data_set, records=count, done_at=None, done_by=""))
        else:
            known.records, known.done_at = known.records + count, None
    session.flush()


def erasure_of(session: Session, model: str, subjects: Collection[bytes]) -> str:
    """Return the newest erasure of one of these subjects from the log of a model, "" without one."""
    row = PredictionErasure
    mine = (col(row.model) == model, col(row.subject).in_([one.hex() for one in subjects]))
    found = session.execute(select(col(row.id)).where(*mine).order_by(col(row.asked_at).desc()).limit(1)).scalar()
    return str(found or "")


def add_tombstones(session: Session, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert tombstones of erased answers; one that is there stays."""
    for start in range(0, len(rows), 500):
        statement = insert_into(session, ErasedAnswer).values([dict(one) for one in rows[start : start + 500]])
        session.execute(statement.on_conflict_do_nothing())


def tombstones(session: Session, model: str, marks: Sequence[str]) -> dict[str, dict[str, str]]:
    """Return the erasures of these tombstones of a model, by tombstone and device."""
    row, found = ErasedAnswer, dict[str, dict[str, str]]()
    for start in range(0, len(marks), 500):
        statement = select(col(row.mark), col(row.device_id), col(row.erasure)).where(col(row.model) == model)
        some = statement.where(col(row.mark).in_(marks[start : start + 500])).order_by(col(row.device_id))
        for mark, device, erasure_id in session.execute(some):
            found.setdefault(mark, {})[device] = erasure_id
    return found


def delete_tombstones_before(session: Session, moment: datetime) -> None:
    """Delete tombstones of rows that were erased before a moment."""
    session.execute(delete(ErasedAnswer).where(col(ErasedAnswer.erased_at) < moment))


def add_late(session: Session, erasure_id: str, model: str, n: int) -> None:
    """Count what came after an erasure and was dropped."""
    row = PredictionErasure
    mine = update(row).where(col(row.id) == erasure_id, col(row.model) == model)
    session.execute(mine.values(late=col(row.late) + n))


def unwritten(session: Session) -> dict[str, dict[str, str]]:
    """Return by erasure the tables in whose files freed rows are not overwritten; none of them is named where that is not known."""
    row = PredictionErasure
    found = session.execute(select(col(row.id), col(row.unwritten)).where(col(row.overwritten).is_(False)))
    return {str(erasure_id): dict(tables) for erasure_id, tables in found}


def set_unwritten(
    session: Session, erasure_id: str, tables: Mapping[str, str], before: Mapping[str, str] | None = None
) -> None:
    """Note in which tables' files freed rows of an erasure are not overwritten yet; none: it is done.

    before: as it was read; when it is another by now, more was freed meanwhile, and nothing is changed.
    """
    row = PredictionErasure
    for one in session.execute(select(row).where(col(row.id) == erasure_id).with_for_update()).scalars():
        if before is None or (dict(one.unwritten) == dict(before) and not one.overwritten):
            one.unwritten, one.overwritten = dict(tables), not tables
    session.flush()


def free_again(session: Session, erasure_id: str) -> None:
    """Note that more rows of an erasure were freed since."""
    mine = update(PredictionErasure).where(col(PredictionErasure.id) == erasure_id)
    session.execute(mine.values(overwritten=False, unwritten={}))


def add_data_set(session: Session, data_set: DataSet, records: Sequence[Mapping[str, str]]) -> None:
    """Insert a data set with its records."""
    session.add(data_set)
    session.flush()
    for start in range(0, len(records), 500):
        session.execute(insert(DataSetRecord), [dict(one) for one in records[start : start + 500]])


def data_sets_page(
    session: Session, model: str, digest: str, after: tuple[datetime, str] | None, limit: int, *, is_up: bool = False
) -> tuple[Sequence[DataSet], int]:
    """Return data sets, of a model and with a digest where these are named, newest first, and how many there are.

    after: when the last one of the page before was made, and its id; is_up: oldest first.
    """
    row = DataSet
    mine = [column == wanted for column, wanted in ((col(row.model), model), (col(row.digest), digest)) if wanted]
    total = int(session.execute(select(func.count()).select_from(row).where(*mine)).scalar_one())
    key = (col(row.made_at), col(row.id))
    if after is not None:
        later = (key[0] > after[0]) | ((key[0] == after[0]) & (key[1] > after[1]))
        earlier = (key[0] < after[0]) | ((key[0] == after[0]) & (key[1] < after[1]))
        mine.append(later if is_up else earlier)
    order = key if is_up else tuple(one.desc() for one in key)
    return session.execute(select(row).where(*mine).order_by(*order).limit(limit)).scalars().all(), total


def same_data_set(session: Session, model: str, digest: str, place: str) -> DataSet | None:
    """Return the data set with this manifest at this place."""
    row = DataSet
    mine = select(row).where(col(row.model) == model, col(row.digest) == digest, col(row.place) == place)
    return session.execute(mine.order_by(col(row.made_at).desc()).limit(1)).scalars().first()


def noted_since(session: Session, model: str, moment: datetime) -> tuple[int, int, datetime | None]:
    """Return how many data sets of a model were noted since a moment, how many records these have, and when the first was."""
    row = DataSet
    sums = (func.count(), func.coalesce(func.sum(col(row.records)), 0), func.min(col(row.made_at)))
    found = session.execute(select(*sums).where(col(row.model) == model, col(row.made_at) > moment)).one()
    return int(found[0]), int(found[1]), found[2]


def data_set(session: Session, data_set_id: str, *, lock: bool = False) -> DataSet | None:
    """Return a data set, locked where asked for."""
    return session.get(DataSet, data_set_id, with_for_update=lock or None)


def records_to_remove(session: Session, data_set_id: str, erasure_id: str) -> list[tuple[str, str]]:
    """Return (device, record) of what a data set has to lose for an erasure, "" for any."""
    row = DataSetRecord
    asked = col(row.erasure) == erasure_id if erasure_id else col(row.erasure) != ""
    mine = (col(row.data_set) == data_set_id, asked)
    statement = select(col(row.device_id), col(row.record)).where(*mine)
    found = session.execute(statement.order_by(col(row.device_id), col(row.record)))
    return [(str(device), str(record)) for device, record in found]


def drop_records(session: Session, data_set_id: str, erasure_id: str) -> int:
    """Forget the records that a data set has lost for an erasure; return how many."""
    row = DataSetRecord
    done = session.execute(delete(row).where(col(row.data_set) == data_set_id, col(row.erasure) == erasure_id))
    return int(getattr(done, "rowcount", 0))


def purges(session: Session, erasure_ids: Collection[str]) -> list[tuple[DataSetPurge, DataSet]]:
    """Return what erasures ask of data sets, in order of these."""
    statement = (
        select(DataSetPurge, DataSet)
        .join(DataSet, col(DataSet.id) == col(DataSetPurge.data_set))
        .where(col(DataSetPurge.erasure).in_(erasure_ids))
        .order_by(col(DataSet.made_at), col(DataSet.id))
    )
    return [(purge, one) for purge, one in session.execute(statement)]


def purged(session: Session, data_sets: Collection[str]) -> dict[str, tuple[int, datetime | None]]:
    """Return by data set how many records it still has to lose, and when its holder said last that some are gone."""
    row = DataSetPurge
    statement = select(col(row.data_set), col(row.records), col(row.done_at)).where(col(row.data_set).in_(data_sets))
    found: dict[str, tuple[int, datetime | None]] = {}
    for one, records, done_at in session.execute(statement):
        left, newest = found.get(one, (0, None))
        times = [at for at in (newest, done_at) if at is not None]
        found[one] = (left + (records if done_at is None else 0), max(times) if times else None)
    return found


def purge(session: Session, erasure_id: str, data_set_id: str) -> DataSetPurge | None:
    """Return what an erasure asks of a data set."""
    return session.get(DataSetPurge, (erasure_id, data_set_id))
