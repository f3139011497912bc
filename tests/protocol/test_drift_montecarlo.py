"""The simulation of device-years says what the shipped `step` says, and a sample of `./dev soak drift-montecarlo`."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest

from edgefleet_protocol.drift.detector import ALARMS_A_YEAR, DAY_OF_BLOCKS, SignalWatch, step
from edgefleet_protocol.drift.histogram import SignalSums
from edgefleet_protocol.drift.reference import Signal
from tests.house.soak import in_ci
from tests.protocol.drift_montecarlo import Counts, Device, Stream, drawn_signal, main


@dataclass
class Recorded:
    """Counts that were drawn before."""

    signals: list[Signal]
    counts: Counts
    beyond: Counts
    at: int = 0

    def blocks(self, n: int) -> tuple[Counts, Counts]:
        self.at += n
        return self.counts[:, self.at - n : self.at], self.beyond[:, self.at - n : self.at]


@pytest.mark.parametrize("rho", [0.0, 0.9])
def test_the_simulation_judges_and_learns_as_a_device_does(rho: float) -> None:
    rng = np.random.default_rng(4)
    stream = Stream(rng, rho, [drawn_signal(rng)])
    quiet = [stream.blocks(DAY_OF_BLOCKS) for _ in range(2)]
    stream.shift = 0.6
    counts, beyond = (np.concatenate(parts, axis=1) for parts in zip(*quiet, stream.blocks(DAY_OF_BLOCKS), strict=True))
    device = Device(Recorded(stream.signals, counts, beyond))
    device.day()
    watch = SignalWatch(stream.signals[0])
    began: list[str] = []

    def walk(day: int) -> None:
        nonlocal watch
        for at in range(day * DAY_OF_BLOCKS, (day + 1) * DAY_OF_BLOCKS):
            block = SignalSums(tuple(counts[0, at].tolist()), beyond=int(beyond[0, at]))
            watch, changes = step(watch, block, (at + 1) * 300.0)
            began.extend(one.scale for one in changes if not one.is_over)

    walk(0)
    for scale in ("5m", "1h"):
        mine, theirs = device.effects[(scale, 0)], watch.scales[scale].effect
        assert mine.weights == pytest.approx(theirs.weights)
        assert mine.known == theirs.known
        assert mine.decay == pytest.approx(theirs.decay)
    device.day()
    walk(1)
    assert device.alarms == []
    assert began == []
    device.day()
    walk(2)
    assert {scale for scale, _ in device.alarms} == set(began)
    assert began[0] == ("1h" if rho else "5m")


def test_nothing_happens_in_a_few_device_days() -> None:
    told = main(in_ci("drift-montecarlo"), 1)
    assert told["ok"]
    for row in told["rows"]:
        assert row["alarms"] == 0
        assert (row["judged"]["5m"] > 0) == (row["rho"] < 0.9), "300 answers of 0.9 are worth 75"
        assert row["judged"]["1h"] > 0
        assert sum(row["expected_per_device_year"].values()) < ALARMS_A_YEAR
        assert math.isfinite(row["at_most_per_device_year"])
