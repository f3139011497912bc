"""Charts of a month of a large fleet: how long the server takes for figures over time, for pages with them, and for why latency rose.

Prints one JSON object. Roll-ups of a month of `--devices` devices (a window every 15 minutes from each: 3 versions of one model and one
of another, 4 profiles, 10 sites, 3 groups) are written as the real writer makes them, at the scales that charts of a month and of a week
read; then the services, the API and the pages are asked in this process. Figures, in ms of processor time, with what they are held to:
- service_ms: first, median and largest of `TimelineReader.read` for 30 days in the steps of the page (median 100 ms), by scope and lines;
  the first adds up all rows, others what changed;
- page_ms: the whole page, rendered, by the API app without a network (100 ms for the charts of fleet and model);
- api_ms: JSON of 1,500 points at most; explain_ms: why latency rose over all devices (not held to a goal).

    python bench/charts.py [--devices 10000] [--rounds 7]
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
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.server.dashboard.fleet import ORT, Fleet  # noqa: E402

from edgefleet_protocol.ids import ModelName  # noqa: E402
from edgefleet_protocol.sketch import LatencySketch  # noqa: E402
from edgefleet_server.access.model import Role  # noqa: E402
from edgefleet_server.composition.container import Parts  # noqa: E402
from edgefleet_server.dashboard.timelines.charts import SPANS  # noqa: E402
from edgefleet_server.process.memory import collect_seldom, settle  # noqa: E402
from edgefleet_server.telemetry.rollups import store  # noqa: E402
from edgefleet_server.telemetry.rollups.model import SCALES, Cohort  # noqa: E402
from edgefleet_server.telemetry.rollups.rollup_writer import MODEL, NO_BUNDLE, SYSTEM  # noqa: E402
from edgefleet_server.telemetry.rollups.step_fold import ALL  # noqa: E402
from edgefleet_server.telemetry.rollups.tables import TelemetryCohort  # noqa: E402
from edgefleet_server.telemetry.rollups.totals import FIGURES, SystemTotal, WindowTotal, stored  # noqa: E402
from edgefleet_server.telemetry.timelines.model import LinesBy, Scope  # noqa: E402

GOAL_MS = 100.0
DAYS = 30
PROFILES = ("raspberry-pi-5-ort", "raspberry-pi-4-litert", "generic-x86_64-ort", "jetson-orin-ort")
SITES = tuple(f"site-{n}" for n in range(10))
GROUPS = (("berlin",), ("berlin", "prod"), ("prod",))
MODELS = (("digits", "1.0.0"), ("digits", "1.1.0"), ("digits", "1.2.0"), ("pump", "2.0.0"))
WINDOW_S = 900
ASKED = (
    ("fleet", Scope.FLEET, "", None),
    ("model", Scope.MODEL, "digits", None),
    ("model by profile", Scope.MODEL, "digits", LinesBy.PROFILE),
    ("model by site", Scope.MODEL, "digits", LinesBy.SITE),
    ("group", Scope.GROUP, "berlin", None),
)


def main() -> int:
    """Run the benchmark and print its figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="edgefleet-bench-") as folder:
        fleet = Fleet(Path(folder) / "server")
        began = time.perf_counter()
        rows = seed(fleet, args.devices)
        result = {
            "bench": "charts",
            "devices": args.devices,
            "days": DAYS,
            "rows": rows,
            "seeded_s": round(time.perf_counter() - began, 1),
            "goal_ms": GOAL_MS,
            **_settled(fleet, args.rounds),
        }
        fleet.close()
    result["ok"] = all(one["median"] <= GOAL_MS for name in ("service_ms", "page_ms") for one in result[name].values())
    result["machine"] = {
        "cpus": os.cpu_count(),
        "load": [round(one, 1) for one in os.getloadavg()],
        "arch": platform.machine(),
        "python": platform.python_version(),
    }
    print(json.dumps(result, indent=2))
    return 0


def _settled(fleet: Fleet, rounds: int) -> dict[str, Any]:
    """Measure with the garbage collector as every server's process has it."""
    collect_seldom()
    settle()
    return _measured(fleet, rounds)


def _measured(fleet: Fleet, rounds: int) -> dict[str, Any]:
    parts, now = fleet.parts, fleet.house.clock.now()
    length, points = SPANS["30d"]

    def read(scope: Scope, name: str, by: LinesBy | None) -> Callable[[], Any]:
        return lambda: parts.timelines.reader.read(scope, name, now - length, now, by=by, points=points)

    client, browser = fleet.house.client(Role.VIEWER), fleet.browser(Role.VIEWER)
    pages = {"fleet": "/fleet?span=30d", "model": "/models/digits?span=30d", "overview": "/"}
    since = (now - length).isoformat()
    return {
        "service_ms": {label: _timed(read(scope, name, by), rounds) for label, scope, name, by in ASKED},
        "page_ms": {name: _timed(partial(_got, browser, path), rounds) for name, path in pages.items()},
        "api_ms": {
            name: _timed(partial(_got, client, f"/api/v1/{path}?since={since}".replace("+", "%2B")), rounds)
            for name, path in (("fleet", "fleet/metrics"), ("model", "models/digits/metrics"))
        },
        "explain_ms": _timed(
            lambda: parts.timelines.explainer.explain(ModelName("digits"), now - timedelta(days=1), now), 3
        ),
    }


