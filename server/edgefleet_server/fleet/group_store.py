"""SQL of the groups. Its own file beside `store` because that one is full, and nothing else there knows of groups."""

from collections.abc import Collection, Sequence

from sqlalchemy import func, select
from sqlmodel import Session, col

from edgefleet_server.fleet.store import insert_into
from edgefleet_server.fleet.tables import FleetGroup
from edgefleet_server.pages import walked


def groups(session: Session, names: Collection[str] | None = None) -> Sequence[FleetGroup]:
    """Return groups in order of name: all, or those of these names that are there."""
    statement = select(FleetGroup).order_by(col(FleetGroup.name))
    if names is not None:
        statement = statement.where(col(FleetGroup.name).in_(names))
    return session.execute(statement).scalars().all()


def groups_page(
    session: Session, after: str | None, limit: int, *, is_down: bool = False
) -> tuple[Sequence[FleetGroup], int]:
    """Return groups in order of name, and how many there are."""
    statement = walked(select(FleetGroup), col(FleetGroup.name), after, limit, is_down=is_down)
    total = session.execute(select(func.count()).select_from(FleetGroup)).scalar_one()
    return session.execute(statement).scalars().all(), int(total)


def group(session: Session, name: str, *, lock: bool = False) -> FleetGroup | None:
    """Return a group; `lock` holds it until the transaction ends."""
    return session.get(FleetGroup, name, with_for_update=True if lock else None)


def share_groups(session: Session, names: Collection[str]) -> set[str]:
    """Keep these groups from being deleted until the transaction ends; return which of them are there."""
    statement = (
        select(col(FleetGroup.name))
        .where(col(FleetGroup.name).in_(names))
        .order_by(col(FleetGroup.name))
        .with_for_update(read=True)
    )
    return {str(name) for name in session.execute(statement).scalars()}


def add_group(session: Session, row: FleetGroup) -> bool:
    """Insert a group; False when its name is taken."""
    values = {"name": row.name, "selector": row.selector, "created_at": row.created_at, "created_by": row.created_by}
    statement = insert_into(session, FleetGroup).values(values).on_conflict_do_nothing().returning(col(FleetGroup.name))
    return session.execute(statement).first() is not None
