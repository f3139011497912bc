"""Why a stage or a device of a rollout does not get on, and what would move it, in words."""

from __future__ import annotations

from typing import Any

from edgefleet_cli.render.format import moment, text

Json = dict[str, Any]

MOST_WAITS = 4


def wait_lines(entry: Json) -> list[str]:
    """Return the rate and the waits of a stage, or the waits of a rollout: one line each, the most frequent first."""
    waits = entry.get("waits") or []
    told = [_rate(entry["rate"])] if isinstance(entry.get("rate"), dict) and waits else []
    told += [_wait(wait) for wait in waits[:MOST_WAITS]]
    left = len(waits) - MOST_WAITS
    return [*told, f"and {left} more reasons"] if left > 0 else told


def device_wait(device: Json) -> str:
    """Return what a device waits for and when that is; `-` when it waits for nothing."""
    if not device.get("waits_for"):
        return "-"
    until = f" ({moment(device['until'])})" if device.get("until") else ""
    return f"{device['waits_for']}{until}"


def _wait(wait: Json) -> str:
    until = f" at {moment(wait['until'])}" if wait.get("until") else ""
    return f"{text(wait.get('count'))} waiting: {text(wait.get('reason'))}; moved by: {text(wait.get('moves'))}{until}"


def _rate(rate: Json) -> str:
    told = f"{text(rate.get('per_min'))} a minute, {text(rate.get('offered'))} offered in this one"
    then = rate.get("next_per_min")
    return told if then == rate.get("per_min") else f"{told}; then {text(then)}"
