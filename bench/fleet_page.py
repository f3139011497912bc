"""The list of devices of a large fleet in a real browser: time to the first byte, first paint, page turn, search, bytes, DOM nodes.

Prints one JSON object. A fleet of `--devices` is written into SQLite (documents, reports, labels, groups, telemetry), a server process
serves it, and a client of plain HTTP and a Chromium look at it. Figures, with what they are held to:
- ttfb_p95_ms: from the request to the first byte of the answer, over all kinds of lists in turn (50 ms); `ttfb_ms` says it of each kind;
- cpu_ms: processor time of the server for one list of each kind: what is left of the figure above when the machine is busy;
- fcp_ms: median of the first contentful paint of the first page, nothing in the browser's cache for the page itself (400 ms);
- turn_ms, search_ms: median from a click on "next", or from Enter in the search box, to the paint of the new page (150, 350 ms);
- wire_kb: what the first page weighs with its styles and scripts, all compressed as they are sent (60 kB);
- nodes: elements of the document (1,500).

    python bench/fleet_page.py [--devices 10000] [--devices 100000] [--rounds 25] [--screenshots DIR]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import msgspec
import uvicorn
from sqlalchemy import insert, text

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.support.browsers import browser  # noqa: E402
from tests.support.servers import ApiHouse  # noqa: E402

from edgefleet_agent.reporting.collector import cpu_s  # noqa: E402
from edgefleet_protocol.sketch import LatencySketch  # noqa: E402
from edgefleet_server.access.model import Role  # noqa: E402
from edgefleet_server.clock import SystemClock  # noqa: E402
from edgefleet_server.composition.api_app import create_app  # noqa: E402
from edgefleet_server.composition.container import Parts, build_parts  # noqa: E402
from edgefleet_server.composition.dashboard_app import first_look  # noqa: E402
from edgefleet_server.dashboard.core.login import COOKIE  # noqa: E402
from edgefleet_server.dashboard.overview.first_look import FirstLook  # noqa: E402
from edgefleet_server.events.tables import FleetEvent  # noqa: E402
from edgefleet_server.fleet.tables import FleetDesired, FleetDevice, FleetModelState  # noqa: E402
from edgefleet_server.process.listener import listening_socket  # noqa: E402
from edgefleet_server.process.memory import collect_seldom, settle  # noqa: E402
from edgefleet_server.settings import load_settings  # noqa: E402
from edgefleet_server.telemetry.tables import TelemetryBatch, TelemetryWindow  # noqa: E402

GOALS = {"ttfb_p95_ms": 50.0, "fcp_ms": 400.0, "turn_ms": 150.0, "search_ms": 350.0, "wire_kb": 60.0, "nodes": 1500}
PROFILES = ("raspberry-pi-5-ort", "raspberry-pi-4-litert", "generic-x86_64-ort", "generic-aarch64-ort")
SITES = ("berlin", "hamburg", "wien", "graz")
GROUPS = {"berlin": "site=berlin", "line-4": "line=4", "prod": "env=prod,status!=revoked", "slow": "free_mb<800"}
LISTS = {
    "all": "/devices",
    "by_last_seen": "/devices?sort=-last_seen",
    "by_status": "/devices?sort=status",
    "offline": "/devices?selector=status%3Doffline",
    "label": "/devices?selector=site%3Dberlin",
    "two_labels": "/devices?selector=site%3Dberlin%2Cline%3D4&sort=-last_seen",
    "version": "/devices?selector=model.digits%3D1.1.0",
    "group": "/devices?selector=group%3Dprod",
    "word": "/devices?text=berl",
    "id": "/devices?text=cam-0000",
    "overview": "/",
}
WINDOWS = 8
NO_BUNDLE = "a" * 64
ROWS = 5_000
FCP = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime"


def main() -> int:
    """Run the benchmark and print its figures."""
    parser = line_parser(__doc__)
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve is not None:
        return _serve(args.serve)
    report("fleet_page", GOALS, args, lambda folder, devices: _one(folder, devices, args.rounds, args.screenshots))
    return 0


def line_parser(description: str | None) -> argparse.ArgumentParser:
    """Return what reads the command line of a benchmark on fleets of some sizes."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", type=int, action="append")
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--screenshots", type=Path)
    return parser


