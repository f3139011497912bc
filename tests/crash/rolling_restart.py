"""Every component of a replicated server is restarted under load, one after the other, some by kill -9; the database and the broker too.

`./dev soak rolling-restart --n 200`: n simulated devices with a window every WINDOW_S seconds, one rollout after the other to all of
them, a conversion, and a client that calls the API ten times a second through nginx. Measured for each restart: the longest time without
a served API, failed calls, and the longest time without an acknowledged window. In the end: the last state of each device stands in the
database, each window and event was acknowledged, each write that was answered stands, each install was done once, each rollout
finished, its log without a contradiction (`fleet_sim_audit`), and the conversion is ready.
"""

from __future__ import annotations

import itertools
import random
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import httpx
import psycopg

from edgefleet_server.clock import SystemClock
from edgefleet_terms.rollout_states import ROLLOUT_FINAL
from tests.agent.worker.models import classifier_onnx
from tests.crash.api_watch import LABEL, ApiWatch, longest_gap_s
from tests.crash.replica_site import ROLES, Site, replica_site
from tests.load.rig import Fleet, machine, until
from tests.server.fleet.house import PROFILE, House
from tests.server.rollout.fleet_sim import MODEL, spec_of, stages
from tests.server.rollout.fleet_sim_audit import audit
from tests.support.servers import release_body

WINDOW_S: Final = 5.0
SETTLE_S: Final = 3.0
GAP_MOST_S: Final = 10.0
VERSIONS: Final = 40
END_S: Final = 240.0
UNPROCESSABLE: Final = 422
_OVER: Final = frozenset(state.value for state in ROLLOUT_FINAL)


class Rollouts(threading.Thread):
    """One rollout after the other to the whole fleet, until `stop`; the last one is waited for."""

    def __init__(self, site: Site) -> None:
        super().__init__(name="rollouts", daemon=True)
        self._site = site
        self._is_over = threading.Event()
        self.ids: list[str] = []
        self.states: dict[str, str] = {}

    def run(self) -> None:
        with self._site.client() as client:
            for number in range(1, VERSIONS):
                if self._is_over.is_set():
                    return
                self._one(client, f"1.{number}.0")

    def _one(self, client: httpx.Client, version: str) -> None:
        plan = spec_of(f"{MODEL}@{version}", stages=stages("40%", "100%", soak="1s"))
        rollout = str(self._sure(lambda: self._create(client, plan))["id"])
        self.ids.append(rollout)
        deadline = time.monotonic() + END_S
        while time.monotonic() < deadline:
            self.states[rollout] = self._sure(lambda: client.get(f"/api/v1/rollouts/{rollout}"))["state"]
            if self.states[rollout] in _OVER:
                return
            time.sleep(0.5)

    def _create(self, client: httpx.Client, plan: Mapping[str, Any]) -> httpx.Response:
        """Create a rollout, unless a call whose answer got lost has done it: then read that one."""
        known = client.get("/api/v1/rollouts", params={"limit": 5})
        if known.is_success:
            for one in known.json()["items"]:
                if one["release"] == plan["release"]:
                    return client.get(f"/api/v1/rollouts/{one['id']}")
            return client.post("/api/v1/rollouts", json=plan)
        return known

    def _sure(self, call: Callable[[], httpx.Response]) -> dict[str, Any]:
        deadline = time.monotonic() + END_S
        while True:
            try:
                answer = call()
                if answer.is_success:
                    found: dict[str, Any] = answer.json()
                    return found
                why = answer.text
                if answer.status_code == UNPROCESSABLE:  # it will not become right by asking again
                    raise RuntimeError(why)
            except httpx.TransportError as error:
                why = repr(error)
            if time.monotonic() > deadline:
                raise TimeoutError(why)
            time.sleep(0.5)

    def stop(self) -> None:
        """Begin no further one, and wait for the one that goes on."""
        self._is_over.set()
        self.join(END_S)


