"""Drift: false alarms and delays of the shipped detector, of PSI > 0.2, and of alibi-detect, Evidently and river on the same streams.

Goals: at most 1 false alarm in a year of a device with 16 signals at autocorrelation up to 0.9; 0.5 standard deviations in 1 of 16 signals
in 5 minutes (independent answers) and 2 hours (0.9), in the median; 0.1 standard deviations over 100 devices in 5 minutes. One answer a
second. `--device-days N` of each autocorrelation are simulated, see `tests.protocol.drift_montecarlo`; the goal asks for 36,500.
`--peers` runs the others, too.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from bench.drift.peers import delay_figures, judged
from scipy.signal import lfilter  # type: ignore[import-untyped]
from tests.protocol.drift_montecarlo import PSI_LIMIT, RHOS, Stream, drawn_signal
from tests.protocol.drift_montecarlo import main as montecarlo

from edgefleet_protocol.drift.design_effect import Effect, learn, settled
from edgefleet_protocol.drift.detector import DAY_OF_BLOCKS, FLEET_FLOOR, WINDOWS, SignalWatch, Word, judge, step
from edgefleet_protocol.drift.histogram import SignalSums
from edgefleet_protocol.drift.reference import Signal

Floats = npt.NDArray[np.float64]
SHIFT: Final = 0.5
FLEET_SHIFT: Final = 0.1
DEVICES: Final = 100
GOALS_MIN: Final = {0.0: 5.0, 0.9: 120.0}
FLEET_GOAL_MIN: Final = 5.0
_WAIT_BLOCKS: Final = DAY_OF_BLOCKS
_PEER_QUIET: Final = 3_600


def delays(rho: float, shift: float, runs: int, seed: int) -> dict[str, Any]:
    """Return after how many minutes a shift is seen, ours and PSI > 0.2, on the same blocks. It begins at any block of an hour."""
    rng = np.random.default_rng(seed)
    ours: list[float | None] = []
    psi: list[float | None] = []
    for run in range(runs):
        signal = drawn_signal(rng)
        stream = Stream(rng, rho, [signal])
        watch = SignalWatch(signal)
        quiet = DAY_OF_BLOCKS + run % 12
        first_psi = first = None
        for part, blocks in enumerate((quiet, _WAIT_BLOCKS)):
            stream.shift = shift * part
            counts, beyond = stream.blocks(blocks)
            for at in range(blocks):
                bins = counts[0, at].tolist()
                watch, changes = step(
                    watch, SignalSums(tuple(bins), beyond=int(beyond[0, at])), (at + 1 + part * quiet) * 300.0
                )
                if part and first_psi is None and _psi(signal, bins) > PSI_LIMIT:
                    first_psi = (at + 1) * 300
                if part and first is None and any(not one.is_over for one in changes):
                    first = (at + 1) * 300
                if first is not None and first_psi is not None:
                    break
        ours.append(first)
        psi.append(first_psi)
    return {"rho": rho, "shift": shift, "ours": delay_figures(ours), "psi_above_0.2": delay_figures(psi)}


def _psi(signal: Signal, bins: list[int]) -> float:
    old = (np.asarray(signal.counts) + 0.5) / (sum(signal.counts) + 5)
    new = (np.asarray(bins) + 0.5) / (sum(bins) + 5)
    return float(((new - old) * np.log(new / old)).sum())


def fleet(runs: int, seed: int) -> dict[str, Any]:
    """Return after how many minutes 0.1 standard deviations over 100 devices are seen, merged each minute and each 5 minutes."""
    rng = np.random.default_rng(seed)
    told: dict[str, Any] = {"devices": DEVICES, "shift": FLEET_SHIFT, "psi_floor": FLEET_FLOOR}
    for minutes in (1, 5):
        n = DEVICES * 60 * minutes
        found: list[float | None] = []
        alarms = 0
        for _ in range(runs):
            signal = drawn_signal(rng)
            effect = Effect()
            for _ in range(WINDOWS):
                effect = learn(effect, signal.counts, _drawn(rng, signal, n, 0.0))
            effect = settled(effect)
            alarms += judge(signal.counts, _drawn(rng, signal, n, 0.0), effect, floor=FLEET_FLOOR).verdict == Word.DRIFT
            windows = (_drawn(rng, signal, n, FLEET_SHIFT) for _ in range(60))
            seen = (
                at
                for at, bins in enumerate(windows, start=1)
                if judge(signal.counts, bins, effect, floor=FLEET_FLOOR).verdict == Word.DRIFT
            )
            first = next(seen, None)
            found.append(None if first is None else first * minutes * 60)
        told[f"merged_each_{minutes}_min"] = {**delay_figures(found), "quiet_windows_judged_drift": alarms}
    return told


def _drawn(rng: np.random.Generator, signal: Signal, n: int, shift: float) -> list[int]:
    values = rng.normal(size=n) + shift
    bins = np.bincount(np.searchsorted(signal.edges, values, side="right"), minlength=len(signal.counts))
    return [int(count) for count in bins]


def peer_streams(days: float, runs: int, seed: int) -> dict[str, Any]:
    """Return streams of a device of 16 signals: quiet ones, and ones of which the first signal shifts after an hour."""
    rng = np.random.default_rng(seed)
    streams: dict[str, Any] = {"reference": rng.normal(size=(10_000, 16)), "quiet": np.array(_PEER_QUIET)}
    for rho in RHOS:
        streams[f"quiet_{rho}"] = _stream(rng, rho, round(days * 86_400))
        shifted = np.stack([_stream(rng, rho, 4 * _PEER_QUIET) for _ in range(runs)])
        shifted[:, _PEER_QUIET:, 0] += SHIFT
        streams[f"shift_{rho}"] = shifted
    return streams


def _stream(rng: np.random.Generator, rho: float, n: int) -> Floats:
    shocks = rng.normal(size=(n, 16)) * (1 - rho * rho) ** 0.5
    shocks[0] /= (1 - rho * rho) ** 0.5
    values: Floats = lfilter([1.0], [1.0, -rho], shocks, axis=0)
    return values


def costs() -> dict[str, float]:
    """Return microseconds of processor time: a block of one signal when all is as usual, and learning's end."""
    rng = np.random.default_rng(1)
    signal = drawn_signal(rng)
    watch, times = SignalWatch(signal), []
    for at in range(2 * DAY_OF_BLOCKS):
        block = SignalSums(tuple(rng.multinomial(300, [0.1] * 10).tolist()))
        began = time.process_time_ns()
        watch, _ = step(watch, block, (at + 1) * 300.0)
        times.append((time.process_time_ns() - began) / 1000)
    return {"block_median_us": statistics.median(times[DAY_OF_BLOCKS:]), "block_most_us": max(times)}


