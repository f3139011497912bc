"""A rollout's devices in lots of those that stand alike: what people see of a rollout is counted by the database.

A look at a rollout of 100,000 devices so reads some dozens of rows. Devices are in one lot when nothing that is counted of them, and no
words about what they wait for, can differ but for their names, their reasons and their times:
- Times matter where they are compared: of a healthy device, whether its soak was over when its stage, or a later one, was judged.
- The device of a lot that moves first stands for it (of several the first by name), so that it is known what moves next.

Every function works in the caller's session and never commits.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import ColumnElement, and_, case, func, literal, or_, select, union_all
from sqlmodel import Session

from edgefleet_protocol.messages import AssignmentState
from edgefleet_server.db.keyset import PageRequest, walked
from edgefleet_server.rollout.model import Assignment, Lot, StageRun
from edgefleet_server.rollout.spec.model import Spec
from edgefleet_server.rollout.state_machines import IN_FLIGHT
from edgefleet_server.rollout.store import assignments

MOST_MOMENTS: Final = 2_000
"""Of so many times that devices would have to be compared with, each device is read instead."""
_S: Final = AssignmentState
_ROW: Final = assignments.ASSIGNMENT.c
_IS_OWED: Final = and_(_ROW.back_at.is_not(None), _ROW.back_done_at.is_(None))


def lots(session: Session, rollout_id: str, spec: Spec, cells: Sequence[StageRun], now: datetime) -> list[Lot]:
    """Return a rollout's assignments in lots, in order of the devices that stand for them.

    With a quality gate, each is a lot of its own: devices are measured by name.
    """
    moments = _moments(cells, now)
    if spec.gates.quality is not None or len(spec.stages) * sum(len(times) for times in moments) > MOST_MOMENTS:
        return [(one, 1) for one in assignments.assignments(session, rollout_id)]
    alike = (
        _ROW.stage,
        _ROW.stratum,
        _ROW.state,
        _ROW.error_class,
        _ROW.failed_before,
        _ROW.is_accepted,
        case((_IS_OWED, 1), else_=0),
        _time_class(spec, moments, now),
    )
    first = _moves_at()
    window: dict[str, Any] = {"partition_by": alike, "order_by": (first.is_(None), first, _ROW.device_id)}
    one = (
        select(
            _ROW.device_id,
            func.row_number().over(**window).label("place"),
            func.count().over(**window, rows=(None, None)).label("devices"),
        )
        .where(_ROW.rollout_id == rollout_id)
        .subquery()
    )
    statement = (
        select(assignments.ASSIGNMENT, one.c.devices)
        .join(one, one.c.device_id == _ROW.device_id)
        .where(_ROW.rollout_id == rollout_id, one.c.place == 1)
        .order_by(_ROW.device_id)
    )
    return [(assignments.assignment_of(row), int(row.devices)) for row in session.execute(statement)]


def each_waiting(session: Session, rollout_id: str, lots: Iterable[Lot]) -> list[Lot]:
    """Return the same lots, but with each device that waits for its offer by itself."""
    rest = [lot for lot in lots if lot[0].state is not _S.ELIGIBLE]
    waiting = [(one, 1) for one in assignments.assignments(session, rollout_id, state=_S.ELIGIBLE)]
    return sorted([*rest, *waiting], key=lambda lot: lot[0].device)


def first_exposed(session: Session, rollout_id: str, stages: int, limit: int) -> dict[int, list[str]]:
    """Return the first devices, in order of id, that took the release up in each stage."""
    parts = [
        select(literal(stage).label("stage"), _ROW.device_id)
        .where(_ROW.rollout_id == rollout_id, _ROW.stage == stage, _ROW.exposed_at.is_not(None))
        .order_by(_ROW.device_id)
        .limit(limit)
        .subquery()
        for stage in range(stages)
    ]
    found: dict[int, list[str]] = {stage: [] for stage in range(stages)}
    for stage, device in session.execute(union_all(*(select(part) for part in parts))):
        found[stage].append(device)
    return {stage: sorted(devices) for stage, devices in found.items()}


def looked_at(session: Session, rollout_id: str, now: datetime, soak: timedelta, limit: int) -> list[Assignment]:
    """Return devices that were offered the release: those first that install it or may still soak, the longest at a standstill first."""
    flight = _ROW.state.in_(sorted(state.value for state in IN_FLIGHT))
    soaks = and_(_ROW.state == _S.HEALTHY.value, _ROW.switched_at > now - soak)
    is_under_way = case((or_(flight, soaks), 0), else_=1)
    statement = select(assignments.ASSIGNMENT).where(_ROW.rollout_id == rollout_id, _ROW.gen > 0)
    rows = session.execute(statement.order_by(is_under_way, _ROW.entered_at, _ROW.device_id).limit(limit))
    return [assignments.assignment_of(row) for row in rows]


def recovery(session: Session, rollout_id: str) -> tuple[int, datetime | None, int, datetime | None]:
    """Return how many devices ever took the release up, when the first failed, how many of them went back, and when the last did.

    A device whose offer was withdrawn before it took it up is done at once, but never went back.
    """
    failed = case((_ROW.error_class != "", _ROW.ended_at), else_=None)
    back = case((_ROW.exposed_at.is_not(None), _ROW.back_done_at), else_=None)
    statement = select(func.count(_ROW.exposed_at), func.min(failed), func.count(back), func.max(back)).where(
        _ROW.rollout_id == rollout_id
    )
    exposed, first, back, last = session.execute(statement).one()
    return int(exposed), first, int(back), last


def _moments(cells: Iterable[StageRun], now: datetime) -> dict[tuple[datetime, ...], list[str]]:
    """Return the strata by the times at which one of their stages was judged, oldest first, with now."""
    judged: dict[str, set[datetime]] = {}
    for cell in cells:
        judged.setdefault(cell.stratum, {now}).update([] if cell.ended_at is None else [cell.ended_at])
    strata: dict[tuple[datetime, ...], list[str]] = {}
    for stratum, times in judged.items():
        strata.setdefault(tuple(sorted(times)), []).append(stratum)
    return strata


def _time_class(spec: Spec, moments: dict[tuple[datetime, ...], list[str]], now: datetime) -> ColumnElement[int]:
    """Return a number that differs where a time that is compared lies on the other side."""
    soaks = [
        (_ROW.stratum.in_(strata), _judged_before(spec, times)) for times, strata in moments.items() if times != (now,)
    ]
    usual = _judged_before(spec, (now,))
    return case(
        (and_(_ROW.state == _S.ELIGIBLE.value, _ROW.retry_at > now), 1),
        (_ROW.state != _S.HEALTHY.value, 0),
        (_ROW.switched_at.is_(None), -1),
        else_=case(*soaks, else_=usual) if soaks else usual,
    )


def _judged_before(spec: Spec, times: Sequence[datetime]) -> ColumnElement[int]:
    """Return how many of these times lie before the end of a device's soak."""
    ended = [
        (and_(_ROW.stage == index, _ROW.switched_at <= at - stage.soak), place)
        for index, stage in enumerate(spec.stages)
        for place, at in enumerate(times)
    ]
    return case(*ended, else_=len(times))