class Pauses(threading.Thread):
    """The moments at which the fleet's count of acknowledged windows rose."""

    def __init__(self, fleet: Fleet) -> None:
        super().__init__(name="pauses", daemon=True)
        self._fleet = fleet
        self._is_over = threading.Event()
        self.rose_s: list[float] = []

    def run(self) -> None:
        last = 0.0
        while not self._is_over.wait(0.2):
            count = self._fleet.figure("acked")
            if count > last:
                self.rose_s.append(time.monotonic())
                last = count

    def longest_s(self, since_s: float, until_s: float) -> float:
        """Return the longest time without one."""
        times = [since_s, *(at for at in self.rose_s if since_s < at < until_s), until_s]
        return max(after - before for before, after in itertools.pairwise(times))

    def stop(self) -> None:
        """End."""
        self._is_over.set()
        self.join(5)


def plan(site: Site, rng: random.Random) -> list[tuple[str, Callable[[], None]]]:
    """Return what is restarted, in order: each process by SIGTERM, the database, the broker, and one of each role by SIGKILL."""

    def restart(name: str, number: int) -> Callable[[], None]:
        def act() -> None:
            one = site.components[name]
            one.end(number)
            one.start()
            one.wait()

        return act

    database = site.rig.postgres
    assert database is not None
    killed = [rng.choice([name for name in ROLES if name.startswith(role)]) for role in ("api", "gateway", "engine")]
    steps = [(f"{name} SIGTERM", restart(name, signal.SIGTERM)) for name in ROLES]
    steps += [("postgresql crash", database.restart), ("mosquitto restart", site.broker.restart)]
    steps += [(f"{name} SIGKILL", restart(name, signal.SIGKILL)) for name in (*killed, "converter-1")]
    return steps


def main(n: int, seed: int) -> Mapping[str, Any]:
    """Restart everything once under n devices; ok when nothing was lost and the API was away for GAP_MOST_S at most."""
    with tempfile.TemporaryDirectory(prefix="ef-roll-") as name, replica_site(Path(name)) as site:
        house = House(site.rig.url, site.components["api-1"].data, SystemClock())
        try:
            return _run(site, house, n, seed)
        finally:
            house.db.dispose()


def _run(site: Site, house: House, n: int, seed: int) -> dict[str, Any]:
    site.rig.enrol_here(n)
    for number in range(VERSIONS):
        version = f"1.{number}.0"
        house.release(f"{MODEL}@{version}", bundles={PROFILE: f"{version} for {PROFILE}".encode()})
    devices = [row[0] for row in site.rig.rows("SELECT id FROM fleet_device ORDER BY id")]
    with site.client() as client, site.rig.fleet(n, interval_s=WINDOW_S, seed=seed) as fleet:
        fleet.say_all({"want": n, "per_s": 100})
        until(lambda: site.rig.presence()["online"] >= n, "all devices online")
        watch, pauses, rollouts = ApiWatch(client, devices), Pauses(fleet), Rollouts(site)
        began = time.monotonic()
        for one in (watch, pauses, rollouts):
            one.start()
        job = _publish(client)
        time.sleep(SETTLE_S)
        restarts = _restarted(site, random.Random(seed), watch, pauses)
        rollouts.stop()
        ended = time.monotonic()
        watch.stop()
        pauses.stop()
        fleet.say_all({"quiet": True, "states": True})
        lost = _lost_states(site, fleet, n)
        facts = {
            "lost_states": len(lost), "lost": lost[:5], "lost_writes": len(watch.lost(_labels(site))),
            "unacknowledged": int(fleet.figure("unacked")), "given_up_by_devices": int(fleet.figure("given_up")),
            "windows_and_events": int(fleet.figure("sent")), "writes": len(watch.written),
            "installs": int(fleet.figure("installs")), "installs_due": n * len(rollouts.ids),
            "conversion": _until_ready(client, job),
        }  # fmt: skip
        reconnects = int(fleet.figure("connects")) - n
    problems = [problem for rollout in rollouts.ids for problem in audit(house.db, rollout)]
    gap = longest_gap_s(watch.calls, began, ended)
    failed = [call.status for call in watch.calls if not call.is_served]
    is_whole = (
        not lost
        and not facts["lost_writes"]
        and not facts["unacknowledged"]
        and not facts["given_up_by_devices"]
        and not problems
    )
    is_right = facts["installs"] == facts["installs_due"] and set(rollouts.states.values()) == {"finished"}
    return {
        "ok": is_whole and is_right and gap <= GAP_MOST_S and facts["conversion"] == "ready",
        "devices": n,
        "seconds": round(ended - began, 1),
        "longest_without_api_s": round(gap, 2),
        "calls": len(watch.calls),
        "failed_calls": {str(status): failed.count(status) for status in sorted(set(failed))},
        **facts,
        "reconnects": reconnects,
        "rollouts": rollouts.states,
        "problems": problems[:20],
        "restarts": restarts,
        "errors_logged": site.logs().splitlines()[:20],
        "machine": machine(),
    }


