"""The shipped planner in virtual time: a store in memory that carries plans out as the server does, and a simulated fleet.

After each tick:
- every change is from the state that is stored, along its table, and a device is offered the release in an open stage only;
- no stage opens before the one before it passed or was skipped, nothing is offered unless the rollout runs;
- a verdict to advance counts as healthy only devices that really ran the release past their soak, and was not made on nothing;
- joiners of a stage that soaks or is judged come a few at a time; what is taken back is taken back newest exposed first.
At the end: the rollout has ended within its time, with a reason; where it was taken back no device runs the release, but for
those that it names or that are not heard of.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from edgefleet_protocol.ids import ProfileName, RolloutId
from edgefleet_protocol.messages import AssignmentState
from edgefleet_protocol.rollout_states import ROLLOUT_FINAL
from edgefleet_server.rollout.admission import TAKE_UP, room_at
from edgefleet_server.rollout.commands import steer
from edgefleet_server.rollout.model import RolloutState, Snapshot, StageRun
from edgefleet_server.rollout.planner.tick import plan_tick
from edgefleet_server.rollout.spec.maintenance_windows import opening
from edgefleet_server.rollout.spec.model import Spec
from edgefleet_server.rollout.state_machines import CELL_OPEN, soak_end
from tests.server.rollout.simulated_devices import TICK, Scenario, bundle_of
from tests.server.rollout.simulated_state import START
from tests.server.rollout.simulated_store import SimulatedStore

LONGEST_LOOK: Final = timedelta(hours=6)
MAX_TICKS: Final = 20_000
FOR_A_WHILE: Final = "paused by a person for a while"


@dataclass
class Ended:
    """How a run ended."""

    state: RolloutState
    reason: str
    took: timedelta
    ticks: int
    cells: dict[tuple[int, ProfileName], StageRun]
    verdicts: Counter[str]


class World(SimulatedStore):
    """One rollout, its fleet, and the store. See the module for what `run` watches."""

    def __init__(
        self, spec: Spec, fleet: Mapping[str, int], scenario: Scenario, without: frozenset[str] = frozenset()
    ) -> None:
        super().__init__(spec, fleet, scenario, without)
        for name, devices in fleet.items():
            for _ in range(devices):
                self.join(name)
        self._schedule(list(fleet))

    # ---- what happens

    def _schedule(self, profiles: list[str]) -> None:
        limits = self.spec.device
        way = limits.download * 0.02 + limits.apply + limits.verify * 0.2
        span = sum((stage.soak + way for stage in self.spec.stages), timedelta())
        for _ in range(self.scenario.joiners):
            self._some_time(span, lambda: self.join(self.chance.choice(profiles)))
        for _ in range(self.scenario.leavers):
            self._some_time(span, self._leave)
        for _ in range(self.scenario.deploys):
            self._some_time(span, self._deploy_other)
        for _ in range(self.scenario.pauses):
            self._some_time(span, self._pause_for_a_while)

    def _some_time(self, span: timedelta, act: Callable[[], None]) -> None:
        self.at(span * self.chance.random(), act)

    def _leave(self) -> None:
        """A device loses its label, or is revoked."""
        device = self.devices[self.chance.choice(sorted(self.devices))]
        self.members.pop(device.id, None)
        if self.chance.random() < 0.5:
            device.revoke(self)

    def _deploy_other(self) -> None:
        """Somebody deploys another version on a device."""
        device = self.devices[self.chance.choice(sorted(self.devices))]
        if not device.is_revoked:
            self._write(device, bundle_of("other", device.stratum), 1, is_rollout=False)

    def _pause_for_a_while(self) -> None:
        if self.state is RolloutState.RUNNING:
            self.pause(FOR_A_WHILE)
            self.at(timedelta(hours=self.chance.uniform(0.1, 5)), lambda: self.resume("resumed by a person"))

    def pause(self, reason: str) -> None:
        """Pause a rollout that runs."""
        self.carry(steer.plan_pause(self.snapshot(), self.now, reason))

    def resume(self, reason: str) -> None:
        """Resume the rollout if it is paused."""
        if self.state is RolloutState.PAUSED:
            self.carry(steer.plan_resume(self.snapshot(), self.now, reason))
            self._look_at = self.now

    def promote(self, reason: str) -> None:
        """Let the open stages pass at a person's word."""
        self.carry(steer.plan_promotion(self.snapshot(), self.now, reason, None))
        self._look_at = self.now

    # ---- running

    def run(self) -> Ended:
        """Run until the rollout has ended, and check how it ended."""
        person = iter(self.scenario.person)
        bound = self.now + _bound(self.spec, len(self.scenario.person) + self.scenario.pauses)
        while self.state not in ROLLOUT_FINAL:
            if self.now > bound or self.ticks > MAX_TICKS:
                self._check(False, f"not ended in time ({self.ticks} looks): {self.state}, {self._standing()}")
            self._pass_time()
            self._tick()
            if self.state is RolloutState.PAUSED and not self._is_awaiting_resume():
                self._act(next(person, "abort_rollback"))
        self._check(self.reason != "", "ended without a reason")
        self._check_end()
        cells = dict(self.cells)
        return Ended(self.state, self.reason, self.now - START, self.ticks, cells, self.verdicts)

    def settle(self, span: timedelta) -> None:
        """Let time pass, whatever the rollout's state."""
        until = self.now + span
        while self._look_at <= until:
            self._pass_time()
            self._tick()
        self.now = until

    def _pass_time(self) -> None:
        """Let devices act until it is time to look."""
        while self._events and self._events[0][0] <= self._look_at:
            when, _, act = heapq.heappop(self._events)
            self.now = max(self.now, when)
            act()
        self.now = max(self.now, self._look_at)

    def _tick(self) -> None:
        plan = plan_tick(self.snapshot(), self.now)
        self.ticks += 1
        self._patience = TICK if plan.effects else min(self._patience * 2, LONGEST_LOOK)
        self._look_at = self.now + TICK if plan.next_at == self.now else self._next_look()
        self.carry(plan)

    def _next_look(self) -> datetime:
        """Return when something is due: the server looks every two seconds, which changes nothing in between."""
        dues = [due for due in self._dues() if due > self.now]
        return max(self.now + TICK, min([self.now + self._patience, *dues]))

    def _dues(self) -> Iterator[datetime]:
        snapshot = Snapshot(RolloutId("r"), self.state, self.spec, "", {}, (), (), ())
        for one in self.assignments.values():
            if one.deadline is not None:
                yield one.deadline
            if one.state is AssignmentState.HEALTHY:
                yield soak_end(snapshot, one, self.now)
            if one.back_at is not None:
                yield one.back_at + self.spec.device.ack
            if one.retry_at is not None:
                yield one.retry_at
            if one.due_at is not None:
                yield one.due_at + self.spec.offline.after
            if one.state is AssignmentState.OFFERED and one.offered_at is not None and self.spec.recalls:
                yield one.offered_at + TAKE_UP
        for minute in self.minutes.values():
            yield room_at(minute)
        if self.spec.windows:
            until = opening(self.spec.windows, "UTC", self.now).until
            if until is not None:
                yield until
        for cell in self.cells.values():
            if cell.state in CELL_OPEN and cell.opened_at is not None:
                yield (cell.resumed_at or cell.opened_at) + self.spec.on_inconclusive.after

    def _is_awaiting_resume(self) -> bool:
        return self.reason == FOR_A_WHILE

    def _act(self, what: str) -> None:
        """Do what a person does about a rollout that waits for them."""
        snapshot = self.snapshot()
        match what:
            case "abort":
                plan = steer.plan_abort(snapshot, self.now, "enough", rollback=False)
            case "abort_rollback":
                plan = steer.plan_abort(snapshot, self.now, "enough", rollback=True)
            case "promote":
                plan = steer.plan_promotion(snapshot, self.now, "we know why", None)
            case "resume":
                plan = steer.plan_resume(snapshot, self.now, "once more")
            case _:
                raise ValueError(what)
        self.carry(plan)
        self._look_at = self.now + TICK

    def _standing(self) -> str:
        cells = ", ".join(f"{c.stratum}/{c.stage} {c.state} ({c.code}: {c.reason})" for c in self.cells.values())
        return f"{cells}; devices {dict(Counter(a.state.value for a in self.assignments.values()))}"


def _bound(spec: Spec, interventions: int) -> timedelta:
    """Return the time in which a rollout must have ended: each stage has a verdict or is unclear in time, each time it opens."""
    limits = spec.device
    way = limits.ack + limits.download + limits.apply + 4 * limits.verify
    stage = sum((one.soak + way for one in spec.stages), timedelta())
    unclear = spec.on_inconclusive.after * (len(spec.stages) + interventions)
    return stage + unclear + limits.ack * 2 + timedelta(days=3) * (1 + interventions)
