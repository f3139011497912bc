"""Backup, restore and move to PostgreSQL, killed at random moments or out of space: whole or not there, and the same command goes on.

`main(n, seed)`: each of the n rounds takes the next of five faults. A kill is SIGKILL after a random part of the time that the command took
undisturbed. After it: a place of backups names only whole backups, a half-restored folder starts no server, a half-moved server still names
its old database. Then the same command is run to its end and every row is compared. A full disk is a tmpfs that is too small by a random
amount (Linux, root): the command must say so (`backup.no_space`) and go on once there is room.
"""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import text

from edgefleet_server.clock import SystemClock
from edgefleet_server.db.database import Database, metadata
from edgefleet_server.process.backup.backup_catalog import names_of
from edgefleet_server.process.backup.backup_check import BackupChecker
from edgefleet_server.process.backup.backup_places import opened_place
from edgefleet_server.settings import load_settings
from tests.server.backup import servers
from tests.support.postgres import binaries, shared_server

MODULE = "edgefleet_server.process.backup.command_process"
ROWS = 20_000
"""Rows of the largest table: enough that a command lasts."""
LEAST_KIB, MOST_KIB = 16, 1_400
"""Space that is too small for the server that is backed up here."""
FAULTS = ("killed backup", "killed restore", "killed move", "full backup", "full restore")


