"""Lighthouse on pages of a running server, or of a fleet made for it: performance, accessibility, best practices of each page.

Prints one JSON object. Figures are Lighthouse's own scores of 0 to 100, at the desk (`desktop`) and on a phone (`mobile`, whose
processor and network Lighthouse slows down), with the first contentful paint; each is held to 95. Needs Node.js and network access to
the npm registry, where `npx` gets Lighthouse 12, and Chromium.

    python bench/lighthouse.py [--devices 1000] [--page / --page /devices] [--form desktop --form mobile]
    python bench/lighthouse.py --demo DIR     the demo that `./dev demo --data DIR` keeps running
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from bench.fleet_page import seed, server  # noqa: E402
from tests.support.browsers import binary  # noqa: E402
from tests.support.servers import ApiHouse  # noqa: E402

from edgefleet_server.access.model import Role  # noqa: E402
from edgefleet_server.clock import SystemClock  # noqa: E402
from edgefleet_server.dashboard.core.login import COOKIE  # noqa: E402

GOAL = 95
PACKAGE = "lighthouse@12"
KINDS = ("performance", "accessibility", "best-practices")
PAGES = ("/", "/devices", "/models", "/rollouts", "/alerts", "/drift", "/events", "/styleguide")
FORMS = ("desktop", "mobile")
LIMIT_S = 180
WAIT_MS = 10_000
"""The stream of a page never ends, so Lighthouse would wait its longest for the network to be still."""


def main() -> int:
    """Run Lighthouse on each page and print its scores."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", type=int, default=1_000)
    parser.add_argument("--demo", type=Path)
    parser.add_argument("--page", action="append")
    parser.add_argument("--form", action="append", choices=FORMS)
    args = parser.parse_args()
    if shutil.which("npx") is None or binary() is None:
        print(
            "error: Lighthouse needs npx (Node.js 18 or newer) and Chromium\nnext:  apt-get install -y npm chromium",
            file=sys.stderr,
        )
        return 3
    found = []
    with _running(args.demo) if args.demo else _made(args.devices) as (url, token):
        with httpx.Client(base_url=url, follow_redirects=False) as client:
            cookie = client.post("/login", data={"token": token}).cookies[COOKIE]
        for path in args.page or PAGES:
            found += [_scores(url, path, form, cookie) for form in args.form or FORMS]
    result = {
        "bench": "lighthouse",
        "goal": GOAL,
        "pages": found,
        "least": {kind: min(one[kind] for one in found) for kind in KINDS},
        "ok": all(one[kind] >= GOAL for one in found for kind in KINDS),
        "machine": {"cpus": os.cpu_count(), "load": [round(one, 1) for one in os.getloadavg()]},
    }
    print(json.dumps(result, indent=2))
    return 0


@contextmanager
def _running(folder: Path) -> Iterator[tuple[str, str]]:
    known = json.loads((folder / "demo.json").read_text("utf-8"))
    yield known["url"], known["token"]


@contextmanager
def _made(devices: int) -> Iterator[tuple[str, str]]:
    with tempfile.TemporaryDirectory(prefix="edgefleet-bench-") as folder:
        house = ApiHouse(Path(folder), clock=SystemClock())
        seed(house.parts, devices)
        token = house.token(Role.OPERATOR)
        house.close()
        with server(Path(folder)) as (url, _pid):
            yield url, token


def _scores(url: str, path: str, form: str, cookie: str) -> dict[str, Any]:
    """Return the scores of one page, what lost points, and its first contentful paint in ms."""
    line = [
        "npx", "-y", PACKAGE, url + path, "--output=json", "--quiet", f"--max-wait-for-load={WAIT_MS}",
        f"--only-categories={','.join(KINDS)}", "--chrome-flags=--headless=new --no-sandbox --disable-gpu",
        f"--extra-headers={json.dumps({'cookie': f'{COOKIE}={cookie}'})}",
    ]  # fmt: skip
    if form == "desktop":
        line.append("--preset=desktop")
    run = subprocess.run(
        line,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
        env=os.environ | {"CHROME_PATH": str(binary())},
    )
    if run.returncode != 0:
        raise RuntimeError(f"Lighthouse failed on {path}: {run.stderr[-800:]}")
    report = json.loads(run.stdout)
    if report["finalDisplayedUrl"] != url + path:
        raise RuntimeError(f"{path} led to {report['finalDisplayedUrl']}: Lighthouse did not see the page")
    scores = {kind: round(100 * (report["categories"][kind]["score"] or 0)) for kind in KINDS}
    lost = [
        audit["title"]
        for kind in KINDS
        for ref in report["categories"][kind]["auditRefs"]
        for audit in [report["audits"][ref["id"]]]
        if ref["weight"] and audit["score"] is not None and audit["score"] < 0.9
    ]
    return {
        "page": path,
        "form": form,
        **scores,
        "fcp_ms": round(report["audits"]["first-contentful-paint"]["numericValue"]),
        "lost": lost,
    }


if __name__ == "__main__":
    sys.exit(main())
