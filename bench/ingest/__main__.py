"""Telemetry that devices send through mosquitto into SQLite and PostgreSQL: windows a processor second of the server's process.

- `rows`: 40 devices send messages of one and of eight windows at once, for each database; next to it, on the same broker and database,
  paho, JSON and a row a window. `cpu_s` is of the whole server process: TLS, MQTT, checks, rows, roll-ups, acknowledgements. Messages
  are real ones of agents that were away: 900 answers a window, 15 minutes each, four models. All devices are of one site, or of
  `--sites`: what is counted at one place is added up before it is written.
- `signals`: the same with 16 signals in each window, as devices in `live` send them.
- `storm`: 16,000 messages of eight windows of 40 devices, with the quotas of a real server. How many arrive at the first
  try: sent as agents do, which wait for the server's own answers; and all handed to the broker at once.
- `killed`: the server's process is killed while they come, some times, and begins again; devices send again what has no
  acknowledgement. Windows lost and doubled, and how many are missing in the sums: of each scale from 15 minutes on, and of all time.

Prints one JSON object.
`./dev bench ingest [--messages 4000] [--storm 16000] [--kills 4] [--sites 1]
[--only rows,signals,storm,killed] [--databases sqlite,postgresql]`
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.ingest.signals import signal_plan
from sqlalchemy import text
from tests.server.fleet.house import House
from tests.support import databases

from edgefleet_server.clock import SystemClock
from edgefleet_server.gateway.broker.model import BrokerConfig, BrokerKind
from edgefleet_server.gateway.broker.supervisor import BrokerSupervisor
from edgefleet_server.telemetry.rollups.model import KEPT, SCALES
from edgefleet_server.telemetry.rollups.step_fold import MINUTE

DEVICES = 40
ROOT = Path(__file__).resolve().parents[2]
GOALS = {"windows_per_cpu_s": {"8": 60_000, "1": 18_000}, "storm_first_try": 1.0}


class Server:
    """One database with its broker and devices; the server's process is started, asked and killed."""

    def __init__(self, folder: Path, url: str, sites: int) -> None:
        self.folder, self.url = folder, url
        self.house = House(url, folder, SystemClock(), tenant="acme")
        signing = self.house.signing
        config = BrokerConfig(
            kind=BrokerKind.MOSQUITTO, tenant="acme", ca_file=signing.ca_file, cert_file=signing.server_cert_file,
            key_file=signing.server_key_file, run_dir=folder / "broker", servers=("srv-main",),
        )  # fmt: skip
        self.broker = BrokerSupervisor(config, SystemClock())
        self.endpoint = self.broker.start()
        self.devices = []
        for at in range(DEVICES):
            device = self.house.device(labels={"site": f"site-{at % sites}"})
            (folder / f"{device.id}.crt").write_text(device.enrolment.cert)
            (folder / f"{device.id}.key").write_bytes(device.key_pem())
            self.devices.append(str(device.id))
        self.process: subprocess.Popen[str] | None = None

    def start(self, module: str = "consumer", *more: str) -> None:
        """Start the process that stores, and wait until it is connected."""
        end = self.endpoint
        here = [end.host, str(end.port), str(end.ca_file)]
        arguments = (
            [str(self.folder), self.url, *here, *more] if module == "consumer" else [*more[:1], *here, *more[1:]]
        )
        self.process = _child(module, *arguments)
        _line(self.process)

    def figures(self) -> dict[str, Any]:
        """Return what the process says of itself."""
        assert self.process is not None
        assert self.process.stdin is not None
        self.process.stdin.write("figures\n")
        self.process.stdin.flush()
        return _line(self.process)

    def end(self) -> None:
        """Kill the process."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def close(self) -> None:
        """Stop all."""
        self.end()
        self.broker.stop()
        self.house.db.dispose()

    def plan(self, count: int, windows: int, **more: Any) -> dict[str, Any]:
        """Return what the devices shall send."""
        each = {"messages": count // DEVICES, "windows": windows, "boot": f"boot-{time.monotonic_ns()}", "json": False}
        where = {"host": self.endpoint.host, "port": self.endpoint.port, "ca": str(self.endpoint.ca_file)}
        resends = {
            "as_agents": False,
            "again_s": 0.0,
            "quiet_s": 15.0,
            "signals": "",
            "basis": "",
            "signals_s": 0,
            "digests": [],
        }
        return {**each, **where, **resends, "folder": str(self.folder), "devices": self.devices, **more}

    def stored(self) -> tuple[int, int]:
        """Return how many windows there are, and the sum of their answers."""
        with self.house.db.read() as session:
            n, answers = session.execute(text("SELECT count(*), sum(n) FROM telemetry_window")).one()
            return int(n), int(answers or 0)


def _child(module: str, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", f"bench.ingest.{module}", *arguments]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)  # ourselves


def _line(process: subprocess.Popen[str]) -> dict[str, Any]:
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, "the child has ended"
    found: dict[str, Any] = json.loads(line)
    return found


@contextmanager
def server_on(kind: str, sites: int = 1) -> Iterator[Server]:
    """Yield a server on a new database, with devices at so many sites."""
    with tempfile.TemporaryDirectory(prefix="ef-ingest-") as name:
        folder = Path(name)
        with databases.new(kind, folder / "server.db", is_empty=False) as url:
            made = Server(folder, url, sites)
            try:
                yield made
            finally:
                made.close()


@contextmanager
def sending(plan: dict[str, Any]) -> Iterator[subprocess.Popen[str]]:
    """Yield the devices, connected and about to send."""
    load = _child("load")
    assert load.stdin is not None
    load.stdin.write(json.dumps(plan) + "\n")
    load.stdin.flush()
    _line(load)
    try:
        yield load
    finally:
        load.kill()
        load.wait()


def go(load: subprocess.Popen[str]) -> dict[str, Any]:
    """Let the devices send; return what they say of it."""
    assert load.stdin is not None
    load.stdin.write("go\n")
    load.stdin.flush()
    return _line(load)


def throughput(server: Server, count: int, windows: int, **more: Any) -> dict[str, Any]:
    """Return what so many messages cost the server's process."""
    plan = server.plan(count, windows, **more)
    server.start("consumer", "generous")
    had = server.stored()[0]
    with sending(plan) as load:
        before = server.figures()
        began = time.monotonic()
        sent = go(load)
        acked = _line(load)
        wall_s = time.monotonic() - began
        after = server.figures()
    server.end()
    cpu_s = after["cpu_s"] - before["cpu_s"]
    stored = server.stored()[0] - had
    return {
        "messages": count, "windows": stored, "lost": count * windows - stored, "cpu_s": round(cpu_s, 3), "wall_s": round(wall_s, 2),
        "windows_per_cpu_s": round(stored / cpu_s), "us_a_message": round(cpu_s / count * 1e6, 1), **sent, **acked,
        "rss_mb": round(after["rss_mb"]), "signals_left_out": after["signals_left_out"],
    }  # fmt: skip


