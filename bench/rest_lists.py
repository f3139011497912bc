"""How long the API takes to list and to find in a large fleet: p50, p95 over HTTP, SQLite, one server process.

Prints one JSON object. All services are real, uvicorn serves on loopback. The devices are rows as enrolment makes them, with labels and
a report of the usual size, written in bulk. Each request is sent `--rounds` times, after one that is not counted.

    python bench/rest_lists.py [--devices 100000] [--rounds 40]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
from sqlalchemy import insert

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.server.dashboard.serving import served  # noqa: E402
from tests.support.servers import PROFILE, ApiHouse  # noqa: E402

from edgefleet_server.access.model import Role  # noqa: E402
from edgefleet_server.fleet.tables import FleetDevice  # noqa: E402

SITES = 50
BATCH = 5_000
REQUESTS: dict[str, tuple[str, dict[str, Any]]] = {
    "first_page": ("/devices", {"limit": 50}),
    "label_selector": ("/devices", {"limit": 50, "selector": "site=s7"}),
    "two_labels": ("/devices", {"limit": 50, "selector": "site in (s7,s8),ring!=canary"}),
    "by_last_seen": ("/devices", {"limit": 50, "sort": "-last_seen"}),
    "by_status": ("/devices", {"limit": 50, "sort": "status"}),
    "label_by_last_seen": ("/devices", {"limit": 50, "sort": "-last_seen", "selector": "site=s7"}),
    "most_rows": ("/devices", {"limit": 500}),
    "most_rows_two_fields": ("/devices", {"limit": 500, "fields": "id,status"}),
    "search_id": ("/search", {"q": "d-0042"}),
    "search_label": ("/search", {"q": "s49"}),
    "search_nothing": ("/search", {"q": "no such thing"}),
    "one_device": ("/devices/d-0000042", {}),
    "summary": ("/fleet/summary", {}),
}


def seed(house: ApiHouse, devices: int) -> None:
    """Write device rows."""
    now = house.clock.now()
    report = {"agent_version": "0.1.0", "models": [], "facts": {"hostname": "h" * 40, "kernel": "k" * 200}}
    for start in range(0, devices, BATCH):
        rows = [
            {
                "id": f"d-{n:07}", "profile": PROFILE, "arch": "x86_64", "public_key": "k" * 180,
                "labels": {"site": f"s{n % SITES}", "ring": "canary" if n % 20 == 0 else "rest"}, "facts": {"ram_mb": 2048},
                "enrolled_at": now, "cert_not_after": now + timedelta(days=90), "is_online": n % 10 != 0,
                "conn_id": "c", "last_seen": now - timedelta(seconds=n * 37 % 86_400),
                "boot_id": "b", "state_seq": 1, "reported_gen": 1, "reported": report,
            }
            for n in range(start, min(devices, start + BATCH))
        ]  # fmt: skip
        with house.parts.db.session() as session:
            session.connection().execute(insert(FleetDevice), rows)


def measure(client: httpx.Client, path: str, params: dict[str, Any], rounds: int) -> dict[str, float]:
    """Return p50 and p95 in milliseconds, and the bytes on the wire."""
    took = []
    for n in range(rounds + 1):
        began = time.perf_counter()
        answer = client.get(f"/api/v1{path}", params=params)
        if n:
            took.append((time.perf_counter() - began) * 1000)
        answer.raise_for_status()
    cuts = statistics.quantiles(took, n=20)
    size = int(answer.headers.get("content-length", 0))
    return {"p50_ms": round(statistics.median(took), 1), "p95_ms": round(cuts[18], 1), "bytes": size}


def main() -> None:
    """Run the benchmark and print its figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=40)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="edgefleet-bench-") as folder:
        house = ApiHouse(Path(folder), rate_limit_per_min=0)
        seed(house, args.devices)
        headers = {"authorization": f"Bearer {house.token(Role.VIEWER)}"}
        with served(house.app) as url, httpx.Client(base_url=url, headers=headers, timeout=120) as client:
            found = {name: measure(client, *request, args.rounds) for name, request in REQUESTS.items()}
        house.close()
    load = os.getloadavg()[0]
    print(
        json.dumps({"bench": "rest_lists", "devices": args.devices, "rounds": args.rounds, "load": load, "ms": found})
    )


if __name__ == "__main__":
    main()
