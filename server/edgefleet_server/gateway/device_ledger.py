"""What each device has spent of its quotas, and what was dropped of it. In memory of this gateway: it begins again with the process.

- `admit` is asked before a message is queued, `store` before it is stored, `serve` before bytes go to a device: each by one thread.
- What is dropped is counted by device and UTC day. `reports` returns what is to be written down: one row a device and day, FIRST_S after
  the first drop, then with new numbers every AGAIN_S. It holds at most MAX_NAMED devices; the figures count all.
- Devices that owe nothing are forgotten: of a fleet that behaves, nothing is kept but the counts of the day.
"""

import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any, Final

from edgefleet_protocol.clock import Clock
from edgefleet_protocol.ids import DeviceId
from edgefleet_server.gateway.device_quota import (
    NOTHING,
    UPLINK,
    Day,
    Limits,
    Reason,
    Served,
    Spent,
    Stored,
    owed,
    spend,
    stored,
)

FIRST_S: Final = 2.0
AGAIN_S: Final = 60.0
LOOK_S: Final = 1.0
"""How often the ledger looks which day it is."""
MAX_NAMED: Final = 10_000
SWEEP_FROM: Final = 4_096


@dataclass(slots=True)
class _Dropped:
    """What was dropped of a device in a day. row: of the event that says so, None until there is one."""

    day: date
    due_s: float
    messages: Counter[Reason] = field(default_factory=Counter)
    bytes: int = 0
    row: int | None = None
    is_news: bool = True


@dataclass(frozen=True, slots=True)
class DropReport:
    """What was dropped of a device in a day so far. row: of the event that said so before, None for the first."""

    device: DeviceId
    day: date
    row: int | None
    detail: Mapping[str, Any]


class DeviceLedger:
    """Counts. `drop`, `reports` and `written` are thread-safe, the others each belong to one thread; nothing blocks."""

    def __init__(self, limits: Limits, clock: Clock) -> None:
        """Wire the clock. Remembers no device yet."""
        self._limits = limits
        self._clock = clock
        self._lock = threading.Lock()
        self._up: dict[DeviceId, Spent] = {}
        self._down: dict[DeviceId, Served] = {}
        self._days: dict[DeviceId, Day] = {}
        self._today = clock.now().date()
        self._look_at_s = clock.monotonic_s() + LOOK_S
        self._sweep_up_at = self._sweep_down_at = SWEEP_FROM
        self._dropped: dict[DeviceId, _Dropped] = {}
        self.total: Counter[Reason] = Counter(dict.fromkeys(Reason, 0))
        """Everything that was dropped since the start, by reason."""

    def admit(self, device: DeviceId, size: int) -> bool:
        """Say whether a device may send one more message of so many bytes now; count it, or that it was dropped."""
        now_s = self._clock.monotonic_s()
        after = spend(self._up.get(device, NOTHING), UPLINK, self._limits.cost_s(size), now_s)
        if after is not None:
            self._up[device] = after
            if len(self._up) > self._sweep_up_at:
                self._sweep_up(now_s)
            return True
        self.drop(device, Reason.RATE, size)
        return False

    def store(self, device: DeviceId, kind: Stored, n: int, size: int) -> bool:
        """Say whether n more of a kind may be stored of a device today; count them, or that the message was dropped."""
        now_s = self._clock.monotonic_s()
        if now_s >= self._look_at_s:
            self._look_at_s, today = now_s + LOOK_S, self._clock.now().date()
            if today != self._today:
                self._today, self._days = today, {}
        day = stored(self._days.get(device) or Day(self._today), self._limits, kind, n, size)
        if day is None:
            self.drop(device, Reason.DAY, size)
            return False
        self._days[device] = day
        return True

    def serve(self, device: DeviceId, size: int, *, offers: Mapping[str, int] | None = None) -> bool:
        """Say whether so many bytes may be sent to a device now; count them, or that they were dropped.

        offers: for blocks, all blobs that the device may pull, with their lengths. None: metadata. An offer counts for an hour, for both.
        """
        now_s = self._clock.monotonic_s()
        is_block = offers is not None
        known = self._down.get(device, Served())
        before = self._limits.downlink(known.offered_bytes, is_block=is_block)
        known = known.offered(offers or {}, Spent(owed(known.spent, before, now_s), now_s), now_s)
        after = spend(known.spent, self._limits.downlink(known.offered_bytes, is_block=is_block), size, now_s)
        if after is None:
            self.drop(device, Reason.DOWNLINK, size)
            return False
        self._down[device] = Served(after, known.offers)
        if len(self._down) > self._sweep_down_at:
            self._sweep_down(now_s)
        return True

    def drop(self, device: DeviceId, reason: Reason, size: int, n: int = 1) -> None:
        """Count what was dropped of a device."""
        now_s, today = self._clock.monotonic_s(), self._clock.now().date()
        with self._lock:
            self.total[reason] += n
            known = self._dropped.get(device)
            if known is None or (known.day != today and not known.is_news):
                if known is None and len(self._dropped) >= MAX_NAMED:
                    return
                known = self._dropped[device] = _Dropped(today, now_s + FIRST_S)
            known.messages[reason] += n
            known.bytes += size
            known.is_news = True

    def reports(self) -> Sequence[DropReport]:
        """Return what is to be written down now."""
        now_s, today = self._clock.monotonic_s(), self._clock.now().date()
        found = []
        with self._lock:
            for device, one in list(self._dropped.items()):
                if one.is_news and now_s >= one.due_s:
                    by_reason = {reason.value: n for reason, n in sorted(one.messages.items())}
                    detail = {"dropped": one.messages.total(), "bytes": one.bytes, "reasons": by_reason}
                    found.append(DropReport(device, one.day, one.row, {"day": one.day.isoformat(), **detail}))
                    one.is_news, one.due_s = False, now_s + AGAIN_S
                elif not one.is_news and one.day != today:
                    del self._dropped[device]
        return found

    def written(self, report: DropReport, row: int) -> None:
        """Note which event says so from now on."""
        with self._lock:
            known = self._dropped.get(report.device)
            if known is not None and known.day == report.day:
                known.row = row

    def _sweep_up(self, now_s: float) -> None:
        """Forget who owes nothing. The dictionary belongs to the thread that asks `admit`."""
        self._up = {device: spent for device, spent in self._up.items() if owed(spent, UPLINK, now_s) > 0}
        self._sweep_up_at = max(SWEEP_FROM, 2 * len(self._up))

    def _sweep_down(self, now_s: float) -> None:
        """Forget who owes nothing. The dictionary belongs to the thread that asks `serve`."""
        self._down = {
            device: served
            for device, served in self._down.items()
            if owed(served.spent, self._limits.downlink(served.offered_bytes, is_block=False), now_s) > 0
        }
        self._sweep_down_at = max(SWEEP_FROM, 2 * len(self._down))
