"""How devices are shown: the row of a list, what a device runs, should run and lacks in a few words, and the newest telemetry of
the device and of each model.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from edgefleet_cli.core import api
from edgefleet_cli.core.selection import NO_DEVICES
from edgefleet_cli.render.format import age, error_text, milliseconds, pairs, size, text
from edgefleet_cli.render.output import Column, Output, Sheet
from edgefleet_terms.device_figures import SYSTEM_FIGURES, figure_text


def device_sheet(now: datetime) -> Sheet[api.device.Device]:
    """Return how devices are listed; ages are counted from `now`."""
    return Sheet(
        NO_DEVICES.removeprefix("no "),
        [
            Column("name", lambda d: text(d.display_name or None)),
            Column("id", lambda d: text(d.id), keep=True),
            Column("profile", lambda d: text(d.profile)),
            Column("status", lambda d: text(d.status)),
            Column("models", _models),
            Column("error", _errors),
            Column("seen", lambda d: age(d.last_seen, now), right=True),
            Column("labels", lambda d: pairs(d.labels)),
            Column("desired", _desired, wide=True),
            Column("gen", lambda d: f"{d.reported_gen}/{d.desired.gen}", wide=True, right=True),
            Column("free", lambda d: size(d.free_mb * 1_000_000) if d.free_mb else "-", wide=True, right=True),
            Column("agent", lambda d: text(d.agent_version), wide=True),
            Column("keys", lambda d: text(d.facts.get("key_storage")), wide=True),
            Column("arch", lambda d: text(d.arch), wide=True),
        ],
        lambda d: text(d.id),
    )


def _models(device: api.device.Device) -> str:
    shown = []
    for model in device.models:
        running = model.release or f"{model.model} -"
        running += " (withdrawn)" if model.withdrawn else ""
        phase = model.phase
        candidate = _candidate_text(model.candidate)
        shown.append((running if phase == "committed" else f"{running} ({phase})") + candidate)
    return ", ".join(shown) or "-"


def _candidate_text(candidate: api.device.ReportedCandidate | None) -> str:
    """Return what runs next to a model's active version, for its line."""
    if not candidate:
        return ""
    share = f" {candidate.share_pct} %" if candidate.mode == "split" else ""
    state = candidate.state
    return f" + {candidate.mode}{share} {candidate.release}" + ("" if state == "running" else f" ({state})")


def _desired(device: api.device.Device) -> str:
    return ", ".join(model.release for model in device.desired.models) or "-"


def _errors(device: api.device.Device) -> str:
    return f"suspect; {errors_of(device)}".removesuffix("; -") if device.suspect_since else errors_of(device)


def errors_of(device: api.device.Device) -> str:
    """Return what a device refused and what went wrong with its models, `-` when nothing did."""
    refused = device.refused
    found = [f"{refused.code}: {refused.reason}"] if refused is not None else []
    found += [message for model in device.models if (message := error_text(model.error_class, model.reason))]
    return "; ".join(found) or "-"


WINDOWS: list[Column[api.device.Window]] = [
    Column("model", lambda w: f"{w.model}@{w.version}", keep=True),
    Column("lane", lambda w: text(w.lane)),
    Column("window", lambda w: f"{w.length_s} s", right=True),
    Column("answers", lambda w: text(w.n), right=True),
    Column("errors", lambda w: text(w.errors), right=True),
    Column("nan", lambda w: text(w.nonfinite), right=True),
    Column("crashes", lambda w: text(w.crashes), right=True),
    Column("p50", lambda w: milliseconds(w.latency_p50_ms), right=True),
    Column("p95", lambda w: milliseconds(w.latency_p95_ms), right=True),
    Column("memory", lambda w: size(w.worker_rss_bytes), right=True),
]

SHADOWS: list[Column[tuple[api.device.Window, api.device.Shadow]]] = [
    Column("shadow", lambda w: f"{w[0].model}@{w[0].version}", keep=True),
    Column("compared", lambda w: text(w[1].compared), right=True),
    Column("agreement", lambda w: _ratio(w[1].agreement), right=True),
    Column("delta p50", lambda w: text(w[1].delta_p50), right=True),
    Column("delta p95", lambda w: text(w[1].delta_p95), right=True),
    Column("overlap", lambda w: _ratio(w[1].overlap), right=True),
    Column("p95", lambda w: milliseconds(w[0].latency_p95_ms), right=True),
    Column("active p95", lambda w: milliseconds(w[1].active_p95_ms), right=True),
    Column("failed", lambda w: text(w[1].failed), right=True),
    Column("dropped", lambda w: f"{w[1].dropped} of {w[1].offered}", right=True),
    Column("kept", lambda w: text(w[1].kept), right=True),
]


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def show_health(out: Output, telemetry: api.device.Latest, now: datetime) -> None:
    """Write the newest figures."""
    out.heading(f"Health, {age(telemetry.received_at, now)} ago")
    out.fields(_system(telemetry.system))
    out.fields(
        [
            ("waiting to be sent", size(telemetry.queue_bytes)),
            ("reports dropped", text(telemetry.dropped or None)),
            ("reports that never came", text(telemetry.missing or None)),
        ]
    )
    if telemetry.windows:
        out.table(telemetry.windows, WINDOWS)
    shadows = [(window, window.shadow) for window in telemetry.windows if window.shadow]
    if shadows:
        out.heading("Shadow: the same inputs, answered by the candidate and by the active version")
        out.table(shadows, SHADOWS)


def _system(system: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return names and texts, as the pages have them; the server leaves out what a device cannot read."""
    return [(one.name, figure_text(key, system.get(key))) for key, one in SYSTEM_FIGURES.items() if key in system]


WHY: Sheet[api.device.ModelExplanation] = Sheet(
    "models on this device",
    [
        Column("model", lambda w: text(w.model), keep=True),
        Column("should run", lambda w: text(w.wanted)),
        Column("runs", lambda w: text(w.running)),
        Column("why", lambda w: text(w.why)),
        Column("next", lambda w: text(w.next)),
        Column("rollout", lambda w: text(w.rollout), wide=True),
    ],
    lambda w: text(w.model),
)