def report(
    bench: str, goals: Mapping[str, float], args: argparse.Namespace, look: Callable[[Path, int], dict[str, Any]]
) -> None:
    """Look at a fleet of each size, in a folder of its own, and print the figures with which goals they keep."""
    result: dict[str, Any] = {"bench": bench, "rounds": args.rounds, "goals": goals, "sizes": []}
    for devices in args.devices or [10_000, 100_000]:
        with tempfile.TemporaryDirectory(prefix="edgefleet-bench-") as folder:
            figures = {"devices": devices} | look(Path(folder), devices)
        figures["within"] = {name: figures[name] <= goal for name, goal in goals.items()}
        result["sizes"].append(figures)
    result["ok"] = all(all(one["within"].values()) for one in result["sizes"])
    result["machine"] = {
        "cpus": os.cpu_count(),
        "load": [round(one, 1) for one in os.getloadavg()],
        "arch": platform.machine(),
        "python": platform.python_version(),
    }
    print(json.dumps(result, indent=2))


def _one(folder: Path, devices: int, rounds: int, screenshots: Path | None) -> dict[str, Any]:
    house = ApiHouse(folder, clock=SystemClock())
    began = time.perf_counter()
    seed(house.parts, devices)
    seeded_s = time.perf_counter() - began
    token = house.token(Role.OPERATOR)
    house.close()
    with server(folder) as (url, pid):
        with httpx.Client(base_url=url, headers={"accept-encoding": "gzip"}, timeout=120) as client:
            cookie = client.post("/login", data={"token": token}).cookies[COOKIE]
            times, cpu = _first_bytes(client, rounds, pid)
        figures = _looks(url, cookie, rounds, screenshots, devices)
    every = sorted(one for some in times.values() for one in some)
    return figures | {
        "seeded_s": round(seeded_s, 1),
        "ttfb_p50_ms": round(every[len(every) // 2], 1),
        "ttfb_p95_ms": round(every[int(len(every) * 0.95)], 1),
        "cpu_ms": cpu,
        "ttfb_ms": {name: [round(statistics.median(some), 1), round(max(some), 1)] for name, some in times.items()},
    }


def _first_bytes(client: httpx.Client, rounds: int, pid: int) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Return how long each kind of list took to its first byte, and the server's processor time for one, in ms.

    The first look at each, which fills caches, is not counted; kinds come one after another, as many times as there are rounds.
    """
    found: dict[str, list[float]] = {name: [] for name in LISTS}
    cpu: dict[str, float] = {}
    for name, path in LISTS.items():
        first_byte_ms(client, path)
        before = 1000 * cpu_s(pid)
        found[name] = [first_byte_ms(client, path) for _ in range(rounds)]
        cpu[name] = round((1000 * cpu_s(pid) - before) / rounds, 1)
    return found, cpu


def first_byte_ms(client: httpx.Client, path: str) -> float:
    began = time.perf_counter()
    with client.stream("GET", path) as answer:
        took_ms = (time.perf_counter() - began) * 1000
        assert answer.status_code == 200, (path, answer.status_code)
        answer.read()
    return took_ms


def _looks(url: str, cookie: str, rounds: int, screenshots: Path | None, devices: int) -> dict[str, Any]:
    """Return what a browser sees."""
    paints, turns, searches = [], [], []
    with signed_in(url, cookie) as (page, problems, sizes):
        page.goto(url + "/devices", wait_until="load")
        time.sleep(0.3)
        wire = sum(sizes)
        nodes = page.evaluate("document.querySelectorAll('*').length")
        if screenshots is not None:
            screenshots.mkdir(parents=True, exist_ok=True)
            page.screenshot(path=screenshots / f"devices-{devices}.png", full_page=True)
        for _ in range(rounds):
            page.goto(url + "/devices", wait_until="load")
            paints.append(painted(page))
            turns.append(_until_painted(page, "document.querySelector('a[rel=next]').click()"))
            page.fill("#q", "berl site=berlin")
            searches.append(_until_painted(page, "document.querySelector('form[role=search]').requestSubmit()"))
    return {
        "fcp_ms": round(statistics.median(paints), 1),
        "turn_ms": round(statistics.median(turns), 1),
        "turn_max_ms": round(max(turns), 1),
        "search_ms": round(statistics.median(searches), 1),
        "search_max_ms": round(max(searches), 1),
        "wire_kb": round(wire / 1000, 1),
        "nodes": nodes,
        "console": problems,
    }


@contextmanager
def signed_in(url: str, cookie: str) -> Iterator[tuple[Any, list[str], list[int]]]:
    """Open a page in a browser; yield it, what its console said, and the sizes of the answers it got, in bytes."""
    with browser() as chromium:
        context = chromium.new_context(viewport={"width": 1280, "height": 900})
        context.add_cookies([{"name": COOKIE, "value": cookie, "url": url}])
        page = context.new_page()
        problems: list[str] = []
        page.on("console", lambda said: problems.append(said.text) if said.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: problems.append(str(error)))
        sizes: list[int] = []
        page.on("requestfinished", lambda request: sizes.append(_size(request)))
        yield page, problems, sizes
        context.close()


def _size(request: Any) -> int:
    sizes = request.sizes()
    return int(sizes["responseBodySize"] + sizes["responseHeadersSize"])


def painted(page: Any) -> float:
    """Return when the page was painted first, in ms since its navigation began. Asked again and again: the policy forbids waiting in it."""
    for _ in range(500):
        found = page.evaluate(FCP)
        if found is not None:
            return float(found)
        time.sleep(0.01)
    raise TimeoutError("the page was never painted")


def _until_painted(page: Any, act: str) -> float:
    """Return the milliseconds from an act to the first paint of the page that it leads to; the act is done in the page itself, for the
    tool that steers the browser looks twice before it clicks."""
    with page.expect_navigation(wait_until="load"):
        began = float(
            page.evaluate(f"(() => {{ const at = performance.timeOrigin + performance.now(); {act}; return at; }})()")
        )
    return float(page.evaluate("performance.timeOrigin")) + painted(page) - began


def seed(parts: Parts, devices: int, digests: Mapping[str, str] | None = None) -> None:
    """Write a fleet: every fourth device has trouble of one kind or another; telemetry is WINDOWS windows of each.

    digests: of bundles that there are, by target.
    """
    known = digests or {}
    now = parts.clock.now()
    for start in range(0, devices, ROWS):
        numbers = range(start, min(devices, start + ROWS))
        with parts.db.session() as session:
            connection = session.connection()
            connection.execute(insert(FleetDevice), [_device(n, now, known) for n in numbers])
            connection.execute(insert(FleetDesired), [_desired(n, now, known) for n in numbers])
            connection.execute(insert(FleetModelState), [_state(n, now, known) for n in numbers])
            connection.execute(insert(TelemetryBatch), [_batch(n, now) for n in numbers])
            connection.execute(
                insert(TelemetryWindow), [_window(n, k, now, known) for k in range(WINDOWS) for n in numbers]
            )
            connection.execute(insert(FleetEvent), [_event(n, now) for n in numbers])
    for name, selector in GROUPS.items():
        parts.fleet.groups.create(name, selector, "ann")
    with parts.db.session() as session:
        session.connection().execute(text("PRAGMA optimize"))


def device_id(number: int) -> str:
    """Return the id of a device."""
    return f"cam-{number:06}"


def _version(number: int) -> str:
    return "1.1.0" if number % 10 < 7 else "1.0.0"


def site_of(number: int) -> str:
    """Return where a device stands."""
    return SITES[number // 7 % 4]


def target_of(version: str, number: int) -> str:
    """Return the target of a version's bundle for a device."""
    return f"digits/{version}/{PROFILES[number % 4]}.bundle"


def running_target(number: int) -> str:
    """Return the target of the bundle that a device runs."""
    return target_of(_version(number), number)


def _model(number: int, gen: int, digests: Mapping[str, str]) -> dict[str, Any]:
    target = running_target(number)
    sha256 = digests.get(target, NO_BUNDLE)
    failed = number % 40 == 3
    return {
        "model": "digits",
        "phase": "rolled_back" if failed else "committed",
        "active_target": target,
        "active_sha256": sha256,
        "previous_target": target_of("1.0.0", number),
        "wanted_sha256": sha256,
        "gen": gen,
        "slot": "a",
        "serving": True,
        "error_class": "nonfinite" if failed else None,
        "error_code": "probation.nonfinite" if failed else "",
        "reason": "31 of 240 answers were not finite (12.9 %, at most 1 %)" if failed else "",
    }


def _device(number: int, now: Any, digests: Mapping[str, str]) -> dict[str, Any]:
    gen = 3
    return {
        "id": device_id(number),
        "profile": PROFILES[number % 4],
        "arch": "x86_64" if number % 4 == 2 else "aarch64",
        "public_key": "-----BEGIN PUBLIC KEY-----\n" + "A" * 160,
        "labels": {
            "site": site_of(number),
            "line": str(number // 3 % 12),
            "env": "prod" if number % 5 else "test",
            "rack": f"r{number % 977}",
        },
        "facts": {"arch": "aarch64", "board": "raspberry-pi-5", "ram_mb": 4096, "agent_version": "0.1.0"},
        "enrolled_at": now - timedelta(days=30),
        "cert_not_after": now + timedelta(days=300),
        "revoked_at": now if number % 200 == 7 else None,
        "is_online": None if number % 50 == 1 else number % 12 != 5,
        "conn_id": "c",
        "last_seen": None if number % 50 == 1 else now - timedelta(seconds=number * 37 % 86_400),
        "boot_id": "b",
        "state_seq": 5,
        "reported_gen": gen,
        "reported": {
            "gen": gen,
            "refused_gen": 0,
            "refused_code": "",
            "refused_reason": "",
            "agent_version": "0.1.0",
            "models": [_model(number, gen, digests)],
            "facts": {"disk_free_bytes": 10**9, "kernel": "6.1"},
        },
        "free_mb": 700 + number % 900,
    }


def _desired(number: int, now: Any, digests: Mapping[str, str]) -> dict[str, Any]:
    target = target_of("1.1.0" if number % 10 < 8 else "1.0.0", number)
    ref = {
        "target": target,
        "sha256": digests.get(target, NO_BUNDLE),
        "length": 123_456,
        "rollout": None,
        "attempt": 1,
        "not_before": None,
    }
    return {
        "device_id": device_id(number),
        "gen": 3,
        "models": {
            "digits": {"active": ref, "candidate": None, "mode": None, "share_pct": 0, "salt": ""},
        },
        "telemetry": {"profile": "normal", "until": None},
        "tasks": [],
        "envelope": b"e" * 1500,
        "issued_at": now,
        "expires_at": now + timedelta(days=7),
        "resign_at": now + timedelta(days=3),
        "changed_at": now,
    }


def _state(number: int, now: Any, digests: Mapping[str, str]) -> dict[str, Any]:
    model = _model(number, 3, digests)
    failed = model["phase"] == "rolled_back"
    return {
        "device_id": device_id(number),
        "model": "digits",
        "version": _version(number),
        "active_target": model["active_target"],
        "active_sha256": model["active_sha256"],
        "phase": model["phase"],
        "assignment": "rolled_back" if failed else "healthy",
        "error_class": model["error_class"],
        "changed_at": now - timedelta(seconds=number % 90_000),
    }


def _batch(number: int, now: Any) -> dict[str, Any]:
    system = {"memory_available_bytes": 10**9, "agent_rss_bytes": 3 * 10**7, "temperature_celsius": 50.0}
    key = {"device_id": device_id(number), "boot_id": "b", "seq": 1}
    return {**key, "at": now, "received_at": now, "system": system, "queue_bytes": 0, "dropped": 0}


_SKETCHES = []
for _n in range(40):
    _sketch = LatencySketch()
    for _k in range(60):
        _sketch.add(0.004 * (1 + _n / 20) + _k / 20_000)
    _SKETCHES.append((msgspec.msgpack.encode(_sketch.packed()), (_sketch.quantile_s(0.95) or 0.0) * 1000))


def _window(number: int, which: int, now: Any, digests: Mapping[str, str]) -> dict[str, Any]:
    latency, p95_ms = _SKETCHES[(number + which * 7) % len(_SKETCHES)]
    at = now - timedelta(minutes=15 * (WINDOWS - which))
    return {
        "device_id": device_id(number), "model": "digits", "lane": "active",
        "sha256": digests.get(running_target(number), NO_BUNDLE), "version": _version(number),
        "t0": at, "length_s": 900, "received_at": at, "n": 900, "errors": number % 3, "timeouts": 0, "nonfinite": 0,
        "crashes": 0, "latency": latency, "latency_p95_ms": p95_ms, "classes": b"\x90", "worker_rss_bytes": 10**8,
        "worker_cpu_s": 1.5, "joules_per_answer": -1.0, "shadow": None,
    }  # fmt: skip


def _event(number: int, now: Any) -> dict[str, Any]:
    return {
        "device_id": device_id(number), "boot_id": None, "seq": None, "at": now, "received_at": now, "kind": "desired",
        "model": "digits", "rollout_id": None, "detail": {"release": "digits@1.1.0", "gen": 3, "by": "ann"},
    }  # fmt: skip


@contextmanager
def server(folder: Path) -> Iterator[tuple[str, int]]:
    """Run a server process on the fleet in a folder; yield its address and its process id."""
    child = subprocess.Popen([sys.executable, __file__, "--serve", str(folder)], stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None
        yield child.stdout.readline().strip(), child.pid
    finally:
        child.terminate()
        child.wait(120)


def _serve(folder: Path) -> int:
    parts = build_parts(load_settings(folder), SystemClock())
    listening = listening_socket("127.0.0.1", 0)
    app = create_app(parts)
    config = uvicorn.Config(app, log_level="warning", access_log=False, lifespan="off")
    server = uvicorn.Server(config)
    collect_seldom()  # as every server's process does
    settle()
    look = first_look(parts, app)
    threading.Thread(target=_announce, args=(server, listening.getsockname()[1], look), daemon=True).start()
    server.run(sockets=[listening])
    parts.db.dispose()
    return 0


def _announce(server: uvicorn.Server, port: int, look: FirstLook) -> None:
    while not server.started:
        time.sleep(0.02)
    print(f"http://127.0.0.1:{port}", flush=True)
    while True:  # as the listener of every server's process does
        time.sleep(1)
        look.renew()


if __name__ == "__main__":
    raise SystemExit(main())
