"""Detectors of others on the streams of `__main__`: each in an environment of its own, as their numpy differs."""

from __future__ import annotations

import json
import statistics
import subprocess
import tempfile
from pathlib import Path
from typing import Any, Final

import numpy as np
from tests.support.tool_environments import environment

from edgefleet_protocol.drift.detector import ALPHA, SIGNALS

CHILD: Final = Path(__file__).with_name("peer_child.py")
REQUIREMENTS: Final = {
    "alibi-detect": ("alibi-detect==0.13.0",),
    "evidently": ("evidently==0.7.23", "pandas==2.3.3"),
    "river": ("river==0.26.1",),
}
_PARTS: Final = {"evidently": 4}
"""Evidently takes seconds for a window of 16 columns: it gets so small a part of the streams."""
_DAY: Final = 86_400
_LIMIT_S: Final = 3_000


def judged(streams: dict[str, Any]) -> dict[str, Any]:
    """Return what each peer says of the streams, or why it says nothing. streams: reference, quiet, quiet_RHO, shift_RHO."""
    told: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="ef-drift-") as name:
        folder = Path(name)
        for peer, requirements in REQUIREMENTS.items():
            parts = _PARTS.get(peer, 1)
            less = {
                key: one[: max(1, len(one) // parts)] if key.startswith(("quiet_", "shift_")) else one
                for key, one in streams.items()
            }
            np.savez(folder / "streams.npz", p_value=np.array(ALPHA * SIGNALS), **less)
            try:
                python = environment(f"drift-{peer}", requirements)
                command = [str(python), str(CHILD), peer, str(folder / "streams.npz"), str(folder / "told.json")]
                subprocess.run(command, check=True, capture_output=True, timeout=_LIMIT_S)
                told[peer] = {
                    "requirements": list(requirements),
                    **{title: _figures(row) for title, row in json.loads((folder / "told.json").read_text()).items()},
                }
            except (subprocess.SubprocessError, OSError) as error:
                last = (getattr(error, "stderr", b"") or b"").decode(errors="replace").strip().splitlines()[-1:]
                told[peer] = {"not_run": " ".join([type(error).__name__, *last])}
    return told


def _figures(told: dict[str, Any]) -> dict[str, Any]:
    return {
        rho: {
            "alarms_per_device_day": round(row["alarms"] * _DAY / row["samples"], 2),
            "device_days": round(row["samples"] / _DAY, 2),
            **delay_figures(row["delays"]),
        }
        for rho, row in told["rows"].items()
    } | {"cpu_s": told["cpu_s"]}


def delay_figures(delays: list[float | None]) -> dict[str, Any]:
    """Return median and 90th percentile of delays in minutes, a sample a second; None where so many were not seen."""
    inf = float("inf")
    known = sorted(inf if one is None else one / 60 for one in delays)
    picked = {"p50_min": statistics.median(known), "p90_min": known[min(len(known) - 1, int(0.9 * len(known)))]}
    return {
        "runs": len(known),
        "seen": round(sum(one < inf for one in known) / len(known), 3),
        **{name: None if value == inf else round(value, 1) for name, value in picked.items()},
    }
