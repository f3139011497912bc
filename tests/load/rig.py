"""A whole server as users run it, with mosquitto, a simulated fleet as processes, and what each part uses.

The database is PostgreSQL, or SQLite with EDGEFLEET_LOAD_DATABASE=sqlite.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import httpx
import psutil
from cryptography.hazmat.primitives.asymmetric import ec
from sqlalchemy import insert, text
from sqlalchemy.engine import make_url

from edgefleet_agent.enrolment.server_api import key_pem, make_csr
from edgefleet_protocol.sketch import LatencySketch
from edgefleet_server.clock import SystemClock
from edgefleet_server.composition.container import build_parts
from edgefleet_server.db.database import Database
from edgefleet_server.fleet.tables import FleetDevice
from edgefleet_server.settings import load_settings
from edgefleet_sim.live_fleet.device_reports import FACTS
from edgefleet_sim.live_fleet.identities import DEVICES_FILE, IdentityFolder
from tests.support.postgres import PostgresServer, own_server
from tests.support.servers import PROFILE, ServerProcess, init_server, server_process

A_WORKER: Final = 4_000
BATCH: Final = 5_000
TOGETHER: Final = 200
PATIENCE_S: Final = 900.0
SITES: Final = 50


@dataclass
class Fleet:
    """The processes that are the devices, with the newest line of each, and all latencies of acknowledgements."""

    processes: list[subprocess.Popen[str]]
    lines: list[dict[str, Any]] = field(default_factory=list)
    acks: LatencySketch = field(default_factory=LatencySketch)

    def __post_init__(self) -> None:
        self.lines = [{} for _ in self.processes]
        self._threads = [
            threading.Thread(target=self._read, args=(at,), daemon=True) for at in range(len(self.processes))
        ]
        for thread in self._threads:
            thread.start()

    def _read(self, at: int) -> None:
        stdout = self.processes[at].stdout
        assert stdout is not None
        for line in stdout:
            said = json.loads(line)
            assert "error" not in said, said
            self.acks.merge(LatencySketch.unpacked(said.pop("acks")))
            self.lines[at] = said

    def say(self, commands: Sequence[Mapping[str, Any]]) -> None:
        """Send a command to each process."""
        for process, command in zip(self.processes, commands, strict=True):
            assert process.stdin is not None
            process.stdin.write(json.dumps(command) + "\n")
            process.stdin.flush()

    def say_all(self, command: Mapping[str, Any]) -> None:
        """Send the same command to all."""
        self.say([command] * len(self.processes))

    def figure(self, name: str) -> float:
        """Return the sum of a figure over the processes."""
        return sum(float(line.get(name, 0)) for line in self.lines)

    def leave(self) -> None:
        """Let all devices say goodbye, and wait for the processes."""
        with suppress(OSError):
            self.say_all({"leave": True})
        for process in self.processes:
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for thread in self._threads:
            thread.join(5)


@dataclass
class Rig:
    """Server, database, broker."""

    server: ServerProcess
    postgres: PostgresServer | None
    """None: the server has a SQLite file."""
    url: str
    folder: Path

    def __post_init__(self) -> None:
        self.db = Database(self.url)

    def rows(self, statement: str) -> list[Any]:
        """Return the rows of a query."""
        with self.db.read() as session:
            return list(session.connection().execute(text(statement)))

    def execute(self, statement: str) -> None:
        """Run a statement."""
        with self.db.session() as session:
            session.connection().execute(text(statement))

    def database_mb(self) -> float:
        """Return the size of the database, MB; of SQLite with its log."""
        if self.postgres is not None:
            return int(self.rows("SELECT pg_database_size(current_database())")[0][0]) / 1e6
        file = Path(str(make_url(self.url).database))
        return sum(one.stat().st_size for one in file.parent.glob(f"{file.name}*")) / 1e6

    def presence(self) -> dict[str, int]:
        """Return how many live devices are online, offline and unknown."""
        words = {True: "online", False: "offline", None: "unknown"}
        found = self.rows("SELECT is_online, count(*) FROM fleet_device WHERE revoked_at IS NULL GROUP BY is_online")
        return dict.fromkeys(words.values(), 0) | {words[one]: int(n) for one, n in found}

    def broker(self) -> psutil.Process:
        """Return the broker's process."""
        for one in psutil.Process(self.server.process.pid).children(recursive=True):
            if one.name() == "mosquitto":
                return one
        raise RuntimeError("the server has no mosquitto")

    def database(self) -> list[psutil.Process]:
        """Return the processes of PostgreSQL."""
        if self.postgres is None:
            return []
        pid_file = self.postgres.data_folder / "postmaster.pid"
        postmaster = psutil.Process(int(pid_file.read_text("ascii").splitlines()[0]))
        return [postmaster, *postmaster.children(recursive=True)]

    def cpu_s(self) -> dict[str, float]:
        """Return the CPU seconds that server, database and broker have used so far."""
        server = psutil.Process(self.server.process.pid)
        parts = [one for one in server.children(recursive=True) if one.name() != "mosquitto"]
        return {
            "server": _cpu_s([server, *parts]),
            "postgresql": _cpu_s(self.database()),
            "broker": _cpu_s([self.broker()]),
        }

    def rss_mb(self) -> dict[str, float]:
        """Return the memory of server and broker, MB."""
        server = psutil.Process(self.server.process.pid).memory_info().rss
        return {"server": server / 1e6, "broker": self.broker().memory_info().rss / 1e6}

    def enrol(self, count: int) -> float:
        """Enrol devices over the device listener and return how many a second."""
        with self.server.client() as api:
            return enrol_devices(api, self.ids, count)

    @property
    def ids(self) -> Path:
        """The folder of the devices' identities."""
        return self.folder / "ids"

    def enrol_here(self, count: int) -> None:
        """Enrol one device over the device listener, and write the others as rows of many at once: for large fleets.

        Each has a key and a certificate of its own from the server's CA, and a signed document, as after an enrolment.
        """
        self.enrol(1)
        parts = build_parts(load_settings(self.server.data, database_url=self.url), SystemClock())
        folder = IdentityFolder(self.ids)
        try:
            for start in range(1, count, TOGETHER):
                keys = {n: ec.generate_private_key(ec.SECP256R1()) for n in range(start, min(count, start + TOGETHER))}
                with parts.db.session() as session:
                    issued = {
                        n: parts.signing.issue_device_certificate(make_csr(key).encode(), f"c-{n:06}")
                        for n, key in keys.items()
                    }
                    rows = [_row(f"c-{n:06}", key, {"sim": "load", "site": "s1"}) for n, (_, key) in issued.items()]
                    session.connection().execute(insert(FleetDevice), rows)
                    parts.fleet.desired._sign_again(session, [row["id"] for row in rows])
                for n, key in keys.items():
                    folder.certificate_of(n).write_bytes(issued[n][0].pem + key_pem(key, b""))
                with (self.ids / DEVICES_FILE).open("a", encoding="ascii") as file:
                    file.writelines(json.dumps({"n": n, "id": f"c-{n:06}"}) + "\n" for n in keys)
        finally:
            parts.db.dispose()
        self.execute("ANALYZE")

    def register(self, count: int) -> None:
        """Write rows of devices that are registered and never connect, as an import of them would."""
        for start in range(0, count, BATCH):
            rows = [
                _row(f"r-{n:07}", "k" * 180, {"site": f"s{n % SITES}", "ring": "canary" if n % 20 == 0 else "rest"})
                for n in range(start, min(start + BATCH, count))
            ]
            with self.db.session() as session:
                session.connection().execute(insert(FleetDevice), rows)
        self.execute("ANALYZE")

    @contextmanager
    def fleet(self, count: int, **plan: Any) -> Iterator[Fleet]:
        """Run the devices as processes, none of them connected yet; they leave at the end."""
        with drive(self.ids, count, **plan) as fleet:
            yield fleet

    def connect(self, fleet: Fleet, count: int, per_s: float) -> dict[str, float]:
        """Connect all devices; return what that cost the broker, and how long it took until each is online."""
        before, began = self.cpu_s()["broker"], time.monotonic()
        each = len(fleet.processes)
        fleet.say_all({"want": A_WORKER, "per_s": per_s / each})
        until(lambda: fleet.figure("connected") >= count and self.presence()["online"] >= count, "all devices online")
        used = self.cpu_s()["broker"] - before
        return {
            "connect_wall_s": round(time.monotonic() - began, 1),
            "broker_cpu_ms_a_connect": round(1000 * used / fleet.figure("connects"), 3),
        }


