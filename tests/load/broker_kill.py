"""The broker is killed under a connected fleet: how soon presence is unknown, and right again, and what a connect costs the broker.

`./dev soak broker-kill --n 8000`: n devices, mosquitto, PostgreSQL. The devices come back as agents do: full jitter, 0 to 0.5 s · 2^n.
`broker_cpu_ms_a_connect`: of devices that this server has never seen, at the shared topics first, with their move to the shards.
`broker_cpu_ms_a_reconnect`: of `sharded_before` devices at their shards, the others at the shared topics (ADR 0171).
"""

from __future__ import annotations

import signal
import time
from collections.abc import Mapping
from typing import Any, Final

from tests.load.rig import Fleet, Rig, machine, rig, until

UNKNOWN_S: Final = 5.0
RIGHT_S: Final = 90.0
CONNECT_CPU_MS: Final = 1.2
CONNECTS_PER_S: Final = 100.0
_STALE: Final = "SELECT count(*) FROM fleet_device JOIN before_kill USING (id, conn_id) WHERE is_online"
"""Devices that are shown as online by a connection that ended with the broker."""


def main(n: int, seed: int) -> Mapping[str, Any]:
    """Kill the broker of n devices once."""
    with rig() as site:
        site.enrol_here(n)
        with site.fleet(n, interval_s=900, seed=seed) as fleet:
            connects = site.connect(fleet, n, CONNECTS_PER_S)
            rss = {"simulator_kb_a_device": round(fleet.figure("rss_bytes") / 1024 / n, 1)}
            figures = kill_broker(site, fleet, n)
    within = {
        "unknown_s": figures["unknown_s"] <= UNKNOWN_S,
        "right_s": figures["right_s"] <= RIGHT_S,
        "broker_cpu_ms_a_connect": connects["broker_cpu_ms_a_connect"] <= CONNECT_CPU_MS,
    }
    told = {"devices": n, **connects, **rss, **figures}
    return {"ok": all(within.values()), **told, "within": within, "machine": machine()}


def kill_broker(site: Rig, fleet: Fleet, n: int) -> dict[str, float]:
    """Kill the broker of n connected devices; return what followed, until all are back."""
    sharded = int(fleet.figure("sharded"))
    cpu, sim_cpu_s, made = site.cpu_s(), fleet.figure("cpu_s"), fleet.figure("connects")
    broker = site.broker()
    site.execute("CREATE TABLE before_kill AS SELECT id, conn_id FROM fleet_device WHERE is_online")
    broker.send_signal(signal.SIGKILL)
    killed = time.monotonic()
    unknown_s = until(lambda: site.rows(_STALE)[0][0] == 0, "no connection of before the kill is shown")
    until(lambda: site.presence()["online"] >= n, "presence right again")
    right_s = time.monotonic() - killed
    # what the devices say of themselves comes once a second
    until(lambda: fleet.figure("connects") - made >= n, "the devices' own count")
    after, again = site.cpu_s(), fleet.figure("connects") - made
    return {
        "unknown_s": round(unknown_s, 2), "right_s": round(right_s, 1), "reconnects": int(again),
        "sharded_before": sharded, "sharded_after": int(fleet.figure("sharded")), "failed_tries": int(fleet.figure("failed")),
        "broker_cpu_ms_a_reconnect": round(1000 * after["broker"] / max(again, 1), 3),
        "server_cpu_ms_a_reconnect": round(1000 * (after["server"] - cpu["server"]) / max(again, 1), 3),
        "postgresql_cpu_ms_a_reconnect": round(1000 * (after["postgresql"] - cpu["postgresql"]) / max(again, 1), 3),
        "simulator_cpu_s": round(fleet.figure("cpu_s") - sim_cpu_s, 1),
    }  # fmt: skip
