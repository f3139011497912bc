"""The SQL of release policies. Every function works in the caller's session and never commits."""

from datetime import datetime
from typing import Any

from sqlalchemy import delete, select
from sqlmodel import Session, col

from edgefleet_server.governance.release_policies.model import PolicyChange, ReleasePolicy
from edgefleet_server.governance.release_policies.tables import ReleasePolicyRow

_TIMES = ("since", "asked_at", "begins_at")


def policies(session: Session) -> list[ReleasePolicy]:
    """Return all policies by name, as they were written: changes that have begun are not made in them."""
    rows = session.execute(select(ReleasePolicyRow).order_by(col(ReleasePolicyRow.name))).scalars()
    return [_policy(row) for row in rows]


def find(session: Session, name: str, *, lock: bool = False) -> ReleasePolicy | None:
    """Return a policy as it was written, None when there is none of this name. lock: until the transaction ends."""
    row = session.get(ReleasePolicyRow, name, populate_existing=True, with_for_update=lock)
    return None if row is None else _policy(row)


def put(session: Session, policy: ReleasePolicy) -> None:
    """Write a policy in the place of the one of its name."""
    fields = {
        name: getattr(policy, name)
        for name in ("name", "since", "created_at", "created_by", "changed_at", "changed_by")
    }
    asked = policy.change
    row = ReleasePolicyRow(
        **fields,
        models=list(policy.models),
        require=list(policy.require),
        change=None if asked is None else _written(asked),
    )
    session.merge(row)
    session.flush()


def remove(session: Session, name: str) -> None:
    """Delete a policy."""
    session.execute(delete(ReleasePolicyRow).where(col(ReleasePolicyRow.name) == name))


def _policy(row: ReleasePolicyRow) -> ReleasePolicy:
    change = None if row.change is None else _read(row.change)
    return ReleasePolicy(
        row.name,
        row.models,
        row.require,
        row.since,
        row.created_at,
        row.created_by,
        row.changed_at,
        row.changed_by,
        change,
    )


def _written(change: PolicyChange) -> dict[str, Any]:
    return {name: value.isoformat() if isinstance(value, datetime) else value for name, value in vars(change).items()}


def _read(written: dict[str, Any]) -> PolicyChange:
    read: dict[str, Any] = {
        name: datetime.fromisoformat(value) if name in _TIMES else value for name, value in written.items()
    }
    return PolicyChange(**read)
