"""How long the API and the search of the pages take in a large fleet: p50, p95 over HTTP, SQLite or PostgreSQL, one server process.

Prints one JSON object. The server is a process of its own on loopback. The devices are rows as enrolment makes them, with labels (one of
them different on each device), names and a report of the usual size, written in bulk. The requests are those that pages and `edgectl`
send. Each is sent `--rounds` times, after one that is not counted (`cold_ms`: the first of its kind of a new server); one that finds
nothing where there is something ends the run. `cpu_ms` is the server's processor time for one: what is left when the machine is busy.

`search` compares, in turns, looking for a text through the narrow rows that a search has (ADR 0164) and through the devices' own rows,
as before: milliseconds of waiting for each, and the ratio.

`connections` compares a request on a kept connection with one on a new connection, in turns. A kept one saves the server work, so it
takes no longer. Where head and body of an answer leave in two packets and the second waits for the acknowledgement of the first, it
takes 40 ms longer. Exit code 1 when one of the ratios is above GOAL_RATIO.

    python bench/rest_lists.py [--devices 100000] [--rounds 40] [--kept 400] [--database sqlite|postgresql]
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
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
from sqlalchemy import Text, cast, func, insert, select, text
from sqlmodel import col

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from bench import fleet_page  # noqa: E402
from tests.support.postgres import own_server  # noqa: E402
from tests.support.servers import PROFILE, ApiHouse  # noqa: E402

from edgefleet_agent.reporting.collector import cpu_s  # noqa: E402
from edgefleet_server.access.model import Role  # noqa: E402
from edgefleet_server.clock import SystemClock  # noqa: E402
from edgefleet_server.db.database import Database  # noqa: E402
from edgefleet_server.fleet.inventory.search import InventorySearch  # noqa: E402
from edgefleet_server.fleet.tables import FleetDevice  # noqa: E402

SITES = 50
RACKS = 1_000
NOTHING = {"q": "no such thing"}
NAMED, NAMED_REST = 10, 2
"""One of so many devices has a name: those whose number leaves this rest."""
BATCH = 5_000
GOAL_RATIO = 1.2
TURNS = 10
SMALL = "/api/v1/devices/d-0000042"
API = "/api/v1"
REQUESTS: dict[str, tuple[str, dict[str, Any]]] = {
    "first_page": (f"{API}/devices", {"limit": 50}),
    "label_selector": (f"{API}/devices", {"limit": 50, "selector": "site=s7"}),
    "two_labels": (f"{API}/devices", {"limit": 50, "selector": "site in (s7,s8),ring!=canary"}),
    "by_last_seen": (f"{API}/devices", {"limit": 50, "sort": "-last_seen"}),
    "by_status": (f"{API}/devices", {"limit": 50, "sort": "status"}),
    "by_health": (f"{API}/devices", {"limit": 50, "sort": "health"}),
    "label_by_last_seen": (f"{API}/devices", {"limit": 50, "sort": "-last_seen", "selector": "site=s7"}),
    "not_revoked": (f"{API}/devices", {"limit": 50, "selector": "status!=revoked"}),
    "offline": (f"{API}/devices", {"limit": 50, "selector": "status=offline"}),
    "unhealthy": (f"{API}/devices", {"limit": 50, "selector": "health!=healthy"}),
    "little_room": (f"{API}/devices", {"limit": 50, "selector": "free_mb<100"}),
    "without_label": (f"{API}/devices", {"limit": 50, "selector": "!shelf"}),
    "most_rows": (f"{API}/devices", {"limit": 500}),
    "most_rows_two_fields": (f"{API}/devices", {"limit": 500, "fields": "id,status"}),
    "search_id": (f"{API}/search", {"q": "d-00004"}),
    "search_inside_id": (f"{API}/search", {"q": "0042"}),
    "search_name": (f"{API}/search", {"q": "gate 42"}),
    "search_label": (f"{API}/search", {"q": "s49"}),
    "search_serial": (f"{API}/search", {"q": "sn-0000294"}),
    "search_nothing": (f"{API}/search", NOTHING),
    "one_device": (f"{API}/devices/d-0000042", {}),
    "summary": (f"{API}/fleet/summary", {}),
    "page_of_search": ("/find/list", {"q": "0042"}),
    "page_of_nothing": ("/find/list", NOTHING),
    "page_of_devices": ("/devices", {}),
    "page_of_text": ("/devices", {"text": "s49"}),
    "overview": ("/", {}),
}


def seed(house: ApiHouse, devices: int) -> None:
    """Write device rows."""
    now = house.clock.now()
    report = {"agent_version": "0.1.0", "models": [], "facts": {"hostname": "h" * 40, "kernel": "k" * 200}}
    for start in range(0, devices, BATCH):
        rows = [
            {
                "id": f"d-{n:07}", "profile": PROFILE, "arch": "x86_64", "public_key": "k" * 180,
                "labels": {
                    "site": f"s{n % SITES}", "ring": "canary" if n % 20 == 0 else "rest",
                    "rack": f"r{n % RACKS}", "serial": f"SN-{n * 7:07}",
                },
                "facts": {"ram_mb": 2048}, "display_name": f"Gate {n}" if n % NAMED == NAMED_REST else "",
                "free_mb": 50 + n % 900,
                "enrolled_at": now, "cert_not_after": now + timedelta(days=90), "is_online": n % 10 != 0,
                "conn_id": "c", "last_seen": now - timedelta(seconds=n * 37 % 86_400),
                "boot_id": "b", "state_seq": 1, "reported_gen": 1, "reported": report,
            }
            for n in range(start, min(devices, start + BATCH))
        ]  # fmt: skip
        with house.parts.db.session() as session:
            session.connection().execute(insert(FleetDevice), rows)


def measure(client: httpx.Client, pid: int, path: str, params: dict[str, Any], rounds: int) -> dict[str, float]:
    """Return p50 and p95 in milliseconds, the server's processor time for one, and the bytes of an answer as it is sent."""
    took: list[float] = []
    cold = 0.0
    before = 0.0
    for n in range(rounds + 1):
        if n == 1:
            before = 1000 * cpu_s(pid)
        began = time.perf_counter()
        answer = client.get(path, params=params)
        once = (time.perf_counter() - began) * 1000
        if n:
            took.append(once)
        else:
            cold = once
        answer.raise_for_status()
    used = (1000 * cpu_s(pid) - before) / rounds
    is_found = not path.startswith(API) or answer.json().get("items", True)
    if not is_found and params != NOTHING:
        raise LookupError(f"{path} {params} found nothing")
    cuts = statistics.quantiles(took, n=20)
    size = int(answer.headers.get("content-length", 0))
    return {
        "cold_ms": round(cold, 1),
        "p50_ms": round(statistics.median(took), 1),
        "p95_ms": round(cuts[18], 1),
        "cpu_ms": round(used, 1),
        "bytes": size,
    }