def main() -> int:
    """Measure and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device-days", type=int, default=100)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--peers", action="store_true")
    parser.add_argument("--peer-days", type=float, default=0.25)
    parser.add_argument("--peer-runs", type=int, default=5)
    asked = parser.parse_args()
    alarms = montecarlo(asked.device_days, asked.seed)
    rows = [delays(rho, shift, asked.runs, asked.seed) for rho in RHOS for shift in (0.3, SHIFT, 1.0)]
    merged = fleet(max(1, asked.runs // 5), asked.seed)
    within = {"false_alarms": alarms["ok"]}
    for row in rows:
        if row["shift"] == SHIFT and row["rho"] in GOALS_MIN:
            median = row["ours"]["p50_min"]
            within[f"half_a_sigma_at_{row['rho']}"] = median is not None and median <= GOALS_MIN[row["rho"]]
    together = merged["merged_each_5_min"]["p50_min"]
    within["fleet"] = together is not None and together <= FLEET_GOAL_MIN
    told = {
        "bench": "drift",
        "machine": {"cpus": os.cpu_count(), "machine": platform.machine(), "python": platform.python_version()},
        "seed": asked.seed,
        "false_alarms": alarms,
        "delays": rows,
        "fleet": merged,
        "costs": costs(),
        "peers": judged(peer_streams(asked.peer_days, asked.peer_runs, asked.seed)) if asked.peers else "not asked for",
        "within": within,
        "ok": all(within.values()),
    }
    print(json.dumps(told, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
