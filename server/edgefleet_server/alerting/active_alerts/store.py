"""The SQL of alerts. Every function works in the caller's session and never commits."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, replace
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import ColumnElement, Row, Table, case, delete, func, or_, select, update
from sqlmodel import Session, col

from edgefleet_server.alerting.active_alerts.errors import (
    AlertUnknownError,
    SilenceUnknownError,
    WindowUnknownError,
)
from edgefleet_server.alerting.active_alerts.model import ActiveAlert, AlertCare, AlertState, Fired
from edgefleet_server.alerting.active_alerts.notices import NoticeGroup
from edgefleet_server.alerting.active_alerts.tables import (
    Alert,
    AlertDriftVerdict,
    AlertEvaluation,
    AlertGroup,
    AlertModelRecord,
    AlertRule,
    AlertSilence,
    AlertWindow,
)
from edgefleet_server.alerting.alert_rules.fleet_facts import DriftedSignal, DriftVerdict, Look, ModelFact, Severity
from edgefleet_server.db import bulk
from edgefleet_server.db.bulk import insert_into

RESOLVED: Final = AlertState.RESOLVED.value
OURS: Final = (
    *("shown", "state", "severity", "summary", "value", "threshold", "group", "seen_at", "fired_at", "clear_since"),
    *("resolved_at", "suppressed_by", "link", "evidence", "devices", "labels"),
)
"""What an evaluation writes of an alert that there is already."""
IN_CHUNK: Final = 500
_ALERT: Final[Table] = Alert.__table__  # type: ignore[attr-defined]
_RECORD: Final[Table] = AlertModelRecord.__table__  # type: ignore[attr-defined]
_COLUMNS: Final = tuple(col(getattr(Alert, name)) for name in Alert.model_fields)
"""For lists, which nobody changes: a row of columns costs a tenth of an object."""


# ---- alerts


def as_alert(row: Alert | Row[Any]) -> ActiveAlert:
    """Return a row as a value: of the table, or of `_COLUMNS`."""
    fields = {
        name: getattr(row, name) for name in (*OURS, "rule", "subject", "since", "acked_at", "acked_by", "ack_comment")
    }
    fields |= {"state": AlertState(row.state), "severity": Severity(row.severity)}
    return ActiveAlert(id=row.id or 0, **fields)


def open_alerts(session: Session) -> list[ActiveAlert]:
    """Return the alerts that have not ended."""
    statement = select(*_COLUMNS).where(col(Alert.state) != RESOLVED).order_by(col(Alert.id))
    return [as_alert(row) for row in session.execute(statement)]


def suppressors(session: Session) -> list[str]:
    """Return what keeps alerts quiet that have not ended, once for each of these."""
    quiet = (col(Alert.state) != RESOLVED, col(Alert.suppressed_by) != "")
    return list(session.scalars(select(col(Alert.suppressed_by)).where(*quiet)))


def alerts_by_id(session: Session, ids: Collection[int]) -> list[ActiveAlert]:
    """Return these alerts; unknown ones are left out."""
    wanted, found = sorted(ids), []
    for start in range(0, len(wanted), IN_CHUNK):
        statement = select(Alert).where(col(Alert.id).in_(wanted[start : start + IN_CHUNK]))
        found += [as_alert(row) for row in session.execute(statement).scalars()]
    return found


def known_alert(session: Session, alert_id: int, *, lock: bool = False) -> Alert:
    """Return an alert's row. Raises AlertUnknownError."""
    row = session.get(Alert, alert_id, with_for_update=True if lock else None, populate_existing=True)
    if row is None:
        raise AlertUnknownError(f"there is no alert {alert_id}", next_step="`edgectl alert list --all` shows them")
    return row


def write_alerts(session: Session, before: Sequence[ActiveAlert], after: Sequence[ActiveAlert]) -> list[ActiveAlert]:
    """Write how alerts went on; return them, new ones with their ids. One that only says its figures again is written once a minute.

    With one statement for all new ones and one for all others: when a fleet loses its network, they are thousands.
    """
    known = {one.id: one for one in before}
    new, old = [one for one in after if one.id == 0], [one for one in after if one.id]
    first = {"acked_at": None, "acked_by": "", "ack_comment": ""}
    rows = [{**_row(one), "rule": one.rule, "subject": one.subject, "since": one.since, **first} for one in new]
    ids = bulk.insert_counted(session, _ALERT, rows)
    changed = [{"id": one.id, **_row(one)} for one in old if _is_news(known[one.id], one)]
    bulk.update_rows(session, _ALERT, changed)
    return [*old, *(replace(one, id=key) for one, key in zip(new, ids, strict=True))]


