"""Readmission as devices ask for it and people decide about it. Thread-safe; calls block; writes join the caller's transaction."""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Final

from sqlmodel import Session

from edgefleet_protocol.clock import Clock
from edgefleet_server.db.database import Database
from edgefleet_server.db.keyset import PageRequest
from edgefleet_server.events.log import EventLog
from edgefleet_server.events.model import NewEvent
from edgefleet_server.fleet.errors import FleetError, ReadmissionPendingError, ReadmissionRefusedError
from edgefleet_server.fleet.readmission import rules, store
from edgefleet_server.fleet.readmission.model import (
    ReadmissionCase,
    ReadmissionDecisions,
    ReadmissionSkipped,
    ReadmissionState,
    ReadmissionTerms,
    ReadmissionVerdict,
    ReadmissionView,
)
from edgefleet_server.fleet.tables import FleetDevice, FleetReadmission

HEARD_RESOLUTION: Final = timedelta(minutes=1)
KEPT: Final = timedelta(days=90)
"""How long requests are listed after the device last asked."""


class ReadmissionBook:
    """Lets devices come back whose certificate ended, or keeps them waiting for a person."""

    def __init__(self, db: Database, feed: EventLog, terms: ReadmissionTerms, clock: Clock) -> None:
        """Wire the parts."""
        self._db = db
        self._feed = feed
        self._terms = terms
        self._clock = clock

    # ---- devices

    def ask(self, session: Session, device: FleetDevice) -> FleetError | None:
        """Decide about a device that asks for a certificate after the end of its last one. None: it may have one.

        device: its row, locked by the caller. The refusal is returned and not raised, so that the request is kept.
        """
        store.take_turn(session)
        now = self._clock.now()
        row = store.request(session, device.id, lock=True)
        verdict = rules.judge(self._terms, self._case(session, device, row, now), now)
        self._note(session, device, row, verdict, now)
        match verdict.state:
            case ReadmissionState.READMITTED:
                return None
            case ReadmissionState.REFUSED:
                why = f": {verdict.why}" if verdict.why else ""
                return ReadmissionRefusedError(f"{verdict.by} refused to let {device.id} come back{why}")
            case _:
                return ReadmissionPendingError(f"{device.id} waits until a person lets it come back: {verdict.why}")

    def _case(
        self, session: Session, device: FleetDevice, row: FleetReadmission | None, now: datetime
    ) -> ReadmissionCase:
        is_same = row is not None and row.ended_at == device.cert_not_after
        said = row if is_same and row is not None else None
        return ReadmissionCase(
            ended_at=device.cert_not_after,
            is_suspect=device.suspect_since is not None,
            by_rule=store.count_by_rule(session, now - rules.DAY),
            state=None if said is None else ReadmissionState(said.state),
            decided_at=None if said is None else said.decided_at,
            decided_by="" if said is None else said.decided_by,
            reason="" if said is None else said.why,
        )

    def _note(
        self,
        session: Session,
        device: FleetDevice,
        row: FleetReadmission | None,
        verdict: ReadmissionVerdict,
        now: datetime,
    ) -> None:
        is_new = row is None or row.ended_at != device.cert_not_after
        if row is None:
            row = FleetReadmission(device_id=device.id, ended_at=now, asked_at=now, heard_at=now, state="")
        if is_new:
            row.ended_at, row.asked_at, row.heard_at = device.cert_not_after, now, now
            row.decided_at, row.decided_by = None, ""
        before = "" if is_new else row.state
        if before == verdict.state.value and row.why == verdict.why and now - row.heard_at < HEARD_RESOLUTION:
            return
        row.state, row.why, row.heard_at = verdict.state.value, verdict.why, now
        detail = {"ended_at": device.cert_not_after.isoformat(), "why": verdict.why, "by": verdict.by}
        if verdict.state is ReadmissionState.READMITTED:
            row.readmitted_at, row.by_rule = now, not verdict.by
            self._feed.add([NewEvent("readmitted", device.id, detail={k: v for k, v in detail.items() if v})])
        elif verdict.state is ReadmissionState.PENDING and before != ReadmissionState.PENDING.value:
            self._feed.add([NewEvent("readmission_pending", device.id, detail={k: v for k, v in detail.items() if v})])
        session.add(row)

    # ---- people

    def page(self, page: PageRequest, state: ReadmissionState) -> tuple[list[ReadmissionView], int]:
        """Return up to one more request than the page has, in order of device, and how many there are."""
        with self._db.read() as session:
            rows, total = store.requests(session, state, page)
            return [_view(row) for row in rows], total

    def approve(self, devices: Sequence[str], by: str) -> ReadmissionDecisions:
        """Let devices come back the next time they ask, within rules.APPROVAL_LIFE."""

        def change(row: FleetReadmission) -> None:
            row.state, row.why = ReadmissionState.APPROVED.value, ""
            self._feed.add([NewEvent("readmission_approved", row.device_id, detail={"by": by})])

        return self._decide(devices, ReadmissionState.APPROVED, by, change)

    def refuse(self, devices: Sequence[str], by: str, reason: str = "") -> ReadmissionDecisions:
        """Let devices come back no more, until a person approves them."""

        def change(row: FleetReadmission) -> None:
            row.state, row.why = ReadmissionState.REFUSED.value, reason
            detail = {"by": by, "reason": reason}
            self._feed.add(
                [NewEvent("readmission_refused", row.device_id, detail={k: v for k, v in detail.items() if v})]
            )

        return self._decide(devices, ReadmissionState.REFUSED, by, change)

    def prune(self, now: datetime) -> int:
        """Forget requests of devices that have not asked for KEPT; return how many. A refusal is kept."""
        with self._db.session() as session:
            return store.prune(session, now - KEPT)

    def _decide(
        self, devices: Sequence[str], goal: ReadmissionState, by: str, change: Callable[[FleetReadmission], None]
    ) -> ReadmissionDecisions:
        done: list[ReadmissionView] = []
        skipped: list[ReadmissionSkipped] = []
        with self._db.session() as session:
            store.take_turn(session)  # before any row: a device that asks locks in the same order
            for device_id in sorted(set(devices)):
                row = store.request(session, device_id, lock=True)
                if row is None:
                    skipped.append(
                        ReadmissionSkipped(
                            device_id, "it did not ask to come back", "See `edgectl device readmissions`."
                        )
                    )
                elif row.state == ReadmissionState.READMITTED.value:
                    skipped.append(
                        ReadmissionSkipped(
                            device_id, "it has come back", f"Revoke it: `edgectl device revoke {device_id}`."
                        )
                    )
                else:
                    if row.state != goal.value:
                        change(row)
                    row.decided_at, row.decided_by = self._clock.now(), by[:120]
                    session.add(row)
                    done.append(_view(row))
        return ReadmissionDecisions(done, skipped)


def _view(row: FleetReadmission) -> ReadmissionView:
    return ReadmissionView(
        device=row.device_id,
        state=ReadmissionState(row.state),
        ended_at=row.ended_at,
        asked_at=row.asked_at,
        heard_at=row.heard_at,
        why=row.why,
        decided_at=row.decided_at,
        decided_by=row.decided_by,
        readmitted_at=row.readmitted_at,
    )
