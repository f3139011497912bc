"""`server init`: what it makes, what it refuses, what it leaves when it fails."""

import stat
from pathlib import Path

import pytest
from sqlalchemy import text

from edgefleet_server.access.model import Role
from edgefleet_server.access.service import AccessService
from edgefleet_server.clock import SystemClock
from edgefleet_server.db.database import Database
from edgefleet_server.process.init import AlreadyInitialisedError, initialise, main
from edgefleet_server.settings import load_settings
from tests.support import databases


def mode(path: Path) -> int:
    """Return the permission bits."""
    return stat.S_IMODE(path.stat().st_mode)


def test_init_makes_a_private_folder_with_a_working_admin_token(tmp_path: Path) -> None:
    data = tmp_path / "server"
    made = initialise(data, SystemClock(), broker="embedded", tenant="acme", public_host=None)
    assert (mode(data), mode(data / "keys"), mode(data / "admin.token")) == (0o700, 0o700, 0o600)
    assert (data / "admin.token").read_text().strip() == made.token
    settings = load_settings(data)
    assert (settings.broker, settings.tenant) == ("embedded", "acme")
    db = Database(settings.database)
    assert AccessService(db, SystemClock()).authenticate(made.token).roles == {Role.ADMIN}
    db.dispose()
    for path in (data / "keys").iterdir():
        assert path.suffix == ".crt" or mode(path) == 0o600, path


def test_init_never_overwrites(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "server"
    assert main(["--data", str(data)]) == 0
    token = (data / "admin.token").read_text()
    assert token.strip() in capsys.readouterr().out
    before = (data / "keys" / "root.pem").read_bytes()
    assert main(["--data", str(data)]) == 6
    what, why, step, code = capsys.readouterr().err.splitlines()[-4:]
    assert what.startswith("error: ")
    assert "never overwritten" in what
    assert why == "  why: the folder already holds a server"
    assert code == " code: server.already_initialised"
    assert step.startswith(" next: start it with")
    assert (data / "keys" / "root.pem").read_bytes() == before
    with pytest.raises(AlreadyInitialisedError):
        initialise(data, SystemClock())


def test_a_failed_init_leaves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "server"
    data.mkdir()
    (data / "mine.txt").write_text("keep")
    url = f"sqlite:///{tmp_path / 'x' / 'y.db'}"
    (tmp_path / "x").mkdir()
    db = Database(url)
    with db.engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE audit (id INTEGER)")
    db.dispose()
    with pytest.raises(Exception, match="already exists"):
        initialise(data, SystemClock(), database_url=url)
    assert (data / "mine.txt").read_text() == "keep"
    assert not (data / "keys").exists()
    assert not (data / "server.toml").exists()


def test_init_refuses_a_database_of_before_the_first_release(
    tmp_path: Path, database_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    db = Database(database_url)
    databases.upgrade(db)
    with db.session() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '0013'"))
    db.dispose()
    assert main(["--data", str(tmp_path / "server"), "--db", database_url]) == 1
    what, why, step, code = capsys.readouterr().err.splitlines()
    assert "schema 0013" in what
    assert code == " code: server.schema_unsupported"
    assert why == "  why: the database has a schema that this program cannot read"
    assert step.startswith(" next: ")
    assert not (tmp_path / "server").exists()


def test_the_folder_of_an_outside_broker_may_be_there_already(tmp_path: Path) -> None:
    """In a container it is a mount."""
    (tmp_path / "broker").mkdir()
    made = initialise(tmp_path / "server", SystemClock(), broker_folder=str(tmp_path / "broker"))
    assert made.settings.broker_dir == tmp_path / "broker"
