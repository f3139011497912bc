"""What a report of costs takes for a large fleet: by model, by group, and by group from whole roll-ups, in processor time.

Prints one JSON object. SQLite in a folder of its own; roll-ups and bytes are rows as ingest writes them: each model has a series a cohort,
and each cohort is a set of groups. `full_reading` is the obvious other way: the sums of windows that charts are made of, with all their
latencies, added up by group. The report reads only the three counts that it shows. Both are measured in turns, and the answers are
compared first. Exit code 1 when the report by group takes more than GOAL_RATIO of the full reading.

    python bench/cost_report.py [--sets 120] [--models 10] [--days 30] [--rounds 3]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import insert

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.support.servers import ApiHouse  # noqa: E402

from edgefleet_server.clock import SystemClock  # noqa: E402
from edgefleet_server.costing.model import CostBy  # noqa: E402
from edgefleet_server.costing.tables import CostGroupSet, CostTraffic  # noqa: E402
from edgefleet_server.telemetry.rollups.model import Dimension  # noqa: E402
from edgefleet_server.telemetry.rollups.step_fold import ALL  # noqa: E402
from edgefleet_server.telemetry.rollups.tables import TelemetryCohort, TelemetryRollup, TelemetrySeries  # noqa: E402
from edgefleet_server.telemetry.rollups.totals import WindowTotal, stored  # noqa: E402

DAY_S = 86_400
GOAL_RATIO = 0.5
GROUPS = 40
KINDS = ("telemetry", "predictions", "bundle")
BUCKETS, CLASSES = 40, 10
"""Of a day's sums: latencies of a model on many devices lie in so many buckets."""
BATCH = 5_000


def seed(house: ApiHouse, sets: int, models: int, days: int) -> dict[str, int]:
    """Write the rows of a fleet; return how many there are."""
    chance = random.Random(7)
    names = [sorted({f"group-{chance.randrange(GROUPS):02}" for _ in range(3)}) for _ in range(sets)]
    today = int(house.clock.now().timestamp()) // DAY_S * DAY_S
    moments = [today - DAY_S * n for n in range(days + 1)]
    with house.parts.db.session() as session:
        put = session.connection().execute
        put(insert(CostGroupSet), [{"id": n + 1, "digest": f"{n:064x}", "groups": one} for n, one in enumerate(names)])
        cohorts = [
            {"id": n + 1, "digest": f"{n:064x}", "profile": "p", "site": "", "groups": one}
            for n, one in enumerate(names)
        ]
        put(insert(TelemetryCohort), cohorts)
        series = list(_series(models, [ALL, *range(1, sets + 1)]))
        put(insert(TelemetrySeries), series)
        rollups = [
            {"scale_s": DAY_S, "series_id": one["id"], "at": at, "sums": _sums(chance)}
            for one in series
            for at in moments
        ]
        traffic = [
            {"scale_s": DAY_S, "at": at, "model": _model(model), "kind": kind, "groups_id": group + 1, "n": 96,
             "bundle": _sha256(model) if kind == "bundle" else "", "bytes": chance.randrange(10**6)}
            for at in moments for model in range(models) for group in range(sets) for kind in KINDS
        ]  # fmt: skip
        for table, rows in ((TelemetryRollup, rollups), (CostTraffic, traffic)):
            for start in range(0, len(rows), BATCH):
                put(insert(table), rows[start : start + BATCH])
    return {"rollups": len(rollups), "bytes": len(traffic), "series": len(series)}


def _series(models: int, cohorts: list[int]) -> Iterator[dict[str, Any]]:
    places = [(model, cohort) for model in range(models) for cohort in cohorts]
    for number, (model, cohort) in enumerate(places, 1):
        yield {
            "id": number, "kind": "model", "model": _model(model), "version": "1.0.0", "sha256": _sha256(model), "lane": "active",
            "cohort_id": cohort,
        }  # fmt: skip


def _model(number: int) -> str:
    return f"model-{number:02}"


def _sha256(model: int) -> str:
    return f"{model:064x}"


def _sums(chance: random.Random) -> bytes:
    counts = [96, 86_400, chance.randrange(10**5), 0, 0, 0, 0, 10**7, 0, 0]
    latency = [chance.randrange(10**4) for _ in range(BUCKETS)]
    return stored(WindowTotal(counts, [chance.randrange(10**4) for _ in range(CLASSES)], 300, latency))


def cpu_ms(act: Callable[[], Any]) -> float:
    """Return the processor time that a call takes."""
    began = time.process_time()
    act()
    return 1000 * (time.process_time() - began)


def measured(house: ApiHouse, rounds: int, days: int) -> dict[str, float]:
    """Return the median processor time of each way in ms. Raises LookupError where both ways differ."""
    book, rollups, now = house.parts.costing.book, house.parts.telemetry.rollups, house.clock.now()
    by = (Dimension.MODEL, Dimension.SHA256, Dimension.GROUP)

    def full_reading() -> Mapping[str, float]:
        found: dict[str, float] = {}
        steps = rollups.models(
            DAY_S,
            now - timedelta(days=days + 1),
            now,
            by=by,
            where={Dimension.LANE: ("active",)},
            step_s=DAY_S * 100_000,
        )
        for one in steps:
            found[one.key[2]] = found.get(one.key[2], 0.0) + one.sums.seconds / 3600
        return found

    since = now - timedelta(days=days + 1)
    shown = {one.name: one.device_hours for one in book.report(by=CostBy.GROUP, since=since).lines}
    if full_reading() != shown:
        raise LookupError("the report and the full reading differ")
    ways: dict[str, Callable[[], Any]] = {
        "by_model": lambda: book.report(by=CostBy.MODEL, since=since),
        "by_group": lambda: book.report(by=CostBy.GROUP, since=since),
        "full_reading": full_reading,
    }
    took: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, act in ways.items():
            took[name].append(cpu_ms(act))
    return {name: round(statistics.median(times), 1) for name, times in took.items()}


def main() -> int:
    """Run the benchmark and print its figures; 1 when the goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", type=int, default=120, help="Sets of groups that devices are in")
    parser.add_argument("--models", type=int, default=10)
    parser.add_argument("--days", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="edgefleet-bench-") as folder:
        house = ApiHouse(Path(folder), clock=SystemClock())
        rows = seed(house, args.sets, args.models, args.days)
        found = measured(house, args.rounds, args.days)
        house.close()
    ratios = {
        "by_group_to_full_reading": round(found["by_group"] / found["full_reading"], 2)
        if found["full_reading"]
        else None,
        "by_group_to_by_model": round(found["by_group"] / found["by_model"], 2) if found["by_model"] else None,
    }
    ratio = ratios["by_group_to_full_reading"]
    machine = {"cpus": os.cpu_count(), "load": [round(one, 1) for one in os.getloadavg()], "arch": platform.machine()}
    result = {
        "bench": "cost_report",
        **vars(args),
        "rows": rows,
        "cpu_ms": found,
        "ratios": ratios,
        "goal_ratio": GOAL_RATIO,
    }
    result |= {"ok": ratio is not None and ratio <= GOAL_RATIO, "machine": machine}
    print(json.dumps(result, indent=2))
    return 0 if result["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
