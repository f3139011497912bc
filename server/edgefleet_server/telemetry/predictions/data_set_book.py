"""Which data sets were written from captured records, where, and what of them an erasure asks to be removed (ADR 0139).

The server cannot reach a data set: its holder removes the records (`edgectl data purge`) and says so here. Until then the receipt of the
erasure names it as open.
"""

import math
import secrets
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final, NamedTuple

from sqlmodel import Session

from edgefleet_protocol.clock import Clock
from edgefleet_protocol.ids import ModelName
from edgefleet_server.db.database import Database
from edgefleet_server.db.keyset import BadCursorError, PageRequest
from edgefleet_server.telemetry.errors import DataSetUnknownError, PurgeBehindError, TooManyDataSetsError
from edgefleet_server.telemetry.model import AnswerKey
from edgefleet_server.telemetry.predictions import store
from edgefleet_server.telemetry.predictions.model import WrittenDataSetView, WrittenRecordView
from edgefleet_server.telemetry.predictions.tables import DataSet
from edgefleet_server.telemetry.predictions.tombstones import Tombstones

A_DAY: Final = timedelta(days=1)
MOST_A_DAY: Final = 100
MOST_RECORDS_A_DAY: Final = 500_000
"""Of a model: noting needs no more than a publisher's token, and a note is never let go by its age."""


class NewDataSet(NamedTuple):
    """What is said of a data set. records: (device, record, trace id)."""

    model: ModelName
    digest: str
    format: str
    place: str
    retraining: str
    records: Sequence[tuple[str, str, str]]


class DataSetBook:
    """Notes data sets. Thread-safe; calls block."""

    def __init__(self, db: Database, clock: Clock, tombstones: Tombstones | None = None) -> None:
        """Wire the parts. tombstones: by which records of erased answers are known that were read before the erasure."""
        self._db = db
        self._tombstones = tombstones
        self._clock = clock

    def add(self, written: NewDataSet, by: str) -> WrittenDataSetView:
        """Note a data set. One with the same manifest at the same place is noted once. Raises TooManyDataSetsError."""
        records = {(device, record): trace for device, record, trace in written.records}
        with self._db.session() as session:
            known = store.same_data_set(session, written.model, written.digest, written.place)
            if known is not None:
                return _views(session, [known])[0]
            self._check_bound(session, written.model, len(records))
            row = DataSet(
                id=f"ds-{secrets.token_hex(8)}", model=written.model, digest=written.digest, format=written.format, place=written.place,
                retraining=written.retraining, records=len(records), made_at=self._clock.now(), made_by=by[:120],
            )  # fmt: skip
            rows = [
                {"data_set": row.id, "device_id": device, "record": record, "trace_id": trace, "erasure": ""}
                for (device, record), trace in sorted(records.items())
            ]
            store.add_data_set(session, row, rows)
            self._mark_erased(session, row.model, records)
            return _views(session, [row])[0]

    def _mark_erased(self, session: Session, model: str, records: Mapping[tuple[str, str], str]) -> None:
        """Ask for the removal of records whose answers were erased while the data set was written."""
        if self._tombstones is None:
            return
        answers = [AnswerKey(model, device, trace) for (device, _), trace in records.items()]
        for answer, erasure in sorted(self._tombstones.erased(session, answers).items()):
            store.mark_records(session, erasure, answer.device, [answer.trace_id])

    def _check_bound(self, session: Session, model: str, records: int) -> None:
        now = self._clock.now()
        noted, held, first = store.noted_since(session, model, now - A_DAY)
        if noted < MOST_A_DAY and held + records <= MOST_RECORDS_A_DAY:
            return
        wait = timedelta() if first is None else first + A_DAY - now
        raise TooManyDataSetsError(
            f"data sets of {model} noted in the last 24 hours: {noted}, with {held} records; no more than {MOST_A_DAY} with "
            f"{MOST_RECORDS_A_DAY} records are, as each is kept for erasures",
            next_step=f"write fewer and larger data sets; the next one can be noted in {math.ceil(wait / timedelta(hours=1))} h "
            "at the earliest",
            retry_after_s=max(1, math.ceil(wait.total_seconds())),
        )

    def data_sets(self, model: str, digest: str, page: PageRequest) -> tuple[list[WrittenDataSetView], int]:
        """Return up to `limit` + 1 data sets, newest first unless the page is turned, and how many there are.

        model, digest: only of these where they are named. Raises BadCursorError.
        """
        after = None if page.after is None else _moment_and_id(page.after)
        with self._db.read() as session:
            rows, total = store.data_sets_page(session, model, digest, after, page.limit + 1, is_up=page.is_turned)
            return _views(session, rows), total

    def records(self, data_set_id: str, erasure_id: str) -> list[WrittenRecordView]:
        """Return the records that a data set has to lose for an erasure. Raises DataSetUnknownError."""
        with self._db.read() as session:
            if store.data_set(session, data_set_id) is None:
                raise _unknown(data_set_id)
            return [WrittenRecordView(*one) for one in store.records_to_remove(session, data_set_id, erasure_id)]

    def purge(
        self, data_set_id: str, erasure_id: str, digest: str, by: str, listed: int | None = None
    ) -> WrittenDataSetView:
        """Note that the records that an erasure asks for are gone from a data set; again: nothing happens.

        listed: how many its holder was asked for. Raises DataSetUnknownError, PurgeBehindError when it is another number by now.
        """
        with self._db.session() as session:
            row = store.data_set(session, data_set_id)
            asked = store.purge(session, erasure_id, data_set_id)
            if row is None or asked is None:
                raise _unknown(data_set_id)
            dropped = store.drop_records(session, data_set_id, erasure_id)
            if listed is not None and asked.done_at is None and dropped != listed:
                raise PurgeBehindError(
                    f"the erasure asks for {dropped} records of this data set by now, not for {listed}"
                )
            if dropped:
                store.free_again(session, erasure_id)
            row.records -= dropped
            if asked.done_at is None:
                row.digest, asked.done_at, asked.done_by = digest, self._clock.now(), by[:120]
            session.flush()
            return _views(session, [row])[0]


def page_key(view: WrittenDataSetView) -> str:
    """Return the key of a data set in a page by age."""
    return f"{view.made_at.isoformat()}|{view.id}"


def _moment_and_id(key: str) -> tuple[datetime, str]:
    made_at, _, data_set_id = key.partition("|")
    try:
        found = datetime.fromisoformat(made_at)
    except ValueError as error:
        raise BadCursorError("this cursor belongs to another list") from error
    if found.tzinfo is None or not data_set_id.isprintable():
        raise BadCursorError("this cursor belongs to another list")
    return found, data_set_id


def _unknown(data_set_id: str) -> DataSetUnknownError:
    return DataSetUnknownError(
        f"there is no data set {data_set_id[:32]!r} of which that erasure asks something",
        next_step="see what the receipt names: `edgectl data list`",
    )


def _views(session: Session, rows: Sequence[DataSet]) -> list[WrittenDataSetView]:
    asked = store.purged(session, [row.id for row in rows])
    return [_view(row, *asked.get(row.id, (0, None))) for row in rows]


def _view(row: DataSet, to_remove: int, purged_at: datetime | None) -> WrittenDataSetView:
    return WrittenDataSetView(
        id=row.id, model=row.model, digest=row.digest, format=row.format, place=row.place, retraining=row.retraining,
        records=row.records, made_at=row.made_at, made_by=row.made_by,
        state="holds_erased" if to_remove else "there" if purged_at is None else "purged", to_remove=to_remove, purged_at=purged_at,
    )  # fmt: skip
