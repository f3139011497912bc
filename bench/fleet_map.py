"""The overview of a large fleet, its map and other pages in a real browser: first byte, first paint, bytes, a frame while panning.

Prints one JSON object. The fleet, the server and the client are those of `fleet_page`, what happens in it that of `_busy_fleet`. Figures,
with what they are held to:
- overview_ttfb_p95_ms, map_ttfb_p95_ms: from the request to the first byte, of the page and of what its script reads (50 ms);
- first_ms: the first of each, LOOKED_AT_S after the server's start, which reads what takes long by itself;
- cpu_ms: processor time of the server for one of each, what is left of it when the machine is busy;
- fcp_ms: median of the first contentful paint of the page (400 ms);
- wire_kb: what the page weighs with its styles, scripts and the map, all compressed as they are sent (120 kB);
- frame_p95_ms: main thread of the browser, script and paint, for one frame while the pointer drags the map, all of it in view (8 ms);
  zoomed_p95_ms: the same where squares have their shapes;
- elements_p95_ms: the alternative in the same run, each square an element of the document, and the same drag;
  elements_made_ms: to make these elements;
- NAME_ttfb_p95_ms, NAME_fcp_ms, NAME_wire_kb: the same of each of PAGES, a browser's first one (50 ms, 400 ms, 120 kB); NAME_nodes.

    python bench/fleet_map.py [--devices 10000] [--devices 100000] [--rounds 25] [--frames 120] [--screenshots DIR]
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from bench import _busy_fleet, fleet_page  # noqa: E402
from tests.server.dashboard.fleet import Fleet  # noqa: E402

from edgefleet_agent.reporting.collector import cpu_s  # noqa: E402
from edgefleet_server.access.model import Role  # noqa: E402
from edgefleet_server.clock import SystemClock  # noqa: E402
from edgefleet_server.dashboard.core.login import COOKIE  # noqa: E402

PATHS = {"overview": "/", "map": "/map"}
PAGES = {
    "models": "/models",
    "model": "/models/digits",
    "device": f"/devices/{fleet_page.device_id(3)}",
    "drift": "/drift",
    "rollouts": "/rollouts",
    "alerts": "/alerts",
}
PAGE_GOALS = {"ttfb_p95_ms": 50.0, "fcp_ms": 400.0, "wire_kb": 120.0}
GOALS = {
    "overview_ttfb_p95_ms": 50.0, "map_ttfb_p95_ms": 50.0, "fcp_ms": 400.0, "wire_kb": 120.0, "frame_p95_ms": 8.0,
    "zoomed_p95_ms": 8.0,
    **{f"{name}_{figure}": goal for name in PAGES for figure, goal in PAGE_GOALS.items()},
}  # fmt: skip
LOOKED_AT_S = 15.0
NODES = "document.querySelectorAll('*').length"
FRAME = frozenset(
    (
        "FireAnimationFrame", "UpdateLayoutTree", "Layout", "PrePaint", "Paint", "Layerize", "Commit", "EventDispatch", "HitTest",
    )
)  # fmt: skip
"""Events of the browser's main thread that are work for a frame: script, style, layout, paint."""
ELEMENTS = """
(letters) => {
  const box = document.createElement("div");
  box.className = "atlas";
  const map = document.createElement("div");
  map.className = "map";
  map.innerHTML = [...letters].map((one) => (one === "h" ? "<i></i>" : '<i class="o"></i>')).join("");
  box.append(map);
  document.querySelector("main").replaceChildren(box);
  let [x, y, held, asked] = [0, 0, null, 0];
  map.addEventListener("pointerdown", (event) => (held = event));
  addEventListener("pointermove", (event) => {
    if (!held) return;
    [x, y] = [event.clientX - held.clientX, event.clientY - held.clientY];
    asked ||= requestAnimationFrame(() => { asked = 0; map.style.transform = `translate(${x}px, ${y}px)`; });
  });
  return map.getBoundingClientRect().height;
}
"""


def main() -> int:
    """Run the benchmark and print its figures."""
    parser = fleet_page.line_parser(__doc__)
    parser.add_argument("--frames", type=int, default=120)
    args = parser.parse_args()
    fleet_page.report("fleet_map", GOALS, args, lambda folder, devices: _one(folder, devices, args))
    return 0


def _one(folder: Path, devices: int, args: argparse.Namespace) -> dict[str, Any]:
    fleet = Fleet(folder, clock=SystemClock())
    began = time.perf_counter()
    _busy_fleet.fill(fleet, devices)
    seeded_s = time.perf_counter() - began
    token = fleet.house.token(Role.OPERATOR)
    fleet.close()
    with fleet_page.server(folder) as (url, pid):
        with httpx.Client(base_url=url, headers={"accept-encoding": "gzip"}, timeout=60) as client:
            cookie = client.post("/login", data={"token": token}).cookies[COOKIE]
            figures = _first_bytes(client, args.rounds, pid)
        return {"seeded_s": round(seeded_s, 1)} | figures | _looks(url, cookie, args, devices)


