"""A server of the first frozen version, with devices attached, is upgraded in place to the server of today.

`./dev soak upgrade --n 1000`: both wheels of that version are built from its commit and installed in an environment of their own. Its
server runs AGENTS real agents of that version, n simulated devices enrol at it and send windows. Then it is stopped, today's
`edgectl server upgrade-schema` and `server start` run on its folder, and all devices come back by themselves. Measured: seconds of each
step. In the end: no table has lost a row, each window was acknowledged, the last state of each device stands in the database, a
rollout made by today's server has reached the real agents and the simulated devices, and the old server refuses the new schema.
"""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import httpx

from edgefleet_terms.rollout_states import ROLLOUT_FINAL
from tests.frozen import archive, make
from tests.frozen.fleet import FrozenFleet
from tests.load.rig import Fleet, drive, enrol_devices, machine, until
from tests.support.ports import kept_port
from tests.support.servers import ServerProcess, server_process

AGENTS: Final = ("a", "b")
WINDOW_S: Final = 60.0
"""A simulated device keeps 16 windows while the server is away."""
QUIET_S: Final = 300.0
SELECTOR: Final = ""
_OVER: Final = frozenset(state.value for state in ROLLOUT_FINAL)


class Stored:
    """The file of SQLite, read next to the server or without it."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def rows(self, statement: str) -> list[tuple[Any, ...]]:
        """Return the rows of a query."""
        with closing(sqlite3.connect(f"file:{self._file}?mode=ro", uri=True, timeout=30)) as connection:
            return connection.execute(statement).fetchall()

    def counts(self) -> dict[str, int]:
        """Return how many rows each table has."""
        names = [row[0] for row in self.rows("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {name: int(self.rows(f'SELECT count(*) FROM "{name}"')[0][0]) for name in names}

    def online(self) -> int:
        """Return how many devices are online."""
        return int(self.rows("SELECT count(*) FROM fleet_device WHERE is_online")[0][0])

    def last_states(self, model: str) -> dict[str, tuple[Any, ...]]:
        """Return boot id, seq, gen and digest of what runs, of each device, as `Driver.last_states` says them."""
        found = self.rows(
            "SELECT d.id, d.boot_id, d.state_seq, d.reported_gen, coalesce(m.active_sha256, '') FROM fleet_device d"
            f" LEFT JOIN fleet_model_state m ON m.device_id = d.id AND m.model = '{model}'"
        )
        return {row[0]: row[1:] for row in found}


def main(n: int, seed: int) -> Mapping[str, Any]:
    """Upgrade once under n simulated devices and the real agents."""
    version = archive.versions()[0]
    with tempfile.TemporaryDirectory(prefix="ef-upgrade-") as name:
        scratch, home = Path(name), Path(name, "home")
        home.mkdir()
        environment = make.install(scratch, make.build_wheels(archive.record(version)["commit"], scratch))
        with FrozenFleet(environment, home) as old:
            return {"version": version, **_upgraded(old, home, n, seed)}


def _upgraded(old: FrozenFleet, home: Path, n: int, seed: int) -> dict[str, Any]:
    data, stored = home / "server", Stored(home / "server" / "edgefleet.db")
    names = ("--port", "--device-port", "--broker-port")
    flags = ["--broker", "mosquitto", *(part for flag in names for part in (flag, str(kept_port())))]
    old.start_server(*flags)
    token = (data / "admin.token").read_text().strip()
    for name in AGENTS:
        old.enrol(name)
    old.publish("1.0.0", 1.0)
    old.publish("1.1.0", 2.0)
    first = old.roll("1.0.0", "100%")
    for name in AGENTS:
        old.prove(name, "1.0.0")
    old.until(lambda: old.shown(first)["state"] == "finished")
    api = json.loads((data / "run/server.json").read_text())["api_url"]
    ids, everyone = home / "ids", n + len(AGENTS)
    with httpx.Client(base_url=api, headers={"authorization": f"Bearer {token}"}, timeout=60) as client:
        enrol_devices(client, ids, n)
    with drive(ids, n, interval_s=WINDOW_S, seed=seed) as fleet:
        fleet.say_all({"want": n, "per_s": 100})
        until(lambda: stored.online() >= everyone, "all devices online at the old server")
        until(lambda: fleet.figure("acked") >= n, "a window of each device")
        times, began = {}, time.monotonic()
        old.stop_server()
        times["stopped"] = time.monotonic() - began
        before = stored.counts()
        steps = _upgrade_schema(data)
        after = stored.counts()
        times["schema"] = time.monotonic() - began
        with server_process(data, token, *flags, timeout_s=180) as server:
            times["served"] = time.monotonic() - began
            until(lambda: stored.online() >= everyone, "all devices online at the new server")
            times["all_back"] = time.monotonic() - began
            rollout = _roll(old, server)
            lost = _lost(fleet, stored, n)
            agents = {name: str(old.model(name).get("active_target")) for name in AGENTS}
            versions = stored.rows("SELECT DISTINCT json_extract(facts, '$.agent_version') FROM fleet_device")
            facts: dict[str, Any] = {
                "lost_states": len(lost), "lost": lost[:5], "unacknowledged": int(fleet.figure("unacked")),
                "given_up_by_devices": int(fleet.figure("given_up")),
                "windows_and_events": int(fleet.figure("sent")), "installs": int(fleet.figure("installs")),
                "agents": agents, "agent_versions": sorted(row[0] for row in versions),
            }  # fmt: skip
        refusal = _refused(old, flags)
    shrunk = {name: (rows, after.get(name)) for name, rows in before.items() if after.get(name, -1) < rows}
    ok = (
        not shrunk
        and not lost
        and not facts["unacknowledged"] + facts["given_up_by_devices"]
        and rollout == "finished"
        and facts["installs"] == n
    )
    ok = ok and all("/1.1.0/" in target for target in agents.values()) and "server.schema_unsupported" in refusal
    return {
        "ok": ok, "devices": n, "agents_of_that_version": len(AGENTS), "steps": steps, "rows": sum(before.values()),
        "tables_that_shrank": shrunk, "seconds_after_the_stop_began": {name: round(at, 1) for name, at in times.items()},
        **facts, "rollout": rollout, "old_server_on_the_new_schema": refusal, "machine": machine(),
    }  # fmt: skip


def _upgrade_schema(data: Path) -> int:
    """Run today's command on the folder; return how many steps it took."""
    command = [
        sys.executable,
        "-m",
        "edgefleet_cli.main",
        "server",
        "upgrade-schema",
        "--data",
        str(data),
        "-o",
        "json",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return len(json.loads(done.stdout)["steps"])


def _roll(old: FrozenFleet, server: ServerProcess) -> str:
    """Bring the newer release to everything by today's server; return how the rollout ended."""
    plan = {
        "release": "tiny@1.1.0",
        "selector": SELECTOR,
        "stages": [{"name": "all", "size": {"percent": 100}, "soak": "0s"}],
    }
    with server.client() as client:
        made = client.post("/api/v1/rollouts", json=plan)
        made.raise_for_status()
        for name in AGENTS:
            old.prove(name, "1.1.0")
        state, deadline = "", time.monotonic() + QUIET_S
        while state not in _OVER and time.monotonic() < deadline:
            state = str(client.get(f"/api/v1/rollouts/{made.json()['id']}").json()["state"])
            time.sleep(0.5)
    return state


def _lost(fleet: Fleet, stored: Stored, n: int) -> list[str]:
    """Return the devices whose last state does not stand in the database, once they are quiet."""
    fleet.say_all({"quiet": True, "states": True})

    def lacking() -> list[str]:
        said = {device: tuple(last) for line in fleet.lines for device, last in line.get("states", {}).items()}
        known = stored.last_states("tiny")
        missing = [f"{len(said)} of {n} devices have said a state"] if len(said) < n else []
        return missing + [device for device, last in said.items() if known.get(device) != last]

    deadline = time.monotonic() + QUIET_S
    while time.monotonic() < deadline and (lacking() or fleet.figure("unacked")):
        time.sleep(1)
    return lacking()


def _refused(old: FrozenFleet, flags: list[str]) -> str:
    """Start the old server on the new schema; return the last lines of what it says."""
    process = old.start("refused", "edgectl", "server", "start", "--data", "server", *flags)
    process.wait(120)
    lines = (old.folder / "refused.log").read_text().strip().splitlines()
    return " | ".join(line.strip() for line in lines[-4:])