def peer(server: Server, count: int, windows: int, url: str) -> dict[str, Any]:
    """Return what paho, JSON and a row a window take for so many messages."""
    identity = server.house.signing.service_identity("main")
    server.start("paho_json", url, str(identity.cert_file), str(identity.key_file))
    with sending(server.plan(count, windows, json=True)) as load:
        before = server.figures()
        began = time.monotonic()
        go(load)
        after = server.figures()
        while after["messages"] < count and time.monotonic() - began < 120:
            time.sleep(0.2)
            after = server.figures()
        wall_s = time.monotonic() - began
    server.end()
    cpu_s = after["cpu_s"] - before["cpu_s"]
    return {
        "messages": after["messages"],
        "windows_per_cpu_s": round(after["windows"] / cpu_s),
        "wall_s": round(wall_s, 2),
    }


def rows(kind: str, count: int, sites: int) -> dict[str, Any]:
    """Return the rows of one database."""
    found: dict[str, Any] = {"sites": sites}
    with server_on(kind, sites) as server:
        for windows in (8, 1):
            ours = throughput(server, count, windows)
            url = f"sqlite:///{server.folder}/peer-{windows}.db" if kind == "sqlite" else server.url
            if kind != "sqlite":
                with server.house.db.session() as session:
                    session.execute(text("DROP TABLE IF EXISTS peer_window"))
            theirs = peer(server, max(DEVICES, count // 10), windows, url)
            ratio = round(ours["windows_per_cpu_s"] / max(1, theirs["windows_per_cpu_s"]), 1)
            found[f"windows_{windows}"] = {**ours, "paho_json_row": theirs, "ratio": ratio}
    return found


def signals(kind: str, count: int) -> dict[str, Any]:
    """Return what messages with signals in their windows cost; each window's signals are added to those of its bundle."""
    with server_on(kind) as server:
        more = signal_plan(server.house)
        found = throughput(server, max(1, count // 8 // DEVICES) * DEVICES, 4, **more)
        assert found["lost"] == 0, found
        assert found["signals_left_out"] == 0, found
        return found


def storm(kind: str, count: int, *, as_agents: bool) -> dict[str, Any]:
    """Return how many of a storm's messages arrive at the first try, with the quotas of a real server."""
    with server_on(kind) as server:
        server.start("consumer", "quotas")
        plan = server.plan(count, 8, as_agents=as_agents, quiet_s=8.0)
        with sending(plan) as load:
            began = time.monotonic()
            go(load)
            acked = _line(load)
            figures = server.figures()
        stored = server.stored()[0] // 8
        return {
            "sent": count,
            "arrived": stored,
            "wall_s": round(time.monotonic() - began, 1),
            **acked,
            "dropped": figures["by_reason"],
        }


def killed(kind: str, count: int, kills: int) -> dict[str, Any]:
    """Return what is lost and doubled when the process is killed while messages come."""
    with server_on(kind) as server:
        server.start("consumer", "generous")
        with sending(server.plan(count, 8, as_agents=True, again_s=4.0, quiet_s=30.0)) as load:
            assert load.stdin is not None
            load.stdin.write("go\n")
            load.stdin.flush()
            for number in range(kills):
                time.sleep(0.4 + 0.3 * number)
                server.end()
                server.start("consumer", "generous")
            _line(load)
            acked = _line(load)
        n, answers = server.stored()
        rollups, now = server.house.telemetry.rollups, datetime.now(UTC)
        summed = rollups.totals().get(())
        missing = {
            scale: n - sum(step.sums.windows for step in rollups.models(scale, now - KEPT[scale], now))
            for scale in SCALES
            if scale > MINUTE
        }
        with server.house.db.read() as session:
            distinct = "SELECT count(*) FROM (SELECT DISTINCT device_id, model, t0 FROM telemetry_window) one"
            known = int(session.execute(text(distinct)).scalar_one())
        return {
            "kills": kills, "windows_sent": count * 8, "stored": n, "lost": count * 8 - known, "doubled": n - known,
            "missing_in_sums": {**missing, "ever": n - (summed.windows if summed else 0)},
            "answers_differ": (summed.n if summed else 0) - answers, **acked,
        }  # fmt: skip


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--messages", type=int, default=4_000)
    parser.add_argument("--storm", type=int, default=16_000)
    parser.add_argument("--kills", type=int, default=4)
    parser.add_argument("--sites", type=int, default=1, help="of `rows`: devices of one site are added up together")
    parser.add_argument("--only", default="rows,signals,storm,killed")
    parser.add_argument("--databases", default="sqlite,postgresql")
    arguments = parser.parse_args()
    only, kinds = arguments.only.split(","), arguments.databases.split(",")
    found: dict[str, Any] = {
        "name": "ingest",
        "machine": {"arch": platform.machine(), "python": platform.python_version()},
    }
    for kind in kinds:
        mine = found[kind] = {}
        if "rows" in only:
            mine["rows"] = rows(kind, arguments.messages, arguments.sites)
        if "signals" in only:
            mine["signals"] = signals(kind, arguments.messages)
        if "storm" in only:
            mine["storm"] = storm(kind, arguments.storm, as_agents=True)
            mine["storm_at_once"] = storm(kind, arguments.storm, as_agents=False)
        if "killed" in only:
            mine["killed"] = killed(kind, arguments.messages, arguments.kills)
    print(json.dumps({**found, "goals": GOALS}, indent=1))


if __name__ == "__main__":
    main()
