"""Many rows in one statement are the rows that one statement each would write, on both databases."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import JSON, Boolean, Column, Float, Integer, LargeBinary, MetaData, String, Table, select, text
from sqlalchemy.exc import DataError, StatementError
from sqlmodel.sql.sqltypes import AutoString

from edgefleet_server.db import bulk
from edgefleet_server.db.database import Database, UtcDateTime
from edgefleet_server.db.pg_arrays import array_of, pack

TABLE = Table(
    "bulk_things", MetaData(), Column("id", Integer, primary_key=True), Column("name", String(40)), Column("at", UtcDateTime),
    Column("more", JSON, nullable=True), Column("raw", LargeBinary), Column("is_on", Boolean), Column("share", Float),
)  # fmt: skip
KEYED = Table(
    "bulk_keyed", TABLE.metadata, Column("rollout", AutoString(32), primary_key=True), Column("stage", Integer, primary_key=True),
    Column("device", AutoString(63), primary_key=True), Column("state", String(16)),
)  # fmt: skip
AT = datetime(2026, 11, 25, 12, 0, 0, 123456, tzinfo=UTC)


def row(number: int, **changes: Any) -> dict[str, Any]:
    """Return a row with something odd in each column."""
    return {
        "name": ("", 'ä"\\;\'', "{NULL}", "x\n\t", "\U0001f600")[number % 5], "at": AT, "more": {"a": [1, None, "ü"], "n": number},
        "raw": bytes(range(number, number + 5)), "is_on": number % 2 == 0, "share": 0.1 + number, **changes,
    }  # fmt: skip


@pytest.fixture
def db(database_url: str) -> Iterator[Database]:
    """A database with the table."""
    made = Database(database_url)
    TABLE.metadata.create_all(made.engine)
    yield made
    made.dispose()


def stored(db: Database) -> list[dict[str, Any]]:
    """Return all rows."""
    with db.read() as session:
        return [dict(one._mapping) for one in session.execute(select(TABLE).order_by(TABLE.c.id))]


def test_rows_come_back_as_they_were_written(db: Database) -> None:
    with db.session() as session:
        ids = bulk.insert_counted(session, TABLE, [row(number) for number in range(30)])
        bulk.insert_rows(session, TABLE, [row(number, id=100 + number) for number in range(3)])
        bulk.insert_rows(session, TABLE, [])
        bulk.update_rows(session, TABLE, [])
        assert bulk.insert_counted(session, TABLE, []) == []
    assert stored(db) == [row(n, id=one) for n, one in enumerate(ids)] + [row(n, id=100 + n) for n in range(3)]
    assert ids == sorted(ids)


def test_an_update_changes_the_named_columns_of_the_named_rows(db: Database) -> None:
    with db.session() as session:
        ids = bulk.insert_counted(session, TABLE, [row(number) for number in range(10)])
        changed = [{"id": one, "name": f"new {one}", "more": None, "raw": b"", "at": None} for one in ids[:5]]
        bulk.update_rows(session, TABLE, changed)
    rows = stored(db)
    assert rows[5:] == [row(n, id=ids[n]) for n in range(5, 10)]
    assert [(one["name"], one["raw"], one["at"], one["is_on"]) for one in rows[:5]] == [
        (f"new {one}", b"", None, n % 2 == 0) for n, one in enumerate(ids[:5])
    ]


def keyed(stages: int, devices: int, state: str = "old") -> list[dict[str, Any]]:
    """Return one row for each stage and device."""
    return [
        {"rollout": "r", "stage": stage, "device": f"d{n:05}", "state": state}
        for stage in range(stages)
        for n in range(devices)
    ]


@pytest.mark.parametrize(("stages", "devices"), [(1, 1), (3, 1), (1, 3), (3, 3)])
def test_an_update_finds_rows_by_any_kind_of_key(db: Database, stages: int, devices: int) -> None:
    with db.session() as session:
        bulk.insert_rows(session, KEYED, keyed(4, 4))
        bulk.update_rows(session, KEYED, keyed(stages, devices, "new"))
        found = session.execute(select(KEYED.c.stage, KEYED.c.device, KEYED.c.state)).all()
    assert {(stage, device) for stage, device, state in found if state == "new"} == {
        (one["stage"], one["device"]) for one in keyed(stages, devices)
    }


@pytest.mark.postgres
@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
@pytest.mark.parametrize("rows", [keyed(1, 500, "new"), keyed(2, 250, "new")])
def test_postgresql_looks_many_rows_up_and_does_not_read_the_table_for_them(
    db: Database, rows: list[dict[str, Any]]
) -> None:
    with db.session() as session:
        bulk.insert_rows(session, KEYED, keyed(4, 5_000))
        packed = pack(KEYED, rows)
        update = bulk._update(KEYED, ["rollout", "stage", "device"], packed)
        ids = [one["device"] for one in rows]
        chosen = select(KEYED.c.state).where(KEYED.c.rollout == "r", bulk.among(session, KEYED.c.device, ids))
        made = chosen.compile(db.engine)
        given = {name: array_of(value) if isinstance(value, list) else value for name, value in made.params.items()}
        plans = [
            session.execute(text(f"EXPLAIN {update.text}"), packed.parameters).scalars().all(),
            session.connection().exec_driver_sql(f"EXPLAIN {made}", given).scalars().all(),
        ]
    for plan in plans:
        assert any("Index Scan" in line for line in plan), plan
        assert not any("Seq Scan on bulk_keyed" in line or "Hash Join" in line for line in plan), plan


def told(rows: list[dict[str, Any]]) -> list[str]:
    """Return rows as text: 1 and true are the same to Python."""
    return [repr(sorted(one.items())) for one in rows]


@pytest.mark.parametrize("count", [1, 2, 7, 40])
@pytest.mark.parametrize("kinds", [1, 2, 5, 100])
def test_rows_that_share_values_are_stored_as_rows_that_share_none(db: Database, count: int, kinds: int) -> None:
    more: list[Any] = [None, {"n": 1}, {"n": True}, {"n": 1.0}, [], "", '"}{,', "NULL", 0, {"ü": ["\\", None]}]
    raw = [b"", b"\x00\xff\\", None, bytes(300), b"}"]
    rows = [
        row(
            n % kinds, id=n, more=more[n % kinds % len(more)], raw=raw[n % kinds % len(raw)], share=[None, 1e300, -0.5][n % kinds % 3],
            is_on=[None, True, False][n % kinds % 3], at=[None, AT, AT + timedelta(hours=n % kinds)][n % kinds % 3],
        )
        for n in range(1, count + 1)
    ]  # fmt: skip
    with db.session() as session:
        bulk.insert_rows(session, TABLE, [row(0, id=one["id"]) for one in rows])
        bulk.update_rows(session, TABLE, rows)
        bulk.insert_rows(session, TABLE, [one | {"id": 1_000 + one["id"]} for one in rows])
    kept = stored(db)
    assert told(kept[:count]) == told(rows)
    assert told([one | {"id": one["id"] - 1_000} for one in kept[count:]]) == told(rows)


def test_text_that_is_too_long_is_refused_and_not_cut_off(db: Database) -> None:
    if not db.is_sqlite:  # which knows no longest text
        with pytest.raises(DataError), db.session() as session:
            bulk.insert_rows(session, TABLE, [row(0, id=1, name="x" * 41)])


def test_a_time_without_a_zone_is_refused(db: Database) -> None:
    with pytest.raises((ValueError, StatementError)), db.session() as session:
        bulk.insert_rows(session, TABLE, [row(0, id=1, at=AT.replace(tzinfo=None))])


def test_among_names_many_values(db: Database) -> None:
    with db.session() as session:
        bulk.insert_rows(session, TABLE, [row(0, id=n, name=f"n{n}") for n in range(1, 6)])
        chosen = bulk.among(session, TABLE.c.name, {"n2", "n4", "x"})
        assert session.execute(select(TABLE.c.id).where(chosen).order_by(TABLE.c.id)).scalars().all() == [2, 4]
        assert session.execute(select(TABLE.c.id).where(bulk.among(session, TABLE.c.name, []))).all() == []


@pytest.mark.parametrize(
    "name", ["", "NULL", "a,b", "{c}", 'say "d"', "back\\slash", " blank ", "é漢\U0001f600", "line\nline", "$1 %s"]
)
def test_among_takes_any_text(db: Database, name: str) -> None:
    with db.session() as session:
        bulk.insert_rows(session, TABLE, [row(0, id=1, name=name), row(0, id=2, name="other")])
        chosen = bulk.among(session, TABLE.c.name, [name, "x"])
        assert session.execute(select(TABLE.c.id).where(chosen)).scalars().all() == [1]
