"""`edgectl server init DIR`: keys, device CA, TUF repository, database, settings file and the first admin token.

    python -m edgefleet_server.process.init --data DIR [--public-host H] [--broker B] [--tenant T] [--db URL]

Never overwrites: a folder that holds any part of a server is refused. When a step fails, what this run made is removed again.
"""

import argparse
import fcntl
import json
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError

from edgefleet_protocol.clock import Clock
from edgefleet_protocol.errors import EdgefleetError, error_lines
from edgefleet_server import migrations
from edgefleet_server.access.service import AccessService
from edgefleet_server.clock import SystemClock
from edgefleet_server.db.database import Database, DatabaseUnavailableError
from edgefleet_server.encryption.key_sources import source_of
from edgefleet_server.encryption.service import Sealer
from edgefleet_server.settings import ServerSettings, load_settings
from edgefleet_server.signing.keys.key_files import secret_of
from edgefleet_server.signing.service import SigningService

SETTINGS_FILE = "server.toml"
TOKEN_FILE = "admin.token"  # noqa: S105  # a file name
_OURS = (
    SETTINGS_FILE,
    TOKEN_FILE,
    "keys",
    "edgefleet.db",
    "edgefleet.db-wal",
    "edgefleet.db-shm",
    "blobs",
    "broker",
    "run",
)


class AlreadyInitialisedError(EdgefleetError):
    """The folder already holds a server."""

    code = "server.already_initialised"


class AlreadyRunningError(EdgefleetError):
    """Another process runs this server."""

    code = "server.already_running"


@contextmanager
def stopped_server(settings: ServerSettings, why: str, next_step: str) -> Iterator[None]:
    """Let no server of this data folder run during the block. why: what follows from one that runs. Raises AlreadyRunningError."""
    with ExitStack() as held:
        for path in sorted(settings.run_dir.glob("*.lock")):
            file = held.enter_context(path.open("a+"))
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise AlreadyRunningError(
                    f"the server {path.stem!r} runs on {settings.data_dir}, and {why}", next_step=next_step
                ) from None
        yield


@dataclass(frozen=True, slots=True)
class Initialised:
    """What was made. `token` is the first admin token: shown once, and in `token_file` (0600)."""

    settings: ServerSettings
    token: str
    token_file: Path
    ca_sha256: str


def initialise(data_dir: Path, clock: Clock, **chosen: str | None) -> Initialised:
    """Make a server's data folder. `chosen` goes to server.toml. Raises AlreadyInitialisedError, SettingsError, SigningError."""
    data_dir = data_dir.absolute()
    present = [name for name in _OURS if (data_dir / name).exists()]
    if present:
        raise AlreadyInitialisedError(
            f"{data_dir} already holds a server ({', '.join(present)}); keys are never overwritten",
            next_step=f"start it with `edgectl server start --data {data_dir}`, or choose an empty folder",
        )
    kept = {name: value for name, value in chosen.items() if value is not None}
    settings = load_settings(data_dir, **kept)
    with _undo_on_failure(data_dir):
        data_dir.mkdir(parents=True, exist_ok=True)
        if data_dir.stat().st_uid == os.geteuid():  # the volume of a cluster belongs to root and a group of its own
            data_dir.chmod(0o700)
        for folder in (settings.blobs_dir, settings.broker_dir, settings.run_dir):
            folder.mkdir(mode=0o700, exist_ok=True)  # that of a broker of your own is a mount, which is there
        db = Database(settings.database)
        try:
            migrations.upgrade(db)
            signing = SigningService(
                db, settings.keys_dir, clock, secret_of(settings.keys_secret, settings.keys_passphrase_file)
            )
            signing.init([settings.device_public_host])
            Sealer(db, source_of(settings), clock).start(())  # makes the key; nothing is stored yet
            made = AccessService(db, clock).create_first_admin("server init")
            ca_sha256 = str(signing.ca_sha256())
        finally:
            db.dispose()
        token_file = data_dir / TOKEN_FILE
        _write(token_file, made.token + "\n", 0o600)
        _write(data_dir / SETTINGS_FILE, _toml(kept), 0o600)
    return Initialised(settings, made.token, token_file, ca_sha256)


@contextmanager
def _undo_on_failure(data_dir: Path) -> Iterator[None]:
    existed = data_dir.exists()
    try:
        yield
    except BaseException:
        for name in _OURS:
            path = data_dir / name
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        if not existed and data_dir.exists():
            data_dir.rmdir()
        raise


def _write(path: Path, text: str, mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _toml(values: Mapping[str, str]) -> str:
    lines = [
        "# Settings of this edgefleet server. Every setting can also come from the environment (EDGEFLEET_SERVER_NAME)",
        "# or from the flags of `edgectl server start`; those win over this file.",
        *(f"{name} = {json.dumps(value)}" for name, value in sorted(values.items())),
    ]
    return "\n".join(lines) + "\n"


def report_error(error: EdgefleetError) -> None:
    """Write an error to stderr: what, why, what to do next, and the code."""
    lines = error_lines(
        error.message, why=error.reason(), next_step=error.next_step or "see the server's log", code=error.code
    )
    sys.stderr.write("\n".join(lines) + "\n")


def reported(error: EdgefleetError | SQLAlchemyError) -> int:
    """Report why a command failed, and return its exit code: 6 when a server is in the way, else 1."""
    if isinstance(error, SQLAlchemyError):
        error = DatabaseUnavailableError(
            f"the database cannot be used: {type(error).__name__}", next_step="check `database_url` and its space"
        )
    report_error(error)
    return 6 if isinstance(error, AlreadyInitialisedError | AlreadyRunningError) else 1


def main(arguments: list[str] | None = None) -> int:
    """Run `server init`. Returns the exit code: 0 made, 6 the folder holds a server, 1 failed."""
    parser = argparse.ArgumentParser(prog="edgectl server init", description="Make a server's data folder.")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--public-host")
    parser.add_argument("--broker")
    parser.add_argument("--tenant")
    parser.add_argument("--db", dest="database_url")
    given = vars(parser.parse_args(arguments))
    data_dir = given.pop("data")
    try:
        made = initialise(data_dir, SystemClock(), **given)
    except EdgefleetError as error:
        return reported(error)
    except (OSError, SQLAlchemyError) as error:
        sys.stderr.write(
            f"error: cannot create the server in {data_dir}\n  why: {error}\n"
            " next: check the folder's rights and free space, and the database URL\n"
        )
        return 1
    sys.stdout.write(
        f"Server created in {made.settings.data_dir}\n"
        f"  device CA       sha256 {made.ca_sha256}\n"
        f"  admin token     {made.token}\n"
        f"                  shown this once; also in {made.token_file} (readable by you only)\n"
        f"  start it        edgectl server start --data {made.settings.data_dir}\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