def _publish(client: httpx.Client) -> str:
    """Upload a model and let it be converted; return its reference."""
    model = classifier_onnx()
    body = release_body(model, model="converted")
    digest = body["source"]["files"][0]["sha256"]
    client.put(f"/api/v1/blobs/{digest}", content=model).raise_for_status()
    client.post("/api/v1/releases", json=body).raise_for_status()
    return "converted@1.0.0"


def _until_ready(client: httpx.Client, release: str) -> str:
    deadline, state = time.monotonic() + END_S, ""
    while time.monotonic() < deadline and state not in {"ready", "failed"}:
        state = str(client.get(f"/api/v1/releases/{release}").json().get("state"))
        time.sleep(0.5)
    return state


def _restarted(site: Site, rng: random.Random, watch: ApiWatch, pauses: Pauses) -> list[dict[str, Any]]:
    """Restart one after the other; return what each cost."""
    found = []
    for name, act in plan(site, rng):
        since, calls = time.monotonic(), len(watch.calls)
        act()
        back = time.monotonic()
        time.sleep(SETTLE_S)
        now = time.monotonic()
        sys.stderr.write(f"{name}: {back - since:.1f} s\n")
        found.append(
            {
                "what": name,
                "took_s": round(back - since, 1),
                "without_api_s": round(longest_gap_s(watch.calls, since, now), 2),
                "failed_calls": sum(not call.is_served for call in watch.calls[calls:]),
                "without_acknowledgement_s": round(pauses.longest_s(since, now), 1),
            }
        )
    return found


def _lost_states(site: Site, fleet: Fleet, n: int) -> list[str]:
    """Return the devices whose last state does not stand in the database, once all are connected and quiet."""

    def lacking() -> list[str]:
        said = {device: tuple(last) for line in fleet.lines for device, last in line.get("states", {}).items()}
        stored = {row[0]: tuple(row[1:]) for row in site.rig.rows(_STORED.format(model=MODEL))}
        missing = [f"device without a state: {len(said)} of {n}"] if len(said) < n else []
        return missing + [device for device, last in said.items() if stored.get(device) != last]

    deadline = time.monotonic() + END_S
    while time.monotonic() < deadline:
        if not lacking() and not fleet.figure("unacked"):
            return []
        time.sleep(1)
    return lacking()


_STORED: Final = """SELECT d.id, d.boot_id, d.state_seq, d.reported_gen, coalesce(m.active_sha256, '')
FROM fleet_device d LEFT JOIN fleet_model_state m ON m.device_id = d.id AND m.model = '{model}'"""


def _labels(site: Site) -> dict[str, int]:
    """Return the number that stands in the label of each device."""
    with psycopg.connect(site.rig.url, autocommit=True) as connection:
        rows = connection.execute("SELECT id, labels->>%s FROM fleet_device", (LABEL,)).fetchall()
    return {device: int(value) for device, value in rows if value is not None}
