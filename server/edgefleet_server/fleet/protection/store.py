"""SQL of deployment protection rules. Every function works in the caller's session and never commits.

A device under a rule stays under it: `note_members` only adds. Code that writes labels, profiles or new devices calls it in the same
transaction; writers of documents call it once more, for the devices that they have locked. Labels and profiles call it before they
change, too: a device that enrolled while the rule was made was seen by neither transaction.
"""

from collections.abc import Collection, Iterator, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, delete, func, literal, or_, select
from sqlmodel import Session, col

from edgefleet_server.db import bulk
from edgefleet_server.db.bulk import insert_into
from edgefleet_server.fleet.protection.model import Covered
from edgefleet_server.fleet.selectors import device_selector, sql
from edgefleet_server.fleet.selectors.grammar import Selector, parse_selector
from edgefleet_server.fleet.store import IN_CHUNK
from edgefleet_server.fleet.tables import FleetBreakGlass, FleetDevice, FleetProtectedDevice, FleetProtectionRule


def in_force(now: datetime) -> ColumnElement[bool]:
    """Return the condition of rules that are in force."""
    ends_at = col(FleetProtectionRule.ends_at)
    return or_(ends_at.is_(None), ends_at > now)


def rules(session: Session, now: datetime) -> Sequence[FleetProtectionRule]:
    """Return the rules in force, in order of name."""
    statement = select(FleetProtectionRule).where(in_force(now)).order_by(col(FleetProtectionRule.name))
    return session.execute(statement).scalars().all()


def rule(session: Session, name: str, *, lock: bool = False) -> FleetProtectionRule | None:
    """Return a rule, in force or not."""
    return session.get(FleetProtectionRule, name, with_for_update=True if lock else None, populate_existing=True)


def note_members(session: Session, now: datetime, ids: Collection[str] | None = None) -> None:
    """Put the devices that match rules in force under them, for good. ids: look at these only (None: at all)."""
    own = col(FleetDevice.id)
    for row in rules(session, now):
        selector = parse_selector(row.selector)
        matches = _matching(session, selector)
        wanted = [matches] if ids is None else [bulk.among(session, own, ids), matches]
        found = select(own, literal(row.name)).where(*wanted)
        insert = insert_into(session, FleetProtectedDevice).from_select(["device_id", "rule"], found)
        session.execute(insert.on_conflict_do_nothing())


def _matching(session: Session, selector: Selector) -> ColumnElement[bool]:
    return sql.matching(selector, device_selector.asked_groups(session, selector), probing=True)


def inherit(session: Session, device_id: str, earlier: Collection[str]) -> None:
    """Put a device under the rules that these devices are under: it is one of them that enrolled again."""
    if not earlier:
        return
    rule_name, own = col(FleetProtectedDevice.rule), col(FleetProtectedDevice.device_id)
    found = select(literal(device_id), rule_name).where(own.in_(earlier)).distinct()
    insert = insert_into(session, FleetProtectedDevice).from_select(["device_id", "rule"], found)
    session.execute(insert.on_conflict_do_nothing())


def rules_of(session: Session, now: datetime, ids: Collection[str]) -> dict[str, tuple[str, ...]]:
    """Return the rules in force that each of these devices is under; devices under none are left out."""
    found: dict[str, tuple[str, ...]] = {}
    for device, name in _members(session, now, bulk.among(session, col(FleetProtectedDevice.device_id), ids)):
        found[device] = (*found.get(device, ()), name)
    return found


def all_members(session: Session, now: datetime) -> dict[str, tuple[str, ...]]:
    """Return the rules in force that each device is under, of all devices that are under one."""
    found: dict[str, tuple[str, ...]] = {}
    for device, name in _members(session, now):
        found[device] = (*found.get(device, ()), name)
    return found


def _members(session: Session, now: datetime, *conditions: ColumnElement[bool]) -> Iterator[tuple[str, str]]:
    device, name = col(FleetProtectedDevice.device_id), col(FleetProtectedDevice.rule)
    statement = (
        select(device, name)
        .join(FleetProtectionRule, col(FleetProtectionRule.name) == name)
        .where(in_force(now), *conditions)
        .order_by(device, name)
    )
    for one, rule_name in session.execute(statement):
        yield str(one), str(rule_name)


def covered(session: Session, now: datetime, selector: str) -> list[Covered]:
    """Return which rules in force protect live devices that a selector matches. Raises BadSelectorError."""
    parsed = parse_selector(selector)
    own, name = col(FleetDevice.id), col(FleetProtectedDevice.rule)
    statement = (
        select(name, func.count(), func.min(own))
        .select_from(FleetProtectedDevice)
        .join(FleetDevice, own == col(FleetProtectedDevice.device_id))
        .join(FleetProtectionRule, col(FleetProtectionRule.name) == name)
        .where(in_force(now), sql.is_live(), sql.matching(parsed, device_selector.asked_groups(session, parsed)))
        .group_by(name)
        .order_by(name)
    )
    return [Covered(str(one), int(n), str(first)) for one, n, first in session.execute(statement)]


def counts(session: Session) -> dict[str, int]:
    """Return how many live devices are under each rule."""
    name = col(FleetProtectedDevice.rule)
    statement = (
        select(name, func.count())
        .join(FleetDevice, col(FleetDevice.id) == col(FleetProtectedDevice.device_id))
        .where(sql.is_live())
        .group_by(name)
    )
    return {str(one): int(n) for one, n in session.execute(statement)}


def broken(session: Session, now: datetime, principal: str | None = None) -> Sequence[FleetBreakGlass]:
    """Return what was set aside and still is, the newest first. principal: only by this token or session.

    A rule that was made again under the name of one that ended is another: nobody has set that aside.
    """
    row, rule_row = FleetBreakGlass, FleetProtectionRule
    chosen = select(row).join(rule_row, col(rule_row.name) == col(row.rule))
    chosen = chosen.where(col(row.until) > now, col(row.at) >= col(rule_row.created_at))
    if principal is not None:
        chosen = chosen.where(col(row.principal) == principal)
    return session.execute(chosen.order_by(col(row.at).desc(), col(row.id))).scalars().all()


def drop_ended(session: Session, now: datetime) -> list[str]:
    """Remove rules that have ended, and who was under them; return their names."""
    row = FleetProtectionRule
    ended = select(col(row.name)).where(col(row.ends_at) <= now).order_by(col(row.name)).limit(IN_CHUNK)
    names: list[Any] = list(session.execute(ended.with_for_update()).scalars())
    if names:
        session.execute(delete(FleetProtectedDevice).where(col(FleetProtectedDevice.rule).in_(names)))
        session.execute(delete(FleetProtectionRule).where(col(row.name).in_(names)))
    return [str(name) for name in names]
