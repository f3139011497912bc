"""How often the server's rules of drift alarm where nothing moved, and what they find where something did: simulated fleets.

Prints one JSON object. A device's hour is the counts of normal values in ten bins with equal shares; devices may differ by nature (their
own means, in standard deviations). `alarms` are of `--hours` hours of each kind of fleet in which nothing moved; `found` are of
`--trials` hours with a shift, by where it is: how many are called drift, and in how many of these the place is right.

    python bench/fleet_drift.py [--hours 300] [--trials 20]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
from bisect import bisect_right
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from edgefleet_protocol.drift.histogram import SignalSums  # noqa: E402
from edgefleet_protocol.drift.reference import SignalKind  # noqa: E402
from edgefleet_server.telemetry.drift.location import Where  # noqa: E402
from edgefleet_server.telemetry.drift.model import Heard, Member, SignalSpec  # noqa: E402
from edgefleet_server.telemetry.drift.rules import SignalFinding, SignalState, judge_signal  # noqa: E402
from edgefleet_server.telemetry.signals.model import Scale  # noqa: E402

EDGES = [-1.2816, -0.8416, -0.5244, -0.2533, 0.0, 0.2533, 0.5244, 0.8416, 1.2816]
SPEC = SignalSpec("x", SignalKind.NUMERIC, [10_000] * 10 + [0])
SIGNALS = 16
FLEETS = ((4, 0.0), (12, 0.0), (12, 0.1), (12, 0.3), (40, 0.0), (40, 0.1))
"""Devices, and how far their means are apart by nature."""
SHIFTS = (0.1, 0.2, 0.3, 0.5, 1.0)
PLACES: dict[Where, Callable[[int], bool]] = {
    Where.ALL: lambda _: True,
    Where.SITE: lambda k: 4 <= k < 8,
    Where.DEVICE: lambda k: k == 5,
}


def hour(name: str, devices: int, spread: float, shift: Callable[[int], float], n: int = 300) -> SignalFinding:
    """Return what is said of one hour. name: the seed."""
    heard = []
    for k in range(devices):
        own = random.Random(f"{name} {k} own").gauss(0, spread) if spread else 0.0
        draw = random.Random(f"{name} {k}")
        bins = [0] * 10
        for _ in range(n):
            bins[bisect_right(EDGES, draw.gauss(own + shift(k), 1))] += 1
        heard.append(Heard(Member(f"d{k}", f"p{k % 2}", f"s{k // 4}"), SignalSums(tuple(bins))))
    return judge_signal(SPEC, heard, Scale.HOUR, SIGNALS)


def main(argv: list[str] | None = None) -> int:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--hours", type=int, default=300)
    parser.add_argument("--trials", type=int, default=20)
    given = parser.parse_args(argv)
    alarms = [
        {"devices": devices, "spread": spread, "hours": given.hours, "alarms": _alarms(devices, spread, given.hours)}
        for devices, spread in FLEETS
    ]
    found = [_found(where, shift, given.trials) for where in PLACES for shift in SHIFTS]
    machine = {"cpus": os.cpu_count(), "load": [round(one, 1) for one in os.getloadavg()]}
    print(json.dumps({"bench": "fleet_drift", "machine": machine, "alarms": alarms, "found": found}, indent=1))
    return 0


def _alarms(devices: int, spread: float, hours: int) -> int:
    return sum(hour(f"still {at}", devices, spread, lambda _: 0.0).state is SignalState.DRIFT for at in range(hours))


def _found(where: Where, shift: float, trials: int) -> dict[str, Any]:
    def of(k: int) -> float:
        return shift if PLACES[where](k) else 0.0

    said = [hour(f"{where} {shift} {at}", 12, 0.0, of) for at in range(trials)]
    drifting = [one for one in said if one.state is SignalState.DRIFT]
    right = sum(one.location.where is where for one in drifting)
    return {"where": str(where), "shift": shift, "trials": trials, "drift": len(drifting), "right": right}


if __name__ == "__main__":
    raise SystemExit(main())
