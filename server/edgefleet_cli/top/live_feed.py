"""Keeps `edgectl top` current: it follows the event stream, and looks at the fleet again when something happened.

Two daemon threads, which end with the process: one follows events, the other waits until one came, or for `SLOW_S`, because figures come
without an event. A burst of events is one look. While the server is away, looks are tried again at longer and longer distances. Any other
error ends the screen: one that stands still must not look current.
"""

from __future__ import annotations

import threading
from typing import Final, Protocol

from edgefleet_cli.core import api
from edgefleet_cli.core.clock import SystemClock
from edgefleet_cli.core.errors import CliError
from edgefleet_cli.core.transport.api_client import ApiClient
from edgefleet_cli.core.transport.server_retry import FIRST_PAUSE_S, LONGEST_PAUSE_S, is_passing
from edgefleet_cli.fleet.follow import Follower
from edgefleet_cli.render.output import one_line
from edgefleet_cli.top.fleet_reader import fleet_timeline, fleet_view
from edgefleet_cli.top.fleet_view import FleetView

SLOW_S: Final = 30.0
FIGURES_S: Final = 60.0
GATHER_S: Final = 1.0
EVENTS: Final = 100


class Watcher(Protocol):
    """What is told what the feed sees; called from its threads."""

    def fleet_seen(self, view: FleetView) -> None:
        """The fleet was looked at."""

    def figures_seen(self, timeline: api.device.Timeline) -> None:
        """Figures of the fleet over time were read."""

    def event_seen(self, event: api.fleet.Event) -> None:
        """An event came, the oldest first."""

    def server_away(self, why: str) -> None:
        """The server does not answer; "" when it does again."""

    def ended(self, error: Exception) -> None:
        """The server refuses what is asked, or what it said cannot be shown: nothing more will come."""


class LiveFeed:
    """Sees the fleet for a watcher, from `start` on."""

    def __init__(self, reader: ApiClient, clock: SystemClock, watcher: Watcher) -> None:
        self._api, self._clock, self._watcher = reader, clock, watcher
        self._woken = threading.Event()
        self._over = threading.Event()
        self._span, self._seen_span = "1h", ""
        self._figures_due_s = 0.0

    def start(self) -> None:
        """Begin to look and to follow."""
        for run in (self._look_on, self._follow):
            threading.Thread(target=run, name="edgectl-top", daemon=True).start()

    @property
    def is_over(self) -> bool:
        """Tell whether it was stopped."""
        return self._over.is_set()

    def stop(self) -> None:
        """Look and follow no more."""
        self._over.set()
        self.wake()
        self._api.close()

    def wake(self) -> None:
        """Look at the fleet soon."""
        self._woken.set()

    def show_span(self, span: str) -> None:
        """Read figures of another span."""
        self._span = span
        self.wake()

    def _look_on(self) -> None:
        pause_s = FIRST_PAUSE_S
        while not self.is_over:
            try:
                self._look()
            except Exception as error:  # noqa: BLE001  # the outermost loop of a thread: it must not end without a word
                if not isinstance(error, CliError) or not is_passing(error):
                    self._watcher.ended(error)
                    return
                self._watcher.server_away(one_line(error.message))
                self._over.wait(pause_s)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
                continue
            self._watcher.server_away("")
            pause_s = FIRST_PAUSE_S
            if self._woken.wait(SLOW_S):
                self._over.wait(GATHER_S)
            self._woken.clear()

    def _look(self) -> None:
        self._watcher.fleet_seen(fleet_view(self._api, self._clock.now()))
        now_s, span = self._clock.monotonic_s(), self._span
        if now_s >= self._figures_due_s or span != self._seen_span:
            timeline = fleet_timeline(self._api, span)
            self._figures_due_s, self._seen_span = now_s + FIGURES_S, span
            self._watcher.figures_seen(timeline)

    def _follow(self) -> None:
        """Follow without end; what is refused is said by the looks, so it only ends the following."""
        while not self.is_over:
            follower = Follower(self._api, lambda _: self.wake(), self._clock, {})
            try:
                for event in follower.follow(limit=EVENTS):
                    if self.is_over:
                        return
                    self._watcher.event_seen(event.value)
                    self.wake()
            except CliError as error:
                if not is_passing(error):
                    return
                self._over.wait(FIRST_PAUSE_S)
            except RuntimeError:  # how httpx says that it was closed
                return
