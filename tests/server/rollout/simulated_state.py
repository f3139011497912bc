"""The state of a simulated rollout: its fleet, its rows and the queue of what happens next. See `simulation`."""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Final

from edgefleet_protocol.ids import DeviceId, ProfileName
from edgefleet_server.rollout.controller.executor import BRAKED
from edgefleet_server.rollout.model import (
    Assignment,
    Lease,
    Member,
    RampWindow,
    Report,
    RolloutState,
    StageRun,
    StageState,
)
from edgefleet_server.rollout.placement import rank
from edgefleet_server.rollout.spec.model import Spec
from tests.server.rollout.simulated_devices import TICK, Document, Scenario, SimulatedDevice, bundle_of

START: Final = datetime(2026, 1, 5, tzinfo=UTC)


def stage_of(device_rank: int, cuts: Sequence[int]) -> int | None:
    """Return the index of the stage that a rank belongs to, None when no open stage reaches it. cuts: in order of stage."""
    return next((index for index, cut in enumerate(cuts) if device_rank < cut), None)


class SimulatedState:
    """All that there is of one rollout and its fleet."""

    def __init__(
        self, spec: Spec, fleet: Mapping[str, int], scenario: Scenario, without: frozenset[str] = frozenset()
    ) -> None:
        self.spec = spec
        self.scenario = scenario
        self.now = START
        self.report_loss = scenario.report_loss
        self.chance = random.Random(scenario.seed)
        self.state = RolloutState.RUNNING
        self.reason = "started"
        self.salt = f"salt-{scenario.seed}"
        self.bundles = {ProfileName(name): bundle_of("new", name) for name in fleet if name not in without}
        self.devices: dict[DeviceId, SimulatedDevice] = {}
        self.members: dict[DeviceId, Member] = {}
        self.documents: dict[DeviceId, Document] = {}
        self.cells: dict[tuple[int, ProfileName], StageRun] = {}
        self.assignments: dict[DeviceId, Assignment] = {}
        self.verdicts: Counter[str] = Counter()
        self.minutes: dict[int, RampWindow] = {}
        self.leases: dict[DeviceId, Lease] = {}
        self.line_until: datetime | None = None
        self.ticks = 0
        self._reports: dict[DeviceId, tuple[Report, Document, Report]] = {}
        self._events: list[tuple[datetime, int, Callable[[], None]]] = []
        self._order = count()
        self._look_at = START
        self._patience = TICK

    # ---- what devices need

    def at(self, delay: timedelta, act: Callable[[], None]) -> None:
        """Call `act` after `delay`."""
        heapq.heappush(self._events, (self.now + delay, next(self._order), act))

    def document(self, device: DeviceId) -> Document:
        """Return the device's document as it is now."""
        return self.documents[device]

    def is_braked(self, stratum: ProfileName) -> bool:
        """Whether devices of a profile may not switch: the rollout is stopped, or their stratum failed."""
        cells = self.cells.values()
        return self.state in BRAKED or any(c.stratum == stratum and c.state is StageState.FAILED for c in cells)

    def heard(self, device: SimulatedDevice) -> None:
        """A report reached the server: look soon."""
        self._look_at = min(self._look_at, self.now + self.scenario.look)
        self._patience = TICK

    # ---- the fleet

    def join(self, profile: str) -> None:
        """A device is enrolled."""
        device = DeviceId(f"{profile}-{len(self.devices):04}")
        kinds = list(self.scenario.mix)
        (kind,) = self.chance.choices(kinds, [self.scenario.mix[kind] for kind in kinds])
        old = bundle_of("old", profile)
        made = SimulatedDevice(device, ProfileName(profile), kind, old, random.Random(self.chance.random()))
        self.devices[device] = made
        self.members[device] = Member(device, ProfileName(profile))
        self.documents[device] = Document(0, old)
        made.start(self)

    def by_rank(self, stratum: str) -> list[SimulatedDevice]:
        """Return the devices of a stratum in the order in which stages take them."""
        devices = (device for device in self.devices.values() if device.stratum == stratum)
        return sorted(devices, key=lambda device: rank(self.salt, device.id))

    def stage_by_rank(self, one: Assignment) -> int | None:
        """Return the stage that an assignment's rank puts it in, of those that are open or were."""
        cells = sorted((c for c in self.cells.values() if c.stratum == one.stratum), key=lambda c: c.stage)
        return stage_of(rank(self.salt, one.device), [cell.cut for cell in cells])
