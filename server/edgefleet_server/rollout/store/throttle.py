"""The pace's SQL and what the planner needs of it. Every function works in the caller's session and never commits.

Leases are of all rollouts. Rules:
- Who is about to take leases locks the line's row first and counts then; the lock lasts until its transaction ends. So ticks of
  rollouts with limits go one after the other, and what they count is what is committed. READ COMMITTED is enough for that.
- Ending a lease needs no lock: it only makes room.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from sqlalchemy import Table, delete, func, select, update
from sqlmodel import Session, col

from edgefleet_protocol.ids import DeviceId, RolloutId
from edgefleet_server.fleet.selectors.device_selector import DeviceSelector
from edgefleet_server.rollout.effects import BandwidthBooked, LeaseEnded, LeaseTaken, PaceEffect, RampWindowUpdated
from edgefleet_server.rollout.model import WAITING, Assignment, Lease, PaceFacts, RampWindow, Whereabouts
from edgefleet_server.rollout.spec.model import Spec
from edgefleet_server.rollout.store.tables import DownloadLease, DownloadLine, RolloutMinute
from edgefleet_terms.reserved_labels import SITE_LABEL, TZ_LABEL

_LINE: Final = 1
_LEASE: Final[Table] = DownloadLease.__table__  # type: ignore[attr-defined]


def pace_facts(
    session: Session,
    devices: DeviceSelector,
    rollout_id: str,
    spec: Spec,
    assignments: Sequence[Assignment],
) -> PaceFacts:
    """Return the pace of a rollout now. Who may take leases has called `lock_line_for` before."""
    has_limits = spec.limits.are_set
    asked = [one.device for one in assignments if one.state in WAITING] if spec.recalls else []
    by_site = _by_site(session) if has_limits else {}
    return PaceFacts(
        minutes=_minutes(session, rollout_id) if any(stage.rate for stage in spec.stages) else (),
        leases=leases_of(session, rollout_id) if has_limits else (),
        total=sum(by_site.values()),
        by_site=by_site,
        line_until=session.execute(select(col(DownloadLine.booked_until))).scalar() if has_limits else None,
        where={
            device: Whereabouts(labels.get(SITE_LABEL, ""), labels.get(TZ_LABEL, ""))
            for device, labels in (devices.labels_of(asked).items() if asked else ())
        },
    )


def lock_line_for(session: Session, spec: Mapping[str, Any]) -> None:
    """Let one transaction at a time take leases, if a rollout with this stored spec may. SQLite has one writer anyway."""
    limits = spec.get("limits")
    if not isinstance(limits, dict) or not any(limits.values()):
        return
    session.execute(select(col(DownloadLine.id)).where(col(DownloadLine.id) == _LINE).with_for_update())


def leases_of(session: Session, rollout_id: str) -> tuple[Lease, ...]:
    """Return a rollout's leases in order of device."""
    statement = select(_LEASE).where(_LEASE.c.rollout_id == rollout_id).order_by(_LEASE.c.device_id)
    return tuple(
        Lease(DeviceId(row.device_id), RolloutId(row.rollout_id), row.site, row.length, row.taken_at)
        for row in session.execute(statement)
    )


def save(session: Session, rollout_id: str, effects: Sequence[PaceEffect]) -> None:
    """Write what a plan says of the pace."""
    minutes: dict[int, RampWindow] = {}
    taken: dict[DeviceId, Lease] = {}
    ended: list[DeviceId] = []
    for effect in effects:
        match effect:
            case RampWindowUpdated():
                minutes[effect.minute.stage] = effect.minute
            case LeaseTaken():
                taken[effect.lease.device] = effect.lease
            case LeaseEnded():
                ended.append(effect.device)
            case BandwidthBooked():
                statement = update(DownloadLine).where(col(DownloadLine.id) == _LINE)
                session.execute(statement.values(booked_until=effect.until))
    for minute in minutes.values():
        session.merge(
            RolloutMinute(
                rollout_id=rollout_id,
                stage=minute.stage,
                began_at=minute.began_at,
                per_min=minute.per_min,
                offered=minute.offered,
                failed=minute.failed,
            )
        )
    gone = [*ended, *taken]
    if gone:
        session.execute(delete(_LEASE).where(_LEASE.c.rollout_id == rollout_id, _LEASE.c.device_id.in_(gone)))
    if taken:
        session.execute(_LEASE.insert(), [_row(rollout_id, one) for one in taken.values()])


def _row(rollout_id: str, one: Lease) -> dict[str, object]:
    return {
        "rollout_id": rollout_id,
        "device_id": one.device,
        "site": one.site,
        "length": one.length,
        "taken_at": one.taken_at,
    }


def _minutes(session: Session, rollout_id: str) -> tuple[RampWindow, ...]:
    statement = select(RolloutMinute).where(col(RolloutMinute.rollout_id) == rollout_id)
    return tuple(
        RampWindow(row.stage, row.began_at, row.per_min, row.offered, row.failed)
        for row in session.execute(statement.execution_options(populate_existing=True)).scalars()
    )


def _by_site(session: Session) -> dict[str, int]:
    statement = select(_LEASE.c.site, func.count()).group_by(_LEASE.c.site)
    return {site: int(n) for site, n in session.execute(statement)}
