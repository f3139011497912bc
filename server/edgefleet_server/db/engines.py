"""Engines: how the server connects to SQLite and PostgreSQL.

Rules:
1. On PostgreSQL readers and writers have connections of their own. Those of readers begin no transaction (each statement sees what is
   committed, as in READ COMMITTED) and refuse to write. Beginning and ending one took three round trips of four that a token's look-up
   needed, and made the driver forget the statements that it had prepared (ADR 0170).
2. A connection that was idle for IDLE_S is tried before it is used: the database may have been started again meanwhile. One that
   answered just now is not. The one that was used last is used next, since it has prepared what is asked often.
3. PostgreSQL compiles no statement to machine code (`jit`): for those that read the whole fleet it took six times as long as running them.
4. SQLite: one engine; `database` says how its transactions begin.
"""

import json
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import msgspec
from sqlalchemy import Engine, FromClause, create_engine, event
from sqlalchemy.dialects.sqlite.base import SQLiteCompiler
from sqlalchemy.engine import URL, Connection
from sqlalchemy.exc import InvalidatePoolError

SQLITE_BUSY_TIMEOUT_MS: Final = 10_000
SQLITE_CACHE_KIB: Final = 8 * 1024
"""Of each connection; with the 2 MiB that SQLite has by itself a page of a large fleet reads half of its rows from the file again."""
SQLITE_LOG_PAGES: Final = 8_000
"""Pages of 4 KiB in the write-ahead log before they go into the file; with the 1,000 that SQLite has by itself a page that a storm of
telemetry changes again and again is written into the file each time."""
POOL: Final = 6
"""Connections to PostgreSQL that stay open, of readers and of writers each; as many more come and go."""
IDLE_S: Final = 1.0
WRITES: Final = "edgefleet_writes"
"""The option of a connection whose transactions write."""
BRIEF: Final = "edgefleet_brief"
"""The option of a connection that waits for others at most so many milliseconds."""
_NO_JIT: Final = "SET jit = off"
_READ_ONLY: Final = "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY"
_IDLE_SINCE: Final = "edgefleet_idle_since"


def make_engine(url: URL) -> Engine:
    """Return the engine of a database; nothing is opened. Of PostgreSQL: that of writers."""
    return _sqlite(url) if url.get_backend_name() == "sqlite" else _postgresql(url)


def make_reading_engine(url: URL) -> Engine:
    """Return the engine of PostgreSQL for readers; nothing is opened."""
    engine = _postgresql(url, isolation_level="AUTOCOMMIT", skip_autocommit_rollback=True)
    event.listen(engine, "connect", lambda connection, _record: _set(connection, _READ_ONLY))
    return engine


def _postgresql(url: URL, **options: Any) -> Engine:
    # the driver's own reader of JSON takes a third of the time of a look at a large rollout
    options |= {
        "json_deserializer": msgspec.json.decode,
        "pool_size": POOL,
        "max_overflow": POOL,
        "pool_use_lifo": True,
    }
    engine = create_engine(url, **options)

    def note_idle(_connection: Any, record: Any) -> None:
        record.info[_IDLE_SINCE] = time.monotonic()

    def try_idle(connection: Any, record: Any, _fairy: object) -> None:
        since = record.info.get(_IDLE_SINCE)
        if since is None or time.monotonic() - since < IDLE_S:
            return
        try:
            engine.dialect.do_ping(connection)
        except engine.dialect.loaded_dbapi.Error as error:
            raise InvalidatePoolError from error  # the pool opens another one

    event.listen(engine, "connect", lambda connection, _record: _set(connection, _NO_JIT))
    event.listen(engine, "checkin", note_idle)
    event.listen(engine, "checkout", try_idle)
    return engine


def _set(connection: Any, statement: str) -> None:
    """Set something on a new connection of PostgreSQL until it is closed: outside of any transaction, whose end would undo it."""
    was = connection.autocommit
    connection.autocommit = True
    connection.execute(statement)
    connection.autocommit = was


def _sqlite(url: URL) -> Engine:
    if url.database and url.database != ":memory:":
        Path(url.database).parent.mkdir(parents=True, exist_ok=True)
    options: dict[str, Any] = {"connect_args": {"check_same_thread": False}, "pool_size": 10, "max_overflow": 20}
    engine = create_engine(url, json_deserializer=_read_json, **options)
    engine.dialect.statement_compiler = _HintingCompiler
    if url.database and url.database != ":memory:":
        event.listen(engine, "do_connect", _Private(Path(url.database)))
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


class _Private:
    """Makes a file of SQLite 0600 before it is first opened; SQLite gives its log the mode of the file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._is_done = False

    def __call__(self, *_: object) -> None:
        if self._is_done:
            return
        # O_EXCL: opening a file that is in use and closing it would end SQLite's locks on it. Other errors are SQLite's to report.
        with suppress(OSError):
            os.close(os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        for ending in ("", "-wal", "-shm"):
            with suppress(OSError):  # it belongs to another user, or is not there
                self._path.with_name(self._path.name + ending).chmod(0o600)
        self._is_done = True


class _HintingCompiler(SQLiteCompiler):
    """Writes what `with_hint` says of a table behind its name, as other databases' compilers do: `INDEXED BY …`."""

    def get_from_hint_text(self, table: FromClause, text: str | None) -> str | None:
        """Return a hint as it stands."""
        return text


def _read_json(stored: str) -> Any:
    """Return the value of a JSON column of SQLite, which takes what is none in other languages: NaN and the infinities."""
    try:
        return msgspec.json.decode(stored)
    except msgspec.DecodeError:
        return json.loads(stored)


def _prepare_sqlite(connection: Any, _record: object) -> None:
    """Set the pragmas of one new SQLite connection; the driver's own transaction control is switched off."""
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {SQLITE_BUSY_TIMEOUT_MS}")
    cursor.execute(f"PRAGMA cache_size = -{SQLITE_CACHE_KIB}")
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.execute(f"PRAGMA wal_autocheckpoint = {SQLITE_LOG_PAGES}")
    cursor.execute("PRAGMA synchronous = NORMAL")
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.execute("PRAGMA secure_delete = ON")  # Debian's SQLite has it by itself, others have not
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    """Begin a transaction: IMMEDIATE for writers, so that they queue for the lock at the start."""
    options = connection.get_execution_options()
    writes, brief_ms = options.get(WRITES, False), options.get(BRIEF, 0)
    if brief_ms or connection.info.get(BRIEF):  # the pool hands a connection to everybody in turn
        connection.exec_driver_sql(f"PRAGMA busy_timeout = {brief_ms or SQLITE_BUSY_TIMEOUT_MS}")
        connection.info[BRIEF] = bool(brief_ms)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
