"""One detector of others on drawn streams; runs in its own environment, so it imports nothing of ours.

`python peer_child.py NAME STREAMS.npz TOLD.json`
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

WINDOW = 300
Found = Callable[[Any], list[int]]
"""A stream [samples, signals] -> how many samples had been seen at each alarm."""


def of_windows(is_drift: Callable[[Any], bool]) -> Found:
    """Return a detector that judges windows of 300 samples, one after another. Each window with drift is an alarm."""

    def found(stream: Any) -> list[int]:
        ends = range(WINDOW, len(stream) + 1, WINDOW)
        return [end for end in ends if is_drift(stream[end - WINDOW : end])]

    return found


def alibi_detect(reference: Any, p_value: float) -> Found:
    """Return alibi-detect's KSDrift over all signals, with its default correction (Bonferroni)."""
    from alibi_detect.cd import KSDrift  # type: ignore[import-not-found]

    detector = KSDrift(reference.astype(np.float32), p_val=p_value)
    return of_windows(lambda window: bool(detector.predict(window.astype(np.float32))["data"]["is_drift"]))


def evidently(reference: Any) -> Found:
    """Return Evidently's ValueDrift of each column as its preset chooses it; drift of any column is an alarm."""
    import pandas as pd
    from evidently import Report  # type: ignore[import-not-found]
    from evidently.metrics import ValueDrift  # type: ignore[import-not-found]

    names = [f"c{i}" for i in range(reference.shape[1])]
    known = pd.DataFrame(reference, columns=names)
    report = Report([ValueDrift(column=name) for name in names])

    def is_drift(window: Any) -> bool:
        told = report.run(pd.DataFrame(window, columns=names), known).dict()["metrics"]
        assert all("Wasserstein" in one["metric_name"] for one in told), "the default for more than 1,000 samples"
        return any(one["value"] > one["config"]["threshold"] for one in told)

    return of_windows(is_drift)


def river(delta: float) -> Found:
    """Return river's ADWIN, one a signal."""
    from river.drift import ADWIN  # type: ignore[import-not-found]

    def found(stream: Any) -> list[int]:
        alarms: set[int] = set()
        for column in range(stream.shape[1]):
            detector = ADWIN(delta=delta)
            for at, value in enumerate(stream[:, column].tolist()):
                detector.update(value)
                if detector.drift_detected:
                    alarms.add(at + 1)
        return sorted(alarms)

    return found


def main() -> int:
    """Judge each stream of the file: quiet ones, and ones that shift after `quiet` samples."""
    name, source, out = sys.argv[1:]
    with np.load(source) as arrays:
        kept = {key: arrays[key] for key in arrays.files}
    reference, p_value, quiet = kept["reference"], float(kept["p_value"]), int(kept["quiet"])
    makers: dict[str, dict[str, Callable[[], Found]]] = {
        "alibi-detect": {
            "KSDrift, p 0.05": lambda: alibi_detect(reference, 0.05),
            "KSDrift, p of ours": lambda: alibi_detect(reference, p_value),
        },
        "evidently": {"ValueDrift, defaults": lambda: evidently(reference)},
        "river": {"ADWIN, delta 0.002": lambda: river(0.002), "ADWIN, delta 1e-6": lambda: river(1e-6)},
    }
    told: dict[str, Any] = {}
    for title, make in makers[name].items():
        found, began = make(), time.process_time()
        rows: dict[str, Any] = {}
        for key in sorted(one.removeprefix("quiet_") for one in kept if one.startswith("quiet_")):
            stream = kept[f"quiet_{key}"]
            delays = [
                next((at - quiet for at in found(shifted) if at > quiet), None) for shifted in kept[f"shift_{key}"]
            ]
            rows[key] = {"samples": len(stream), "alarms": len(found(stream)), "delays": delays}
        told[title] = {"rows": rows, "cpu_s": round(time.process_time() - began, 2)}
    Path(out).write_text(json.dumps(told), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
