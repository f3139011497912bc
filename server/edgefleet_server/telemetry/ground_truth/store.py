"""The SQL of ground truth: batched Core statements. Every function works in the caller's session."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from sqlalchemy import ColumnElement, bindparam, delete, func, select, tuple_, update
from sqlmodel import Session, col

from edgefleet_server.db.bulk import among, insert_into
from edgefleet_server.telemetry.ground_truth.tables import TruthBucket, TruthLabel
from edgefleet_server.telemetry.ground_truth.truth_sums import NOTHING, Scale, TruthSums, pack_detail, unpack_detail

ROWS_A_STATEMENT: Final = 500
ACTIVE: Final = "active"
NAMES: Final = ("device_id", "sha256", "lane", "segment", "scale_s", "at")
_SUMS: Final = (
    *("labelled", "correct", "n", "total", "sizes", "squares", "unit", "unmatched", "late", "repeated"),
    "detail",
)

Key = tuple[str, str, str, str, int, datetime]
"""Device, bundle digest, lane, segment, length of the step in seconds, its beginning."""
_KEY: Final = tuple(col(getattr(TruthBucket, name)) for name in NAMES)


def make_buckets(session: Session, keys: Sequence[Key], named: Mapping[str, tuple[str, str]]) -> set[Key]:
    """Insert empty buckets where there are none yet; return the keys of those that are new. named: model and version by digest."""
    new: set[Key] = set()
    empty = _row_of(NOTHING)
    for start in range(0, len(keys), ROWS_A_STATEMENT):
        rows = [
            {**dict(zip(NAMES, key, strict=True)), "model": named[key[1]][0], "version": named[key[1]][1], **empty}
            for key in keys[start : start + ROWS_A_STATEMENT]
        ]
        statement = insert_into(session, TruthBucket).values(rows).on_conflict_do_nothing().returning(*_KEY)
        new |= {tuple(found) for found in session.execute(statement)}
    return new


def locked_buckets(session: Session, keys: Sequence[Key]) -> dict[Key, TruthSums]:
    """Return what these buckets hold; no other process changes them until the caller's transaction ends."""
    found: dict[Key, TruthSums] = {}
    columns = [col(getattr(TruthBucket, name)) for name in _SUMS]
    for start in range(0, len(keys), ROWS_A_STATEMENT):
        statement = (
            select(*_KEY, *columns)
            .where(tuple_(*_KEY).in_(keys[start : start + ROWS_A_STATEMENT]))
            .order_by(*_KEY)
            .with_for_update()
        )
        found |= {tuple(row[: len(NAMES)]): _sums(row[len(NAMES) :]) for row in session.execute(statement)}
    return found


def set_buckets(session: Session, values: Mapping[Key, TruthSums]) -> None:
    """Set what buckets that exist hold."""
    if not values:
        return
    table = TruthBucket.__table__  # type: ignore[attr-defined]
    statement = (
        update(table)
        .where(*(table.c[name] == bindparam(f"key_{name}") for name in NAMES))
        .values({name: bindparam(f"new_{name}") for name in _SUMS})
    )
    rows = [
        {
            **{f"key_{name}": part for name, part in zip(NAMES, key, strict=True)},
            **{f"new_{name}": one for name, one in _row_of(sums).items()},
        }
        for key, sums in values.items()
    ]
    session.connection().execute(statement, rows)


def steps(
    session: Session, model: str, version: str, scale_s: int, since: datetime, until: datetime, limit: int
) -> Iterator[tuple[str, str, str, datetime, TruthSums]]:
    """Yield (device, version, segment, at, sums) of a model's buckets in a span of time, newest first, at most so many.

    version: "" = of all.
    """
    row = TruthBucket
    columns = [col(getattr(row, name)) for name in ("device_id", "version", "segment", "at", *_SUMS)]
    statement = (
        select(*columns)
        .where(col(row.model) == model, col(row.scale_s) == scale_s, col(row.at) >= since, col(row.at) < until)
        .order_by(col(row.at).desc(), col(row.device_id))
        .limit(limit)
    )
    if version:
        statement = statement.where(col(row.version) == version)
    for found in session.execute(statement.execution_options(yield_per=1000)):
        yield (found[0], found[1], found[2], found[3], _sums(found[4:]))


def _active_hours(model: str, since: datetime, until: datetime) -> tuple[ColumnElement[bool], ...]:
    row = TruthBucket
    where = (col(row.model) == model, col(row.scale_s) == int(Scale.HOUR), col(row.lane) == ACTIVE)
    return (*where, col(row.at) >= since, col(row.at) < until, col(row.labelled) > 0)