def _row(one: ActiveAlert) -> dict[str, Any]:
    """Return what an evaluation writes of an alert."""
    values = {name: getattr(one, name) for name in OURS}
    plain = {"state": one.state.value, "severity": one.severity.value, "labels": dict(one.labels)}
    return values | plain | {"evidence": list(one.evidence), "devices": list(one.devices)}


def _is_news(before: ActiveAlert, after: ActiveAlert) -> bool:
    kept = ("state", "severity", "clear_since", "suppressed_by", "group", "devices")
    return any(getattr(before, name) != getattr(after, name) for name in kept if name != "devices") or (
        list(before.devices) != list(after.devices) or _stored_age(before, after) >= timedelta(minutes=1)
    )


def _stored_age(before: ActiveAlert, after: ActiveAlert) -> timedelta:
    return after.seen_at - before.seen_at


def forget_alerts(session: Session, ids: Collection[int]) -> None:
    """Remove pending alerts whose condition ended."""
    if ids:
        session.execute(delete(Alert).where(col(Alert.id).in_(sorted(ids))))


def alerts_since(
    session: Session, since: datetime, limit: int, *, link: str = "", rule: str = "", subject: str = ""
) -> list[ActiveAlert]:
    """Return the alerts that have not ended before `since`, newest first: all, or those of a page, a rule, a subject."""
    chosen = {Alert.link: link, Alert.rule: rule, Alert.subject: subject}
    statement = select(*_COLUMNS).where(_lasts(since), *(col(field) == text for field, text in chosen.items() if text))
    statement = statement.order_by(col(Alert.id).desc()).limit(limit)
    return [as_alert(row) for row in session.execute(statement)]


def fired_since(session: Session, since: datetime, limit: int) -> list[Fired]:
    """Return when the alerts fired that have not ended before `since`, newest first."""
    statement = select(col(Alert.rule), col(Alert.fired_at), col(Alert.resolved_at)).where(_lasts(since))
    return [Fired(*row) for row in session.execute(statement.order_by(col(Alert.id).desc()).limit(limit))]


def _lasts(since: datetime) -> ColumnElement[bool]:
    return or_(col(Alert.resolved_at).is_(None), col(Alert.resolved_at) >= since)


def worst_firing(session: Session, severities: Sequence[str], limit: int) -> list[ActiveAlert]:
    """Return alerts that fire and are not suppressed: by severity in this order, then the newest first."""
    statement = select(Alert).where(col(Alert.state) == AlertState.FIRING.value, col(Alert.suppressed_by) == "")
    rank = case({one: place for place, one in enumerate(severities)}, value=col(Alert.severity), else_=len(severities))
    return [
        as_alert(row) for row in session.execute(statement.order_by(rank, col(Alert.id).desc()).limit(limit)).scalars()
    ]


def care(session: Session) -> AlertCare:
    """Return who takes care of what fires and is not suppressed."""
    unseen = func.sum(case((col(Alert.acked_at).is_(None), 1), else_=0))
    statement = select(func.min(col(Alert.fired_at)), unseen).where(
        col(Alert.state) == AlertState.FIRING.value, col(Alert.suppressed_by) == ""
    )
    oldest, n = session.execute(statement).one()
    return AlertCare(oldest, int(n or 0))


def firing_of_links(session: Session, links: Collection[str]) -> list[tuple[str, str, str]]:
    """Return (page, rule, severity) of the alerts that fire, are not suppressed and lead to one of these pages, newest first."""
    statement = select(col(Alert.link), col(Alert.rule), col(Alert.severity)).where(
        col(Alert.state) == AlertState.FIRING.value, col(Alert.suppressed_by) == "", col(Alert.link).in_(links)
    )
    return [
        (link, rule, severity) for link, rule, severity in session.execute(statement.order_by(col(Alert.id).desc()))
    ]


def loud_pages(session: Session, begin: str) -> list[str]:
    """Return the pages whose address begins so and to which alerts lead that fire and are not suppressed, in order."""
    link = col(Alert.link)
    statement = select(link).where(
        col(Alert.state) == AlertState.FIRING.value, col(Alert.suppressed_by) == "", link.startswith(begin)
    )
    return list(session.execute(statement.distinct().order_by(link)).scalars())


