"""The database of the server: one engine, one session scope, SQLite and PostgreSQL alike.

Rules of the machine:

* A session is opened with ``with db.session() as session`` (may write) or ``with db.read() as session``. It commits when
  the block ends, rolls back when an exception leaves it. Nobody else calls ``commit``.
* Scopes of one thread (or one asyncio task) nest: the inner one *joins* the outer transaction. This is how one service
  calls another and the whole becomes all or nothing. A writing scope inside a reading one is a bug and says so.
* SQLite: WAL, foreign keys on, 10 s busy timeout; a writing scope starts with BEGIN IMMEDIATE, so two writers queue
  instead of failing half-way (a deferred transaction that upgrades fails at once with SQLITE_BUSY, whatever the timeout).
  The writers of one process take turns, in the order in which they came.
* PostgreSQL: psycopg 3, READ COMMITTED; rows that are claimed are locked with FOR UPDATE SKIP LOCKED by their store.
* Times are stored with :class:`UtcDateTime`: aware UTC in, aware UTC out, on both databases.
"""

import json
import os
import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from contextvars import ContextVar
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy import DateTime, Engine, FromClause, MetaData, create_engine, event, text
from sqlalchemy.dialects.sqlite.base import SQLiteCompiler
from sqlalchemy.engine import URL, Connection, make_url
from sqlalchemy.engine.interfaces import Dialect
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.types import TypeDecorator
from sqlmodel import Session, SQLModel

from edgefleet_protocol.errors import EdgefleetError


class FairLock:
    """A lock that goes to the thread that has waited longest, for the writers of one process on SQLite.

    SQLite lets in what asks at the right moment; others ask again after a tenth of a second. An engine that writes one transaction
    after the other would keep a person's command out until it gives up.
    """

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._waiting: deque[threading.Event] = deque()
        self._is_taken = False

    @contextmanager
    def mine(self, limit_s: float) -> Iterator[bool]:
        """Wait for one's turn, at most `limit_s`, and hold it for the block; yield whether it came."""
        with self._guard:
            called = threading.Event() if self._is_taken else None
            self._is_taken = True
            if called is not None:
                self._waiting.append(called)
        has_it = called is None or self._wait(called, limit_s)
        try:
            yield has_it
        finally:
            if has_it:
                self._pass_on()

    def _wait(self, called: threading.Event, limit_s: float) -> bool:
        if called.wait(limit_s):
            return True
        with self._guard:
            if called.is_set():  # called just now
                return True
            self._waiting.remove(called)
            return False

    def _pass_on(self) -> None:
        with self._guard:
            if self._waiting:
                self._waiting.popleft().set()
            else:
                self._is_taken = False


CommitListener = Callable[[], None]


