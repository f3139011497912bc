"""Databases at the newest schema, copied from one that took all its steps, which costs 0.15 s of processor time; and on SQLite servers
that have just begun, with their keys and first metadata.

One of each kind is made for each process of a run. How the steps are taken is tested on databases that are not copies, and how keys are
made by the tests of signing, whose clocks stand at other times.

The databases of a process share what SQLAlchemy makes of each statement, which else every test pays again: a server has one database.
"""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from functools import cache, partial
from pathlib import Path
from typing import Any, Final

import psycopg
from psycopg import sql
from sqlalchemy import URL, Dialect, Engine

from edgefleet_server import migrations
from edgefleet_server.db import engines
from edgefleet_server.db.database import Database
from edgefleet_server.signing.service import SigningService
from tests.support.postgres import PostgresServer, shared_server
from tests.support.processes import at_end

NOON: Final = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)
"""Where the clocks of tests stand at first."""
MOST_STATEMENTS: Final = 5_000


class _Statements(dict[Any, Any]):
    """Compiled statements. It is emptied when it is full: a test with random conditions fills it with what comes once."""

    def __setitem__(self, key: Any, value: Any) -> None:
        if len(self) >= MOST_STATEMENTS:
            self.clear()
        super().__setitem__(key, value)


def share_statements() -> None:
    """Let the databases that are made from now on share compiled statements, and the dialect that these belong to."""
    statements = _Statements()

    def sharing(make: Callable[[URL], Engine]) -> Callable[[URL], Engine]:
        dialects = dict[str, Dialect]()

        def make_sharing(url: URL) -> Engine:
            engine = make(url)
            first = dialects.setdefault(engine.dialect.name, engine.dialect)
            if (
                first.server_version_info is None
            ):  # its engine was never connected, so it knows nothing of its database yet
                dialects[engine.dialect.name] = engine.dialect
            else:
                engine.dialect = first
            engine.update_execution_options(compiled_cache=statements)
            return engine

        return make_sharing

    for name in ("make_engine", "make_reading_engine"):
        setattr(engines, name, sharing(getattr(engines, name)))


share_statements()


def upgrade(db: Database) -> None:
    """Bring a database to the newest schema: a file of SQLite that is not there yet becomes a copy."""
    file = _new_file(db)
    if file is not None:
        shutil.copyfile(_sqlite(), file)
    migrations.upgrade(db)


def begin(db: Database, signing: SigningService, keys: Path, now: datetime) -> None:
    """Bring a database to the newest schema and, where the folder of keys is not there yet, make a new server's keys and metadata.

    Servers on new files of SQLite that begin at `NOON` are copies of the first one: they have the same keys.
    """
    file = _new_file(db)
    if file is None or keys.exists() or now != NOON:
        upgrade(db)
        if not keys.exists():
            signing.init()
        return
    first = _begun()
    if not first.exists():
        upgrade(db)
        signing.init()
        shutil.copytree(keys, first / "keys")
        with closing(sqlite3.connect(file)) as source:
            source.execute("VACUUM INTO ?", [str(first / "server.db")])
        return
    shutil.copyfile(first / "server.db", file)
    shutil.copytree(first / "keys", keys)


def _new_file(db: Database) -> Path | None:
    """Return the file of SQLite that a database will be in, None when it is there or on PostgreSQL."""
    name = db.engine.url.database if db.engine.dialect.name == "sqlite" else None
    return None if name is None or Path(name).exists() else Path(name)


@cache
def _begun() -> Path:
    """Return where the first server of this process is kept."""
    folder = tempfile.mkdtemp(prefix="ef-begun-")
    at_end(partial(shutil.rmtree, folder, ignore_errors=True))
    return Path(folder, "first")


@contextmanager
def new(kind: str, file: Path, *, is_empty: bool = True) -> Iterator[str]:
    """Yield the URL of a database: this file of SQLite, or one of the run's PostgreSQL, on which it may have the newest schema."""
    if kind == "sqlite":
        yield f"sqlite:///{file}"
        return
    server = shared_server()
    assert server is not None
    if is_empty:
        url = server.new_database()
        yield url
        server.drop_database(url)
        return
    url = _copies(server).take()
    yield url
    _copies(server).give_back(url)


