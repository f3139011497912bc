"""What a device reports of the schedules of its models (`facts.schedules` of its state), in words. Pure."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

_COUNTS: Final = ("failed", "missed", "late")
_MOST_S: Final = 253_402_300_799


def run_texts(facts: Mapping[str, Any]) -> dict[str, str]:
    """Return by model how its schedule stands, for facts of any form: `each 1h; next 2026-12-01 06:00 UTC; 8 runs, 4 missed`."""
    said = facts.get("schedules")
    if not isinstance(said, Mapping):
        return {}
    return {str(model)[:63]: _text(one) for model, one in said.items() if isinstance(one, Mapping)}


def _text(one: Mapping[str, Any]) -> str:
    state, due_s = one.get("state"), _number(one, "due_s")
    when = "not planned yet"
    if state == "running":
        when = "runs now"
    elif state == "waiting":
        when = "waits until the clock is set"
    elif due_s:
        when = f"next {datetime.fromtimestamp(due_s, UTC):%Y-%m-%d %H:%M} UTC"
    counts = [f"{_number(one, 'runs')} runs", *(f"{n} {word}" for word in _COUNTS if (n := _number(one, word)))]
    parts = [f"each {str(one.get('every'))[:80]}", when, ", ".join(counts)]
    if code := str(one.get("code") or "")[:64]:
        parts.append(f"the last one failed, {code}: {str(one.get('reason') or '')[:200]}")
    if "zone" in one:
        parts.append(f"the device does not know the zone {str(one['zone'])[:64]} and plans in UTC")
    return "; ".join(parts)


def _number(one: Mapping[str, Any], name: str) -> int:
    value = one.get(name)
    return value if type(value) is int and 0 <= value <= _MOST_S else 0
