"""What a database itself says of its schema, to compare two databases of one kind."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from sqlalchemy import text
from sqlalchemy.engine import Connection

from edgefleet_server.db.database import Database

_OURS = "relnamespace = 'public'::regnamespace AND relname <> 'alembic_version'"
_CODE = "pronamespace = 'public'::regnamespace"


@dataclass(frozen=True)
class Schema:
    """Tables by name, each with its columns, constraints and indexes; triggers and functions with their text.

    Of a column: type, whether it must be there, default of the database, place in the primary key or kind of identity. The order of
    columns is not part of it: a database that got a column later has it last.
    """

    tables: dict[str, dict[str, Any]]
    triggers: dict[str, str]
    functions: dict[str, str]


def read(db: Database) -> Schema:
    """Return the schema of a database, without Alembic's own table."""
    with db.engine.connect() as connection:
        return _sqlite(connection) if db.is_sqlite else _postgresql(connection)


def _sqlite(connection: Connection) -> Schema:
    def rows(statement: str) -> list[tuple[Any, ...]]:
        return [tuple(row) for row in connection.exec_driver_sql(statement)]

    tables = {}
    names = rows("SELECT name, sql FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'")
    for name, sql in names:
        if name == "alembic_version":
            continue
        columns = {row[1]: row[2:7] for row in rows(f"PRAGMA table_xinfo('{name}')")}
        tables[name] = {
            "columns": columns,
            "foreign keys": sorted(row[2:] for row in rows(f"PRAGMA foreign_key_list('{name}')")),
            "constraints": sorted(re.findall(r"CONSTRAINT (\w+) (\w+)", sql)),
            "autoincrement": "AUTOINCREMENT" in sql,
            "indexes": sorted(
                # an index that a constraint brought has a number of its own in its name
                (row[1] if row[3] == "c" else "", *row[2:], _keys(rows(f"PRAGMA index_xinfo('{row[1]}')")))
                for row in rows(f"PRAGMA index_list('{name}')")
            ),
            "partial": sorted(
                (row[0], _plain(row[1]))
                for row in rows(f"SELECT name, sql FROM sqlite_master WHERE type = 'index' AND tbl_name = '{name}'")
                if row[1] and " WHERE " in row[1]
            ),
        }
    triggers = {row[0]: _plain(row[1]) for row in rows("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'")}
    return Schema(tables, triggers, {})


def _keys(rows: list[tuple[Any, ...]]) -> tuple[Any, ...]:
    return tuple(row[2:5] for row in rows if row[5])


def _plain(sql: str) -> str:
    return " ".join(sql.split())


def _postgresql(connection: Connection) -> Schema:
    def rows(statement: str) -> list[tuple[Any, ...]]:
        return [tuple(row) for row in connection.execute(text(statement))]

    tables: dict[str, dict[str, Any]] = {
        row[0]: {"columns": {}, "constraints": {}, "indexes": {}}
        for row in rows(f"SELECT relname FROM pg_class WHERE relkind = 'r' AND {_OURS}")
    }
    for table, name, *of in rows(
        "SELECT relname, attname, format_type(atttypid, atttypmod), attnotnull, pg_get_expr(adbin, adrelid), attidentity, "
        "attgenerated, attcollation::regcollation::text FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid "
        "LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum "
        f"WHERE relkind = 'r' AND attnum > 0 AND NOT attisdropped AND {_OURS}"
    ):
        tables[table]["columns"][name] = tuple(of)
    for table, name, of in rows(
        "SELECT relname, conname, pg_get_constraintdef(pg_constraint.oid) FROM pg_constraint "
        f"JOIN pg_class ON pg_class.oid = conrelid WHERE {_OURS}"
    ):
        tables[table]["constraints"][name] = of
    for table, name, of in rows(
        "SELECT relname, indexrelid::regclass::text, pg_get_indexdef(indexrelid) FROM pg_index "
        f"JOIN pg_class ON pg_class.oid = indrelid WHERE {_OURS}"
    ):
        tables[table]["indexes"][name] = of
    triggers = rows("SELECT tgname, pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal")
    functions = rows(f"SELECT proname, pg_get_functiondef(oid) FROM pg_proc WHERE {_CODE}")
    return Schema(tables, {row[0]: row[1] for row in triggers}, {name: _plain(of) for name, of in functions})
