"""A month of 10,000 devices in roll-ups, and what their charts take.

The devices are of 5 profiles, 20 sites and 5 groups: 100 cohorts of 100 devices each. They run one model, two versions of it in turn,
with windows of 15 minutes of 900 answers. Hours are stored as `RollupWriter` stores them; each cohort has one of 50 different hours.
"""

import random
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlmodel import Session
from tests.server.fleet.house import House
from tests.support import databases

from edgefleet_server.clock import SystemClock
from edgefleet_server.telemetry.rollups import store
from edgefleet_server.telemetry.rollups.model import Dimension
from edgefleet_server.telemetry.rollups.rollup_reader import RollupReader
from edgefleet_server.telemetry.rollups.rollup_writer import MODEL
from edgefleet_server.telemetry.rollups.step_fold import ALL, SeriesKey
from edgefleet_server.telemetry.rollups.totals import WindowTotal, stored

HOURS = 24 * 30
HOUR_S = 3_600
DEVICES, COHORTS = 10_000, 100
LOOKS = 5
MODEL_NAME = "digits"


def measured(kind: str) -> dict[str, Any]:
    """Return milliseconds of processor time and of waiting for charts of a month."""
    with (
        tempfile.TemporaryDirectory(prefix="ef-charts-") as folder,
        databases.new(kind, Path(folder, "server.db"), is_empty=False) as url,
    ):
        house = House(url, Path(folder), SystemClock(), tenant="acme")
        until = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
        with house.db.session() as session:
            rows = _fill(session, int(until.timestamp()))
        reader, since = house.telemetry.rollups, until - timedelta(hours=HOURS)
        return {"rows": rows, "devices": DEVICES, "cohorts": COHORTS, **_looks(reader, since, until)}


def _looks(reader: RollupReader, since: datetime, until: datetime) -> dict[str, Any]:
    mine = {Dimension.MODEL: [MODEL_NAME], Dimension.LANE: ["active"]}
    charts: dict[str, Callable[[], list[Any]]] = {
        "fleet": lambda: reader.models(HOUR_S, since, until, by=(Dimension.VERSION,), where=mine),
        "site": lambda: reader.models(
            HOUR_S, since, until, by=(Dimension.VERSION,), where={**mine, Dimension.SITE: ["site-7"]}
        ),
        "by_profile": lambda: reader.models(HOUR_S, since, until, by=(Dimension.PROFILE,), where=mine),
        "by_profile_by_day": lambda: reader.models(86_400, since, until, by=(Dimension.PROFILE,), where=mine),
    }
    found: dict[str, Any] = {}
    for name, look in charts.items():
        steps, cpu_ms, wall_ms = 0, [], []
        for _ in range(LOOKS):
            cpu, wall = time.process_time(), time.perf_counter()
            steps = len(look())
            cpu_ms.append((time.process_time() - cpu) * 1000)
            wall_ms.append((time.perf_counter() - wall) * 1000)
        found[name] = {
            "points": steps,
            "cpu_ms": round(statistics.median(cpu_ms), 1),
            "wall_ms": round(statistics.median(wall_ms), 1),
        }
    return found


def _fill(session: Session, end: int) -> int:
    draw = random.Random(1)
    hours = [_hour(draw, DEVICES // COHORTS) for _ in range(50)]
    cohorts = {
        f"{at:064x}": {
            "digest": f"{at:064x}",
            "profile": f"profile-{at % 5}",
            "site": f"site-{at // 5}",
            "groups": [f"group-{at % 5}"],
        }
        for at in range(COHORTS)
    }
    ids = [ALL, *store.cohort_ids(session, cohorts).values()]
    versions = ("1.0.0", "1.1.0")
    keys: list[SeriesKey] = [
        (MODEL, MODEL_NAME, version, f"{at:064x}", "active", cohort)
        for at, version in enumerate(versions)
        for cohort in ids
    ]
    store.add_series(session, keys)
    numbers = {key: number for number, key in store.series(session)}
    packed = [stored(one) for one in hours]
    whole = stored(WindowTotal.summed(hours * (COHORTS // len(hours))))
    rows = [
        {"scale_s": scale, "series_id": numbers[key], "at": at, "sums": whole if key[5] == ALL else draw.choice(packed)}
        for scale, steps in ((HOUR_S, HOURS), (86_400, HOURS // 24 + 1))
        for key in keys
        for at in range(end // scale * scale - (steps - 1) * scale, end + 1, scale)
    ]
    for start in range(0, len(rows), 10_000):
        store.set_rows(session, rows[start : start + 10_000])
    return len(rows)


def _hour(draw: random.Random, devices: int) -> WindowTotal:
    """Return an hour of a cohort: four windows of each device."""
    windows = 4 * devices
    latency = [round(windows * 900 * 0.04 * draw.uniform(0.5, 1.5)) for _ in range(30)]
    classes = [draw.randint(20_000, 90_000) for _ in range(4)]
    return WindowTotal(
        [windows, windows * 900, windows * 900, draw.randint(0, 50), 0, 0, 0, 10**9, 0, 0], classes, 420, latency
    )
