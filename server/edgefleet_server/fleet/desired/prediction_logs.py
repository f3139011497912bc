"""Whose answers are kept and sent: a setting a model, named in the documents of the devices that have the model (ADR 0105).

As with the capture key: operators set it, documents read it, a change makes every document due for signing, and it changes while every
device is locked. A model keeps its key for subjects also while its log is off: erasing must find what was kept before.
"""

import secrets
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sqlmodel import Session, col, select

from edgefleet_protocol.clock import Clock
from edgefleet_protocol.desired import PredictionLogRequest
from edgefleet_server.db.database import Database
from edgefleet_server.fleet.desired.capture_key import CaptureKeyBook
from edgefleet_server.fleet.tables import FleetPredictionLog

NAMED_ERASED: Final = 200
NAMED_FOR: Final = timedelta(days=30)
"""So many erased subjects a model are named in documents, the newest, and so long; what comes in of others is erased as it comes."""
_REQUESTS = "fleet_prediction_logs"


@dataclass(frozen=True)
class LogRule:
    """What is kept of a model's answers. ratio: share, 0 = none any more. subject_key: hex."""

    model: str
    ratio: float
    inputs: bool
    keep_days: int
    subject_key: str
    set_at: datetime
    set_by: str


class PredictionLogBook:
    """Sets and reads the rules."""

    def __init__(self, db: Database, clock: Clock) -> None:
        """Wire the parts."""
        self._db = db
        self._clock = clock

    def rules(self) -> list[LogRule]:
        """Return the rule of every model that has or had one, in order of name."""
        with self._db.read() as session:
            return [
                _rule(row) for row in session.exec(select(FleetPredictionLog).order_by(col(FleetPredictionLog.model)))
            ]

    def rule(self, model: str, *, lock: bool = False) -> LogRule | None:
        """Return a model's rule; None when it never had one. `lock` holds it until the transaction ends."""
        with self._db.session() if lock else self._db.read() as session:
            row = session.get(FleetPredictionLog, model, with_for_update=lock or None)
            return None if row is None else _rule(row)

    def set(self, model: str, by: str, *, ratio: float, inputs: bool, keep_days: int) -> LogRule:
        """Keep this from now on."""
        now = self._clock.now()
        with self._db.session() as session:
            row = session.get(FleetPredictionLog, model, with_for_update=True)
            if row is None:
                row = FleetPredictionLog(
                    model=model, ratio=ratio, inputs=inputs, keep_days=keep_days,
                    subject_key=secrets.token_hex(32), erased={}, set_at=now, set_by=by[:120],
                )  # fmt: skip
                session.add(row)
            row.ratio, row.inputs, row.keep_days, row.set_at, row.set_by = ratio, inputs, keep_days, now, by[:120]
            CaptureKeyBook.sign_all_soon(session, now)
            session.flush()
            return _rule(row)

    def erase(self, model: str, subject: str, until_ms: int) -> None:
        """Have devices drop what they still have of a subject; a caller that holds the rule makes this wait until this is done."""
        with self._db.session() as session:
            row = session.get(FleetPredictionLog, model, with_for_update=True)
            if row is not None:
                newest = sorted({**row.erased, subject: until_ms}.items(), key=lambda one: one[1])[-NAMED_ERASED:]
                row.erased = dict(newest)
                CaptureKeyBook.sign_all_soon(session, self._clock.now())


def remember_logs(session: Session, *, has_logs: bool) -> None:
    """Note what was read together with something else: where no model ever had a log there is nothing to look up."""
    if not has_logs:
        session.info[_REQUESTS] = {}


def log_requests(session: Session, models: Collection[str], now: datetime) -> dict[str, PredictionLogRequest]:
    """Return what a document signed in this transaction says of logs; looked up once a transaction, after a device is locked."""
    if _REQUESTS not in session.info:
        with session.no_autoflush:
            rows = session.exec(select(FleetPredictionLog)).all()
        since_ms = (now - NAMED_FOR).timestamp() * 1_000
        requests = [
            PredictionLogRequest(
                subject_key=row.subject_key,
                ratio=row.ratio,
                inputs=row.inputs,
                erased={subject: until_ms for subject, until_ms in row.erased.items() if until_ms >= since_ms},
            )
            for row in rows
        ]
        session.info[_REQUESTS] = {
            row.model: one for row, one in zip(rows, requests, strict=True) if one.ratio > 0 or one.erased
        }
    known: dict[str, PredictionLogRequest] = session.info[_REQUESTS]
    return {model: known[model] for model in models if model in known}


def _rule(row: FleetPredictionLog) -> LogRule:
    return LogRule(row.model, row.ratio, row.inputs, row.keep_days, row.subject_key, row.set_at, row.set_by)