def alerts_page(
    session: Session,
    *,
    states: Sequence[str],
    rule: str,
    severity: str,
    suppressed: bool | None,
    before: int | None,
    limit: int,
) -> tuple[list[ActiveAlert], int]:
    """Return alerts, newest first, and how many there are. Empty states, rule, severity: all."""
    chosen: list[Any] = []
    if states:
        chosen.append(col(Alert.state).in_(states))
    if rule:
        chosen.append(col(Alert.rule) == rule)
    if severity:
        chosen.append(col(Alert.severity) == severity)
    if suppressed is not None:
        chosen.append(col(Alert.suppressed_by) != "" if suppressed else col(Alert.suppressed_by) == "")
    total = session.execute(select(func.count()).select_from(Alert).where(*chosen)).scalar_one()
    page = select(*_COLUMNS).where(*chosen, *([col(Alert.id) < before] if before is not None else []))
    rows = session.execute(page.order_by(col(Alert.id).desc()).limit(limit))
    return [as_alert(row) for row in rows], int(total)


def counts(session: Session) -> list[tuple[str, str, bool, str, int]]:
    """Return how many open alerts there are by state, severity, whether they are suppressed, and rule."""
    is_quiet = col(Alert.suppressed_by) != ""
    statement = (
        select(col(Alert.state), col(Alert.severity), is_quiet, col(Alert.rule), func.count())
        .where(col(Alert.state) != RESOLVED)
        .group_by(col(Alert.state), col(Alert.severity), is_quiet, col(Alert.rule))
    )
    return [
        (state, severity, bool(quiet), rule, int(n)) for state, severity, quiet, rule, n in session.execute(statement)
    ]


# ---- rules, silences, windows


def rule_rows(session: Session) -> dict[str, AlertRule]:
    """Return what was changed of rules, by rule."""
    return {row.rule: row for row in session.execute(select(AlertRule)).scalars()}


def silences(session: Session, *, after: datetime | None = None) -> Sequence[AlertSilence]:
    """Return silences, newest first; after: only those that go on after a moment."""
    statement = select(AlertSilence).order_by(col(AlertSilence.created_at).desc(), col(AlertSilence.id))
    if after is not None:
        statement = statement.where(col(AlertSilence.until) > after)
    return session.execute(statement).scalars().all()


def known_silence(session: Session, silence_id: str) -> AlertSilence:
    """Return a silence's row. Raises SilenceUnknownError."""
    row = session.get(AlertSilence, silence_id, populate_existing=True)
    if row is None:
        raise SilenceUnknownError(
            f"there is no silence {silence_id[:40]!r}", next_step="`edgectl alert silence list` shows them"
        )
    return row


def windows(session: Session) -> Sequence[AlertWindow]:
    """Return the maintenance windows, oldest first."""
    return (
        session.execute(select(AlertWindow).order_by(col(AlertWindow.created_at), col(AlertWindow.id))).scalars().all()
    )


def known_window(session: Session, window_id: str) -> AlertWindow:
    """Return a maintenance window's row. Raises WindowUnknownError."""
    row = session.get(AlertWindow, window_id, populate_existing=True)
    if row is None:
        raise WindowUnknownError(
            f"there is no maintenance window {window_id[:40]!r}", next_step="`edgectl alert window list` shows them"
        )
    return row


# ---- evaluations


def evaluation(session: Session) -> AlertEvaluation | None:
    """Return the row of the last evaluation, None before the first."""
    return session.get(AlertEvaluation, 1, populate_existing=True)


def claim(session: Session, now: datetime, every: timedelta) -> tuple[int, int | None] | None:
    """Take the next evaluation; return (fence, last window read), None when it is not due or another process has it."""
    first = {"id": 1, "at": now, "fence": 1, "window_id": None}
    made = insert_into(session, AlertEvaluation).values(first).on_conflict_do_nothing()
    if session.execute(made.returning(col(AlertEvaluation.id))).first() is not None:
        return 1, None
    statement = (
        update(AlertEvaluation)
        .where(
            col(AlertEvaluation.id) == 1,
            or_(col(AlertEvaluation.at) <= now - every, col(AlertEvaluation.at) > now + every),
        )
        .values(at=now, fence=AlertEvaluation.fence + 1)
        .returning(col(AlertEvaluation.fence), col(AlertEvaluation.window_id))
    )
    row = session.execute(statement).first()
    return None if row is None else (int(row[0]), row[1])


def hold_fence(session: Session, fence: int, window_id: int) -> bool:
    """Lock the row of evaluations and write down how far windows were read; return whether the claim is still ours."""
    statement = (
        update(AlertEvaluation)
        .where(col(AlertEvaluation.id) == 1, col(AlertEvaluation.fence) == fence)
        .values(window_id=window_id)
        .returning(col(AlertEvaluation.id))
    )
    return session.execute(statement).first() is not None


