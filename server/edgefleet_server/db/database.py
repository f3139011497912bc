"""The database of the server: session scopes, SQLite and PostgreSQL alike. How they connect says `engines`.

Rules of the machine:

* A session is opened with ``with db.session() as session`` (may write) or ``with db.read() as session``. It commits when
  the block ends, rolls back when an exception leaves it. Nobody else calls ``commit``.
* Scopes of one thread (or one asyncio task) nest: the inner one *joins* the outer transaction. This is how one service
  calls another and the whole becomes all or nothing. A writing scope inside a reading one is a bug and says so.
* SQLite: WAL, foreign keys on, 10 s busy timeout; a writing scope starts with BEGIN IMMEDIATE, so two writers queue
  instead of failing half-way (a deferred transaction that upgrades fails at once with SQLITE_BUSY, whatever the timeout).
  The writers of one process take turns, in the order in which they came.
* PostgreSQL: psycopg 3, READ COMMITTED; rows that are claimed are locked with FOR UPDATE SKIP LOCKED by their store. A reading scope
  is no transaction there: each of its statements sees what is committed, which is what it would see in one. Rows that are fetched
  piece by piece (`yield_per`) come from a cursor of a transaction, so that is asked for: ``with db.read(streams=True)``.
* Times are stored with :class:`UtcDateTime`: aware UTC in, aware UTC out, on both databases.
"""

import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from contextvars import ContextVar
from datetime import UTC, datetime
from enum import Enum, auto
from typing import Any

from sqlalchemy import DateTime, Engine, MetaData, event, text
from sqlalchemy.engine import make_url
from sqlalchemy.engine.interfaces import Dialect
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.types import TypeDecorator
from sqlmodel import Session, SQLModel

from edgefleet_protocol.errors import EdgefleetError
from edgefleet_server.db import engines
from edgefleet_server.db.engines import BRIEF, SQLITE_BUSY_TIMEOUT_MS, WRITES


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


CHECKPOINT_TRIES = 3
OVERWRITE_WAIT_MS = 500
"""How long overwriting what was freed waits for others: they wait behind it meanwhile."""
OVERWRITE_MS = 5_000
"""How long one table may be written again while the server works: nobody reads or writes it then."""
BRIEF_MS = 250
"""How long a write that may be left undone waits for others."""
PROBE_MS = 5000
"""How long a probe waits: half of what a writer does, so that long transactions of our own are no failure."""

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


class _Kind(Enum):
    READS = auto()
    STREAMS = auto()
    WRITES = auto()


class Database:
    """The engines and the session scopes of one database URL (``sqlite:///…`` or ``postgresql://…``).

    Safe to share between threads. Nothing is opened before the first session.
    """

    def __init__(self, url: str) -> None:
        self._url = make_url(url)
        if self._url.drivername in {"postgresql", "postgres"}:
            self._url = self._url.set(drivername="postgresql+psycopg")
        self._engine = engines.make_engine(self._url)
        self._writer = self._engine.execution_options(**{WRITES: True})
        self._reader = self._engine if self.is_sqlite else engines.make_reading_engine(self._url)
        self._turns = FairLock()
        self._current: ContextVar[tuple[Session, _Kind] | None] = ContextVar(
            f"edgefleet_session_{id(self)}", default=None
        )

    @property
    def engine(self) -> Engine:
        """The SQLAlchemy engine of writers (for migrations and tests)."""
        return self._engine

    @property
    def engines(self) -> list[Engine]:
        """All engines, for tests that listen to what is sent."""
        return list(dict.fromkeys((self._engine, self._reader)))

    @property
    def is_sqlite(self) -> bool:
        """Whether this is SQLite, where a writer holds the whole database."""
        return self._url.get_backend_name() == "sqlite"

    @contextmanager
    def session(self) -> Iterator[Session]:
        """Open (or join) a transaction that may write; commit at the end, roll back on any exception."""
        yield from self._scope(_Kind.WRITES)

    @contextmanager
    def brief_session(self, wait_ms: int = BRIEF_MS) -> Iterator[Session]:
        """Open a transaction for what may be left undone: it waits so long for its turn, and as long for the database.

        Joins nothing. Raises SQLAlchemyError, or DatabaseUnavailableError when another writer of this process has the turn.
        """
        writer = self._writer.execution_options(**{BRIEF: wait_ms})
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
    def read(self, *, streams: bool = False) -> Iterator[Session]:
        """Open (or join) a scope that only reads. On SQLite it never waits for a writer.

        streams: rows are fetched piece by piece in it; inside a reading scope without that it has a connection of its own.
        """
        yield from self._scope(_Kind.STREAMS if streams else _Kind.READS)

    def _scope(self, kind: _Kind) -> Iterator[Session]:
        joined = self._current.get()
        writes = kind is _Kind.WRITES
        if joined is not None:
            session, outer = joined
            if writes and outer is not _Kind.WRITES:
                raise RuntimeError("a writing scope was opened inside a reading one; open the outer one with session()")
            if kind is not _Kind.STREAMS or outer is not _Kind.READS or self.is_sqlite:
                yield session
                if writes:
                    session.flush()
                return
        with self._turn(writes=writes), self._opened(kind) as session:
            token = self._current.set((session, kind))
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

    def _opened(self, kind: _Kind) -> Session:
        if kind is _Kind.READS:
            return Session(self._reader, expire_on_commit=False, autoflush=False)
        return Session(self._writer if kind is _Kind.WRITES else self._engine, expire_on_commit=False)

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
        self._reader.dispose()


def metadata() -> MetaData:
    """Return the metadata that holds the tables of every feature. Imports all ``tables.py``."""
    from edgefleet_server.db import all_tables

    all_tables.load()
    return SQLModel.metadata
