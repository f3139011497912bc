"""Losing a server of many devices: backup, restore and the move to PostgreSQL, each by its command, next to what the databases have.

`main(devices, seed)` writes a fleet (`bench/_busy_fleet.py`) into SQLite, backs it up twice while a writer goes on, checks the backup,
restores it, moves the restored server to PostgreSQL, and compares every table. Then the same rows by SQLite's own backup, `pg_dump` and
`pg_restore`. Seconds, processor seconds of the process and its children, peak memory and bytes of each are in the report; `lost_rows`
must be 0. Devices that follow a restored server: docs/operate/back-up.md, which is run as a test.
"""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from edgefleet_server.clock import SystemClock
from edgefleet_server.db.database import Database
from edgefleet_server.settings import load_settings
from tests.server.backup.servers import sums
from tests.server.dashboard.fleet import Fleet
from tests.support.postgres import binaries, shared_server

MODULE = "edgefleet_server.process.backup.command_process"


def main(n: int, seed: int) -> Mapping[str, Any]:
    """Run it with `n` devices."""
    del seed
    with tempfile.TemporaryDirectory(prefix="ef-disaster-") as name:
        return _run(Path(name), n)


def _run(folder: Path, devices: int) -> dict[str, Any]:
    live = folder / "live"
    _make(live, devices)
    report: dict[str, Any] = {"devices": devices, "database_bytes": (live / "edgefleet.db").stat().st_size}
    place = folder / "backups"
    with _Writer(live / "edgefleet.db") as writer:
        report["backup"] = _command("backup", "--data", str(live), "--to", str(place))
    report["backup"]["writes_meanwhile"] = writer.count
    report["backup"]["slowest_write_s"] = round(writer.slowest_s, 3)
    report["second_backup"] = _command("backup", "--data", str(live), "--to", str(place))
    report["verify"] = _command("verify", "--from", str(place), "--deep")
    restored = folder / "restored"
    report["restore"] = _command("restore", "--from", str(place), "--data", str(restored))
    before, after = _sums(live), _sums(restored)
    report["lost_rows"] = _different(before, after)
    report["sqlite_backup"] = _own_backup(live / "edgefleet.db", folder / "copy.db")
    if binaries() is not None:
        report |= _on_postgres(folder, restored, place, after)
        report["lost_rows"] += report["lost_rows_on_postgresql"]
    report["ratios"] = _ratios(report)
    report["ok"] = report["lost_rows"] == 0
    return report


def _make(folder: Path, devices: int) -> None:
    from bench import _busy_fleet

    fleet = Fleet(folder, clock=SystemClock())
    _busy_fleet.fill(fleet, devices)
    fleet.close()
    (folder / "server.toml").write_text("# a fleet\n", encoding="utf-8")


def _on_postgres(folder: Path, restored: Path, place: Path, before: Mapping[str, tuple[int, str]]) -> dict[str, Any]:
    server, programs = shared_server(), binaries()
    assert server is not None
    assert programs is not None
    first, second, third = (server.new_database() for _ in range(3))
    try:
        report: dict[str, Any] = {"migrate": _command("migrate", "--data", str(restored), "--to", first)}
        report["lost_rows_on_postgresql"] = _different(before, _sums(restored))
        report["restore_postgresql"] = _command(
            "restore", "--from", str(place), "--data", str(folder / "second"), "--db", second
        )
        dump = folder / "edgefleet.dump"
        report["pg_dump"] = _timed([str(programs / "pg_dump"), "--format", "custom", "--file", str(dump), first])
        report["pg_dump"]["bytes"] = dump.stat().st_size
        report["pg_restore"] = _timed([str(programs / "pg_restore"), "--no-owner", "--dbname", third, str(dump)])
        report["backup_postgresql"] = _command("backup", "--data", str(restored), "--to", str(folder / "more"))
    finally:
        for url in (first, second, third):
            server.drop_database(url)
    return report


def _ratios(report: Mapping[str, Any]) -> dict[str, float]:
    pairs = {
        "backup / sqlite_backup": ("backup", "sqlite_backup"),
        "backup_postgresql / pg_dump": ("backup_postgresql", "pg_dump"),
        "restore_postgresql / pg_restore": ("restore_postgresql", "pg_restore"),
    }
    return {
        name: round(report[one]["elapsed_s"] / report[two]["elapsed_s"], 2)
        for name, (one, two) in pairs.items()
        if one in report and two in report
    }


def _sums(folder: Path) -> dict[str, tuple[int, str]]:
    db = Database(load_settings(folder).database)
    try:
        return sums(db)
    finally:
        db.dispose()


def _different(before: Mapping[str, tuple[int, str]], after: Mapping[str, tuple[int, str]]) -> int:
    """Return how many rows are gone, and one for each table that has as many but others."""
    found = 0
    for table, (rows, text) in before.items():
        found += max(abs(rows - after[table][0]), int((rows, text) != after[table]))
    return found


def _own_backup(live: Path, copy: Path) -> dict[str, Any]:
    began_s, cpu_s = time.monotonic(), time.process_time()
    with closing(sqlite3.connect(live)) as source, closing(sqlite3.connect(copy)) as target:
        source.backup(target)
    figures = {"elapsed_s": round(time.monotonic() - began_s, 2), "cpu_s": round(time.process_time() - cpu_s, 2)}
    return figures | {"bytes": copy.stat().st_size}


def _command(*words: str) -> dict[str, Any]:
    figures = _timed([sys.executable, "-m", MODULE, *words])
    told: dict[str, Any] = json.loads(figures.pop("stdout").splitlines()[-1])["result"]
    kept = {name: told[name] for name in ("rows", "blobs", "bytes", "problems", "copied_bytes") if name in told}
    return figures | kept


def _timed(command: Sequence[str]) -> dict[str, Any]:
    """Run a command; return its seconds, processor seconds and peak memory. A small process in between measures it alone."""
    code = (
        "import json,resource,subprocess,sys,time\n"
        "began=time.monotonic(); done=subprocess.run(sys.argv[1:],stdout=subprocess.PIPE,text=True,check=True)\n"
        "used=resource.getrusage(resource.RUSAGE_CHILDREN)\n"
        "print(json.dumps({'elapsed_s':round(time.monotonic()-began,2),'cpu_s':round(used.ru_utime+used.ru_stime,2),"
        "'peak_mib':used.ru_maxrss//1024,'stdout':done.stdout}))"
    )
    done = subprocess.run([sys.executable, "-c", code, *command], stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    if not found["stdout"]:
        del found["stdout"]
    return found


class _Writer:
    """Writes a row again and again while the block runs, as a server does."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._write)
        self.count, self.slowest_s = 0, 0.0

    def __enter__(self) -> _Writer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _write(self) -> None:
        with closing(sqlite3.connect(self._file, isolation_level=None, timeout=10)) as connection:
            while not self._stop.wait(0.05):
                began_s = time.monotonic()
                connection.execute("UPDATE alembic_version SET version_num = version_num")
                self.slowest_s = max(self.slowest_s, time.monotonic() - began_s)
                self.count += 1