def _row(name: str, public_key: str, labels: Mapping[str, str]) -> dict[str, Any]:
    """Return the row of a device that nobody has heard of."""
    now = SystemClock().now()
    return {
        "id": name, "profile": PROFILE, "arch": "x86_64", "public_key": public_key, "labels": dict(labels), "facts": FACTS,
        "enrolled_at": now, "cert_not_after": now + timedelta(days=90), "is_online": None, "conn_id": "", "boot_id": "",
        "state_seq": 0, "reported_gen": 0, "absences": [],
    }  # fmt: skip


_WORKER: Final = [sys.executable, "-m", "edgefleet_sim.live_fleet"]


def enrol_devices(api: httpx.Client, folder: Path, count: int) -> float:
    """Enrol devices over the device listener into a folder of identities and return how many a second."""
    body = {"uses": count, "profile": PROFILE, "labels": {"sim": "load", "site": "s1"}}
    made = api.post("/api/v1/enrollments", json=body)
    made.raise_for_status()
    token = made.json()["tokens"][0]["token"]
    plan = {"enrol": {"folder": str(folder), "token": token, "count": count, "per_s": 10_000}}
    began = time.monotonic()
    done = subprocess.run(_WORKER, input=json.dumps(plan) + "\n", capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1]) == {"enrolled": count}
    return count / (time.monotonic() - began)


