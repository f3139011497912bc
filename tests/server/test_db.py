"""Session scopes, times and the schema, on SQLite and PostgreSQL."""

import threading
import time
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import text

from edgefleet_server import migrations
from edgefleet_server.access.tables import TokenRow
from edgefleet_server.db.database import Database, DatabaseUnavailableError, metadata
from tests.support import schemas


def a_token(token_id: str, at: datetime | None = None) -> TokenRow:
    """Return a row that needs nothing else."""
    return TokenRow(
        id=token_id, name="t", secret_sha256="0" * 64, roles=[], created_at=at or datetime.now(UTC), created_by="t"
    )


def ids(db: Database) -> list[str]:
    """Return what is committed."""
    with db.read() as session:
        return sorted(session.scalars(text("SELECT id FROM access_tokens")))


def test_scope_commits_at_its_end_and_rolls_back_on_an_exception(db: Database) -> None:
    with db.session() as session:
        session.add(a_token("a"))
    with pytest.raises(RuntimeError, match="boom"), db.session() as session:  # noqa: PT012
        session.add(a_token("b"))
        session.flush()
        raise RuntimeError("boom")
    assert ids(db) == ["a"]


def test_inner_scope_joins_the_outer_transaction(db: Database) -> None:
    with pytest.raises(RuntimeError, match="boom"), db.session() as outer:  # noqa: PT012
        with db.session() as inner:
            assert inner is outer
            inner.add(a_token("a"))
        with db.read() as reader:
            assert reader.get(TokenRow, "a") is not None
        raise RuntimeError("boom")
    assert ids(db) == []


def test_writing_inside_a_reading_scope_is_a_bug(db: Database) -> None:
    with db.read(), pytest.raises(RuntimeError, match="inside a reading"), db.session():
        pass


def test_rows_stay_readable_after_a_reading_scope(db: Database) -> None:
    with db.session() as session:
        session.add(a_token("a"))
    with db.read() as session:
        row = session.get(TokenRow, "a")
    assert row is not None
    assert row.name == "t"


def test_times_come_back_aware_and_equal(db: Database) -> None:
    at = datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=timezone(timedelta(hours=2)))
    with db.session() as session:
        session.add(a_token("a", at))
    with db.read() as session:
        row = session.get(TokenRow, "a")
    assert row is not None
    assert row.created_at == at
    assert row.created_at.tzinfo is UTC


def test_naive_times_are_refused(db: Database) -> None:
    with pytest.raises(Exception, match="time zone"), db.session() as session:
        session.add(a_token("a", datetime(2026, 1, 1)))


def test_concurrent_writers_queue_and_lose_nothing(db: Database) -> None:
    def write(number: int) -> None:
        for step in range(10):
            with db.session() as session:
                session.add(a_token(f"{number}-{step}"))

    threads = [threading.Thread(target=write, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ids(db)) == 40


def test_migrated_schema_is_the_schema_of_the_code(db: Database) -> None:
    with db.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata()) == []


def test_the_steps_make_what_the_tables_in_the_code_make(empty_database_url: str) -> None:
    # more than Alembic compares: names of constraints, partial indexes, defaults as the database has them
    db = Database(empty_database_url)
    metadata().create_all(db.engine)
    made = schemas.read(db)
    metadata().drop_all(db.engine)
    migrations.upgrade(db)
    migrated = schemas.read(db)
    assert migrated.tables == made.tables
    kept = {"insert", "update"} | ({"delete"} if db.is_sqlite else set())
    tables = ("fleet_label", "fleet_search_text")
    assert set(migrated.triggers) == {f"{table}_{name}" for table in tables for name in kept}
    assert set(migrated.functions) == (set() if db.is_sqlite else {f"{table}_keep" for table in tables})
    db.dispose()


def test_rows_that_the_code_expects_come_with_the_tables(db: Database) -> None:
    with db.read() as session:
        assert [tuple(row) for row in session.execute(text("SELECT id, booked_until FROM download_line"))] == [
            (1, None)
        ]


def test_the_newest_step_is_named_by_the_names_of_their_files(db: Database) -> None:
    steps = ScriptDirectory.from_config(migrations.config(db))
    assert migrations.newest() == steps.get_current_head()
    for step in steps.walk_revisions():
        assert Path(step.path).name.startswith(f"{step.revision}_")


def test_migration_can_be_taken_again_and_back(empty_database_url: str) -> None:
    from alembic import command

    made = Database(empty_database_url)
    assert not migrations.is_current(made)
    migrations.upgrade(made)
    migrations.upgrade(made)
    assert migrations.is_current(made)
    command.downgrade(migrations.config(made), "base")
    assert schemas.read(made) == schemas.Schema({}, {}, {})
    migrations.upgrade(made)
    assert migrations.is_current(made)
    made.dispose()


@pytest.mark.parametrize(
    ("step", "why", "next_step"),
    [
        ("0001", "of an edgefleet before 0.1.0", "edgectl server init"),
        ("0022", "of an edgefleet before 0.1.0", "edgectl server init"),
        ("9999", "the newest that this program knows is", "restore the backup"),
    ],
)
def test_a_schema_that_no_step_leads_to_is_refused(db: Database, step: str, why: str, next_step: str) -> None:
    with db.session() as session:
        session.execute(text("UPDATE alembic_version SET version_num = :step"), {"step": step})
    before = schemas.read(db)
    for asked in (migrations.is_current, migrations.upgrade):
        with pytest.raises(migrations.SchemaUnsupportedError, match=f"schema {step}.*{why}") as refused:
            asked(db)
        assert next_step in refused.value.next_step
        assert refused.value.code == "server.schema_unsupported"
    assert schemas.read(db) == before


def test_unreachable_database_says_what_to_do(tmp_path: Path) -> None:
    db = Database(f"postgresql://nobody@/none?host={tmp_path}")
    with pytest.raises(DatabaseUnavailableError) as refused:
        db.ping()
    assert "database_url" in refused.value.next_step


def test_a_file_that_cannot_be_made_is_an_error_in_words_and_a_new_one_is_private(tmp_path: Path) -> None:
    with pytest.raises(DatabaseUnavailableError):
        Database(f"sqlite:///{tmp_path / ('a' * 300)}").ping()
    made = Database(f"sqlite:///{tmp_path / 'x.db'}")
    with made.session() as session:
        session.execute(text("CREATE TABLE t (a INTEGER)"))
        assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}
    made.dispose()


def test_overwriting_what_was_freed_is_given_up_where_others_would_wait_long(db: Database) -> None:
    found: list[tuple[list[str], float]] = []

    def write_and_overwrite() -> None:
        with db.session() as session:
            session.add(a_token("a"))
        began_s = time.monotonic()
        found.append((db.overwrite_freed(["access_tokens"]), time.monotonic() - began_s))

    with db.read(streams=True) as session:
        session.execute(text("SELECT id FROM access_tokens")).all()
        thread = threading.Thread(target=write_and_overwrite)
        thread.start()
        thread.join()
    ((left, took_s),) = found
    assert left == ["access_tokens"], "somebody reads"
    assert took_s < 9, "those who write wait meanwhile"
    before = db.table_files(["access_tokens"])
    assert db.overwrite_freed(["access_tokens"]) == []
    assert (db.table_files(["access_tokens"]) == before) == db.is_sqlite
