"""A large fleet for a long time: what server, PostgreSQL and broker use, how late telemetry is in the database, how long the API takes.

`./dev soak fleet-load --n 10000`: n devices connected, each with a window a minute as in `live`; EDGEFLEET_LOAD_REGISTERED (100,000)
devices registered in all; for EDGEFLEET_LOAD_MINUTES (30). Ingest is measured by the devices: from sending a window until the server's
own acknowledgement, which comes after the commit. The simulator is counted apart. In the end the broker is killed once under the load.
"""

from __future__ import annotations

import itertools
import os
import statistics
import threading
import time
from collections.abc import Mapping
from typing import Any, Final

import httpx

from edgefleet_protocol.sketch import LatencySketch
from tests.load.broker_kill import RIGHT_S, UNKNOWN_S, kill_broker
from tests.load.rig import Fleet, Rig, machine, rig, slope_pct_an_hour, until

INTERVAL_S: Final = 60
CONNECTS_PER_S: Final = 100.0
SAMPLE_S: Final = 5.0
ASK_S: Final = 0.5
GOALS: Final = {"ingest_p99_s": 1.0, "api_p95_ms": 50.0, "cores": 0.8, "rss_pct_an_hour": 1.0}
REQUESTS: Final[tuple[tuple[str, dict[str, Any]], ...]] = (
    ("/devices", {"limit": 50}),
    ("/devices", {"limit": 50, "selector": "site=s7"}),
    ("/devices", {"limit": 50, "sort": "-last_seen"}),
    ("/devices", {"limit": 50, "selector": "status=online", "sort": "-last_seen"}),
    ("/search", {"q": "r-00042"}),
    ("/search", {"q": "s49"}),
)


class _Asker(threading.Thread):
    """Asks for lists and searches all the time, one after another; keeps how long each took, milliseconds."""

    def __init__(self, client: httpx.Client) -> None:
        super().__init__(daemon=True)
        self._client = client
        self.is_over = threading.Event()
        self.took: dict[str, list[float]] = {}
        self.failed = 0

    def run(self) -> None:
        for path, params in itertools.cycle(REQUESTS):
            if self.is_over.wait(ASK_S):
                return
            began = time.perf_counter()
            try:
                self.failed += not self._client.get(f"/api/v1{path}", params=params).is_success
            except httpx.TransportError:
                self.failed += 1
            name = path[1:] + "".join(f" {value}" for key, value in params.items() if key != "limit")
            self.took.setdefault(name, []).append((time.perf_counter() - began) * 1000)

    def p95_ms(self) -> dict[str, float]:
        """Return the 95th percentile of each request, and of all."""
        found = {name: _p95(times) for name, times in self.took.items()}
        return found | {"all": _p95([one for times in self.took.values() for one in times])}


def main(n: int, seed: int) -> Mapping[str, Any]:
    """Load a server for some minutes."""
    minutes = float(os.environ.get("EDGEFLEET_LOAD_MINUTES", "30"))
    registered = int(os.environ.get("EDGEFLEET_LOAD_REGISTERED", "100000"))
    return run(n, seed, registered=registered, seconds=60 * minutes, interval_s=INTERVAL_S)


def run(n: int, seed: int, *, registered: int, seconds: float, interval_s: float) -> Mapping[str, Any]:
    """Load a server for some seconds, after all devices are connected and have sent a window."""
    with rig() as site:
        site.enrol_here(n)
        site.register(max(0, registered - n))
        with site.fleet(n, interval_s=interval_s, seed=seed) as fleet:
            connects = site.connect(fleet, n, CONNECTS_PER_S)
            until(lambda: fleet.figure("acked") >= n, "a window of each device")
            with site.server.client() as client:
                asker = _Asker(client)
                asker.start()
                used = _watched(site, fleet, seconds)
                asker.is_over.set()
                asker.join()
            after_kill = kill_broker(site, fleet, n)
            fleet.say_all({"quiet": True})
            until(lambda: fleet.figure("unacked") == 0, "the last acknowledgements", 120.0)
            lost = int(fleet.figure("given_up")) + int(fleet.figure("sent") - fleet.figure("acked"))
            resent, reconnects = int(fleet.figure("resent")), int(fleet.figure("connects")) - 2 * n
        size_mb = site.database_mb()
    api = {name: round(value, 1) for name, value in asker.p95_ms().items()}
    told = {
        "devices": n, "registered": registered, "seconds": seconds, "interval_s": interval_s, **connects, **used, "api_p95_ms": api,
        "api_failed": asker.failed, "lost": lost, "resent": resent, "reconnects": reconnects, "database_mb": round(size_mb, 1),
        "after_kill": after_kill,
    }  # fmt: skip
    within = {
        "ingest_p99_s": used["ingest_p99_s"] <= GOALS["ingest_p99_s"],
        "api_p95_ms": api["all"] <= GOALS["api_p95_ms"],
        "cores": used["cores"]["server"] + used["cores"]["postgresql"] <= GOALS["cores"],
        "rss_pct_an_hour": used["rss_pct_an_hour"] <= GOALS["rss_pct_an_hour"],
        "lost": lost == 0,
        "unknown_s": after_kill["unknown_s"] <= UNKNOWN_S,
        "right_s": after_kill["right_s"] <= RIGHT_S,
    }
    return {"ok": all(within.values()), **told, "within": within, "machine": machine()}


def _watched(site: Rig, fleet: Fleet, seconds: float) -> dict[str, Any]:
    """Return what was used over some seconds. Memory grows or not: by its second half."""
    fleet.acks = LatencySketch()
    before = {**site.cpu_s(), "simulator": fleet.figure("cpu_s")}
    size_mb, began, memory = site.database_mb(), time.monotonic(), []
    while (at := time.monotonic() - began) < seconds:
        memory.append((at, site.rss_mb()["server"]))
        time.sleep(min(SAMPLE_S, seconds / 4))
    took = time.monotonic() - began
    after = {**site.cpu_s(), "simulator": fleet.figure("cpu_s")}
    acks, grown_mb = fleet.acks, site.database_mb() - size_mb
    return {
        "ingest_p50_s": round(acks.quantile_s(0.5) or 0.0, 4),
        "ingest_p99_s": round(acks.quantile_s(0.99) or 0.0, 4),
        "windows": acks.n,
        "cores": {name: round((after[name] - before[name]) / took, 3) for name in before},
        "server_rss_mb": [round(memory[0][1], 1), round(memory[-1][1], 1)],
        "rss_pct_an_hour": round(slope_pct_an_hour(memory[len(memory) // 2 :]), 2),
        "database_mb_a_day": round(grown_mb * 86_400 / took),
        "simulator_kb_a_device": round(fleet.figure("rss_bytes") / 1024 / max(1, fleet.figure("connected")), 1),
    }  # fmt: skip


def _p95(times: list[float]) -> float:
    return statistics.quantiles(times, n=20)[18] if len(times) > 1 else times[0]