def devices_of(session: Session, model: str, since: datetime, until: datetime) -> list[str]:
    """Return the devices with labels of a model's active versions in a span of time."""
    statement = select(col(TruthBucket.device_id)).where(*_active_hours(model, since, until)).distinct()
    return sorted(session.execute(statement).scalars())


def hourly(
    session: Session, model: str, since: datetime, until: datetime, devices: Collection[str]
) -> list[tuple[datetime, int, int]]:
    """Return (hour, right answers, labelled answers) of a model's active versions on these devices, oldest first."""
    row = TruthBucket
    statement = (
        select(col(row.at), func.sum(col(row.correct)), func.sum(col(row.labelled)))
        .where(*_active_hours(model, since, until), among(session, col(row.device_id), devices))
        .group_by(col(row.at))
        .order_by(col(row.at))
    )
    return [(at, int(right), int(labelled)) for at, right, labelled in session.execute(statement)]


def of_devices(
    session: Session, devices: Collection[str], model: str, scale_s: int, since: datetime, until: datetime | None
) -> Iterator[tuple[str, str, str, datetime, int, int]]:
    """Yield (device, lane, digest, at, labelled, correct) of a model's buckets on these devices in a span of time."""
    row = TruthBucket
    ends = () if until is None else (col(row.at) < until,)
    statement = (
        select(
            col(row.device_id),
            col(row.lane),
            col(row.sha256),
            col(row.at),
            func.sum(col(row.labelled)),
            func.sum(col(row.correct)),
        )
        .where(
            among(session, col(row.device_id), devices),
            col(row.model) == model,
            col(row.scale_s) == scale_s,
            col(row.at) >= since,
            *ends,
        )
        .group_by(col(row.device_id), col(row.lane), col(row.sha256), col(row.at))
    )
    for found in session.execute(statement):
        if found[4]:
            yield (found[0], found[1], found[2], found[3], int(found[4]), int(found[5]))


def set_labels(session: Session, labels: Sequence[Mapping[str, Any]]) -> None:
    """Keep labels of answers; a newer one replaces an older."""
    for start in range(0, len(labels), ROWS_A_STATEMENT):
        statement = insert_into(session, TruthLabel).values(
            [dict(one) for one in labels[start : start + ROWS_A_STATEMENT]]
        )
        new = {name: statement.excluded[name] for name in ("label", "received_at")}
        key = ["model", "trace_id", "device_id"]
        session.execute(statement.on_conflict_do_update(index_elements=key, set_=new))


def labels_of(session: Session, answers: Collection[tuple[str, str, str]]) -> dict[tuple[str, str, str], str]:
    """Return labels by (model, device, trace id) of these answers. A label that names no device is of whichever gave the answer."""
    row, found = TruthLabel, dict[tuple[str, str, str], str]()
    traces = sorted({trace for _, _, trace in answers if trace})
    for start in range(0, len(traces), ROWS_A_STATEMENT):
        statement = select(col(row.model), col(row.device_id), col(row.trace_id), col(row.label))
        some = statement.where(col(row.trace_id).in_(traces[start : start + ROWS_A_STATEMENT]))
        found |= {(model, device, trace): label for model, device, trace, label in session.execute(some)}
    return {answer: found.get(answer, found.get((answer[0], "", answer[2]), "")) for answer in answers}


def delete_labels(session: Session, device: str, trace_ids: Collection[str]) -> None:
    """Delete the labels of these answers of a device, and those that name no device."""
    row, chosen = TruthLabel, list(trace_ids)
    for start in range(0, len(chosen), ROWS_A_STATEMENT):
        some = col(row.trace_id).in_(chosen[start : start + ROWS_A_STATEMENT])
        session.execute(delete(row).where(some, col(row.device_id).in_((device, ""))))


def delete_labels_before(session: Session, moment: datetime) -> None:
    """Delete labels that came before a moment."""
    session.execute(delete(TruthLabel).where(col(TruthLabel.received_at) < moment))


def delete_before(session: Session, scale_s: int, moment: datetime) -> None:
    """Delete the steps of a scale that began before a moment."""
    row = TruthBucket
    session.execute(delete(row).where(col(row.scale_s) == scale_s, col(row.at) < moment))


def _row_of(sums: TruthSums) -> dict[str, Any]:
    found: dict[str, Any] = {name: getattr(sums, name) for name in _SUMS if name != "detail"}
    return {**found, "detail": pack_detail(sums)}


def _sums(values: Sequence[Any]) -> TruthSums:
    cells, figures = unpack_detail(values[-1])
    named = dict(zip(_SUMS, values[:-1], strict=False))
    return TruthSums(**named, cells=cells, figures=figures)