def _moves_at() -> ColumnElement[datetime]:
    """Return the time by which the devices of a lot are ordered: the first one shows when the lot moves."""
    return case(
        (_ROW.state == _S.ELIGIBLE.value, _ROW.retry_at),
        (_IS_OWED, _ROW.back_at),
        (_ROW.state == _S.HEALTHY.value, _ROW.switched_at),
        (_ROW.state.in_(sorted(state.value for state in IN_FLIGHT)), _ROW.deadline),
        else_=None,
    )


def device_page(
    session: Session,
    rollout_id: str,
    page: PageRequest,
    *,
    states: Sequence[str],
    stages: Sequence[int] | None,
    device: str | None,
) -> tuple[list[Assignment], int]:
    """Return one assignment more than a page has, in order of device, and how many there are. states, stages, device: only of these."""
    wanted = [_ROW.rollout_id == rollout_id]
    if states:
        wanted.append(_ROW.state.in_(states))
    if stages is not None:
        wanted.append(_ROW.stage.in_(stages))
    if device is not None:
        wanted.append(_ROW.device_id == device)
    total = session.execute(select(func.count()).select_from(assignments.ASSIGNMENT).where(*wanted)).scalar_one()
    chosen = select(assignments.ASSIGNMENT).where(*wanted)
    rest = walked(chosen, _ROW.device_id, page.after, page.limit + 1, is_down=page.is_turned)
    return [assignments.assignment_of(row) for row in session.execute(rest)], int(total)
