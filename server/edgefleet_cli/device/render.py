"""How devices are shown: the row of a list, what a device runs, should run and lacks in a few words, and the newest telemetry of
the device and of each model.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from edgefleet_cli.render.format import age, error_text, milliseconds, pairs, size, text
from edgefleet_cli.render.output import Column, Output, Sheet

Json = dict[str, Any]


def device_sheet(now: datetime) -> Sheet:
    """Return how devices are listed; ages are counted from `now`."""
    return Sheet(
        "devices; enrol one with `edgectl device enroll`",
        [
            Column("id", lambda d: text(d.get("id")), keep=True),
            Column("profile", lambda d: text(d.get("profile"))),
            Column("status", lambda d: text(d.get("status"))),
            Column("models", _models),
            Column("error", errors_of),
            Column("seen", lambda d: age(d.get("last_seen"), now), right=True),
            Column("labels", lambda d: pairs(d.get("labels"))),
            Column("desired", _desired, wide=True),
            Column("gen", lambda d: f"{d.get('reported_gen')}/{d['desired'].get('gen')}", wide=True, right=True),
            Column(
                "free", lambda d: size(d["free_mb"] * 1_000_000) if d.get("free_mb") else "-", wide=True, right=True
            ),
            Column("agent", lambda d: text(d.get("agent_version")), wide=True),
            Column("arch", lambda d: text(d.get("arch")), wide=True),
        ],
        lambda d: text(d.get("id")),
    )


def _models(device: Json) -> str:
    shown = []
    for model in device.get("models") or []:
        running = model.get("release") or f"{model.get('model')} -"
        phase = model.get("phase")
        beside = _beside(model.get("candidate"))
        shown.append((running if phase == "committed" else f"{running} ({phase})") + beside)
    return ", ".join(shown) or "-"


def _beside(candidate: Json | None) -> str:
    """Return what runs beside a model's active version, for its line."""
    if not candidate:
        return ""
    share = f" {candidate.get('share_pct')} %" if candidate.get("mode") == "split" else ""
    state = candidate.get("state")
    return f" + {candidate.get('mode')}{share} {candidate.get('release')}" + (
        "" if state == "running" else f" ({state})"
    )


def _desired(device: Json) -> str:
    return ", ".join(str(model.get("release")) for model in device["desired"].get("models") or []) or "-"


def errors_of(device: Json) -> str:
    refused = device.get("refused")
    found = [f"{refused.get('code')}: {refused.get('reason')}"] if isinstance(refused, dict) else []
    found += [told for model in device.get("models") or [] if (told := error_text(model))]
    return "; ".join(found) or "-"


WINDOWS = [
    Column("model", lambda w: f"{w.get('model')}@{w.get('version')}", keep=True),
    Column("lane", lambda w: text(w.get("lane"))),
    Column("window", lambda w: f"{w.get('length_s')} s", right=True),
    Column("answers", lambda w: text(w.get("n")), right=True),
    Column("errors", lambda w: text(w.get("errors")), right=True),
    Column("nan", lambda w: text(w.get("nonfinite")), right=True),
    Column("crashes", lambda w: text(w.get("crashes")), right=True),
    Column("p50", lambda w: milliseconds(w.get("latency_p50_ms")), right=True),
    Column("p95", lambda w: milliseconds(w.get("latency_p95_ms")), right=True),
    Column("memory", lambda w: size(w.get("worker_rss_bytes")), right=True),
]

SHADOWS = [
    Column("shadow", lambda w: f"{w.get('model')}@{w.get('version')}", keep=True),
    Column("compared", lambda w: text(w["shadow"].get("compared")), right=True),
    Column("agreement", lambda w: _ratio(w["shadow"].get("agreement")), right=True),
    Column("delta p50", lambda w: text(w["shadow"].get("delta_p50")), right=True),
    Column("delta p95", lambda w: text(w["shadow"].get("delta_p95")), right=True),
    Column("overlap", lambda w: _ratio(w["shadow"].get("overlap")), right=True),
    Column("p95", lambda w: milliseconds(w.get("latency_p95_ms")), right=True),
    Column("active p95", lambda w: milliseconds(w["shadow"].get("active_p95_ms")), right=True),
    Column("failed", lambda w: text(w["shadow"].get("failed")), right=True),
    Column("dropped", lambda w: f"{w['shadow'].get('dropped')} of {w['shadow'].get('offered')}", right=True),
    Column("kept", lambda w: text(w["shadow"].get("kept")), right=True),
]


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def show_health(out: Output, telemetry: Mapping[str, Any], now: datetime) -> None:
    """Write the newest figures. telemetry: as `GET /devices/{id}` gives it."""
    out.heading(f"Health, {age(telemetry.get('received_at'), now)} ago")
    system = telemetry.get("system") or {}
    out.fields(_system(system))
    queue, dropped = telemetry.get("queue_bytes"), telemetry.get("dropped")
    out.fields([("waiting to be sent", size(queue)), ("reports dropped", text(dropped or None))])
    windows = list(telemetry.get("windows") or [])
    if windows:
        out.table(windows, WINDOWS)
    shadows = [window for window in windows if window.get("shadow")]
    if shadows:
        out.heading("Shadow: the same inputs, answered by the candidate and by what serves")
        out.table(shadows, SHADOWS)


def _system(system: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return names and texts; the server leaves out what a device cannot read."""
    cpu, load, heat = (system.get(key) for key in ("cpu_ratio", "load_1m", "temperature_celsius"))
    sizes = (
        ("agent memory", "agent_rss_bytes"),
        ("workers memory", "workers_rss_bytes"),
        ("memory free", "memory_available_bytes"),
        ("disk free", "disk_free_bytes"),
    )
    return [
        ("cpu", "" if cpu is None else f"{cpu:.0%}"),
        ("load", "" if load is None else f"{load:.2f}"),
        ("temperature", "" if heat is None else f"{heat:.0f} °C"),
        *((name, size(system.get(key))) for name, key in sizes),
    ]
