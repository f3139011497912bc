"""Reading all rows of a database as they were at one moment, while a server may write: one read transaction, a batch at a time.

SQLite: a transaction on the write-ahead log, which keeps no writer waiting. PostgreSQL: REPEATABLE READ and COPY.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import islice
from typing import Any, Final

import psycopg
from psycopg import sql

from edgefleet_server.db.database import Database
from edgefleet_server.db.engines import SQLITE_BUSY_TIMEOUT_MS
from edgefleet_server.process.backup.table_shapes import (
    ColumnShape,
    Kind,
    Row,
    RowSum,
    TableShape,
    packed,
    with_usual_times,
)

BATCH_BYTES: Final = 1 << 20
FEWEST_ROWS: Final = 16
MOST_ROWS: Final = 4_000
_PG_TYPES: Final = {
    Kind.INT: "int8",
    Kind.BOOL: "int8",
    Kind.FLOAT: "float8",
    Kind.TEXT: "text",
    Kind.TIME: "text",
    Kind.JSON: "text",
    Kind.BYTES: "bytea",
}
_PG_VALUES: Final = {
    Kind.INT: "{}::int8",
    Kind.BOOL: "{}::int::int8",
    Kind.FLOAT: "{}::float8 + 0",  # SQLite knows no negative zero
    Kind.TEXT: "{}::text",
    Kind.TIME: "to_char({} AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US')",
    Kind.JSON: "{}::text",
    Kind.BYTES: "{}",
}
_SERIALS: Final = """
    SELECT c.relname, pg_get_serial_sequence(quote_ident(c.relname), a.attname), a.attname
    FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    WHERE c.relkind = 'r' AND c.relnamespace = 'public'::regnamespace
        AND pg_get_serial_sequence(quote_ident(c.relname), a.attname) IS NOT NULL
"""


class Batch:
    """Some rows of a table, and each as bytes."""

    __slots__ = ("encoded", "rows")

    def __init__(self, rows: list[Row]) -> None:
        """Pack the rows."""
        self.rows = rows
        self.encoded = packed(rows)


class SqliteReader:
    """One moment of a database on SQLite."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def revision(self) -> str:
        """Return the step of the schema that the database has, "" for none."""
        found = self._connection.execute("SELECT version_num FROM alembic_version").fetchall()
        return "" if len(found) != 1 else str(found[0][0])

    def counters(self) -> dict[str, int]:
        """Return the last number that was drawn for a table, for tables that never draw one twice."""
        known = self._connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'sqlite_sequence'").fetchone()
        return dict(self._connection.execute("SELECT name, seq FROM sqlite_sequence")) if known else {}

    def batches(self, table: TableShape) -> Iterator[Batch]:
        """Yield all rows of a table."""
        names = ", ".join(_sqlite_value(column) for column in table.columns)
        times = table.times
        with closing(self._connection.execute(f'SELECT {names} FROM "{table.name}"')) as cursor:  # noqa: S608  # names of our tables
            size = FEWEST_ROWS
            while rows := cursor.fetchmany(size):
                batch = Batch(with_usual_times(rows, times))
                yield batch
                size = _next_size(batch)


class PostgresReader:
    """One moment of a database on PostgreSQL."""

    def __init__(self, connection: "psycopg.Connection[Any]") -> None:
        self._connection = connection

    def revision(self) -> str:
        """Return the step of the schema that the database has, "" for none."""
        found = self._connection.execute("SELECT version_num FROM alembic_version").fetchall()
        return "" if len(found) != 1 else str(found[0][0])

    def counters(self) -> dict[str, int]:
        """Return the last number that was drawn for each table."""
        found: dict[str, int] = {}
        for table, sequence, _ in serials(self._connection):
            row = self._connection.execute(f"SELECT last_value, is_called FROM {sequence}").fetchone()  # noqa: S608  # quoted by PostgreSQL
            if row is not None and row[1]:
                found[table] = int(row[0])
        return found

    def batches(self, table: TableShape) -> Iterator[Batch]:
        """Yield all rows of a table."""
        values = sql.SQL(", ").join(_value(column) for column in table.columns)
        statement = sql.SQL("COPY (SELECT {} FROM {}) TO STDOUT (FORMAT BINARY)").format(
            values, sql.Identifier(table.name)
        )
        with self._connection.cursor() as cursor, cursor.copy(statement) as copy:
            copy.set_types([_PG_TYPES[column.kind] for column in table.columns])
            rows, size = iter(copy.rows()), FEWEST_ROWS
            while some := list(islice(rows, size)):
                batch = Batch(some)
                yield batch
                size = _next_size(batch)


Reader = SqliteReader | PostgresReader


def _sqlite_value(column: ColumnShape) -> str:
    """Return what reads a column. SQLite keeps JSON that is a number as a number."""
    return f'CAST("{column.name}" AS TEXT)' if column.kind is Kind.JSON else f'"{column.name}"'


def _value(column: ColumnShape) -> sql.Composed:
    return sql.SQL(_PG_VALUES[column.kind]).format(sql.Identifier(column.name))


def _next_size(batch: Batch) -> int:
    """Return how many rows make about BATCH_BYTES, going by those of this batch."""
    each = max(1, sum(map(len, batch.encoded)) // len(batch.encoded))
    return max(1, min(MOST_ROWS, 4 * len(batch.encoded), BATCH_BYTES // each))


def serials(connection: "psycopg.Connection[Any]") -> list[tuple[str, str, str]]:
    """Return table, sequence and column of each column of PostgreSQL that counts."""
    return [(str(one), str(two), str(three)) for one, two, three in connection.execute(_SERIALS).fetchall()]


def connect_postgres(db: Database) -> "psycopg.Connection[Any]":
    """Return a connection of its own, whose times are in UTC."""
    arguments, options = db.engine.dialect.create_connect_args(db.engine.url)
    connection: psycopg.Connection[Any] = psycopg.connect(*arguments, **options)
    connection.execute("SET TIME ZONE 'UTC'")
    connection.commit()
    return connection


@contextmanager
def reading(db: Database) -> Iterator[Reader]:
    """Read a database as it is at this moment, for the block. Raises the driver's errors."""
    if db.is_sqlite:
        with closing(sqlite3.connect(str(db.engine.url.database), isolation_level=None)) as connection:
            connection.execute(f"PRAGMA busy_timeout = {SQLITE_BUSY_TIMEOUT_MS}")
            connection.execute("BEGIN")
            yield SqliteReader(connection)
            connection.execute("ROLLBACK")
        return
    with closing(connect_postgres(db)) as postgres:
        postgres.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        postgres.read_only = True
        yield PostgresReader(postgres)
        postgres.rollback()


def sum_of(reader: Reader, table: TableShape) -> RowSum:
    """Return the sum of a table's rows."""
    total = RowSum()
    for batch in reader.batches(table):
        total.add(batch.encoded)
    return total
