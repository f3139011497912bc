"""A client that calls the API ten times a second, reads and writes by turns, and what it saw of it.

A write sets a label of one device to a number that rises. What was answered 2xx has to stand: the label is that number or a later one.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final

import httpx

EVERY_S: Final = 0.1
TIMEOUT_S: Final = 8.0
AT_ONCE: Final = 40
READS: Final = ("/devices?limit=20", "/fleet/summary", "/rollouts?limit=5", "/devices?limit=20&sort=-last_seen")
LABEL: Final = "counter"


@dataclass(frozen=True)
class Call:
    """One call: when it began and ended, monotonic seconds, and its status; 0 = no answer."""

    began_s: float
    ended_s: float
    status: int

    @property
    def is_served(self) -> bool:
        """Whether the API answered what was asked."""
        return 200 <= self.status < 300


def longest_gap_s(calls: Sequence[Call], since_s: float, until_s: float) -> float:
    """Return the longest time between two answers that served, within a time: begin and end of it count as answers. Pure."""
    ends = sorted(one.ended_s for one in calls if one.is_served and since_s <= one.ended_s <= until_s)
    return max(after - before for before, after in itertools.pairwise([since_s, *ends, until_s]))


@dataclass
class ApiWatch:
    """Calls until `stop`. devices: whose labels it writes."""

    client: httpx.Client
    devices: Sequence[str]
    calls: list[Call] = field(default_factory=list)
    written: dict[str, int] = field(default_factory=dict)
    """The number that was answered last, by device."""

    def __post_init__(self) -> None:
        self._is_over = threading.Event()
        self._pool = ThreadPoolExecutor(AT_ONCE)
        self._thread = threading.Thread(target=self._run, name="api-watch", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End, when each call has its answer."""
        self._is_over.set()
        self._thread.join()
        self._pool.shutdown()

    def _run(self) -> None:
        began = time.monotonic()
        for number in itertools.count():
            if self._is_over.wait(max(0.0, began + number * EVERY_S - time.monotonic())):
                return
            self._pool.submit(self._call, number)

    def _call(self, number: int) -> None:
        began, status = time.monotonic(), 0
        try:
            if number % 4:
                status = self.client.get(f"/api/v1{READS[number % len(READS)]}", timeout=TIMEOUT_S).status_code
            else:
                status = self._write(number)
        except httpx.TransportError:
            pass
        self.calls.append(Call(began, time.monotonic(), status))

    def _write(self, number: int) -> int:
        device = self.devices[(number // 4) % len(self.devices)]
        body = {"labels": {LABEL: str(number)}}
        status = self.client.patch(f"/api/v1/devices/{device}", json=body, timeout=TIMEOUT_S).status_code
        if httpx.codes.is_success(status):
            self.written[device] = number
        return status

    def lost(self, stored: dict[str, int]) -> list[str]:
        """Return the devices whose label is older than what was answered. stored: the numbers of the database."""
        return [device for device, number in self.written.items() if stored.get(device, -1) < number]
