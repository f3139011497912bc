"""What a load test found: which limit comes first, and how much room is left. Pure.

1. A limit is broken at a step when a figure of that step is beyond it. The simulator's own processor is one: beyond it the others say
   nothing about the server.
2. Room is told only of figures that grow with the fleet in a straight line, processor time and memory: the line through the steps (through
   the origin for a single step) is followed to the limit, and never beyond AS_FAR times the largest step that held.
3. While nothing is broken the limit that is nearest is named, with how much of it is used.
Source: docs/operate/load-test.md; ADR 0148.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

AS_FAR: Final = 2
CORE: Final = 0.85
"""The server takes messages in on one thread: near a whole core of its process it falls behind."""


@dataclass(frozen=True, slots=True)
class Step:
    """What was measured with so many devices. Latencies are seconds; cores: of one; -1: not known."""

    devices: int
    connected: int
    messages_per_s: float
    ack_p50_s: float
    ack_p99_s: float
    api_p95_s: float
    server_cores: float
    simulator_cores: float
    waiting: float
    dropped: int
    given_up: int
    refused: int
    server_rss_mb: float = -1.0


@dataclass(frozen=True, slots=True)
class Limits:
    """Beyond these something counts as broken."""

    ack_p99_s: float = 1.0
    api_p95_s: float = 0.25
    server_cores: float = CORE
    simulator_cores: float = 0.9
    waiting: float = 16_000


@dataclass(frozen=True, slots=True)
class Verdict:
    """first: the limit that broke first, "" for none; at: the devices of that step. held: the most devices with which all held.

    room: the devices that processor time would allow, never beyond AS_FAR times `held`; is_bounded: that bound is what ended it.
    nearest, nearest_ratio: the limit of which most was used at `held`, and how much, 1 is all; "" where nothing held.
    """

    first: str
    at: int
    held: int
    room: int
    is_bounded: bool
    nearest: str = ""
    nearest_ratio: float = 0.0


def used(step: Step, limits: Limits, workers: int) -> dict[str, float]:
    """Return how much of each limit a step uses, 1 is all, the most telling limit first. workers: processes of the simulator."""
    return {
        "the simulator's own processor": step.simulator_cores / (limits.simulator_cores * workers),
        "messages dropped by the server": math.inf if step.dropped > 0 else 0.0,
        "messages given up by devices": math.inf if step.given_up > 0 else 0.0,
        "connections refused by the broker": math.inf if step.refused > 0 else 0.0,
        f"acknowledgement p99 above {limits.ack_p99_s:g} s": step.ack_p99_s / limits.ack_p99_s,
        f"API p95 above {limits.api_p95_s * 1000:g} ms": step.api_p95_s / limits.api_p95_s,
        "messages waiting in the server": step.waiting / limits.waiting,
        f"the server's process above {limits.server_cores:g} of a core": step.server_cores / limits.server_cores,
    }


def broken(step: Step, limits: Limits, workers: int) -> list[str]:
    """Return the limits that a step is beyond, the most telling first. workers: processes of the simulator."""
    return [name for name, ratio in used(step, limits, workers).items() if ratio > 1]


def verdict(steps: Sequence[Step], limits: Limits, workers: int) -> Verdict:
    """Return what steps of rising size say; at least one."""
    failing = next(((step, words) for step in steps if (words := broken(step, limits, workers))), None)
    holding = [step for step in steps if not broken(step, limits, workers)]
    held = max((step.devices for step in holding), default=0)
    room, is_bounded = _room(steps, limits, held)
    first, at = ("", 0) if failing is None else (failing[1][0], failing[0].devices)
    ratios = used(holding[-1], limits, workers) if holding else {"": 0.0}
    nearest = max(ratios, key=lambda name: ratios[name])
    room, is_bounded = (room, is_bounded) if failing is None else (held, False)
    return Verdict(first, at, held, room, is_bounded, nearest, max(0.0, ratios[nearest]))


def _room(steps: Sequence[Step], limits: Limits, held: int) -> tuple[int, bool]:
    """Return how many devices the processor allows by the line through what was measured, and whether AS_FAR ended it."""
    known = [(step.devices, step.server_cores) for step in steps if step.server_cores >= 0 and step.devices]
    if not known or not held:
        return held, False
    n = len(known)
    if n == 1:
        slope, at_none = known[0][1] / known[0][0], 0.0
    else:
        mean_x, mean_y = sum(x for x, _ in known) / n, sum(y for _, y in known) / n
        spread = sum((x - mean_x) ** 2 for x, _ in known)
        slope = sum((x - mean_x) * (y - mean_y) for x, y in known) / spread if spread else 0.0
        at_none = mean_y - slope * mean_x
    most = AS_FAR * held
    if slope <= 0:
        return most, True
    allowed = max(held, int((limits.server_cores - at_none) / slope))
    return min(allowed, most), allowed > most