@contextmanager
def drive(folder: Path, count: int, **plan: Any) -> Iterator[Fleet]:
    """Run devices of a folder of identities as processes, none of them connected yet; they leave at the end."""
    processes = []
    for first in range(0, count, A_WORKER):
        process = subprocess.Popen(_WORKER, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        part = {"folder": str(folder), "first": first, "count": min(A_WORKER, count - first), **plan}
        assert process.stdin is not None
        process.stdin.write(json.dumps({"drive": part}) + "\n")
        process.stdin.flush()
        processes.append(process)
    fleet = Fleet(processes)
    try:
        yield fleet
    finally:
        fleet.leave()


@contextmanager
def rig(**settings: str) -> Iterator[Rig]:
    """Run a server with mosquitto, on a database of its own. settings: of the server, in capitals."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ef-load-")))
        data = folder / "data"
        postgres = None
        if os.environ.get("EDGEFLEET_LOAD_DATABASE", "postgresql") != "sqlite":
            postgres = stack.enter_context(own_server())
            os.environ["EDGEFLEET_SERVER_DATABASE_URL"] = postgres.new_database()
            stack.callback(os.environ.pop, "EDGEFLEET_SERVER_DATABASE_URL", None)
        token = init_server(data)
        environment = {f"EDGEFLEET_SERVER_{key}": value for key, value in settings.items()}
        url = load_settings(data).database
        running = server_process(data, token, "--broker", "mosquitto", environment=environment)
        site = Rig(stack.enter_context(running), postgres, url, folder)
        stack.callback(site.db.dispose)
        yield site


def until(is_so: Callable[[], bool], what: str, limit_s: float = PATIENCE_S) -> float:
    """Wait until something is so; return how long it took, seconds. Raises TimeoutError."""
    began = time.monotonic()
    while not is_so():
        if time.monotonic() - began > limit_s:
            raise TimeoutError(f"waited {limit_s:g} s for: {what}")
        time.sleep(0.1)
    return time.monotonic() - began


def slope_pct_an_hour(samples: Sequence[tuple[float, float]]) -> float:
    """Return how fast a figure grows, in percent of its mean an hour. samples: (seconds, value)."""
    slope = statistics.linear_regression([at for at, _ in samples], [value for _, value in samples]).slope
    return slope * 3600 / statistics.fmean(value for _, value in samples) * 100


def machine() -> dict[str, Any]:
    """Return what this ran on."""
    return {"cpus": os.cpu_count(), "load": [round(one, 1) for one in os.getloadavg()]}


def _cpu_s(processes: Sequence[psutil.Process]) -> float:
    total = 0.0
    for one in processes:
        with suppress(psutil.NoSuchProcess):
            total += sum(one.cpu_times()[:4])
    return total
