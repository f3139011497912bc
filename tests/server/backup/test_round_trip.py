"""Rows stay the same through SQLite, PostgreSQL, a backup and SQLite again; what a database cannot hold is refused by name."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import text

from edgefleet_server import migrations
from edgefleet_server.db.database import Database
from edgefleet_server.process.backup.backup_places import opened_place
from edgefleet_server.process.backup.backup_writer import BackupWriter, KeysChoice
from edgefleet_server.process.backup.database_migration import BEFORE, Destination, Migration
from edgefleet_server.process.backup.errors import TargetNotEmptyError, UnstorableRowError
from edgefleet_server.process.backup.restorer import Restorer, Target
from edgefleet_server.process.init import AlreadyRunningError
from edgefleet_server.settings import load_settings
from tests.server.backup import servers
from tests.server.fleet.house import House, TurnedClock
from tests.support import databases
from tests.support.postgres import binaries

pytestmark = pytest.mark.slow


def silent(_stage: str, _done: int, _total: int, _words: str) -> None:
    """Show nothing."""


def moved(folder: Path, url: str | None, *, replaces: bool = False, blob_url: str | None = None) -> dict[str, object]:
    """Move a server."""
    return Migration(load_settings(folder), Destination(url, blob_url), TurnedClock(), silent).run(replaces=replaces)


@pytest.fixture
def postgres_url(tmp_path: Path) -> Iterator[str]:
    """An empty database of PostgreSQL."""
    if binaries() is None:
        pytest.skip("PostgreSQL is not installed")
    with databases.new("postgresql", tmp_path / "unused.db") as url:
        yield url.replace("postgresql://", "postgresql+psycopg://")


@pytest.mark.postgres
def test_rows_are_the_same_on_sqlite_postgresql_and_out_of_a_backup(tmp_path: Path, postgres_url: str) -> None:
    house = servers.begin(tmp_path / "old")
    servers.fill(house.db, 1, 6)
    before = servers.sums(house.db)
    house.db.dispose()
    assert sum(rows > 0 for rows, _ in before.values()) > 80, "nearly every table has rows"

    found = moved(tmp_path / "old", postgres_url)
    assert found["is_done"]
    assert found["rows"] == sum(rows for rows, _ in before.values())
    settings = load_settings(tmp_path / "old")
    assert settings.database == postgres_url
    new = Database(settings.database)
    assert servers.sums(new) == before
    with new.session() as session:  # what counts goes on behind the largest number
        drawn = session.scalar(text("SELECT nextval(pg_get_serial_sequence('fleet_event', 'id'))"))
        assert drawn is not None
        assert drawn > 7_000

    with opened_place(str(tmp_path / "bk"), is_new=True) as place:
        made = BackupWriter(settings, place, TurnedClock(), silent).make(KeysChoice(b"five words at random"))
    assert made.manifest.database.kind == "postgresql"
    assert not made.manifest.missing_blobs
    with opened_place(str(tmp_path / "bk"), is_new=False) as place:
        Restorer(place, Target(tmp_path / "back"), silent).restore(None, b"five words at random")
    back = Database(load_settings(tmp_path / "back").database)
    assert back.is_sqlite
    assert servers.sums(back) == before
    new.dispose()
    back.dispose()


@pytest.mark.postgres
def test_the_old_database_is_untouched_and_starts_no_server(tmp_path: Path, postgres_url: str) -> None:
    folder = tmp_path / "old"
    house = servers.begin(folder)
    before = servers.sums(house.db)
    house.db.dispose()
    moved(folder, postgres_url)
    old = Database(f"sqlite:///{folder / 'edgefleet.db'}")
    assert servers.sums(old) == before
    with pytest.raises(migrations.DatabaseMovedError) as refused:
        migrations.upgrade(old)
    assert "remove" in str(refused.value.next_step)
    assert "password" not in (folder / "edgefleet.db.moved").read_text()
    assert (folder / BEFORE).read_text().startswith("# of a person")
    assert "# of a person" in (folder / "server.toml").read_text()
    (folder / "edgefleet.db.moved").unlink()
    assert migrations.is_current(old)
    old.dispose()


@pytest.mark.postgres
def test_a_killed_move_goes_on_and_sees_what_changed_in_between(
    tmp_path: Path, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "old"
    house = servers.begin(folder)
    monkeypatch.setattr(Migration, "_compare", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        moved(folder, postgres_url)
    monkeypatch.undo()
    half = Database(postgres_url)
    with pytest.raises(migrations.DatabaseUnfinishedError):
        migrations.upgrade(half)
    half.dispose()
    house.device(labels={"site": "roof"})  # the server ran again
    after = servers.sums(house.db)
    house.db.dispose()
    moved(folder, postgres_url)
    new = Database(postgres_url)
    assert servers.sums(new) == after
    new.dispose()
    (folder / "edgefleet.db.moved").unlink()
    (folder / "server.toml").write_text("")
    assert moved(folder, postgres_url)["is_done"], "as after a kill between the last row and the settings"
    assert load_settings(folder).database == postgres_url
    (folder / "edgefleet.db.moved").unlink()
    (folder / "server.toml").write_text("")
    new = Database(postgres_url)
    with new.session() as session:
        session.execute(text("UPDATE models SET created_by = 'somebody'"))
    new.dispose()
    with pytest.raises(TargetNotEmptyError):
        moved(folder, postgres_url)


@pytest.mark.postgres
def test_what_postgresql_cannot_store_is_named_and_replaced_only_when_asked(tmp_path: Path, postgres_url: str) -> None:
    folder = tmp_path / "old"
    house = servers.begin(folder)
    house.db.dispose()
    with closing(sqlite3.connect(folder / "edgefleet.db")) as connection, connection:
        connection.execute("UPDATE fleet_device SET facts = ?", ['{"ram_mb": NaN}'])
        connection.execute("UPDATE models SET created_by = ?", ["an\x00n"])
    with pytest.raises(UnstorableRowError, match="refuses a row of fleet_device"):
        moved(folder, postgres_url)
    assert not (folder / "edgefleet.db.moved").exists()
    assert moved(folder, postgres_url, replaces=True)["replaced"] == 2
    new = Database(postgres_url)
    with new.read() as session:
        assert session.scalar(text("SELECT created_by FROM models")) == "an\ufffdn"
        assert json.loads(str(session.scalar(text("SELECT facts::text FROM fleet_device")))) == {"ram_mb": None}
    new.dispose()


@pytest.mark.postgres
def test_a_running_server_is_not_moved(tmp_path: Path, postgres_url: str) -> None:
    import fcntl

    folder = tmp_path / "old"
    house = servers.begin(folder)
    house.db.dispose()
    (folder / "run").mkdir(exist_ok=True)
    (tmp_path / "store").mkdir()
    with (folder / "run" / "main.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(AlreadyRunningError):
            moved(folder, postgres_url)
        found = moved(folder, None, blob_url=f"file://{tmp_path / 'store'}")
        assert found["is_done"] is False
        assert found["blobs"]
    found = moved(folder, None, blob_url=f"file://{tmp_path / 'store'}")
    assert found["is_done"]
    assert found["blobs"] == 0
    assert load_settings(folder).blob_url == f"file://{tmp_path / 'store'}"
    again = House(f"sqlite:///{folder / 'edgefleet.db'}", folder, TurnedClock())
    again.db.dispose()
