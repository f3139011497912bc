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
import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any, Final

from edgefleet_protocol.ids import DeviceId, ProfileName, RolloutId
from edgefleet_protocol.messages import AssignmentState
from edgefleet_server.rollout import control
from edgefleet_server.rollout.draft import NOT_BACK
from edgefleet_server.rollout.facts import soak_end
from edgefleet_server.rollout.hearing import OVERWRITTEN
from edgefleet_server.rollout.leases import TAKE_UP
from edgefleet_server.rollout.machines import (
    ASSIGNMENT_TRANSITIONS,
    CELL_OPEN,
    IN_FLIGHT,
    ROLLOUT_FINAL,
    ROLLOUT_TRANSITIONS,
    STAGE_TRANSITIONS,
)
from edgefleet_server.rollout.membership import rank, stage_of
from edgefleet_server.rollout.model import (
    Advance,
    Assignment,
    AssignmentMade,
    AssignmentMoved,
    AssignmentNoted,
    Bundle,
    Cell,
    CellMade,
    CellMoved,
    CellNoted,
    GiveBack,
    Judged,
    Member,
    Offer,
    Plan,
    Report,
    RolloutMoved,
    RolloutState,
    Rule,
    Snapshot,
    Spec,
    StageState,
    Strength,
)
from edgefleet_server.rollout.pace import (
    Lease,
    LeaseEnded,
    LeaseTaken,
    LineBooked,
    Minute,
    MinuteNoted,
    PaceFacts,
    Whereabouts,
)
from edgefleet_server.rollout.planner import JOINER_SHARE, plan_tick
from edgefleet_server.rollout.ramp import room_at
from edgefleet_server.rollout.windows import opening
from tests.server.rollout.simulated_devices import TICK, Document, Scenario, SimulatedDevice, bundle_of

START: Final = datetime(2026, 1, 5, tzinfo=UTC)
LONGEST_LOOK: Final = timedelta(hours=6)
MAX_TICKS: Final = 20_000
FOR_A_WHILE: Final = "paused by a person for a while"
_BRAKED: Final = frozenset(
    {
        RolloutState.PAUSED,
        RolloutState.ROLLING_BACK,
        RolloutState.ROLLED_BACK,
        RolloutState.ROLLBACK_INCOMPLETE,
        RolloutState.CANCELLED,
    }
)
_EDGES: Final = {
    table_name: {(before, after) for (before, _), after in table.items()}
    for table_name, table in (
        ("rollout", ROLLOUT_TRANSITIONS),
        ("cell", STAGE_TRANSITIONS),
        ("assignment", ASSIGNMENT_TRANSITIONS),
    )
}


class BrokenPromiseError(AssertionError):
    """The planner did what it must never do."""


@dataclass
class Ended:
    """How a run ended."""

    state: RolloutState
    reason: str
    took: timedelta
    ticks: int
    cells: dict[tuple[int, ProfileName], Cell]
    verdicts: Counter[str]


