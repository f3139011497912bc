"""The story of today, which all who look at the overview share: events since midnight, devices that went away, releases."""

from datetime import UTC, datetime
from itertools import chain
from typing import Final, Protocol

from edgefleet_protocol.clock import Clock
from edgefleet_server.dashboard.story.event_fold import folded, happening_of
from edgefleet_server.dashboard.story.model import Happening, Story
from edgefleet_server.db.keyset import Page, PageRequest
from edgefleet_server.db.read_cache import KeptReadings
from edgefleet_server.events.log import EventLog
from edgefleet_server.fleet.inventory.device_health import DeviceHealthReader
from edgefleet_server.registry.model import ReleaseView

SHOWN_LINES: Final = 8
MOST_EVENTS: Final = 1_000
MOST_DEPARTED: Final = 200
MOST_RELEASES: Final = 5
QUICK_S: Final = 0.2
"""What is new has to be on the pages that are open within a second: a reading that takes no longer is waited for."""


class Registry(Protocol):
    """What is needed of the registry."""

    def releases(self, page: PageRequest) -> Page[ReleaseView]:
        """Return one page of releases, newest first as usual."""
        ...


class TodayReader:
    """Reads it. Thread-safe; calls block for the first reading, and where reading is quick."""

    def __init__(self, feed: EventLog, health: DeviceHealthReader, registry: Registry, clock: Clock) -> None:
        """Wire the parts."""
        self._feed = feed
        self._health = health
        self._registry = registry
        self._clock = clock
        self._kept = KeptReadings(clock, self._since, 4, QUICK_S)

    def story(self) -> Story:
        """Return the story since midnight, UTC."""
        newest = self._feed.newest(limit=1)
        since = self._clock.now().astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        return self._kept.get(since, newest[0].id if newest else 0)

    def _since(self, since: datetime) -> Story:
        events = self._feed.newest(limit=MOST_EVENTS, since=since)
        departed = self._health.departures(since, MOST_DEPARTED)
        releases = self._registry.releases(PageRequest(MOST_RELEASES)).items
        away = (Happening(one.at, "offline", one.id, one.name, one.site, is_event=False) for one in departed)
        published = (
            Happening(one.created_at, "published", release=str(one.ref), by=one.created_by, is_event=False)
            for one in releases
            if one.created_at >= since
        )
        happened = chain((happening_of(one) for one in events), away, published)
        return folded(happened, most=SHOWN_LINES, is_cut=len(events) == MOST_EVENTS)
