"""Soak `swaps`: versions replace each other under load while a second model serves beside them.

Every request must be answered, with 200, by a version that served while the request was under way. A caller asks once: what the
agent's design loses, no client makes up for.

The latencies of two kinds of moments are held against each other: a swap, from the start of its trial until `AFTER_S` after it serves,
and all else. Every second swap follows soon, as nothing but a test does; before the others there is a time without any, or there would
be nothing to compare with. A bundle is built before anybody asks: a device is given its bundles.
"""

from __future__ import annotations

import random
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from tests.agent.worker.models import bundle_bytes, classifier_onnx
from tests.agent.worker.supervised import House, answers, asking, until_interrupted

RATE = 200.0
GRACE_S = 0.05
"""Between two processes' clock readings of one event."""
SOON_S = (0.1, 0.4)
REST_S = (1.2, 1.8)
AFTER_S = 0.6
"""After a swap the old worker says its last answers, its callers connect anew and it ends: `Drain.idle_grace_s`, and a little."""


def main(n: int, seed: int, *, rate: float = RATE) -> dict[str, Any]:
    """Swap n times and return what the callers saw."""
    chance = random.Random(seed)
    swaps: list[tuple[str, float, float, float]] = []  # version, trial began, may answer from, serves
    bundles = [_bundle(i) for i in range(n + 1)]
    with tempfile.TemporaryDirectory(prefix="ef-") as name:
        folder = Path(name)
        house = House(folder)
        try:
            house.serve("other", house.put("other", "A", "1.0.0", bundle_bytes(classifier_onnx(), name="other")))
            began = time.monotonic()
            house.serve("digits", house.put("digits", "A", "0", bundles[0]))
            swaps.append(("0", began, began, time.monotonic()))
            with asking(house.port, rate, 1, folder / "answers", "digits", "other"), until_interrupted() as stop:
                time.sleep(1.0)
                warm = time.monotonic()
                for i in range(1, n + 1):
                    if stop.wait(chance.uniform(*(REST_S if i % 2 else SOON_S))):
                        break
                    swaps.append(_swap(house, i, bundles[i]))
                time.sleep(1.0)
            return _report(answers(folder / "answers"), swaps, warm)
        finally:
            house.close()


def _swap(house: House, number: int, bundle: bytes) -> tuple[str, float, float, float]:
    """Put version `number` in the place of the one before; return it with when its trial began, when it could answer and when it served."""
    ref = house.put("digits", "AB"[number % 2], str(number), bundle)
    began = time.monotonic()
    ready = house.swap("digits", ref)
    return str(number), began, ready, time.monotonic()


def _bundle(version: int) -> bytes:
    return bundle_bytes(classifier_onnx(1.0 + version % 7), version=str(version))


def _report(
    found: list[tuple[str, str, int, float, float, int]], swaps: list[tuple[str, float, float, float]], warm: float
) -> dict[str, Any]:
    failed = [row for row in found if row[2] != 200]
    since = {version: ready for version, _, ready, _ in swaps}
    # an old one answers what it was asked before its successor served and its connections were told to close (Drain: 10 s)
    until = {swaps[i][0]: swaps[i + 1][3] + 12.0 for i in range(len(swaps) - 1)}
    wrong = [
        row
        for row in found
        if row[2] == 200 and (row[1] != "1.0.0" if row[0] == "other" else not _served(row, since, until))
    ]
    order = [int(row[1]) for row in sorted(found, key=lambda row: row[4]) if row[0] == "digits" and row[2] == 200]
    windows = [(began, serves + AFTER_S) for _, began, _, serves in swaps[1:]]
    inside, outside = _latencies([row for row in found if row[3] >= warm], windows)  # not the callers' own start
    p99_in, p99_out = _p99(inside), _p99(outside)
    return {
        "ok": not failed and not wrong and order[-1] == int(swaps[-1][0]),
        "swaps": len(swaps) - 1,
        "requests": len(found),
        "failed": len(failed),
        "failures": sorted({f"{row[2]} {row[1]}"[:200] for row in failed})[:5],
        "wrong_version": len(wrong),
        "requests_steady": len(outside),
        "requests_in_swap": len(inside),
        "p50_ms": round(float(np.median(outside)) * 1e3, 2),
        "p99_steady_ms": round(p99_out * 1e3, 2),
        "p99_in_swap_ms": round(p99_in * 1e3, 2),
        "p99_ratio": round(p99_in / p99_out, 2),
        "p99_ratio_goal": 2.0,
        "worst_ms": round(max(inside + outside) * 1e3, 1),
        "swap_s_p50": round(float(np.median([serves - began for _, began, _, serves in swaps[1:]])), 3),
    }


def _served(row: tuple[str, str, int, float, float, int], since: dict[str, float], until: dict[str, float]) -> bool:
    version = row[1]
    return version in since and row[4] >= since[version] - GRACE_S and row[3] <= until.get(version, float("inf"))


def _latencies(
    found: list[tuple[str, str, int, float, float, int]], windows: list[tuple[float, float]]
) -> tuple[list[float], list[float]]:
    inside: list[float] = []
    outside: list[float] = []
    at = 0
    for row in sorted(found, key=lambda row: row[3]):
        while at < len(windows) and windows[at][1] < row[3]:
            at += 1
        is_in = at < len(windows) and windows[at][0] <= row[4]
        (inside if is_in else outside).append(row[4] - row[3])
    return inside or [0.0], outside or [0.0]


def _p99(values: list[float]) -> float:
    return float(np.percentile(values, 99))
