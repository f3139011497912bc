"""The SQL of sealing: the row of the key, and columns that other features name. Every function works in the caller's session."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import bindparam, column, delete, func, select, table, update
from sqlmodel import Session, col

from edgefleet_server.db.bulk import insert_new
from edgefleet_server.db.database import UtcDateTime
from edgefleet_server.encryption.model import Place, SealedColumn, StoredSecret
from edgefleet_server.encryption.rules import KEY_ID_CHARS, PREFIX
from edgefleet_server.encryption.tables import FLEET_KEY_ROW, STATE_ROW, FleetKeyRow, SealingState


def state(session: Session, *, lock: bool = False) -> SealingState | None:
    """Return which key seals, None before the first one. lock: nobody changes it until the transaction ends."""
    statement = select(SealingState).where(col(SealingState.id) == STATE_ROW)
    if lock:
        statement = statement.with_for_update()
    return session.execute(statement.execution_options(populate_existing=True)).scalar_one_or_none()


def begin(session: Session, key_id: str, now: datetime) -> SealingState:
    """Say which key seals from now on; return what is said, which is another key where another process was first."""
    insert_new(session, SealingState, {"id": STATE_ROW, "key_id": key_id, "since": now, "cleaned_at": None})
    found = state(session, lock=True)
    assert found is not None
    return found


def fleet_key(session: Session) -> FleetKeyRow | None:
    """Return the fleet key, None before the first sealed publication."""
    return session.get(FleetKeyRow, FLEET_KEY_ROW)


def begin_fleet_key(session: Session, public: str, secret: str, now: datetime) -> None:
    """Store the fleet key, unless another process was first."""
    values = {"id": FLEET_KEY_ROW, "public": public, "secret": secret, "created_at": now}
    insert_new(session, FleetKeyRow, values)


def key_ids(session: Session, columns: Iterable[SealedColumn]) -> dict[str, Place]:
    """Return the ids of all keys that stored texts name, each with a place of one."""
    found: dict[str, Place] = {}
    for one in columns:
        text: Any = column(one.column)
        named = func.substr(text, len(PREFIX) + 1, KEY_ID_CHARS)
        statement = select(named).select_from(table(one.table)).where(text.like(f"{PREFIX}%")).distinct()
        for key_id in session.execute(statement).scalars():
            found.setdefault(key_id, Place(one.table, one.column, ""))
    return found


def secrets(
    session: Session, one: SealedColumn, *, but: str | None = None, only_plain: bool = False
) -> list[StoredSecret]:
    """Return the secrets of a column. but: leave out those of this key; only_plain: leave out all that are sealed."""
    text: Any = column(one.column)
    named: list[Any] = [column(name) for name in one.row]
    statement = select(text, column(one.since, UtcDateTime()), *named).select_from(table(one.table)).order_by(*named)
    if but is not None:
        statement = statement.where(text.not_like(f"{PREFIX}{but}:%"))
    if only_plain:
        statement = statement.where(text.not_like(f"{PREFIX}%"))
    return [StoredSecret(one.what, one.place(*row[2:]), row[0], row[1]) for row in session.execute(statement)]


def drop(session: Session, one: SealedColumn, key_id: str) -> int:
    """Delete the rows of a column whose text a key sealed; return how many."""
    text: Any = column(one.column)
    done = session.execute(delete(table(one.table, text)).where(text.like(f"{PREFIX}{key_id}:%")))
    return int(done.rowcount)  # type: ignore[attr-defined]


def write(session: Session, one: SealedColumn, texts: Sequence[tuple[Place, str]]) -> None:
    """Put texts at their places in a column, with one statement."""
    if not texts:
        return
    target = table(one.table, column(one.column), *(column(name) for name in one.row))
    at = [target.c[name] == bindparam(f"at_{name}") for name in one.row]
    values: list[dict[str, Any]] = []
    for place, text in texts:
        names = place.row.split("/")
        assert len(names) == len(one.row)
        values.append({"sealed": text, **{f"at_{name}": value for name, value in zip(one.row, names, strict=True)}})
    session.connection().execute(update(target).where(*at).values({one.column: bindparam("sealed")}), values)
