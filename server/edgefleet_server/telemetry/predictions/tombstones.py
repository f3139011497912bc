"""Tombstones of erased answers: what comes later of an answer whose row was erased is dropped as it comes (ADR 0139).

A label or a captured record names its answer, and no subject. So each erased row leaves a keyed hash of its trace id, under the key of the
model's log. Erasing and taking in both lock the rule of the log: what comes in meanwhile is found by one of the two.
"""

import hmac
from collections import Counter
from collections.abc import Collection, Iterable
from datetime import datetime, timedelta
from typing import Final

from sqlmodel import Session

from edgefleet_server.fleet.desired.prediction_logs import PredictionLogBook
from edgefleet_server.telemetry.model import AnswerKey
from edgefleet_server.telemetry.predictions import store

KEPT: Final = timedelta(days=366)
"""Devices keep captured records for `capture_days`, 7 by default, in which they are switched on; labels may come at any time."""
MARK_BYTES: Final = 16


def tombstone(subject_key: str, trace_id: str) -> str:
    """Return what stands for an erased answer, in hex. subject_key: of the model's log, in hex."""
    data = b"trace\0" + trace_id.encode("utf-8", "replace")
    return hmac.digest(bytes.fromhex(subject_key), data, "sha256")[:MARK_BYTES].hex()


class Tombstones:
    """Sets and finds tombstones, in the caller's transaction. Thread-safe."""

    def __init__(self, book: PredictionLogBook) -> None:
        """Wire the parts."""
        self._book = book

    def forget(
        self, session: Session, erasure: str, model: str, device: str, trace_ids: Collection[str], now: datetime
    ) -> int:
        """Remove what is here of answers whose rows go, and leave tombstones; return how many captured records that were."""
        rule = self._book.rule(model, lock=True)
        if rule is not None:
            marks = sorted({tombstone(rule.subject_key, trace) for trace in trace_ids if trace})
            row = {"model": model, "device_id": device, "erasure": erasure, "erased_at": now}
            store.add_tombstones(session, [{**row, "mark": mark} for mark in marks])
        return store.forget_answers(session, erasure, device, trace_ids)

    def erased(self, session: Session, answers: Iterable[AnswerKey]) -> dict[AnswerKey, str]:
        """Return those of these answers that were erased, each with its erasure."""
        by_model: dict[str, set[AnswerKey]] = {}
        for answer in answers:
            if answer.trace_id:
                by_model.setdefault(answer.model, set()).add(answer)
        found: dict[AnswerKey, str] = {}
        for model in sorted(by_model):
            rule = self._book.rule(model, lock=True)
            if rule is None:
                continue
            marks = {answer: tombstone(rule.subject_key, answer.trace_id) for answer in by_model[model]}
            known = store.tombstones(session, model, sorted(set(marks.values())))
            for answer, mark in marks.items():
                devices = known.get(mark, {})
                erasure = devices.get(answer.device) or (not answer.device and next(iter(devices.values()), ""))
                if erasure:
                    found[answer] = erasure
        return found

    def count(self, session: Session, dropped: Iterable[tuple[str, str]]) -> None:
        """Count late records, each as (model, erasure), on the receipts of their erasures."""
        for (model, erasure), n in sorted(Counter(dropped).items()):
            store.add_late(session, erasure, model, n)
