"""Filling an empty database with rows. Each table is one transaction: it is whole or empty.

Until `finish` the database says in `alembic_version` that it is being filled, and by which copy: no server starts on it, and only the
same copy goes on with it (ADR 0151).
"""

import math
import os
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import msgspec
import psycopg
from psycopg import sql
from sqlalchemy import inspect, text

from edgefleet_server import migrations
from edgefleet_server.db.database import Database, metadata
from edgefleet_server.process.backup.database_reader import PostgresReader, connect_postgres, serials, sum_of
from edgefleet_server.process.backup.errors import TargetNotEmptyError, UnstorableRowError
from edgefleet_server.process.backup.table_shapes import Kind, Row, RowSum, TableShape

CACHE_KIB: Final = 64 * 1024
_ID_CHARS: Final = 20
_NUL: Final = "\x00"


def filling_mark(copy_id: str) -> str:
    """Return what `alembic_version` says while a copy fills the database."""
    return f"{migrations.FILLING}{copy_id[:_ID_CHARS]}"


def prepare(db: Database, revision: str, copy_id: str) -> None:
    """Make the tables of a step of the schema in an empty database, and mark it. Nothing where the same copy has begun already.

    Raises TargetNotEmptyError, SchemaUnsupportedError.
    """
    mark = filling_mark(copy_id)
    if _mark_of(db) == mark:
        return
    _check_empty(db)
    migrations.upgrade_to(db, revision)
    with db.session() as session:
        for table in reversed(metadata().sorted_tables):
            if inspect(session.connection()).has_table(table.name):
                session.execute(table.delete())
        session.execute(text("UPDATE alembic_version SET version_num = :mark"), {"mark": mark})


def is_filled_by(db: Database, revision: str) -> bool:
    """Return whether a copy into a database has ended, at that step of the schema."""
    return _mark_of(db) == revision


def _mark_of(db: Database) -> str:
    with db.engine.connect() as connection:
        if not inspect(connection).has_table("alembic_version"):
            return ""
        return str(connection.scalar(text("SELECT version_num FROM alembic_version")) or "")


def _check_empty(db: Database) -> None:
    with db.engine.connect() as connection:
        known = set(inspect(connection).get_table_names())
        if not known:
            return
        is_filling = "alembic_version" in known and _mark_of(db).startswith(migrations.FILLING)
        is_new = "signing_tuf_metadata" in known and not connection.scalar(
            text("SELECT count(*) FROM signing_tuf_metadata")
        )
        if is_new and not is_filling:
            return
    what = "an unfinished copy of another backup or server" if is_filling else f"{len(known)} tables"
    raise TargetNotEmptyError(
        f"the target database is not empty: it has {what}",
        next_step="name an empty database, or drop this one and create it again",
    )


