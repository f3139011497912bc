"""Which data sets were written from captured records, where, and what of them an erasure asks to be removed (ADR 0139).

The server cannot reach a data set: its holder removes the records (`edgectl data purge`) and says so here. Until then the receipt of the
erasure names it as open.
"""

import secrets
from collections.abc import Sequence
from typing import NamedTuple

from edgefleet_protocol.clock import Clock
from edgefleet_protocol.ids import ModelName
from edgefleet_server.db.database import Database
from edgefleet_server.telemetry.errors import DataSetUnknownError, PurgeBehindError
from edgefleet_server.telemetry.predictions import store
from edgefleet_server.telemetry.predictions.model import WrittenDataSetView, WrittenRecordView
from edgefleet_server.telemetry.predictions.tables import DataSet

MOST_SHOWN = 500


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

    def __init__(self, db: Database, clock: Clock) -> None:
        """Wire the parts."""
        self._db = db
        self._clock = clock

    def add(self, written: NewDataSet, by: str) -> WrittenDataSetView:
        """Note a data set. One with the same manifest at the same place is noted once."""
        records = {(device, record): trace for device, record, trace in written.records}
        with self._db.session() as session:
            for one in store.data_sets(session, written.model, written.digest, MOST_SHOWN):
                if one.place == written.place:
                    return _view(one)
            row = DataSet(
                id=f"ds-{secrets.token_hex(8)}", model=written.model, digest=written.digest, format=written.format, place=written.place,
                retraining=written.retraining, records=len(records), made_at=self._clock.now(), made_by=by[:120],
            )  # fmt: skip
            rows = [
                {"data_set": row.id, "device_id": device, "record": record, "trace_id": trace, "erasure": ""}
                for (device, record), trace in sorted(records.items())
            ]
            store.add_data_set(session, row, rows)
            return _view(row)

    def data_sets(self, model: str, digest: str) -> list[WrittenDataSetView]:
        """Return the newest data sets, of a model and with a digest where these are named."""
        with self._db.read() as session:
            return [_view(row) for row in store.data_sets(session, model, digest, MOST_SHOWN)]

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
            row.records -= dropped
            if asked.done_at is None:
                row.digest, asked.done_at, asked.done_by = digest, self._clock.now(), by[:120]
            session.flush()
            return _view(row)


def _unknown(data_set_id: str) -> DataSetUnknownError:
    return DataSetUnknownError(
        f"there is no data set {data_set_id[:32]!r} of which that erasure asks something",
        next_step="see what the receipt names: `edgectl data list`",
    )


def _view(row: DataSet) -> WrittenDataSetView:
    return WrittenDataSetView(
        id=row.id, model=row.model, digest=row.digest, format=row.format, place=row.place, retraining=row.retraining,
        records=row.records, made_at=row.made_at, made_by=row.made_by,
    )  # fmt: skip