def kept_against_new(url: str, headers: Mapping[str, str], pid: int, requests: int) -> dict[str, float | None]:
    """Return how long a small request takes on a kept and on a new connection, and the ratios; None where too little was measured."""
    place = urlsplit(url).netloc
    took: dict[str, list[float]] = {"kept": [], "new": []}
    used = dict.fromkeys(took, 0.0)
    kept = HTTPConnection(place)
    _ask(kept, headers)
    for _ in range(TURNS):
        for name, times in took.items():
            before = cpu_s(pid)
            for _ in range(max(requests // TURNS, 1)):
                began = time.perf_counter()
                with _connection(None if name == "new" else kept, place) as connection:
                    _ask(connection, headers)
                times.append((time.perf_counter() - began) * 1000)
            used[name] += cpu_s(pid) - before
    kept.close()
    wall = {name: statistics.median(times) for name, times in took.items()}
    cpu = {name: 1000 * used[name] / len(times) for name, times in took.items()}
    return {
        **{f"{name}_p50_ms": round(wall[name], 2) for name in took},
        **{f"{name}_cpu_ms": round(cpu[name], 2) for name in took},
        "wall_ratio": round(wall["kept"] / wall["new"], 2),
        "cpu_ratio": round(cpu["kept"] / cpu["new"], 2) if cpu["new"] else None,
    }


def narrow_against_wide(db: Database, rounds: int) -> dict[str, dict[str, float]]:
    """Return of some texts how long it takes to look for them through narrow rows and through those of devices, and the ratio."""
    finder, found = InventorySearch(db), {}
    for name, words in (("label", "s49"), ("serial", "sn-0000294"), ("nothing", NOTHING["q"])):
        took: dict[str, list[float]] = {"narrow": [], "wide": []}
        for _ in range(rounds + 1):
            for way, times in took.items():
                began = time.perf_counter()
                ids = (
                    [str(one.id) for one in finder.devices(words, 10)]
                    if way == "narrow"
                    else _through_devices(db, words, 10)
                )
                times.append((time.perf_counter() - began) * 1000)
                if bool(ids) is (words == NOTHING["q"]):
                    raise LookupError(f"{words!r} found {ids}")
        narrow, wide = (statistics.median(times[1:]) for times in took.values())
        found[name] = {"narrow_ms": round(narrow, 2), "wide_ms": round(wide, 2), "ratio": round(narrow / wide, 3)}
    return found


def _through_devices(db: Database, words: str, limit: int) -> list[str]:
    """Return the ids of devices that a text is found in, as before ADR 0164: through ids and names, then labels of each device."""
    own, shown = col(FleetDevice.id), col(FleetDevice.display_name)
    is_named = (shown != "") & func.lower(shown).contains(words, autoescape=True)
    labels = func.lower(cast(col(FleetDevice.labels), Text)).contains(words, autoescape=True)
    found: dict[str, None] = {}
    with db.read() as session:
        for condition in (
            own.startswith(words, autoescape=True),
            own.contains(words, autoescape=True) | is_named,
            labels,
        ):
            statement = select(own, col(FleetDevice.profile)).where(condition).order_by(own).limit(limit + len(found))
            found |= dict.fromkeys(str(device) for device, _ in session.execute(statement))
            if len(found) >= limit:
                break
    return list(found)[:limit]


def within(connections: Mapping[str, float | None]) -> dict[str, bool]:
    """Return of each ratio whether it keeps the goal. One that could not be measured does not."""
    ratios = {name: connections[name] for name in ("wall_ratio", "cpu_ratio")}
    return {name: ratio is not None and ratio <= GOAL_RATIO for name, ratio in ratios.items()}


@contextmanager
def _connection(kept: HTTPConnection | None, place: str) -> Iterator[HTTPConnection]:
    """Yield the kept connection, or a new one that ends with the block."""
    made = kept or HTTPConnection(place)
    yield made
    if kept is None:
        made.close()


def _analyse(db: Database) -> None:
    """Let PostgreSQL look at the new rows, as it does by itself after some minutes."""
    if not db.is_sqlite:
        with db.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("VACUUM ANALYZE"))


def _ask(connection: HTTPConnection, headers: Mapping[str, str]) -> None:
    connection.request("GET", SMALL, headers=dict(headers))
    answer = connection.getresponse()
    answer.read()
    if answer.status != 200:
        raise LookupError(f"{SMALL} was answered with {answer.status}")


def main() -> int:
    """Run the benchmark and print its figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument(
        "--kept", type=int, default=400, help="Requests on the kept connection, and as many on new ones"
    )
    parser.add_argument("--database", choices=["sqlite", "postgresql"], default="sqlite")
    args = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="edgefleet-bench-")))
        if args.database == "postgresql":
            url = stack.enter_context(own_server()).new_database()
            (folder / "server.toml").write_text(f"database_url = {json.dumps(url)}\n")
        house = ApiHouse(folder, clock=SystemClock())
        seed(house, args.devices)
        _analyse(house.parts.db)
        token = house.token(Role.OPERATOR)
        search = narrow_against_wide(house.parts.db, args.rounds)
        house.close()
        url, pid = stack.enter_context(fleet_page.server(folder))
        headers = {"authorization": f"Bearer {token}"}
        client = stack.enter_context(httpx.Client(base_url=url, headers=headers, timeout=120))
        client.post("/login", data={"token": token})  # the cookie of pages is kept by the client
        found = {name: measure(client, pid, *request, args.rounds) for name, request in REQUESTS.items()}
        connections = kept_against_new(url, headers, pid, args.kept)
    goals = within(connections)
    machine = {"cpus": os.cpu_count(), "load": [round(one, 1) for one in os.getloadavg()], "arch": platform.machine()}
    result = {"bench": "rest_lists", **vars(args), "requests": found, "search": search}
    result["connections"] = connections
    result |= {"goal_ratio": GOAL_RATIO, "within": goals, "ok": all(goals.values()), "machine": machine}
    print(json.dumps(result, indent=2))
    return 0 if result["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