def _got(client: Any, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 200, (path, answer.status_code, answer.text[:300])


def _timed(act: Callable[[], Any], rounds: int) -> dict[str, float]:
    """Return the first time, which fills caches, and median and largest of those after it, in ms."""
    took = []
    for _ in range(rounds + 1):
        began = time.process_time()
        act()
        took.append((time.process_time() - began) * 1000)
    return {
        "first": round(took[0], 1),
        "median": round(statistics.median(took[1:]), 1),
        "largest": round(max(took[1:]), 1),
    }


def seed(fleet: Fleet, devices: int) -> int:
    """Write the roll-ups of a month; return how many rows."""
    for model, version in MODELS:
        fleet.release(f"{model}@{version}", ORT)
    fleet.parts.fleet.groups.create("berlin", "site=site-0", "ann")
    spans = {scale: timedelta(days=DAYS if scale > WINDOW_S else 2) for scale in SCALES[1:]}
    bundles = [(*one, "a" * 64) for one in MODELS]
    return write_rollups(fleet.parts, devices, bundles, cohorts_of(PROFILES, SITES, GROUPS), spans)


def cohorts_of(profiles: Sequence[str], sites: Sequence[str], groups: Sequence[Sequence[str]]) -> list[Cohort]:
    """Return a cohort for each of what devices have in common."""
    return [Cohort(profile, site, tuple(some)) for profile in profiles for site in sites for some in groups]


def write_rollups(
    parts: Parts,
    devices: int,
    bundles: Sequence[tuple[str, str, str]],
    cohorts: Sequence[Cohort],
    spans: Mapping[int, timedelta],
) -> int:
    """Write roll-ups until now; return how many rows. bundles: model, version, digest; spans: how far back, by scale."""
    end = int(parts.clock.now().timestamp())
    with parts.db.session() as session:
        for number, one in enumerate(cohorts, 1):
            session.add(
                TelemetryCohort(
                    id=number, digest=f"{number}", profile=one.profile, site=one.site, groups=list(one.groups)
                )
            )
        session.flush()
        every = (ALL, *range(1, len(cohorts) + 1))
        keys = [(MODEL, *bundle, "active", cohort) for bundle in bundles for cohort in every]
        keys += [(SYSTEM, *NO_BUNDLE, cohort) for cohort in every]
        store.add_series(session, keys)
        session.flush()
        numbers = {key: number for number, key in store.series(session)}
    rng = random.Random(1)
    shapes = [_sketch(rng, 4 + which) for which in range(8)]
    total = 0
    for scale, span in spans.items():
        begin = (end - int(span.total_seconds())) // scale * scale
        for key, number in numbers.items():
            share = devices if key[5] == ALL else devices // len(cohorts)
            rows = [
                {"scale_s": scale, "series_id": number, "at": at, "sums": _row(key, share, scale, shapes, at)}
                for at in range(begin, end, scale)
            ]
            total += len(rows)
            with parts.db.session() as session:
                store.set_rows(session, rows)
    return total


def _sketch(rng: random.Random, scale_ms: float) -> tuple[int, list[int]]:
    sketch = LatencySketch()
    for _ in range(20_000):
        sketch.add(scale_ms / 1000 * rng.lognormvariate(0, 0.5))
    first = min(sketch.counts)
    return first, [sketch.counts.get(bucket, 0) for bucket in range(first, max(sketch.counts) + 1)]


def _row(key: Any, devices: int, scale: int, shapes: list[Any], at: int) -> bytes:
    windows = max(1, devices * scale // WINDOW_S)
    if key[0] == SYSTEM:
        each = len(FIGURES)
        return stored(SystemTotal(windows, [windows] * each, [0.5 * windows] * each, [0.9] * each))
    first, counts = shapes[(at // scale + key[5]) % len(shapes)]
    n = 900 * windows
    factor = max(1, n // 20_000)
    latency = [count * factor for count in counts]
    sums = [windows, windows * WINDOW_S, sum(latency), windows // 10, 0, 0, 0, windows * 10**6, 0, 0]
    return stored(WindowTotal(sums, [n // 2, n // 3, n // 6], first, latency))


if __name__ == "__main__":
    raise SystemExit(main())
