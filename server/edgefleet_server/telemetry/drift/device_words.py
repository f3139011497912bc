"""What devices say of drift themselves: `drift` events that no `drift_over` has ended.

The newest MOST_EVENTS are looked at. A device that fills them is left out and the others are asked for again, or one that says it without
end would hide what all others say.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Protocol

from edgefleet_protocol.clock import Clock
from edgefleet_protocol.messages import EventKind
from edgefleet_server.events.model import EventFilter, EventView
from edgefleet_server.telemetry.drift.views import DriftWord

REACH: Final = timedelta(days=30)
MOST_EVENTS: Final = 2_000
MOST_LOOKS: Final = 4
MAX_TEXT: Final = 120
KINDS: Final = (EventKind.DRIFT.value, EventKind.DRIFT_OVER.value)


class Feed(Protocol):
    """What is needed of the event log."""

    def newest_of(self, what: EventFilter, limit: int) -> list[EventView]:
        """Return events, newest first."""
        ...


class DeviceWords:
    """Reads them. Thread-safe; calls block."""

    def __init__(self, feed: Feed, clock: Clock) -> None:
        """Wire the log."""
        self._feed = feed
        self._clock = clock

    def open(self, *, model: str = "", device: str = "") -> list[DriftWord]:
        """Return the drifts that devices report and that are not over, of a model or a device, the strongest first."""
        known: dict[tuple[str, ...], EventView] = {}
        for event in self._events(EventFilter(device or None, since=self._clock.now() - REACH, model=model or None)):
            names = (_text(_said(event), name) for name in ("version", "signal", "scale"))
            known.setdefault((event.device, event.model, *names), event)
        found = [_word(event) for event in known.values() if event.kind == EventKind.DRIFT.value]
        return sorted(found, key=lambda one: (-one.psi, one.device, one.signal))

    def _events(self, what: EventFilter) -> Iterator[EventView]:
        """Yield events, of each device the newest first."""
        loud: set[str] = set()
        for _ in range(MOST_LOOKS):
            events = self._feed.newest_of(replace(what, kinds=KINDS, but_of=loud), MOST_EVENTS)
            yield from events
            louder = {one for one, n in Counter(event.device for event in events).items() if n > MOST_EVENTS // 4}
            if len(events) < MOST_EVENTS or not louder:
                return
            loud |= louder


def _said(event: EventView) -> Mapping[str, Any]:
    inner = event.detail.get("detail")
    return inner if isinstance(inner, Mapping) else event.detail


def _word(event: EventView) -> DriftWord:
    said = _said(event)
    since = _number(said, "since")
    is_time = since is not None and 0 < since < 4e9
    return DriftWord(
        device=event.device,
        display_name=event.display_name,
        model=event.model,
        version=_text(said, "version"),
        signal=_text(said, "signal"),
        kind=_text(said, "kind"),
        scale=_text(said, "scale"),
        psi=_number(said, "psi") or 0.0,
        shift=_number(said, "shift_z"),
        since=datetime.fromtimestamp(since, UTC) if is_time and since is not None else event.at,
    )


def _text(said: Mapping[str, Any], name: str) -> str:
    return str(said.get(name) or "")[:MAX_TEXT]


def _number(said: Mapping[str, Any], name: str) -> float | None:
    value = said.get(name)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