def groups(session: Session) -> dict[tuple[str, str], NoticeGroup]:
    """Return what was sent of groups."""
    rows = session.execute(select(AlertGroup)).scalars()
    return {
        (row.rule, row.group): NoticeGroup(
            row.rule,
            row.group,
            row.due_at,
            row.sent_at,
            frozenset(row.sent),
            {contact: datetime.fromisoformat(at) for contact, at in row.reminded.items()},
        )
        for row in rows
    }


def write_groups(session: Session, changed: Iterable[NoticeGroup]) -> None:
    """Write what was sent of groups."""
    for one in changed:
        again = {contact: at.isoformat() for contact, at in one.reminded.items()}
        values = {"due_at": one.due_at, "sent_at": one.sent_at, "sent": sorted(one.sent), "reminded": again}
        statement = insert_into(session, AlertGroup).values({"rule": one.rule, "group": one.group, **values})
        session.execute(statement.on_conflict_do_update(index_elements=["rule", "group"], set_=values))


# ---- records of models


def records(session: Session, since: datetime) -> dict[tuple[str, str], ModelFact]:
    """Return what is known of models that had a window since a moment."""
    return _records(session, col(AlertModelRecord.newest_at) >= since)


def records_of(session: Session, devices: Collection[str]) -> dict[tuple[str, str], ModelFact]:
    """Return what is known of the models of some devices."""
    found: dict[tuple[str, str], ModelFact] = {}
    wanted = sorted(devices)
    for start in range(0, len(wanted), IN_CHUNK):
        found |= _records(session, col(AlertModelRecord.device_id).in_(wanted[start : start + IN_CHUNK]))
    return found


def _records(session: Session, condition: Any) -> dict[tuple[str, str], ModelFact]:
    row, found = AlertModelRecord, {}
    columns = (row.device_id, row.model, row.version, row.looks, row.usual_p95_ms, row.usual_windows)
    chosen = select(*(col(one) for one in columns)).where(condition)
    for device, model, version, kept, usual_ms, windows in session.execute(chosen):
        looks = tuple(Look(datetime.fromisoformat(at), *figures) for at, *figures in kept)
        found[(device, model)] = ModelFact(device, model, version, looks, usual_ms, windows)
    return found


def write_records(session: Session, changed: Iterable[ModelFact]) -> None:
    """Write what is known of models."""
    rows = [
        {
            "device_id": one.device,
            "model": one.model,
            "version": one.version,
            "newest_at": one.looks[-1].at,
            "looks": [[look.at.isoformat(), look.n, look.bad, look.nonfinite, look.p95_ms] for look in one.looks],
            "usual_p95_ms": one.usual_p95_ms,
            "usual_windows": one.usual_windows,
        }
        for one in changed
    ]
    names = ("version", "newest_at", "looks", "usual_p95_ms", "usual_windows")
    bulk.merge_rows(session, _RECORD, rows, {name: f'excluded."{name}"' for name in names})


# ---- drift


def drift_verdicts(session: Session) -> list[DriftVerdict]:
    """Return how models were judged last."""
    rows = session.execute(select(AlertDriftVerdict).order_by(col(AlertDriftVerdict.model))).scalars()
    return [
        DriftVerdict(row.model, row.version, row.judged_at, tuple(DriftedSignal(**one) for one in row.signals))
        for row in rows
    ]


def write_drift_verdict(session: Session, one: DriftVerdict) -> None:
    """Write how a model was judged."""
    signals = [asdict(signal) | {"devices": list(signal.devices)} for signal in one.signals]
    values = {"version": one.version, "judged_at": one.judged_at, "signals": signals}
    statement = insert_into(session, AlertDriftVerdict).values({"model": one.model, **values})
    session.execute(statement.on_conflict_do_update(index_elements=["model"], set_=values))


def prune(session: Session, ended: datetime, silent: datetime, unheard: datetime) -> int:
    """Remove alerts and silences that ended before a moment, records of before another, and groups of which nothing is open."""
    done = session.execute(delete(Alert).where(col(Alert.state) == RESOLVED, col(Alert.resolved_at) < ended))
    session.execute(delete(AlertSilence).where(col(AlertSilence.until) < silent))
    session.execute(delete(AlertModelRecord).where(col(AlertModelRecord.newest_at) < unheard))
    session.execute(delete(AlertDriftVerdict).where(col(AlertDriftVerdict.judged_at) < unheard))
    session.execute(delete(AlertGroup).where(col(AlertGroup.due_at).is_(None), col(AlertGroup.sent_at) < unheard))
    return int(done.rowcount)  # type: ignore[attr-defined]
