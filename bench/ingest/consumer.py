"""The server side in a process of its own: services, gateway and database, as one server has them. `python -m bench.ingest.consumer`.

Arguments: folder, URL of the database, host, port and CA file of the broker. Each line of the input is answered by one line of JSON.
"""

import json
import resource
import sys
import time
from pathlib import Path

from edgefleet_server.clock import SystemClock
from edgefleet_server.composition.container import build_parts
from edgefleet_server.gateway.broker.model import BrokerEndpoint, BrokerKind
from edgefleet_server.gateway.service import Gateway
from edgefleet_server.process.memory import collect_seldom, settle
from edgefleet_server.settings import load_settings

QUOTA = {"device_messages_per_s": 1_000, "device_bytes_per_s": 16 * 1024 * 1024, "device_daily_windows": 10_000_000}
"""A bench sends in a minute what honest devices send in a year."""


def main() -> None:
    """Serve until the input ends."""
    folder, url, host, port, ca_file, has_quotas = sys.argv[1:7]
    more = {} if has_quotas == "quotas" else QUOTA
    settings = load_settings(Path(folder), database_url=url, device_port=8443, tenant="acme", **more)
    clock = SystemClock()
    parts = build_parts(settings, clock)
    endpoint = BrokerEndpoint(BrokerKind.MOSQUITTO, host, int(port), "5", Path(ca_file))
    gateway = Gateway(
        *(settings, endpoint, parts.fleet, parts.telemetry, parts.registry, parts.signing, clock), parts.costing.traffic
    )
    gateway.start()
    while not gateway.counters()["connects"]:
        time.sleep(0.01)
    collect_seldom()  # as the server does
    settle()
    print(json.dumps({"ready": True}), flush=True)
    for _ in sys.stdin:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        figures = {"cpu_s": usage.ru_utime + usage.ru_stime, "rss_mb": usage.ru_maxrss / 1024}
        drift = parts.telemetry._intake._drift
        figures["signals_left_out"] = 0 if drift is None else drift.left_out
        print(json.dumps({**figures, **gateway.counters(), "by_reason": dict(gateway.dropped())}), flush=True)
    gateway.stop()


if __name__ == "__main__":
    main()
