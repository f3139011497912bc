"""Measuring a release on a real device: `publish --measure-on` and `device measure`. Asks, follows, reads the figures, ends it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import msgspec

from edgefleet_cli.core.api.device import Device, Window
from edgefleet_cli.core.api.release import DeployIn, Deployment, Release, Skipped
from edgefleet_cli.core.clock import SystemClock
from edgefleet_cli.core.transport.api_client import ApiClient
from edgefleet_cli.core.transport.request import part
from edgefleet_cli.render.format import milliseconds, predicted, size, text
from edgefleet_cli.render.output import Column, Output, Sheet
from edgefleet_cli.render.progress import board

DEFAULT_WAIT_S = 600.0
FIGURES_S = 60.0
"""How long the figures may come after the device reported that it has measured."""
_POLL_S = 0.5
_OVER = frozenset({"measured", "failed"})
_PCT = {"waiting": 5.0, "downloading": 20.0, "measuring": 70.0, "measured": 100.0}


class Measured(msgspec.Struct, frozen=True):
    """What a device measured of a release, with what was predicted. state: measured, failed, skipped or unfinished."""

    release: str
    device: str
    profile: str
    state: str
    reason: str
    p50_ms: float | None = None
    p95_ms: float | None = None
    peak_rss_bytes: int | None = None
    joules_per_answer: float | None = None
    runs: int | None = None
    predicted: dict[str, Any] | None = None


MEASURED: Sheet[Measured] = Sheet(
    "measurements",
    [
        Column("device", lambda m: text(m.device), keep=True),
        Column("profile", lambda m: text(m.profile), spare=2),
        Column("measured p50", lambda m: milliseconds(m.p50_ms), right=True, keep=True),
        Column("predicted p50", lambda m: predicted(m.predicted, "latency_p50_ms", milliseconds), right=True),
        Column("measured p95", lambda m: milliseconds(m.p95_ms), right=True),
        Column("measured memory", lambda m: size(m.peak_rss_bytes), right=True),
        Column("predicted memory", lambda m: predicted(m.predicted, "memory_bytes", size), right=True),
        Column("energy a run", lambda m: energy(m.joules_per_answer), right=True),
        Column("runs", lambda m: text(m.runs), wide=True, right=True),
        Column("state", lambda m: text(m.state)),
    ],
    lambda m: f"{m.release} {m.device}",
)


@dataclass(frozen=True)
class Measurer:
    """Measures at one server; progress goes to `out`'s stderr."""

    api: ApiClient
    out: Output
    clock: SystemClock

    def measure(self, release: Release, device: str, *, wait_s: float = DEFAULT_WAIT_S) -> Measured:
        """Return what a device measured of a release, with what was predicted."""
        ref = release.ref
        path = f"/releases/{part(ref)}:deploy"
        before = {window.received_at for window in self._windows(device)}
        answer = self.api.post(path, DeployIn(device=device, mode="measure"), Deployment).value
        if not answer.set:
            skipped = answer.skipped[0] if answer.skipped else Skipped()
            reason = skipped.reason or "the device gets no bundle of it"
            return Measured(ref, device, skipped.profile, "skipped", reason)
        chosen = answer.set[0]
        bundle = next((one for one in release.bundles if one.profile == chosen.profile), None)
        try:
            state, reason = self._follow(ref, device, chosen.gen, wait_s)
            row = Measured(ref, device, chosen.profile, state, reason, predicted=bundle.predicted if bundle else None)
            if state == "measured":
                row = self._with_figures(row, bundle.sha256 if bundle else "", before)
        finally:
            self.api.post(path, DeployIn(device=device, mode="end"), Deployment)
        return row

    def _follow(self, ref: str, device: str, gen: int, wait_s: float) -> tuple[str, str]:
        model = ref.partition("@")[0]
        deadline_s = self.clock.monotonic_s() + wait_s
        state, reason = "unheard", "the device has not accepted the document"
        with board(self.out) as rows:
            while self.clock.monotonic_s() < deadline_s:
                found = self.api.get(f"/devices/{part(device)}", Device).value
                if (refused := _refusal(found, gen)) is not None:
                    return "failed", refused
                candidate = next((m.candidate for m in found.models if m.model == model), None)
                if found.reported_gen >= gen and candidate:
                    state, reason = candidate.state, candidate.reason
                rows.update(device, state, reason, _PCT.get(state))
                if state in _OVER:
                    return state, reason
                self.clock.sleep(_POLL_S)
        return "unfinished", f"{state}: {reason}" if reason else state

    def _windows(self, device: str) -> list[Window]:
        page = self.api.page(f"/devices/{part(device)}/telemetry", Window, limit=50)
        return [window for window in page if window.lane == "measure"]

    def _with_figures(self, row: Measured, sha256: str, before: set[str]) -> Measured:
        """Return a row with the figures of this measurement. before: when those of earlier ones were received."""
        deadline_s = self.clock.monotonic_s() + FIGURES_S
        while True:
            windows = self._windows(row.device)
            rounds = [one for one in windows if one.sha256 == sha256 and one.received_at not in before]
            if rounds:
                return msgspec.structs.replace(row, **figures_of(rounds))
            if self.clock.monotonic_s() > deadline_s:
                reason = "measured, but its figures have not come"
                return msgspec.structs.replace(row, state="unfinished", reason=reason)
            self.clock.sleep(_POLL_S)


def figures_of(rounds: Sequence[Window]) -> dict[str, float | None]:
    """Return one figure each of the rounds of a measurement, by the names of `Measured`. Pure."""
    joules = [one.joules_per_answer for one in rounds if one.joules_per_answer is not None]
    return {
        "p50_ms": median(one.latency_p50_ms or 0.0 for one in rounds),
        "p95_ms": median(one.latency_p95_ms or 0.0 for one in rounds),
        "peak_rss_bytes": max(one.worker_rss_bytes for one in rounds),
        "joules_per_answer": median(joules) if joules else None,
        "runs": sum(one.n for one in rounds),
    }


def show_measured(out: Output, rows: Sequence[Measured]) -> None:
    """Write what devices measured next to what was predicted, and why there is nothing where there is nothing."""
    out.heading("Measured on devices")
    out.table(rows, MEASURED.columns)
    for row in rows:
        if row.reason:
            out.note(f"{row.device}: {row.state}: {row.reason}")


def energy(joules: float | None) -> str:
    """Return the energy of one run; "-" where the board does not measure it."""
    if joules is None:
        return "-"
    return f"{joules * 1e3:.2f} mJ" if joules < 1 else f"{joules:.2f} J"


def _refusal(device: Device, gen: int) -> str | None:
    refused = device.refused
    return f"{refused.code}: {refused.reason}" if refused is not None and refused.gen >= gen else None
