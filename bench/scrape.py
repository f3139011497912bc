"""What a scrape of `/metrics` with a viewer token costs: processor time when it asks the database, and in between.

Prints one JSON object. A fleet of `--devices` in 10 groups, with two models of two releases each, is written into SQLite; up to
`--reporting` devices have sent a window of each release. API and client run in this process. `loaded_ms` is the median of scrapes that
ask the database, `kept_ms` of those right after them.

    python bench/scrape.py [--devices 100] [--devices 10000] [--rounds 20] [--reporting 200]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.server.observability.fleets import MODELS, VERSIONS, make_fleet  # noqa: E402
from tests.server.observability.reports import report  # noqa: E402
from tests.support.servers import ApiClient, ApiHouse  # noqa: E402

from edgefleet_server.access.model import Role  # noqa: E402

LATER_S = 60


def scraped(client: ApiClient) -> tuple[float, str]:
    """Return the processor time of one scrape in milliseconds, and its text."""
    before = time.process_time()
    answer = client.get("/metrics")
    took = 1000 * (time.process_time() - before)
    answer.raise_for_status()
    return took, answer.text


def measure(folder: Path, devices: int, rounds: int, reporting: int) -> dict[str, Any]:
    """Return the figures of one size."""
    house = ApiHouse(folder)
    make_fleet(house, devices)
    now_s = house.clock.now().timestamp()
    releases = [(model, version) for model in MODELS for version in VERSIONS]
    for number in range(min(devices, reporting)):
        for seq, (model, version) in enumerate(releases, start=1):
            report(house.parts.telemetry, f"dev-{number:06}", model, version, seq=seq, now_s=now_s)
    client = house.client(Role.VIEWER)
    scraped(client)
    loaded, kept, text = [], [], ""
    for _ in range(rounds):
        house.clock.turn(seconds=LATER_S)
        loaded.append(scraped(client)[0])
        took, text = scraped(client)
        kept.append(took)
    house.parts.db.dispose()
    return {
        "devices": devices,
        "series": sum(not line.startswith("#") for line in text.splitlines()),
        "loaded_ms": round(statistics.median(loaded), 1),
        "kept_ms": round(statistics.median(kept), 1),
    }


def main() -> int:
    """Run the benchmark and print its figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", type=int, action="append")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--reporting", type=int, default=200)
    args = parser.parse_args()
    sizes = []
    for devices in args.devices or [100, 10_000]:
        with tempfile.TemporaryDirectory(prefix="edgefleet-bench-") as folder:
            sizes.append(measure(Path(folder), devices, args.rounds, args.reporting))
    machine = {"cpus": os.cpu_count(), "load": [round(one, 1) for one in os.getloadavg()], "arch": platform.machine()}
    print(json.dumps({"bench": "scrape", "rounds": args.rounds, "sizes": sizes, "machine": machine}, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
