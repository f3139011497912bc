"""One server a test: on SQLite, or (`any_house`) on SQLite and PostgreSQL."""

import os
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, text

from tests.server.fleet.house import House, TurnedClock


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    """A server on SQLite with its clock stopped."""
    made = House(f"sqlite:///{tmp_path / 'a.db'}", tmp_path / "a", TurnedClock())
    yield made
    made.db.dispose()


@pytest.fixture(scope="session")
def postgres_socket() -> Iterator[Path]:
    """A PostgreSQL server of our own, reached through a socket in the returned folder."""
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not versions or (os.geteuid() == 0 and shutil.which("runuser") is None):
        pytest.skip("no PostgreSQL server binaries on this machine")
    binaries = versions[-1].parent
    as_user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    folder = Path(tempfile.mkdtemp(prefix="efpg-"))
    if as_user:
        shutil.chown(folder, "postgres")
    data = folder / "data"

    def run(*command: str) -> None:
        subprocess.run([*as_user, *command], check=True, capture_output=True, cwd=folder, timeout=60)

    try:
        run(str(binaries / "initdb"), "-D", str(data), "-A", "trust", "-U", "postgres", "--no-sync")
        options = f"-k {folder} -c listen_addresses='' -c fsync=off"
        run(str(binaries / "pg_ctl"), "-D", str(data), "-o", options, "-l", str(folder / "log"), "-w", "start")
        yield folder
    finally:
        if (data / "postmaster.pid").exists():
            run(str(binaries / "pg_ctl"), "-D", str(data), "-m", "immediate", "-w", "stop")
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(params=[pytest.param("sqlite"), pytest.param("postgres", marks=pytest.mark.postgres)])
def any_house(request: Any, tmp_path: Path) -> Iterator[House]:
    """A server on each kind of database."""
    if request.param == "sqlite":
        yield from _house_at(f"sqlite:///{tmp_path / 'a.db'}", tmp_path)
        return
    socket = request.getfixturevalue("postgres_socket")
    name = f"t{secrets.token_hex(8)}"
    admin = create_engine(f"postgresql+psycopg://postgres@/postgres?host={socket}", isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    yield from _house_at(f"postgresql://postgres@/{name}?host={socket}", tmp_path)
    with admin.connect() as connection:
        connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    admin.dispose()


def _house_at(url: str, folder: Path) -> Iterator[House]:
    made = House(url, folder / "a", TurnedClock())
    yield made
    made.db.dispose()