class World:
    """One rollout, its fleet, and the store. See the module for what `run` watches."""

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
        self.cells: dict[tuple[int, ProfileName], Cell] = {}
        self.assignments: dict[DeviceId, Assignment] = {}
        self.verdicts: Counter[str] = Counter()
        self.minutes: dict[int, Minute] = {}
        self.leases: dict[DeviceId, Lease] = {}
        self.line_until: datetime | None = None
        self.ticks = 0
        self._reports: dict[DeviceId, tuple[Report, Document, Report]] = {}
        self._events: list[tuple[datetime, int, Callable[[], None]]] = []
        self._order = count()
        self._look_at = START
        self._patience = TICK
        for name, devices in fleet.items():
            for _ in range(devices):
                self.join(name)
        self._schedule(list(fleet))

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
        return self.state in _BRAKED or any(c.stratum == stratum and c.state is StageState.FAILED for c in cells)

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
        self.carry(control.plan_pause(self.snapshot(), self.now, reason))

    def resume(self, reason: str) -> None:
        """Resume the rollout if it is paused."""
        if self.state is RolloutState.PAUSED:
            self.carry(control.plan_resume(self.snapshot(), self.now, reason))
            self._look_at = self.now

    def promote(self, reason: str) -> None:
        """Let the open stages pass at a person's word."""
        self.carry(control.plan_promotion(self.snapshot(), self.now, reason, None))
        self._look_at = self.now

    def by_rank(self, stratum: str) -> list[SimulatedDevice]:
        """Return the devices of a stratum in the order in which stages take them."""
        devices = (device for device in self.devices.values() if device.stratum == stratum)
        return sorted(devices, key=lambda device: rank(self.salt, device.id))

    def stage_by_rank(self, one: Assignment) -> int | None:
        """Return the stage that an assignment's rank puts it in, of those that are open or were."""
        cells = sorted((c for c in self.cells.values() if c.stratum == one.stratum), key=lambda c: c.stage)
        return stage_of(rank(self.salt, one.device), [cell.cut for cell in cells])

    # ---- the store

    def snapshot(self) -> Snapshot:
        """Return what the server would load."""
        is_running = self.state is RolloutState.RUNNING
        return Snapshot(
            id=RolloutId("r-1"),
            state=self.state,
            spec=self.spec,
            salt=self.salt,
            bundles=self.bundles,
            members=tuple(self.members.values()) if is_running else (),
            cells=tuple(self.cells[key] for key in sorted(self.cells)),
            assignments=tuple(self.assignments[key] for key in sorted(self.assignments)),
            reports={device: self._report(device) for device in self.assignments},
            pace=self._pace(),
        )

    def _pace(self) -> PaceFacts:
        by_site = Counter(lease.site for lease in self.leases.values())
        where = {device: Whereabouts(f"site-{len(device) % 2}-{device[-1]}", "UTC") for device in self.assignments}
        held = tuple(self.leases[device] for device in sorted(self.leases))
        return PaceFacts(tuple(self.minutes.values()), held, len(held), by_site, self.line_until, where)

    def _report(self, device: DeviceId) -> Report:
        told, document = self.devices[device].told, self.documents[device]
        known = self._reports.get(device)
        if known is None or known[0] is not told or known[1] is not document:
            wanted = "" if document.active is None else document.active.sha256
            known = self._reports[device] = (told, document, replace(told, wanted_by_server=wanted))
        return known[2]

    def carry(self, plan: Plan) -> None:
        """Do what a plan says, as the server's carrier does: rows in order, then each document at most once."""
        before = self.state
        wishes: dict[DeviceId, Offer | GiveBack] = {}
        for effect in plan.effects:
            self._carry_one(effect, wishes)
        self._check_way_back(plan)
        for device, wish in wishes.items():
            self._sign(device, wish, before)
        self._check_limits()

    def _carry_one(self, effect: Any, wishes: dict[DeviceId, Offer | GiveBack]) -> None:
        match effect:
            case RolloutMoved():
                self._check_edge("rollout", self.state, effect.before, effect.after)
                self.state, self.reason = effect.after, effect.reason
            case CellMade():
                self._check((effect.cell.stage, effect.cell.stratum) not in self.cells, "a cell was made twice")
                self._keep_cell(effect.cell)
            case CellMoved():
                stored = self.cells[effect.cell.stage, effect.cell.stratum]
                self._check_edge("cell", stored.state, effect.before, effect.cell.state)
                self._check_order(stored, effect.cell)
                self._keep_cell(effect.cell)
            case CellNoted():
                stored = self.cells[effect.cell.stage, effect.cell.stratum]
                self._check(stored.state is effect.cell.state, "a note changed a cell's state")
                self._keep_cell(effect.cell)
            case AssignmentMade():
                self._check(effect.assignment.device not in self.assignments, "a device was assigned twice")
                previous = self.devices[effect.assignment.device].active
                self.assignments[effect.assignment.device] = replace(effect.assignment, previous=previous)
                self._check_joiner(effect.assignment)
            case AssignmentMoved():
                stored_one = self.assignments[effect.assignment.device]
                self._check_edge("assignment", stored_one.state, effect.before, effect.assignment.state)
                self._keep(effect.assignment)
            case AssignmentNoted():
                stored_one = self.assignments[effect.assignment.device]
                self._check(stored_one.state is effect.assignment.state, "a note changed an assignment's state")
                self._keep(effect.assignment)
            case Offer() | GiveBack():
                wishes[effect.device] = effect
            case Judged():
                self._check_verdict(effect)
            case MinuteNoted():
                self.minutes[effect.minute.stage] = effect.minute
                self._check(effect.minute.offered <= effect.minute.per_min, "more offers than the rate allows")
            case LeaseTaken():
                self.leases[effect.lease.device] = effect.lease
            case LeaseEnded():
                del self.leases[effect.device]
            case LineBooked():
                self.line_until = effect.until

    def _keep_cell(self, cell: Cell) -> None:
        self.cells[cell.stage, cell.stratum] = cell

    def _keep(self, one: Assignment) -> None:
        self.assignments[one.device] = replace(one, previous=self.assignments[one.device].previous)

    def _sign(self, device_id: DeviceId, wish: Offer | GiveBack, before: RolloutState) -> None:
        device, one = self.devices[device_id], self.assignments[device_id]
        if isinstance(wish, Offer):
            self._check(
                before is RolloutState.RUNNING and self.state is RolloutState.RUNNING, "offered while not running"
            )
            self._check(self.cells[one.stage, one.stratum].state is not StageState.PENDING, "offered before its stage")
            lane = sorted((c for c in self.cells.values() if c.stratum == one.stratum), key=lambda c: c.stage)
            is_open = [c.state in CELL_OPEN for c in lane].count(True) == 1
            is_let_through = lane[-1].state is StageState.PASSED and lane[-1].strength is Strength.OVERRIDE
            # who was away when its stage passed joins when it comes back, or finds its document when the rollout ends
            is_let_through |= lane[-1].state is StageState.PASSED and self.spec.pacing.recalls
            self._check(is_open or is_let_through, "offered while not exactly one stage is open")
            gen = self._write(device, self.bundles[one.stratum], one.attempt, is_rollout=True)
            self.assignments[device_id] = replace(one, gen=gen or one.gen)
            return
        gen = self._write(device, one.previous, 1, is_rollout=False)
        if wish.is_rollback:
            done_at = one.back_done_at if gen else self.now
            self.assignments[device_id] = replace(one, back_gen=gen or max(1, one.gen), back_done_at=done_at)

    def _write(self, device: SimulatedDevice, active: Bundle | None, attempt: int, *, is_rollout: bool) -> int:
        """Sign a document; return its gen, 0 for a device that gets none any more."""
        if device.is_revoked:
            return 0
        gen = self.documents[device.id].gen + 1
        self.documents[device.id] = Document(gen, active, attempt, is_rollout)
        self.at(timedelta(seconds=self.chance.uniform(0.1, 3)), lambda: device.receive(self))
        self.heard(device)
        return gen

    # ---- what must hold

    def _check(self, holds: bool, words: str) -> None:
        if not holds:
            raise BrokenPromiseError(f"{words} (seed {self.scenario.seed}, {self.now - START} after the start)")

    def _check_edge(self, table: str, stored: object, before: object, after: object) -> None:
        self._check(stored is before, f"a {table} moves from {before}, but is {stored}")
        self._check((before, after) in _EDGES[table], f"a {table} moved from {before} to {after}")

    def _check_order(self, stored: Cell, cell: Cell) -> None:
        earlier = [c for c in self.cells.values() if c.stratum == cell.stratum and c.stage < cell.stage]
        if stored.state is StageState.PENDING:
            done = all(c.state in (StageState.PASSED, StageState.SKIPPED) for c in earlier)
            self._check(done, f"stage {cell.stage} of {cell.stratum} left pending before the one before it passed")
            self._check(cell.cut >= max((c.cut for c in earlier), default=0), "a cut fell")
        else:
            self._check(stored.cut == cell.cut, "the cut of an open stage changed")
        if cell.state is StageState.SKIPPED:
            known = [a for a in self.assignments.values() if a.stratum == cell.stratum]
            self._check(not any(a.gen for a in known if a.state in IN_FLIGHT), "skipped a stage with devices in it")

    def _check_limits(self) -> None:
        """No limit is exceeded, neither by leases nor by what devices really do, and nobody downloads without a lease."""
        limits = self.spec.pacing.limits
        if not limits.are_set:
            return
        busy = {device.id for device in self.devices.values() if device.is_downloading} & self.assignments.keys()
        if self.state not in ROLLOUT_FINAL:  # after the end those who were away come back when they like
            self._check(busy <= self.leases.keys(), f"{sorted(busy - self.leases.keys())} download without a lease")
        most = limits.concurrent_downloads
        self._check(most is None or len(self.leases) <= most, f"{len(self.leases)} leases")
        by_site = Counter(lease.site for lease in self.leases.values())
        most = limits.per_site
        self._check(most is None or max(by_site.values(), default=0) <= most, f"leases by site: {by_site}")

    def _check_verdict(self, judged: Judged) -> None:
        """A promotion rests on devices that really run the release, whatever reports were lost."""
        self.verdicts[judged.decision.code] += 1
        if not isinstance(judged.decision, Advance):
            return
        facts = judged.facts
        stratum = ProfileName(facts.stratum)
        digest = self.bundles[stratum].sha256
        ran = sum(self._ran_past_soak(one, digest) for one in self.assignments.values() if one.stratum == stratum)
        self._check(facts.counts.healthy > 0, "promoted on nothing")
        self._check(facts.counts.healthy <= ran, "promoted on devices that never ran the release")
        if facts.rule is Rule.ALL_HEALTHY:
            self._check(facts.counts.failed == 0 and facts.counts.pending == 0, "promoted with devices not healthy")
            needed = min(2, facts.population)
            self._check(facts.counts.healthy >= needed, "promoted on fewer devices than the rule asks for")

    def _ran_past_soak(self, one: Assignment, digest: str) -> bool:
        device = self.devices[one.device]
        since = device.switched_at.get(digest)
        soak = self.spec.stages[one.stage].soak
        return digest in device.committed and since is not None and since + soak <= self.now

    def _check_joiner(self, one: Assignment) -> None:
        settled = (StageState.SOAKING, StageState.JUDGING)
        if not any(c.state in settled for c in self.cells.values() if c.stratum == one.stratum):
            return
        lane = [a for a in self.assignments.values() if a.stratum == one.stratum]
        flying = sum(a.is_joiner and (a.state in IN_FLIGHT or a.state is AssignmentState.ELIGIBLE) for a in lane)
        exposed = sum(a.exposed_at is not None for a in lane)
        self._check(flying <= max(1, exposed * JOINER_SHARE), f"{flying} joiners at once in a stage of {exposed}")

    def _check_way_back(self, plan: Plan) -> None:
        back = [self.assignments[e.device] for e in plan.effects if isinstance(e, GiveBack) and e.is_rollback]
        times = [one.exposed_at or one.offered_at or self.now for one in back]
        self._check(times == sorted(times, reverse=True), "not taken back newest exposed first")

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
                yield one.due_at + self.spec.pacing.offline.after
            if one.state is AssignmentState.OFFERED and one.offered_at is not None and self.spec.pacing.recalls:
                yield one.offered_at + TAKE_UP
        for minute in self.minutes.values():
            yield room_at(minute)
        if self.spec.pacing.windows:
            until = opening(self.spec.pacing.windows, "UTC", self.now).until
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
                plan = control.plan_abort(snapshot, self.now, "enough", rollback=False)
            case "abort_rollback":
                plan = control.plan_abort(snapshot, self.now, "enough", rollback=True)
            case "promote":
                plan = control.plan_promotion(snapshot, self.now, "we know why", None)
            case "resume":
                plan = control.plan_resume(snapshot, self.now, "once more")
            case _:
                raise ValueError(what)
        self.carry(plan)
        self._look_at = self.now + TICK

    def _standing(self) -> str:
        cells = ", ".join(f"{c.stratum}/{c.stage} {c.state} ({c.code}: {c.reason})" for c in self.cells.values())
        return f"{cells}; devices {dict(Counter(a.state.value for a in self.assignments.values()))}"

    def _check_end(self) -> None:
        """Where the release was taken back nobody runs it who can be reached, but for those that are named."""
        if self.state is RolloutState.CANCELLED or self.state is RolloutState.SUPERSEDED:
            return
        failed = {c.stratum for c in self.cells.values() if c.state is StageState.FAILED}
        if self.state in (RolloutState.ROLLED_BACK, RolloutState.ROLLBACK_INCOMPLETE):
            failed |= {a.stratum for a in self.assignments.values()}
        for one in self.assignments.values():
            device, bundle = self.devices[one.device], self.bundles.get(one.stratum)
            if one.stratum not in failed or bundle is None:
                continue
            wants = self.documents[one.device]
            self._check(
                not wants.is_rollout or device.is_revoked,
                f"{one.device} ({one.state}) is still told to run the release",
            )
            if device.active is not None and device.active.sha256 == bundle.sha256 and device.is_online:
                is_named = one.reason.startswith(NOT_BACK) or (
                    one.reason == OVERWRITTEN and wants.active is not None and wants.active.sha256 != bundle.sha256
                )
                self._check(is_named, f"{one.device} ({one.state}) still runs the release that was taken back")


def _bound(spec: Spec, interventions: int) -> timedelta:
    """Return the time in which a rollout must have ended: each stage has a verdict or is unclear in time, each time it opens."""
    limits = spec.device
    way = limits.ack + limits.download + limits.apply + 4 * limits.verify
    stage = sum((one.soak + way for one in spec.stages), timedelta())
    unclear = spec.on_inconclusive.after * (len(spec.stages) + interventions)
    return stage + unclear + limits.ack * 2 + timedelta(days=3) * (1 + interventions)