def _first_bytes(client: httpx.Client, rounds: int, pid: int) -> dict[str, Any]:
    found: dict[str, Any] = {"cpu_ms": {}, "first_ms": {}}
    time.sleep(LOOKED_AT_S)
    for name, path in (PATHS | PAGES).items():
        found["first_ms"][name] = round(fleet_page.first_byte_ms(client, path), 1)
        before_s = cpu_s(pid)
        times = sorted(fleet_page.first_byte_ms(client, path) for _ in range(rounds))
        found["cpu_ms"][name] = round(1000 * (cpu_s(pid) - before_s) / rounds, 1)
        found[f"{name}_ttfb_p50_ms"] = round(times[len(times) // 2], 1)
        found[f"{name}_ttfb_p95_ms"] = round(times[int(len(times) * 0.95)], 1)
    return found


def _looks(url: str, cookie: str, args: argparse.Namespace, devices: int) -> dict[str, Any]:
    with fleet_page.signed_in(url, cookie) as (page, problems, sizes):
        page.goto(url, wait_until="load")
        page.wait_for_selector(".atlas canvas", state="visible")
        page.wait_for_timeout(300)
        wire, nodes = sum(sizes), page.evaluate(NODES)
        if args.screenshots is not None:
            args.screenshots.mkdir(parents=True, exist_ok=True)
            page.screenshot(path=args.screenshots / f"overview-{devices}.png", full_page=True)
        whole = _dragged(page, ".atlas canvas", args.frames)
        for _ in range(6):
            page.click('[data-zoom="2"]')
        zoomed = _dragged(page, ".atlas canvas", args.frames)
        fcp_ms = _painted_ms(page, url, args.rounds)
        letters = page.evaluate(
            "fetch('/map').then((a) => a.json()).then((m) => m.groups.map((g) => g.letters).join(''))"
        )
        began = time.perf_counter()
        page.evaluate(ELEMENTS, letters)
        made_ms = (time.perf_counter() - began) * 1000
        elements = _dragged(page, ".atlas .map", min(args.frames, 40))
        pages: dict[str, float] = {}
        for name, path in PAGES.items():
            pages |= {
                f"{name}_{figure}": value for figure, value in _of_page(page, url + path, sizes, args.rounds).items()
            }
            if args.screenshots is not None:
                page.screenshot(path=args.screenshots / f"{name}-{devices}.png", full_page=True)
    return pages | {
        "fcp_ms": fcp_ms,
        "wire_kb": round(wire / 1000, 1),
        "nodes": nodes,
        "frames": [len(one) for one in (whole, zoomed, elements)],
        "frame_p50_ms": _part(whole, 0.5),
        "frame_p95_ms": _part(whole, 0.95),
        "zoomed_p95_ms": _part(zoomed, 0.95),
        "elements_p95_ms": _part(elements, 0.95),
        "elements_made_ms": round(made_ms, 1),
        "console": problems,
    }


def _of_page(page: Any, address: str, sizes: list[int], rounds: int) -> dict[str, float]:
    """Return first paint, and bytes of a page with all that it loads where the browser has nothing of it."""
    page.context.new_cdp_session(page).send("Network.clearBrowserCache")
    sizes.clear()
    page.goto(address, wait_until="load")
    page.wait_for_timeout(300)
    figures = {"wire_kb": round(sum(sizes) / 1000, 1), "nodes": page.evaluate(NODES)}
    return figures | {"fcp_ms": _painted_ms(page, address, rounds)}


def _painted_ms(page: Any, address: str, rounds: int) -> float:
    paints = []
    for _ in range(max(1, rounds // 3)):
        page.goto(address, wait_until="load")
        paints.append(fleet_page.painted(page))
    return round(statistics.median(paints), 1)


def _part(times: Sequence[float], share: float) -> float:
    ordered = sorted(times)
    return round(ordered[min(len(ordered) - 1, int(len(ordered) * share))], 2)


def _dragged(page: Any, selector: str, frames: int) -> list[float]:
    """Return the milliseconds of the main thread for each frame while the pointer drags what a selector finds.

    Raises RuntimeError where the browser drew none: no frame is not a fast one.
    """
    box = page.locator(selector).bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + min(box["height"], 300) / 2
    page.mouse.move(x, y)
    page.mouse.down()
    chromium = page.context.browser
    chromium.start_tracing(page=page, categories=["devtools.timeline", "disabled-by-default-devtools.timeline"])
    for n in range(frames):
        page.mouse.move(x + 3 * (n % 40 if n % 80 < 40 else 80 - n % 80), y + n % 20)
        time.sleep(0.016)
    trace = json.loads(chromium.stop_tracing())
    page.mouse.up()
    found = _frames(trace["traceEvents"])
    if not found:
        raise RuntimeError(f"nothing was drawn while {selector} was dragged")
    return found


def _frames(events: Sequence[Any]) -> list[float]:
    """Return what the main thread did for each frame, from the script of one frame to that of the next."""
    work = [one for one in events if one.get("ph") == "X" and one["name"] in FRAME]
    scripts = [one for one in work if one["name"] == "FireAnimationFrame"]
    if not scripts:
        return []
    threads = [(one["pid"], one["tid"]) for one in scripts]
    mine = max(set(threads), key=threads.count)
    begins = sorted(one["ts"] for one in scripts if (one["pid"], one["tid"]) == mine)
    inner = sorted((one["ts"], one.get("dur", 0)) for one in work if (one["pid"], one["tid"]) == mine)
    sums = [0.0] * len(begins)
    place, until = 0, 0
    for at, length in inner:
        while place + 1 < len(begins) and at >= begins[place + 1]:
            place += 1
        if at >= begins[0] and at >= until:  # what is inside of another is counted with it
            sums[place] += length / 1000
            until = at + length
    return sums


if __name__ == "__main__":
    raise SystemExit(main())
