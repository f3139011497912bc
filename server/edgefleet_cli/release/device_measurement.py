"""Measuring a release on a real device: `publish --measure-on` and `device measure`. Asks, follows, reads the figures, ends it."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import Any

from edgefleet_cli.core.api_client import ApiClient, part
from edgefleet_cli.core.clock import SystemClock
from edgefleet_cli.render.format import milliseconds, predicted, size, text
from edgefleet_cli.render.output import Column, Output, Sheet
from edgefleet_cli.render.progress import board

Json = dict[str, Any]

DEFAULT_WAIT_S = 600.0
FIGURES_S = 60.0
"""How long the figures may come after the device said that it has measured."""
_POLL_S = 0.5
_OVER = frozenset({"measured", "failed"})
_PCT = {"waiting": 5.0, "downloading": 20.0, "measuring": 70.0, "measured": 100.0}

MEASURED = Sheet(
    "measurements",
    [
        Column("device", lambda m: text(m.get("device")), keep=True),
        Column("profile", lambda m: text(m.get("profile")), spare=2),
        Column("measured p50", lambda m: milliseconds(m.get("p50_ms")), right=True, keep=True),
        Column("predicted p50", lambda m: predicted(m.get("predicted"), "latency_p50_ms", milliseconds), right=True),
        Column("measured p95", lambda m: milliseconds(m.get("p95_ms")), right=True),
        Column("measured memory", lambda m: size(m.get("peak_rss_bytes")), right=True),
        Column("predicted memory", lambda m: predicted(m.get("predicted"), "memory_bytes", size), right=True),
        Column("energy a run", lambda m: energy(m.get("joules_per_answer")), right=True),
        Column("runs", lambda m: text(m.get("runs")), wide=True, right=True),
        Column("state", lambda m: text(m.get("state"))),
    ],
    lambda m: f"{m.get('release')} {m.get('device')}",
)


@dataclass(frozen=True)
class Measurer:
    """Measures at one server; progress goes to `out`'s stderr."""

    api: ApiClient
    out: Output
    clock: SystemClock

    def measure(self, release: Json, device: str, *, wait_s: float = DEFAULT_WAIT_S) -> Json:
        """Return what a device measured of a release, beside what was predicted. state: measured, failed, skipped or unfinished."""
        ref = str(release["ref"])
        path = f"/releases/{part(ref)}:deploy"
        before = {window["received_at"] for window in self._windows(device)}
        answer = self.api.post(path, {"device": device, "mode": "measure"})
        chosen = next(iter(answer.get("set") or []), None)
        if chosen is None:
            skipped: Json = next(iter(answer.get("skipped") or []), {})
            reason = str(skipped.get("reason") or "the device gets no bundle of it")
            return _row(ref, device, str(skipped.get("profile") or ""), "skipped", reason)
        bundle: Json = next((b for b in release.get("bundles") or [] if b.get("profile") == chosen.get("profile")), {})
        try:
            told = self._follow(ref, device, int(chosen["gen"]), wait_s)
            row = _row(ref, device, str(chosen["profile"]), *told)
            row["predicted"] = bundle.get("predicted")
            if row["state"] == "measured":
                row |= self._figures(device, str(bundle.get("sha256") or ""), before)
        finally:
            self.api.post(path, {"device": device, "mode": "end"})
        return row

    def _follow(self, ref: str, device: str, gen: int, wait_s: float) -> tuple[str, str]:
        model = ref.partition("@")[0]
        deadline_s = self.clock.monotonic_s() + wait_s
        state, reason = "unheard", "it has not taken up the document"
        with board(self.out) as rows:
            while self.clock.monotonic_s() < deadline_s:
                found = self.api.get(f"/devices/{part(device)}")
                if (refused := _refusal(found, gen)) is not None:
                    return "failed", refused
                said = next((m.get("candidate") for m in found["models"] if m.get("model") == model), None)
                if int(found.get("reported_gen") or 0) >= gen and said:
                    state, reason = str(said.get("state")), str(said.get("reason") or "")
                rows.update(device, state, reason, _PCT.get(state))
                if state in _OVER:
                    return state, reason
                self.clock.sleep(_POLL_S)
        return "unfinished", f"{state}: {reason}" if reason else state

    def _windows(self, device: str) -> list[Json]:
        items: list[Json] = self.api.get(f"/devices/{part(device)}/telemetry", limit=50)["items"]
        return [window for window in items if window.get("lane") == "measure"]

    def _figures(self, device: str, sha256: str, before: set[str]) -> Json:
        """Return the figures of this measurement. before: when those of earlier ones were received."""
        deadline_s = self.clock.monotonic_s() + FIGURES_S
        while True:
            rounds = [w for w in self._windows(device) if w.get("sha256") == sha256 and w["received_at"] not in before]
            if rounds:
                return figures_of(rounds)
            if self.clock.monotonic_s() > deadline_s:
                return {"state": "unfinished", "reason": "measured, but its figures have not come"}
            self.clock.sleep(_POLL_S)


def figures_of(rounds: list[Json]) -> Json:
    """Return one figure each of the rounds of a measurement. Pure."""
    joules = [one["joules_per_answer"] for one in rounds if one.get("joules_per_answer") is not None]
    return {
        "p50_ms": median(one["latency_p50_ms"] for one in rounds),
        "p95_ms": median(one["latency_p95_ms"] for one in rounds),
        "peak_rss_bytes": max(one["worker_rss_bytes"] for one in rounds),
        "joules_per_answer": median(joules) if joules else None,
        "runs": sum(one["n"] for one in rounds),
    }


def show_measured(out: Output, rows: list[Json]) -> None:
    """Write what devices measured beside what was predicted, and why there is nothing where there is nothing."""
    out.heading("Measured on devices")
    out.table(rows, MEASURED.columns)
    for row in rows:
        if row.get("reason"):
            out.note(f"{row['device']}: {row['state']}: {row['reason']}")


def energy(joules: Any) -> str:
    """Return the energy of one run; "-" where the board cannot tell."""
    if not isinstance(joules, int | float):
        return "-"
    return f"{joules * 1e3:.2f} mJ" if joules < 1 else f"{joules:.2f} J"


def _row(ref: str, device: str, profile: str, state: str, reason: str) -> Json:
    figures = dict.fromkeys(("p50_ms", "p95_ms", "peak_rss_bytes", "joules_per_answer", "runs", "predicted"))
    return {"release": ref, "device": device, "profile": profile, "state": state, "reason": reason, **figures}


def _refusal(device: Json, gen: int) -> str | None:
    refused = device.get("refused")
    if isinstance(refused, dict) and int(refused.get("gen") or 0) >= gen:
        return f"{refused.get('code')}: {refused.get('reason')}"
    return None
