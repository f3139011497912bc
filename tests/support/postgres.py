"""A real PostgreSQL for tests: one server a run, one database a test.

It runs as an unprivileged user on a unix socket in a temporary folder, never on TCP, without fsync, and is stopped at the end.
"""

import os
import pwd
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import psycopg

from tests.support.processes import at_end

_BINARIES = Path("/usr/lib/postgresql")


def binaries() -> Path | None:
    """Return the newest folder with PostgreSQL's server binaries, or None."""
    found = sorted(_BINARIES.glob("*/bin/initdb"), key=lambda path: int(path.parent.parent.name))
    return found[-1].parent if found else None


class PostgresServer:
    """One running server. `new_database` makes an empty database and returns its URL."""

    def __init__(self, folder: Path, bin_dir: Path, *, is_durable: bool = False) -> None:
        """Wire it. is_durable: what was committed is there after a crash of the server (`restart`)."""
        self._folder = folder
        self._is_durable = is_durable
        self._bin = bin_dir
        self._as_user = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []
        self._user = "postgres" if os.getuid() == 0 else pwd.getpwuid(os.getuid()).pw_name

    @property
    def data_folder(self) -> Path:
        """The folder of the cluster."""
        return self._folder / "data"

    def start(self) -> None:
        """Make the cluster and start it."""
        if self._as_user:
            owner = pwd.getpwnam("postgres")
            os.chown(self._folder, owner.pw_uid, owner.pw_gid)
        data = str(self._folder / "data")
        self._run("initdb", "-D", data, "-A", "trust", "-U", self._user, "-E", "UTF8", "--no-sync", "--locale=C")
        self._start(data)

    def restart(self) -> None:
        """Stop it at once, as a crash would, and start it again: it recovers from its log."""
        data = str(self._folder / "data")
        self._run("pg_ctl", "-D", data, "-m", "immediate", "-w", "stop")
        self._start(data)

    def _start(self, data: str) -> None:
        quick = "" if self._is_durable else " -c fsync=off -c synchronous_commit=off -c full_page_writes=off"
        options = f"-k {self._folder} -c listen_addresses=''{quick}"
        self._run("pg_ctl", "-D", data, "-w", "-l", str(self._folder / "log"), "-o", options, "start")

    def stop(self) -> None:
        """Stop the server and remove its folder."""
        self._run("pg_ctl", "-D", str(self._folder / "data"), "-m", "immediate", "stop", check=False)
        shutil.rmtree(self._folder, ignore_errors=True)

    def new_database(self, like: str = "template1") -> str:
        """Make a database and return its URL. like: name of the one that it is a copy of; without one it is empty."""
        name = f"t{uuid.uuid4().hex}"
        self._say(f'CREATE DATABASE "{name}" TEMPLATE "{like}"')
        return f"postgresql://{self._user}@/{name}?host={self._folder}"

    def drop_database(self, url: str) -> None:
        """Drop a database that `new_database` made; connections to it are cut."""
        self._say(f'DROP DATABASE "{self.name_of(url)}" WITH (FORCE)')

    def name_of(self, url: str) -> str:
        """Return the name of a database that `new_database` made."""
        return url.partition("@/")[2].partition("?")[0]

    def _say(self, statement: str) -> None:
        with psycopg.connect(host=str(self._folder), user=self._user, dbname="postgres", autocommit=True) as connection:
            connection.execute(statement)

    def _run(self, program: str, *arguments: str, check: bool = True) -> None:
        done = subprocess.run(
            [*self._as_user, str(self._bin / program), *arguments],
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            check=False,
        )
        if check and done.returncode != 0:
            raise RuntimeError(f"{program} failed: {done.stderr.decode(errors='replace')}")


@contextmanager
def own_server() -> Iterator[PostgresServer]:
    """Yield a durable server of its own, for tests that restart it. Raises RuntimeError where PostgreSQL is not installed."""
    bin_dir = binaries()
    if bin_dir is None:
        raise RuntimeError("PostgreSQL is not installed")
    folder = Path(tempfile.mkdtemp(prefix="efpg-", dir="/tmp"))
    folder.chmod(0o755)
    server = PostgresServer(folder, bin_dir, is_durable=True)
    try:
        server.start()
        yield server
    finally:
        server.stop()


@cache
def shared_server() -> PostgresServer | None:
    """Return the one server of this test run, started on first use; None where PostgreSQL is not installed."""
    bin_dir = binaries()
    if bin_dir is None:
        return None
    # a short path of its own: a unix socket's path has at most 107 bytes, and the postgres user must be able to enter it
    folder = Path(tempfile.mkdtemp(prefix="efpg-", dir="/tmp"))
    folder.chmod(0o755)
    server = PostgresServer(folder, bin_dir)
    at_end(server.stop)
    server.start()
    return server
