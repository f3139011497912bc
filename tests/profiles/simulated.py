"""A fleet whose truth is known: models, a converting host, a board, and devices that report with noise."""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

from edgefleet_profiles.cost.model import Example, Subject
from edgefleet_profiles.cost.observed import DeviceWindow, observe


@dataclass(frozen=True)
class Board:
    """What one run costs on a board: ms a node, a million multiply-adds of each kind, a megabyte moved; base memory in bytes."""

    node_ms: float
    float_ms: float
    int8_ms: float
    byte_ms: float
    base_bytes: int
    noise: float

    def latency_ms(self, work: dict[str, object], chance: random.Random) -> float:
        """Return the true p50 of a model, other than its counts say by `noise`."""
        macs: dict[str, int] = work["macs"]  # type: ignore[assignment]
        total = (
            self.node_ms * int(str(work["nodes"])) + self.float_ms * macs["conv.float"] / 1e6
            + self.int8_ms * macs["matmul.int8"] / 1e6 + self.byte_ms * int(str(work["activation_bytes"])) / 1e6
        )  # fmt: skip
        return 0.01 + total * math.exp(chance.gauss(0, self.noise))


HOST = Board(node_ms=0.002, float_ms=0.02, int8_ms=0.008, byte_ms=0.1, base_bytes=60_000_000, noise=0.08)
PI = Board(node_ms=0.01, float_ms=0.25, int8_ms=0.05, byte_ms=0.6, base_bytes=45_000_000, noise=0.12)


def model_work(chance: random.Random) -> dict[str, object]:
    """Return the work of a made-up model."""
    size = math.exp(chance.uniform(0, 6))
    is_int8 = chance.random() < 0.4
    macs = round(size * 1e6 * math.exp(chance.gauss(0, 0.7)))
    moved = round(size * 2e5 * math.exp(chance.gauss(0, 0.7)))
    return {
        "nodes": chance.randrange(5, 300), "macs": {"conv.float": 0 if is_int8 else macs, "matmul.int8": macs if is_int8 else 0},
        "weight_bytes": moved // 3, "activation_bytes": moved, "largest_bytes": moved // 10,
    }  # fmt: skip


def subject(work: dict[str, object], chance: random.Random) -> Subject:
    """Return what the converting host measures."""
    return Subject(work, HOST.latency_ms(work, chance), HOST.base_bytes + _held(work))


def true_figures(work: dict[str, object], chance: random.Random) -> tuple[float, float, int]:
    """Return p50 and p95 in ms and memory in bytes on the board."""
    p50 = PI.latency_ms(work, chance)
    return p50, p50 * math.exp(0.1 + abs(chance.gauss(0, 0.05))), PI.base_bytes + _held(work)


def example(chance: random.Random, *, devices: int = 3, hostile: Sequence[tuple[float, float, int]] = ()) -> Example:
    """Return a model as `devices` honest devices report it, and one more for each of `hostile`."""
    work = model_work(chance)
    known = subject(work, chance)
    true = true_figures(work, chance)
    told = {f"d-{index}": [window(*true, chance) for _ in range(4)] for index in range(devices)}
    told |= {f"x-{index}": [window(*lie, chance) for _ in range(4)] for index, lie in enumerate(hostile)}
    seen = observe(told)
    assert seen is not None
    return Example(known, seen)


def window(p50: float, p95: float, memory: int, chance: random.Random) -> DeviceWindow:
    """Return a window with some noise."""
    noise = math.exp(chance.gauss(0, 0.03))
    return DeviceWindow(200, 0, p50 * noise, max(p50, p95) * noise, memory)


def _held(work: dict[str, object]) -> int:
    return int(str(work["weight_bytes"])) * 2 + int(str(work["largest_bytes"]))
