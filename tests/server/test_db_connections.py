"""How readers and writers connect: readers without transactions on PostgreSQL, connections that were idle, rows piece by piece."""

from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from sqlmodel import Session, col, select

from edgefleet_server.access.tables import TokenRow
from edgefleet_server.db import engines
from edgefleet_server.db.database import Database
from tests.server.conftest import KINDS
from tests.server.test_db import a_token, ids

POSTGRESQL = pytest.mark.parametrize("database_url", KINDS[1:], indirect=True)
ACTIVITY = "SELECT state FROM pg_stat_activity WHERE pid = :pid"


def pid_of(session: Session) -> int:
    """Return the number of the process of PostgreSQL that serves a session."""
    return int(session.execute(text("SELECT pg_backend_pid()")).scalar_one())


def end(db: Database, *pids: int) -> None:
    """End connections, as a restart of the database would."""
    with db.session() as session:
        for pid in pids:
            session.execute(text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": pid})


def names(session: Session, rows_at_once: int) -> list[str]:
    """Return the ids of tokens, read piece by piece."""
    statement = select(col(TokenRow.id)).order_by(col(TokenRow.id)).execution_options(yield_per=rows_at_once)
    return list(session.execute(statement).scalars())


def test_a_reading_scope_is_no_transaction_on_postgresql(db: Database) -> None:
    if db.is_sqlite:
        with db.read() as session:
            session.execute(text("SELECT id FROM access_tokens")).all()
            driver: Any = session.connection().connection.driver_connection
            assert driver.in_transaction
        return
    with db.read() as session:
        pid = pid_of(session)
        with db.engine.connect() as other:
            assert other.execute(text(ACTIVITY), {"pid": pid}).scalar_one() == "idle"


def test_what_a_reading_scope_changes_is_in_no_case_kept(db: Database) -> None:
    with db.session() as session:
        session.add(a_token("a"))
    with db.read() as session:
        row = session.get(TokenRow, "a")
        assert row is not None
        row.name = "changed"
        assert session.execute(select(col(TokenRow.name))).scalars().all() == ["t"]
    changes = text("UPDATE access_tokens SET name = 'changed'")
    if db.is_sqlite:
        with db.read() as session:
            session.execute(changes)
    else:
        with pytest.raises(SQLAlchemyError, match="read-only"), db.read() as session:
            session.execute(changes)
    with db.read() as session:
        assert session.execute(select(col(TokenRow.name))).scalars().all() == ["t"]


def test_a_reading_scope_sees_what_was_committed_before_each_statement(db: Database) -> None:
    with db.read() as session:
        assert session.execute(select(col(TokenRow.id))).scalars().all() == []
        with db.engine.begin() as other:
            other.execute(TokenRow.__table__.insert(), a_token("a").model_dump())  # type: ignore[attr-defined]
        seen = session.execute(select(col(TokenRow.id))).scalars().all()
    assert seen == ([] if db.is_sqlite else ["a"]), "SQLite shows one moment"
    assert ids(db) == ["a"]


def test_rows_are_read_piece_by_piece_alone_and_inside_other_scopes(db: Database) -> None:
    wanted = [f"{n:02}" for n in range(25)]
    with db.session() as session:
        for one in wanted:
            session.add(a_token(one))
        session.flush()
        with db.read(streams=True) as inner:
            assert inner is session, "what was written is seen"
            assert names(inner, 10) == wanted
    with db.read(streams=True) as session:
        assert names(session, 10) == wanted
        with db.read() as inner:
            assert inner is session
    with db.read() as session:
        with db.read(streams=True) as inner:
            assert names(inner, 10) == wanted
            assert (inner is session) == db.is_sqlite, "there it is a transaction anyway"
        assert session.execute(select(col(TokenRow.id))).first() == ("00",)
        with pytest.raises(RuntimeError, match="inside a reading"), db.session():
            pass


@POSTGRESQL
def test_connections_that_ended_while_they_were_idle_are_replaced(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "IDLE_S", 0.0)
    with db.session() as session:
        writing = pid_of(session)
    with db.read() as session:
        reading = pid_of(session)
    other = Database(db.engine.url.render_as_string(hide_password=False))
    end(other, writing, reading)
    other.dispose()
    assert ids(db) == []
    with db.session() as session:
        session.add(a_token("a"))
    assert ids(db) == ["a"]


@POSTGRESQL
def test_a_connection_that_answered_just_now_is_used_without_being_tried(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    with db.read() as session:
        pid = pid_of(session)
    with db.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as other:

        def last_sent() -> str:
            return str(
                other.execute(text("SELECT query FROM pg_stat_activity WHERE pid = :pid"), {"pid": pid}).scalar()
            )

        assert "pg_backend_pid" in last_sent(), "nothing was ended"
        with db.read() as session:
            session.connection()
            assert "pg_backend_pid" in last_sent(), "neither a try nor a beginning"
            assert pid_of(session) == pid, "the one that was used last"
        monkeypatch.setattr(engines, "IDLE_S", 0.0)
        with db.read() as session:
            session.connection()
            assert "pg_backend_pid" not in last_sent(), "one that was idle is tried"


@POSTGRESQL
@pytest.mark.parametrize("scope", ["read", "stream", "write"])
def test_no_statement_is_compiled_to_machine_code(db: Database, scope: str) -> None:
    opened = {"read": db.read, "stream": lambda: db.read(streams=True), "write": db.session}[scope]
    for _ in range(2):  # also after a transaction was rolled back
        with opened() as session:
            assert session.execute(text("SHOW jit")).scalar_one() == "off"
            session.rollback()