class Rehearsal:
    """One server, and a whole backup of it, to which faults are done."""

    def __init__(self, folder: Path, seed: int, rows: int) -> None:
        """Make server and backup. rows: of the largest table; the others have six."""
        self.folder, self.drawn = folder, random.Random(seed)
        self.live, self.place = folder / "live", folder / "bk"
        house = servers.begin(self.live)
        servers.fill(house.db, 1, 6)
        multiply(house.db, rows)
        self.before = servers.sums(house.db)
        house.db.dispose()
        self.durations_s: dict[str, float] = {}
        self.run("backup", *self.backup_to(self.place))
        self.run("restore", *self.restore_to(folder / "first"))
        self.postgres = shared_server() if binaries() is not None else None

    def backup_to(self, place: Path) -> list[str]:
        """Return the arguments of a backup."""
        return ["--data", str(self.live), "--to", str(place)]

    def restore_to(self, data: Path) -> list[str]:
        """Return the arguments of a restore."""
        return ["--from", str(self.place), "--data", str(data)]

    def run(self, verb: str, *words: str) -> None:
        """Run a command to its end."""
        began_s = time.monotonic()
        done = subprocess.run([sys.executable, "-m", MODULE, verb, *words], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        self.durations_s.setdefault(verb, time.monotonic() - began_s)

    def kill(self, verb: str, *words: str) -> bool:
        """Run a command and kill it at a random moment; return whether it was killed before it ended."""
        with subprocess.Popen([sys.executable, "-m", MODULE, verb, *words], stdout=subprocess.PIPE) as child:
            assert child.stdout is not None
            child.stdout.readline()  # it has begun: the start of Python is no moment
            try:
                child.wait(self.drawn.random() * self.durations_s[verb])
            except subprocess.TimeoutExpired:
                child.kill()
                return True
        return False

    def round(self, fault: str, name: str) -> bool:
        """Do one fault; return whether it came before the command's end. Raises AssertionError where something is lost or half."""
        target = self.folder / name
        if fault == "killed backup":
            return self._killed_backup(target)
        if fault == "killed restore":
            return self._killed_restore(target)
        if fault == "killed move":
            return self._killed_move(target)
        with small_disk(target, self.drawn.randint(LEAST_KIB, MOST_KIB)) as disk:
            verb = fault.partition(" ")[2]
            words = self.backup_to(disk / "bk") if verb == "backup" else self.restore_to(disk / "back")
            done = subprocess.run(
                [sys.executable, "-m", MODULE, verb, *words], capture_output=True, text=True, check=False
            )
            if done.returncode == 0:
                return False
            assert "backup.no_space" in done.stderr, done.stderr
            assert not (disk / "back" / "server.toml").exists()
            if (disk / "bk" / "snapshots").is_dir():
                assert whole(disk / "bk") == []
            subprocess.run(["mount", "-o", "remount,size=200m", str(disk)], check=True)
            self.run(verb, *words)
            if verb == "backup":
                assert len(whole(disk / "bk")) == 1
            else:
                self._compare(disk / "back")
        return True

    def _killed_backup(self, place: Path) -> bool:
        is_killed = self.kill("backup", *self.backup_to(place))
        if (place / "snapshots").is_dir():
            whole(place)
        self.run("backup", *self.backup_to(place))
        assert whole(place)
        return is_killed

    def _killed_restore(self, data: Path) -> bool:
        is_killed = self.kill("restore", *self.restore_to(data))
        if not (data / "server.toml").exists() or (data / "restoring.json").exists():
            self.run("restore", *self.restore_to(data))
        self._compare(data)
        assert not list(data.glob("*.restoring*"))
        return is_killed

    def _killed_move(self, data: Path) -> bool:
        assert self.postgres is not None
        shutil.copytree(self.live, data)
        url = self.postgres.new_database()
        words = ["--data", str(data), "--to", url.replace("postgresql://", "postgresql+psycopg://")]
        try:
            self.durations_s.setdefault("migrate", 2 * self.durations_s["backup"])
            is_killed = self.kill("migrate", *words)
            if "postgresql" not in (data / "server.toml").read_text():
                old = Database(f"sqlite:///{data / 'edgefleet.db'}")
                assert servers.sums(old) == self.before
                old.dispose()
                self.run("migrate", *words)
            self._compare(data)
        finally:
            self.postgres.drop_database(url)
        return is_killed

    def _compare(self, data: Path) -> None:
        db = Database(load_settings(data).database)
        try:
            assert servers.sums(db) == self.before
        finally:
            db.dispose()


def multiply(db: Database, rows: int) -> None:
    """Double the rows of a table without unique columns until there are so many."""
    names = ", ".join(column.name for column in metadata().tables["telemetry_window"].columns if column.name != "id")
    with db.session() as session:
        while (session.scalar(text("SELECT count(*) FROM telemetry_window")) or rows) < rows:
            session.execute(text(f"INSERT INTO telemetry_window ({names}) SELECT {names} FROM telemetry_window"))


def whole(place: Path) -> list[str]:
    """Return the names of the whole backups of a place, each checked."""
    with opened_place(str(place), is_new=False) as opened:
        names = names_of(opened)[0]
        for name in names:
            found = BackupChecker(opened, SystemClock(), _silent).check(name, None, is_deep=False)
            assert found["problems"] == [], found["problems"]
    return names


def _silent(_stage: str, _done: int, _total: int, _words: str) -> None:
    """Show nothing."""


@contextmanager
def small_disk(folder: Path, kib: int) -> Iterator[Path]:
    """Mount a tmpfs of that size, for the block. Needs root."""
    folder.mkdir(mode=0o700)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kib}k,mode=0700", "edgefleet-test", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def can_mount() -> bool:
    """Return whether this process may mount a tmpfs."""
    with tempfile.TemporaryDirectory(prefix="ef-mount-") as name:
        try:
            with small_disk(Path(name) / "disk", LEAST_KIB):
                return True
        except (OSError, subprocess.CalledProcessError):
            return False


def main(n: int, seed: int, faults: Sequence[str] = FAULTS, rows: int = ROWS) -> Mapping[str, Any]:
    """Run `n` rounds."""
    came: Counter[str] = Counter()
    failures: list[str] = []
    with tempfile.TemporaryDirectory(prefix="ef-kills-") as name:
        rehearsal = Rehearsal(Path(name), seed, rows)
        is_possible = {
            "killed move": rehearsal.postgres is not None,
            "full backup": can_mount(),
            "full restore": can_mount(),
        }
        known = [one for one in faults if is_possible.get(one, True)]
        for number in range(n):
            fault = known[number % len(known)]
            try:
                came[fault] += rehearsal.round(fault, f"round-{number}")
            except AssertionError as error:
                failures.append(f"round {number}, {fault}: {error}"[:500])
            shutil.rmtree(Path(name) / f"round-{number}", ignore_errors=True)
    return {
        "ok": not failures,
        "faults_before_the_end": dict(came),
        "left_out": sorted({*faults} - {*known}),
        "failures": failures,
    }
