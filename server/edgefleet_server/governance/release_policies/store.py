"""The SQL of release policies. Every function works in the caller's session and never commits."""

from sqlalchemy import delete, select
from sqlmodel import Session, col

from edgefleet_server.governance.errors import PolicyUnknownError
from edgefleet_server.governance.release_policies.model import ReleasePolicy
from edgefleet_server.governance.release_policies.tables import ReleasePolicyRow


def policies(session: Session) -> list[ReleasePolicy]:
    """Return all policies by name."""
    rows = session.execute(select(ReleasePolicyRow).order_by(col(ReleasePolicyRow.name))).scalars()
    return [_policy(row) for row in rows]


def find(session: Session, name: str) -> ReleasePolicy | None:
    """Return a policy, None when there is none of this name."""
    row = session.get(ReleasePolicyRow, name, populate_existing=True)
    return None if row is None else _policy(row)


def put(session: Session, policy: ReleasePolicy) -> None:
    """Write a policy in the place of the one of its name."""
    fields = {
        name: getattr(policy, name)
        for name in ("name", "since", "created_at", "created_by", "changed_at", "changed_by")
    }
    row = ReleasePolicyRow(**fields, models=list(policy.models), require=list(policy.require))
    session.merge(row)
    session.flush()


def remove(session: Session, name: str) -> None:
    """Delete a policy. Raises PolicyUnknownError."""
    if find(session, name) is None:
        raise PolicyUnknownError(
            f"there is no release policy {name[:63]!r}", next_step="`edgectl policy list` shows all"
        )
    session.execute(delete(ReleasePolicyRow).where(col(ReleasePolicyRow.name) == name))


def _policy(row: ReleasePolicyRow) -> ReleasePolicy:
    return ReleasePolicy(
        row.name, row.models, row.require, row.since, row.created_at, row.created_by, row.changed_at, row.changed_by
    )