class SqliteLoader:
    """Fills a file of SQLite that nobody else has open. A process that dies leaves a broken file: the copy begins again."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._connection = sqlite3.connect(file, isolation_level=None)
        for pragma in ("journal_mode = OFF", "synchronous = OFF", "foreign_keys = OFF", f"cache_size = -{CACHE_KIB}"):
            self._connection.execute(f"PRAGMA {pragma}")

    def load(self, table: TableShape, batches: Iterable[Sequence[Row]]) -> None:
        """Write all rows of a table. Raises UnstorableRowError."""
        names = ", ".join(f'"{column.name}"' for column in table.columns)
        marks = ", ".join("?" * len(table.columns))
        statement = f'INSERT INTO "{table.name}" ({names}) VALUES ({marks})'  # noqa: S608  # names of our tables
        # triggers wrote other tables, which come with their own rows
        dropped = self._connection.execute(
            "SELECT type, name, sql FROM sqlite_master WHERE type IN ('index', 'trigger') AND sql IS NOT NULL AND tbl_name = ?",
            [table.name],
        ).fetchall()
        floats = [place for place, column in enumerate(table.columns) if column.kind is Kind.FLOAT]
        self._connection.execute("BEGIN")
        for kind, name, _ in dropped:
            self._connection.execute(f'DROP {kind} "{name}"')
        try:
            for rows in batches:
                _refuse_nan(table, rows, floats)
                self._connection.executemany(statement, rows)
        except (sqlite3.IntegrityError, OverflowError) as error:
            raise _unstorable(table, str(error)) from error
        for _, _, made_by in dropped:
            self._connection.execute(made_by)
        self._connection.execute("COMMIT")

    def is_filled(self, table: TableShape) -> bool:
        """Return False: a file is always filled from the beginning."""
        del table
        return False

    def finish(self, revision: str, counters: Mapping[str, int]) -> None:
        """Check references, take the mark away, and bring the file to the disk. Raises UnstorableRowError."""
        broken = self._connection.execute("PRAGMA foreign_key_check").fetchone()
        if broken is not None:
            raise UnstorableRowError(f"a row of {broken[0]} refers to a row of {broken[2]} that is not there")
        known = (
            {name for (name,) in self._connection.execute("SELECT name FROM sqlite_sequence")}
            if self._counts()
            else set()
        )
        for name, last in counters.items():
            if name in known:
                self._connection.execute("UPDATE sqlite_sequence SET seq = max(seq, ?) WHERE name = ?", [last, name])
            elif self._is_counted(name):
                self._connection.execute("INSERT INTO sqlite_sequence (name, seq) VALUES (?, ?)", [name, last])
        self._connection.execute("UPDATE alembic_version SET version_num = ?", [revision])
        self.close()
        descriptor = os.open(self._file, os.O_RDWR)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def _counts(self) -> bool:
        found = self._connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'sqlite_sequence'").fetchone()
        return found is not None

    def _is_counted(self, name: str) -> bool:
        found = self._connection.execute(
            "SELECT sql FROM sqlite_master WHERE type = 'table' AND name = ?", [name]
        ).fetchone()
        return found is not None and "AUTOINCREMENT" in str(found[0]).upper()


class PostgresLoader:
    """Fills a database of PostgreSQL. replaces: write U+FFFD for NUL in text and null for NaN in JSON, which it cannot store."""

    def __init__(self, db: Database, *, replaces: bool = False) -> None:
        self._connection = connect_postgres(db)
        self._replaces = replaces
        self.replaced = 0

    def load(self, table: TableShape, batches: Iterable[Sequence[Row]]) -> None:
        """Write all rows of a table. Raises UnstorableRowError."""
        names = sql.SQL(", ").join(sql.Identifier(column.name) for column in table.columns)
        statement = sql.SQL("COPY {} ({}) FROM STDIN").format(sql.Identifier(table.name), names)
        try:
            with self._connection.transaction(), self._connection.cursor() as cursor:
                # triggers wrote other tables, which come with their own rows
                cursor.execute(sql.SQL("ALTER TABLE {} DISABLE TRIGGER USER").format(sql.Identifier(table.name)))
                with cursor.copy(statement) as copy:
                    write = copy.write_row
                    for rows in batches:
                        for row in rows:
                            write(row)
                cursor.execute(sql.SQL("ALTER TABLE {} ENABLE TRIGGER USER").format(sql.Identifier(table.name)))
        except (psycopg.DataError, psycopg.IntegrityError) as error:
            raise _unstorable(table, _words_of(error)) from error

    def storable(self, table: TableShape, rows: list[Row]) -> list[Row]:
        """Return rows without what PostgreSQL cannot store, where it may be replaced."""
        if not self._replaces:
            return rows
        for place, column in enumerate(table.columns):
            if column.kind is Kind.TEXT:
                rows = self._replaced(
                    rows, place, lambda value: _NUL in value, lambda value: value.replace(_NUL, "\ufffd")
                )
            elif column.kind is Kind.JSON:
                rows = self._replaced(rows, place, _is_no_json, _as_json)
        return rows

    def _replaced(self, rows: list[Row], place: int, is_bad: Any, mended: Any) -> list[Row]:
        bad = [number for number, row in enumerate(rows) if row[place] is not None and is_bad(row[place])]
        if bad:
            rows = list(rows)
        for number in bad:
            row = rows[number]
            rows[number] = (*row[:place], mended(row[place]), *row[place + 1 :])
        self.replaced += len(bad)
        return rows

    def is_filled(self, table: TableShape) -> bool:
        """Return whether an earlier run has written rows of a table."""
        found = self._connection.execute(
            sql.SQL("SELECT 1 FROM {} LIMIT 1").format(sql.Identifier(table.name))
        ).fetchone()
        self._connection.commit()
        return found is not None

    def has(self, table: TableShape, total: RowSum) -> bool:
        """Return whether a table has just the rows of a sum."""
        found = sum_of(PostgresReader(self._connection), table)
        self._connection.commit()
        return (found.rows, found.text) == (total.rows, total.text)

    def empty(self, tables: Sequence[TableShape]) -> None:
        """Take out all rows of these tables."""
        if tables:
            names = sql.SQL(", ").join(sql.Identifier(one.name) for one in tables)
            self._connection.execute(sql.SQL("TRUNCATE {}").format(names))
            self._connection.commit()

    def finish(self, revision: str, counters: Mapping[str, int]) -> None:
        """Set what counts past all numbers, take the mark away, and gather statistics."""
        for table, sequence, column in serials(self._connection):
            place = (sql.Identifier(column), sql.Identifier(table))
            row = self._connection.execute(sql.SQL("SELECT coalesce(max({}), 0) FROM {}").format(*place)).fetchone()
            last = max(int(row[0]) if row else 0, counters.get(table, 0))
            if last > 0:
                self._connection.execute("SELECT setval(%s, %s)", [sequence, last])
        self._connection.execute("UPDATE alembic_version SET version_num = %s", [revision])
        self._connection.commit()
        self._connection.autocommit = True
        self._connection.execute("ANALYZE")
        self.close()

    def close(self) -> None:
        """Close the connection; what is not committed is undone."""
        self._connection.close()


Loader = SqliteLoader | PostgresLoader


def _is_no_json(stored: str) -> bool:
    if "NaN" not in stored and "Infinity" not in stored:
        return False
    try:
        msgspec.json.decode(stored)
    except msgspec.DecodeError:
        return True
    return False


def _as_json(stored: str) -> str:
    import json

    return msgspec.json.encode(json.loads(stored)).decode()


def _refuse_nan(table: TableShape, rows: Iterable[Row], floats: Sequence[int]) -> None:
    """Raise UnstorableRowError for NaN, for which SQLite would write NULL."""
    for place in floats:
        if any(row[place] is not None and math.isnan(row[place]) for row in rows):
            raise _unstorable(table, f"column {table.columns[place].name} is NaN, which SQLite cannot store")


def _words_of(error: psycopg.Error) -> str:
    words = (error.diag.message_primary, error.diag.context)
    return ": ".join(" ".join(one.split())[:200] for one in words if one) or str(error)


def _unstorable(table: TableShape, why: str) -> UnstorableRowError:
    return UnstorableRowError(
        f"the target database refuses a row of {table.name}: {why}",
        next_step="correct that row in the source; for NUL in a text or NaN in JSON, --replace-unstorable writes U+FFFD and null",
    )


def remove_file(file: Path) -> None:
    """Remove a file of SQLite with its logs."""
    for ending in ("", "-wal", "-shm", "-journal"):
        file.with_name(file.name + ending).unlink(missing_ok=True)


def settle_file(file: Path) -> None:
    """Turn a file of SQLite to the write-ahead log, as servers have it, so that nothing is left in a log."""
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
