"""What each device belongs to now, asked of the fleet in bulk and seldom: for all devices at most once a minute.

A device that is not known yet is asked for by itself. Where asking takes long, it is done less often: at most a hundredth of the time.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from edgefleet_protocol.clock import Clock
from edgefleet_server.telemetry.rollups.model import Cohort

KEPT_S: Final = 60.0
PATIENCE: Final = 100

Memberships = Callable[[Sequence[str] | None], Mapping[str, tuple[str, str, tuple[str, ...]]]]
"""Devices, None for all -> profile, site and sorted groups of each."""
NOWHERE: Final = Cohort()


class DeviceCohorts:
    """Remembers cohorts of devices. For the thread that ingests."""

    def __init__(self, memberships: Memberships | None, clock: Clock) -> None:
        """memberships: asks the fleet; None: every device belongs to nothing."""
        self._memberships = memberships
        self._clock = clock
        self._known: dict[str, Cohort] = {}
        self._due_s = -math.inf

    def of(self, devices: Sequence[str]) -> Mapping[str, Cohort]:
        """Return the cohorts of at least these devices. Call it outside of a transaction that writes."""
        if self._memberships is None:
            return {}
        begun_s = self._clock.monotonic_s()
        if begun_s >= self._due_s:
            self._known = _cohorts(self._memberships(None))
            took_s = self._clock.monotonic_s() - begun_s
            self._due_s = begun_s + max(KEPT_S, PATIENCE * took_s)
        unknown = [one for one in devices if one not in self._known]
        if unknown:
            self._known |= dict.fromkeys(unknown, NOWHERE) | _cohorts(self._memberships(unknown))
        return self._known


def _cohorts(found: Mapping[str, tuple[str, str, tuple[str, ...]]]) -> dict[str, Cohort]:
    """Return them with one object for each cohort: they are keys of dictionaries, and equal ones are then the same."""
    same: dict[tuple[str, str, tuple[str, ...]], Cohort] = {}
    return {device: same.setdefault(one, Cohort(*one)) for device, one in found.items()}
