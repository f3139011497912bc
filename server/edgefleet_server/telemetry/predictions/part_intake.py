"""Parts of prediction logs as they come from devices: checked, and kept as they are, but for what was erased.

1. A part counts once, also when it comes again after its days. Another part under a name that is there is refused and reported: a device
   does not write two.
2. A part that no device makes, or of a model that nobody asked to keep, is left out; its device may drop it.
3. Numbers that a device itself says are lost are an event, so that no gap is silent.
"""

import logging
from collections.abc import Sequence
from datetime import datetime
from itertools import pairwise

from sqlmodel import Session

from edgefleet_protocol.errors import BadMessageError
from edgefleet_protocol.messages import Sample
from edgefleet_protocol.prediction_parts import (
    FULL,
    LOST,
    SALT_BYTES,
    STOPPED,
    Head,
    Part,
    decode_head,
    erase,
    hash_of,
    pack_part,
    unpack_part,
)
from edgefleet_server.events.log import EventLog
from edgefleet_server.events.model import NewEvent
from edgefleet_server.fleet.desired.prediction_logs import PredictionLogBook
from edgefleet_server.telemetry.predictions import store
from edgefleet_server.telemetry.predictions.tables import PredictionPart
from edgefleet_server.telemetry.predictions.tombstones import Tombstones

MAX_INT = 2**53
MAX_SPAN = 10_000_000
MAX_TEXT = 128

_log = logging.getLogger(__name__)


class PartIntake:
    """Takes parts in, in the caller's transaction."""

    def __init__(self, book: PredictionLogBook, feed: EventLog) -> None:
        """Wire the parts."""
        self._book = book
        self._feed = feed
        self.tombstones = Tombstones(book)

    def take(self, session: Session, samples: Sequence[Sample], now: datetime) -> int:
        """Keep the parts that these messages carry; return how many were new."""
        new = 0
        for sample in samples:
            try:
                part = unpack_part(sample.sealed)
                head = decode_head(part.head)
                _check(part, head, sample)
            except BadMessageError as error:
                _log.warning("part not kept", extra={"device_id": sample.device, "reason": error.message[:200]})
                continue
            if self._book.rule(head.model, lock=True) is not None:
                new += self._keep(session, part, head, now)
        return new

    def _keep(self, session: Session, part: Part, head: Head, now: datetime) -> int:
        digest = hash_of(part).hex()
        known = store.part(session, head.model, head.device, head.log, head.part)
        if known is not None:
            if known.hash != digest:
                self._tell("prediction_conflict", head, {})
            return 0
        if store.is_behind_floor(session, head.model, head.device, head.log, head.part):
            _log.info("part not kept", extra={"device_id": head.device, "reason": "its days are over"})
            return 0
        subjects = store.erased_since(session, head.model)
        if part.erased and not subjects:
            _log.warning("part not kept", extra={"device_id": head.device, "reason": "nobody was erased from this log"})
            return 0
        left = erase(part, subjects, int(now.timestamp() * 1_000))
        if left is not part:
            kept = {row.seq for row in left.rows}
            gone = [row for row in part.rows if row.seq not in kept]
            erasure = store.erasure_of(session, head.model, {row.subject for row in gone})
            traces = {row.trace_id for row in gone}
            captures = self.tombstones.forget(session, erasure, head.model, head.device, traces, now)
            self.tombstones.count(session, [(head.model, erasure)] * (len(gone) + captures))
            store.free_again(session, erasure)  # labels and captured records that were here went
        lost: dict[str, int] = {}
        for gap in head.gaps:
            lost[gap.reason] = lost.get(gap.reason, 0) + gap.last - gap.first + 1
        session.add(
            PredictionPart(
                model=head.model, device_id=head.device, log=head.log, part=head.part, rows=len(left.rows),
                lost=sum(lost.values()), hash=digest, head=part.head, received_at=now, body=pack_part(left),
            )
        )  # fmt: skip
        session.flush()
        if lost:
            self._tell("prediction_gap", head, {"lost": lost})
        return 1

    def _tell(self, kind: str, head: Head, more: dict[str, object]) -> None:
        detail = {"model": head.model, "part": head.part, "first": head.first, "last": head.last, **more}
        self._feed.add([NewEvent(kind, head.device, detail=detail)])


def _check(part: Part, head: Head, sample: Sample) -> None:
    """Refuse what no device makes. Raises BadMessageError."""
    seqs = [row.seq for row in part.rows] + [one.seq for one in part.erased]
    texts = (
        [row.trace_id for row in part.rows] + [row.status for row in part.rows] + [head.model, head.log, head.key_id]
    )
    texts += [text for release in head.releases for text in (release.version, release.sha256, release.lane)]
    is_sound = (
        head.v == 1
        and (head.device, head.model) == (sample.device, sample.model)
        and 1 <= head.part < MAX_INT
        and 1 <= head.first <= head.last < MAX_INT
        and head.last - head.first < MAX_SPAN
        and len(head.before) == (0 if head.part == 1 else 32)
        and head.log.isalnum()
        and len(head.log) <= 32
        and len(set(seqs)) == len(seqs)
        and all(head.first <= seq <= head.last for seq in seqs)
        and all(head.first <= gap.first <= gap.last <= head.last for gap in head.gaps)
        and all(gap.reason in {STOPPED, LOST, FULL} for gap in head.gaps)
        and all(one.last < after.first for one, after in pairwise(head.gaps))
        and all(0 <= row.release < len(head.releases) and -1 <= row.epoch < len(head.keys) for row in part.rows)
        and all(
            0 <= row.latency_us < MAX_INT and 0 <= row.nonce < MAX_INT and abs(row.at) < MAX_INT for row in part.rows
        )
        and all(
            len(row.subject) in {0, 16} and len(row.salt) == SALT_BYTES and row.status != "erased" for row in part.rows
        )
        and all(len(text) <= MAX_TEXT and "\0" not in text for text in texts)
        and all(len(one.leaf) == 32 for one in part.erased)
        and 0.0 < head.ratio <= 1.0
    )
    if not is_sound:
        raise BadMessageError("no device makes such a part of a prediction log")