class CommitSignal:
    """Calls its listeners once after each commit of a transaction that rang it; a rollback is silent. Thread-safe.

    Documents, the hold and reports notify others through it. The session is not yet free when they are called: a listener must only
    hand things on, never use the database.
    """

    def __init__(self) -> None:
        """Begin without listeners."""
        self._listeners: list[CommitListener] = []
        self._key = f"fleet_bell_{id(self)}"

    def subscribe(self, listener: CommitListener) -> Callable[[], None]:
        """Call `listener` in the committing thread; return how to stop."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def ring(self, session: Session) -> None:
        """Call the listeners once this transaction is committed."""
        if session.info.setdefault(self._key, False):
            return
        session.info[self._key] = True
        event.listen(session, "after_commit", self._call, once=True)

    def _call(self, _session: Session) -> None:
        for listener in list(self._listeners):
            listener()


SQLITE_BUSY_TIMEOUT_MS = 10_000
SQLITE_CACHE_KIB = 8 * 1024
"""Of each connection; with the 2 MiB that SQLite has by itself a page of a large fleet reads half of its rows from the file again."""
SQLITE_LOG_PAGES = 8_000
"""Pages of 4 KiB in the write-ahead log before they go into the file; with the 1,000 that SQLite has by itself a page that a storm of
telemetry changes again and again is written into the file each time."""
CHECKPOINT_TRIES = 3
OVERWRITE_WAIT_MS = 500
"""How long overwriting what was freed waits for others: they wait behind it meanwhile."""
OVERWRITE_MS = 5_000
"""How long one table may be written again while the server works: nobody reads or writes it then."""
BRIEF_MS = 250
"""How long a write that may be left undone waits for others."""
PROBE_MS = 5000
"""How long a probe waits: half of what a writer does, so that long transactions of our own are no failure."""
_WRITES = "edgefleet_writes"
_BRIEF = "edgefleet_brief"

# Constraint names are fixed by this convention, so a migration can name what it drops on both databases.
SQLModel.metadata.naming_convention = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
}


class DatabaseUnavailableError(EdgefleetError):
    """The database does not answer."""

    code = "server.database_unavailable"


class UtcDateTime(TypeDecorator[datetime]):
    """A point in time: aware UTC ``datetime`` in Python, ``timestamptz`` on PostgreSQL, naive UTC text on SQLite."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Refuse naive times; they would be read back as a different moment."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a time without a time zone cannot be stored")
        value = value.astimezone(UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Return the stored time as aware UTC."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Database:
    """The engine and the session scopes of one database URL (``sqlite:///…`` or ``postgresql://…``).

    Safe to share between threads. Nothing is opened before the first session.
    """

    def __init__(self, url: str) -> None:
        self._url = make_url(url)
        if self._url.drivername in {"postgresql", "postgres"}:
            self._url = self._url.set(drivername="postgresql+psycopg")
        self._engine = make_engine(self._url)
        self._writer = self._engine.execution_options(**{_WRITES: True})
        self._turns = FairLock()
        self._current: ContextVar[tuple[Session, bool] | None] = ContextVar(
            f"edgefleet_session_{id(self)}", default=None
        )

    @property
    def engine(self) -> Engine:
        """The SQLAlchemy engine (for migrations and tests)."""
        return self._engine

    @property
    def is_sqlite(self) -> bool:
        """Whether this is SQLite, where a writer holds the whole database."""
        return self._url.get_backend_name() == "sqlite"

    @contextmanager
    def session(self) -> Iterator[Session]:
        """Open (or join) a transaction that may write; commit at the end, roll back on any exception."""
        yield from self._scope(writes=True)

    @contextmanager
    def brief_session(self, wait_ms: int = BRIEF_MS) -> Iterator[Session]:
        """Open a transaction for what may be left undone: it waits so long for its turn, and as long for the database.

        Joins nothing. Raises SQLAlchemyError, or DatabaseUnavailableError when another writer of this process has the turn.
        """
        writer = self._writer.execution_options(**{_BRIEF: wait_ms})
        with self._brief_turn(wait_ms), Session(writer, expire_on_commit=False) as session:
            if not self.is_sqlite:
                session.execute(text(f"SET LOCAL lock_timeout = {wait_ms}"))
            yield session
            session.commit()

    def check_writing(self) -> None:
        """Write a row as it is. Raises DatabaseUnavailableError when nothing can be written: full, read-only or locked."""
        try:
            with self.brief_session(PROBE_MS) as session:
                session.execute(text("UPDATE alembic_version SET version_num = version_num"))
        except SQLAlchemyError as error:
            raise DatabaseUnavailableError(
                f"nothing can be written to the database: {type(error).__name__}",
                next_step="check that the database has space, is not read-only, and that no other program holds it",
            ) from error

    @contextmanager
    def _brief_turn(self, wait_ms: int) -> Iterator[None]:
        if not self.is_sqlite:
            yield
            return
        with self._turns.mine(wait_ms / 1000) as has_it:
            if not has_it:
                raise DatabaseUnavailableError(
                    "another transaction is being written just now",
                    next_step="try again; see the server's log if it lasts",
                )
            yield

    @contextmanager
    def read(self) -> Iterator[Session]:
        """Open (or join) a transaction that only reads. On SQLite it never waits for a writer."""
        yield from self._scope(writes=False)

    def _scope(self, *, writes: bool) -> Iterator[Session]:
        joined = self._current.get()
        if joined is not None:
            session, outer_writes = joined
            if writes and not outer_writes:
                raise RuntimeError("a writing scope was opened inside a reading one; open the outer one with session()")
            yield session
            if writes:
                session.flush()
            return
        with (
            self._turn(writes=writes),
            Session(self._writer if writes else self._engine, expire_on_commit=False) as session,
        ):
            token = self._current.set((session, writes))
            try:
                yield session
                if writes:
                    session.commit()
                else:
                    session.expunge_all()  # rows stay readable after the scope; a rollback would expire them
            except BaseException:
                session.rollback()
                raise
            finally:
                self._current.reset(token)

    def _turn(self, *, writes: bool) -> AbstractContextManager[object]:
        """Return what waits for one's turn to write; SQLite itself refuses a writer that waited too long."""
        return self._turns.mine(SQLITE_BUSY_TIMEOUT_MS / 1000) if writes and self.is_sqlite else nullcontext()

    def ping(self) -> None:
        """Run one trivial query. Raises DatabaseUnavailableError."""
        try:
            with self._engine.connect() as connection:
                connection.execute(text("SELECT 1"))
        except SQLAlchemyError as error:
            raise DatabaseUnavailableError(
                f"the database does not answer: {type(error).__name__}",
                next_step="check that the database of `database_url` runs and accepts connections",
            ) from error

    def scrub(self, tables: Sequence[str], wait_ms: int = SQLITE_BUSY_TIMEOUT_MS, most_ms: int = 0) -> None:
        """Take what was deleted or replaced out of the files: all of SQLite's, with its log; these tables' on PostgreSQL.

        Reads and writes the whole file, and needs as much free space again. wait_ms, most_ms: on PostgreSQL for each table, the wait for
        others and then the work, 0 = without end. Raises DatabaseUnavailableError.
        """
        try:
            if self.is_sqlite:
                self._scrub_sqlite()
                return
            with self._engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                connection.execute(text(f"SET lock_timeout = {wait_ms}"))
                if most_ms:
                    connection.execute(text(f"SET statement_timeout = {most_ms}"))
                try:
                    for name in tables:
                        connection.execute(text(f'VACUUM (FULL) "{name}"'))
                finally:
                    connection.execute(text("RESET lock_timeout"))
                    connection.execute(text("RESET statement_timeout"))
        except (SQLAlchemyError, sqlite3.Error) as error:
            raise DatabaseUnavailableError(
                f"the database cannot be written afresh: {error}",
                next_step="see that it has as much free space as it is large, and that no other program holds it; then start again",
            ) from error

    def _scrub_sqlite(self) -> None:
        connection = self._engine.raw_connection()
        try:
            cursor = connection.cursor()
            cursor.execute("VACUUM")
            cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            answer: Any = cursor.fetchone()
            if answer[0]:
                raise sqlite3.OperationalError("another program reads the database just now")
        finally:
            connection.close()

    def table_files(self, tables: Sequence[str]) -> dict[str, str]:
        """Return a name for the file that each table lies in now; another one once it was written again. SQLite has one file: ""."""
        if self.is_sqlite:
            return dict.fromkeys(tables, "")
        statement = text("SELECT pg_relation_filenode(to_regclass(:name))")
        with self.read() as session:
            return {name: str(session.execute(statement, {"name": f'"{name}"'}).scalar()) for name in tables}

    def overwrite_freed(self, tables: Sequence[str]) -> list[str]:
        """Leave nothing of deleted rows in the files of these tables; return those for which that could not be done just now.

        SQLite overwrites what it frees (`secure_delete`), and the write-ahead log, which has pages as they were, is emptied. PostgreSQL
        writes these tables again; its own write-ahead log keeps them until it is recycled or its archive goes. Both hold up those who
        write, so it is given up where it would take long: OVERWRITE_WAIT_MS for each try, OVERWRITE_MS for each table.
        """
        left: list[str] = []
        if not self.is_sqlite:
            for name in tables:
                try:
                    self.scrub([name], OVERWRITE_WAIT_MS, OVERWRITE_MS)
                except DatabaseUnavailableError:
                    left.append(name)
            return left
        for _ in range(CHECKPOINT_TRIES):
            connection = self._engine.raw_connection()
            try:
                cursor = connection.cursor()
                cursor.execute(f"PRAGMA busy_timeout = {OVERWRITE_WAIT_MS}")
                cursor.execute(
                    "PRAGMA wal_checkpoint(TRUNCATE)"
                )  # waits for those that read, and nobody writes meanwhile
                answer: Any = cursor.fetchone()
            except sqlite3.Error:
                continue
            finally:
                with suppress(sqlite3.Error):  # the pool hands a connection to everybody in turn
                    connection.cursor().execute(f"PRAGMA busy_timeout = {SQLITE_BUSY_TIMEOUT_MS}")
                connection.close()
            if not answer[0]:
                return []
        return list(tables)

    def dispose(self) -> None:
        """Close all connections."""
        self._engine.dispose()


def make_engine(url: URL) -> Engine:
    """Return the engine of a database; nothing is opened."""
    if url.get_backend_name() != "sqlite":
        # the driver's own takes a third of the time of a look at a large rollout
        options: dict[str, Any] = {"pool_pre_ping": True, "pool_size": 10, "max_overflow": 10}
        return create_engine(url, json_deserializer=msgspec.json.decode, **options)
    if url.database and url.database != ":memory:":
        Path(url.database).parent.mkdir(parents=True, exist_ok=True)
    options = {"connect_args": {"check_same_thread": False}, "pool_size": 10, "max_overflow": 20}
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
    writes, brief_ms = options.get(_WRITES, False), options.get(_BRIEF, 0)
    if brief_ms or connection.info.get(_BRIEF):  # the pool hands a connection to everybody in turn
        connection.exec_driver_sql(f"PRAGMA busy_timeout = {brief_ms or SQLITE_BUSY_TIMEOUT_MS}")
        connection.info[_BRIEF] = bool(brief_ms)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def metadata() -> MetaData:
    """Return the metadata that holds the tables of every feature. Imports all ``tables.py``."""
    from edgefleet_server.db import all_tables

    all_tables.load()
    return SQLModel.metadata