class _Copies:
    """Databases of PostgreSQL at the newest schema. Making and dropping one takes 0.2 s, so each is used again: what a test wrote is
    taken out of it, which takes 0.04 s. One whose schema or settings a test changed is dropped."""

    def __init__(self, server: PostgresServer) -> None:
        self._server = server
        self._idle: list[str] = []
        url = server.new_database()
        _make(url)
        self._name = server.name_of(url)
        with psycopg.connect(url, autocommit=True) as connection:
            self._shape = connection.execute(_SHAPE).fetchone()
            self._rows = {name: _rows_of(connection, name) for name in _written(connection)}
            assert not _moved_sequences(connection)

    def take(self) -> str:
        """Return the URL of a database that nobody uses."""
        return self._idle.pop() if self._idle else self._server.new_database(like=self._name)

    def give_back(self, url: str) -> None:
        """Take out what a test wrote. Connections to it are cut."""
        try:
            with psycopg.connect(url, autocommit=True) as connection:
                connection.execute(_CUT_OTHERS)
                is_whole = connection.execute(_SHAPE).fetchone() == self._shape
                if is_whole:
                    self._empty(connection)
        except psycopg.Error:
            is_whole = False
        if is_whole:
            self._idle.append(url)
        else:
            self._server.drop_database(url)

    def _empty(self, connection: psycopg.Connection) -> None:
        if written := [name for name in _written(connection) if name not in self._rows]:
            _truncate(connection, written)
        for name, rows in self._rows.items():
            if _rows_of(connection, name) != rows:
                _truncate(connection, [name])
                with connection.cursor().copy(sql.SQL("COPY {} FROM STDIN").format(sql.Identifier(name))) as copy:
                    copy.write(rows)
        for name in _moved_sequences(connection):
            connection.execute(sql.SQL("ALTER SEQUENCE {} RESTART").format(sql.Identifier(name)))


_CUT_OTHERS: Final = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()
"""
_SHAPE: Final = """
    WITH class AS (SELECT * FROM pg_class WHERE relnamespace = 'public'::regnamespace)
    SELECT md5(string_agg(one, ';' ORDER BY one)) FROM (
        SELECT concat_ws(' ', 'class', oid, relname, relkind, reloptions) FROM class
        UNION ALL SELECT concat_ws(' ', 'column', attrelid, attname, atttypid, attnotnull, atthasdef, attisdropped)
            FROM pg_attribute WHERE attnum > 0 AND attrelid IN (SELECT oid FROM class)
        UNION ALL SELECT concat_ws(' ', 'constraint', oid, conname) FROM pg_constraint WHERE connamespace = 'public'::regnamespace
        UNION ALL SELECT concat_ws(' ', 'trigger', oid, tgname, tgenabled) FROM pg_trigger WHERE NOT tgisinternal
        UNION ALL SELECT concat_ws(' ', 'function', oid, proname) FROM pg_proc WHERE pronamespace = 'public'::regnamespace
        UNION ALL SELECT concat_ws(' ', 'schema', oid, nspname) FROM pg_namespace WHERE nspname !~ '^pg_(temp|toast)'
        UNION ALL SELECT concat_ws(' ', 'setting', setconfig) FROM pg_db_role_setting
            WHERE setdatabase = (SELECT oid FROM pg_database WHERE datname = current_database())
    ) AS told (one)
"""
"""A digest of the schema and the settings of a database: copies have it from the first one, until something is changed."""
_WRITTEN: Final = """
    SELECT relname FROM pg_class
    WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace AND pg_relation_size(oid) > 0 ORDER BY relname
"""
"""Tables that have, or had, a row since they were made or emptied."""


def _written(connection: psycopg.Connection) -> list[str]:
    return [name for (name,) in connection.execute(_WRITTEN)]


def _moved_sequences(connection: psycopg.Connection) -> list[str]:
    return [
        name for (name,) in connection.execute("SELECT sequencename FROM pg_sequences WHERE last_value IS NOT NULL")
    ]


def _truncate(connection: psycopg.Connection, tables: list[str]) -> None:
    names = sql.SQL(", ").join(map(sql.Identifier, tables))
    connection.execute(sql.SQL("TRUNCATE {} RESTART IDENTITY CASCADE").format(names))


def _rows_of(connection: psycopg.Connection, table: str) -> bytes:
    with connection.cursor().copy(sql.SQL("COPY {} TO STDOUT").format(sql.Identifier(table))) as copy:
        return b"".join(map(bytes, copy))


@cache
def _copies(server: PostgresServer) -> _Copies:
    return _Copies(server)


@cache
def _sqlite() -> Path:
    folder = tempfile.mkdtemp(prefix="ef-schema-")
    at_end(partial(shutil.rmtree, folder, ignore_errors=True))
    path = Path(folder, "newest.db")
    _make(f"sqlite:///{path}")
    return path


def _make(url: str) -> None:
    made = Database(url)
    migrations.upgrade(made)
    made.dispose()
