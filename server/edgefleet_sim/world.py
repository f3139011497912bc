"""The simulated world: replicas that claim, crash and stall, a wire that loses, doubles and reorders, devices, one virtual clock.

A replica looks when a device reported or when something is due; what it decides is `planner.plan_tick`, carried out under the fence
of its claim. It may crash before the commit (nothing is written, the lease runs out) or after it (documents are written and not
sent), or stall for longer than its lease and find its fence taken. What was not sent is sent when the device reports an older gen,
or connects again: as the shipped gateway does.
"""

from __future__ import annotations

import heapq
import math
import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import repeat
from typing import Final

from edgefleet_protocol.digest import sha256_hex
from edgefleet_protocol.ids import DeviceId, ProfileName
from edgefleet_protocol.messages import Phase
from edgefleet_server.rollout.analysis.doubt import doubt
from edgefleet_server.rollout.analysis.facts import facts_of
from edgefleet_server.rollout.effects import Plan
from edgefleet_server.rollout.model import Bundle, DeviceQuality, RolloutState, Snapshot, StageRun
from edgefleet_server.rollout.planner.stages import awaiting_approval
from edgefleet_server.rollout.planner.tick import plan_tick
from edgefleet_server.rollout.spec.model import profile_of
from edgefleet_server.rollout.spec.parser import parse_spec
from edgefleet_server.rollout.state_machines import CELL_OPEN, EXPOSED_STATES, IllegalTransitionError
from edgefleet_server.rollout.store.rollouts import LEASE
from edgefleet_sim import due_times, nature, operator
from edgefleet_sim.checks import BrokenPromiseError, check_plan, problems
from edgefleet_sim.confirmers import Confirmers, bad_bundles
from edgefleet_sim.device import Document, Said, SimDevice, silent
from edgefleet_sim.memory_database import SimDatabase
from edgefleet_sim.scenario import Result, Scenario, spec_of
from edgefleet_sim.scope import check_scope
from edgefleet_terms.reserved_labels import PIN_LABEL
from edgefleet_terms.rollout_states import ROLLOUT_FINAL

START: Final = datetime(2026, 1, 5, tzinfo=UTC)
TICK_S: Final = 2.0
LONGEST_LOOK_S: Final = 6 * 3600.0
SETTLING: Final = timedelta(hours=3)
MAX_TICKS: Final = 20_000
CRASH_DAYS: Final = 3
PERSON_S: Final = 120.0

Measure = Callable[[Snapshot, datetime], tuple[DeviceQuality, ...]]
"""All that was measured of devices by a moment, for the quality gate of a spec."""


class World:
    """One rollout, its fleet and its replicas. `chance` draws everything; nothing else is random.

    measure: what the gates of the spec hear; without it a spec that asks for what is not played raises NotSimulatedError.
    """

    def __init__(self, scenario: Scenario, measure: Measure | None = None) -> None:
        self.scenario = scenario
        self.chance = random.Random(scenario.seed)
        self._now = START
        self.devices: dict[DeviceId, SimDevice] = {}
        spec = parse_spec(spec_of(scenario))
        if measure is None:
            check_scope(spec, scenario)
        self._measure = measure
        self.new = {
            ProfileName(name): bundle_of("2.0.0", name) for name in scenario.devices if name not in scenario.without
        }
        self.rows = SimDatabase(spec, f"salt-{scenario.seed}", self.new, due_at=START, joiners=scenario.joiners)
        self.rows.draws = random.Random(f"draws of {scenario.seed}")
        answers = random.Random(f"answers of {scenario.seed}")
        self.confirmers = Confirmers(self.rows, self.devices, bad_bundles(scenario, self.new), answers, self._wake)
        self._bare = replace(self.rows.snapshot(), members=())
        self.story: list[str] = []
        self.counts: Counter[str] = Counter()
        self.failovers_s: list[float] = []
        self.second_failure_at: datetime | None = None
        self.halted_at: datetime | None = None
        self.stopped_at: datetime | None = None
        self.exposed_at_second = 0
        self._failed: set[DeviceId] = set()
        self._events: list[tuple[datetime, int, Callable[[], None]]] = []
        self._order = 0
        self._look_at: datetime | None = START
        self._patience_s = TICK_S
        self._down: dict[str, datetime] = {}
        self._crashed_at: datetime | None = None
        self._noted = 0
        self._person = list(scenario.person)
        self._answers = repeat(scenario.approval) if isinstance(scenario.approval, str) else iter(scenario.approval)
        self._has_asked = False
        self._is_asked = False
        self._silent_about: list[StageRun] = []
        for name, count in scenario.devices.items():
            for _ in range(count):
                self._join(name)
        self._schedule()
        again = len(scenario.person) + len(scenario.commands)
        self._longest = due_times.longest(spec, len(self.new), again)

    # ---- what devices need (`device.Air`)

    @property
    def now(self) -> datetime:
        """The true time."""
        return self._now

    def at(self, delay_s: float, act: Callable[[], None]) -> None:
        """Call `act` after so long."""
        self._order += 1
        heapq.heappush(self._events, (self._now + timedelta(seconds=delay_s), self._order, act))

    def say(self, device: DeviceId, said: Said) -> None:
        """Send a report to the server; what is lost is sent again."""
        lost = self.scenario.loss and self.chance.random() < self.scenario.loss
        if lost:
            self.counts["lost"] += 1
            self.at(self.chance.uniform(5, 60), lambda: self.devices[device].again(self))
            return
        for delay_s in self._ways():
            self.at(delay_s, lambda: self._hear(device, said))

    def connected(self, device: DeviceId) -> None:
        """Hand out what is retained."""
        self._publish(device)
        self._publish_hold(device)

    def gone(self, device: DeviceId) -> None:
        """The broker reports to the server after a while that the connection broke."""
        self.at(self.chance.uniform(1, 90), lambda: self._presence(device))

    def note(self, line: str) -> None:
        """Note a line of the story."""
        self.story.append(f"{(self._now - START).total_seconds():9.1f}  {line}")

    # ---- the wire

    def _ways(self) -> Iterator[float]:
        """Yield the delay of each copy of a message that arrives."""
        delay_s = self.chance.uniform(0.02, 0.4)
        if self.scenario.reorder and self.chance.random() < self.scenario.reorder:
            delay_s += self.chance.uniform(1, 120)
        yield delay_s
        if self.scenario.duplicate and self.chance.random() < self.scenario.duplicate:
            yield delay_s + self.chance.uniform(0.1, 200)

    def _hear(self, device: DeviceId, said: Said) -> None:
        if self.rows.hear(device, said) or self.rows.is_asking():
            self._note_failure(device, said)
            self._wake()
        if said.report.reported_gen < self.rows.documents[device].gen:
            self._publish(device)

    def _presence(self, device: DeviceId) -> None:
        known = self.rows.reports.get(device)
        if known is not None and known.is_online and not self.devices[device].is_up:
            self.rows.reports[device] = silent(known)
            self._wake()

    def _publish(self, device: DeviceId) -> None:
        """Send a device its newest document, at least once."""
        document = self.rows.documents[device]
        if self.scenario.loss and self.chance.random() < self.scenario.loss:
            self.counts["lost"] += 1
            self.at(self.chance.uniform(5, 60), lambda: self._publish_if_missing(device))
            return
        for delay_s in self._ways():
            self.at(delay_s, lambda: self.devices[device].take(self, document))

    def _publish_if_missing(self, device: DeviceId) -> None:
        if self.devices[device].document.gen < self.rows.documents[device].gen and self.devices[device].is_up:
            self._publish(device)

    def _publish_hold(self, device: DeviceId) -> None:
        hold = self.rows.hold
        if self.devices[device].hold.seq >= hold.seq or not self.devices[device].is_up:
            return
        if self.scenario.loss and self.chance.random() < self.scenario.loss:
            self.at(self.chance.uniform(5, 60), lambda: self._publish_hold(device))
            return
        for delay_s in self._ways():
            self.at(delay_s, lambda: self.devices[device].take_hold(self, hold))

    # ---- the fleet

    def _join(self, profile: str) -> None:
        scenario, rows = self.scenario, self.rows
        device = DeviceId(f"{profile}-{len(self.devices):05}")
        labels = {key: self.chance.choice(values) for key, values in sorted(scenario.labels.items())}
        labels |= {PIN_LABEL: "rig"} if scenario.pinned and self.chance.random() < scenario.pinned else {}
        stratum = rows.enrol(device, profile, labels)
        if profile in self.new:
            self.new.setdefault(stratum, self.new[ProfileName(profile)])
        if "@" in rows.spec.rollback_to:
            rows.rollback_bundles[stratum] = bundle_of(rows.spec.rollback_to.split("@")[1], profile)
        digest = self.new[stratum].sha256 if stratum in self.new else ""
        chance = random.Random(self.chance.getrandbits(64))
        natural = nature.drawn(scenario, self.chance)
        old = None if scenario.idle and self.chance.random() < scenario.idle else bundle_of("1.0.0", profile)
        made = SimDevice(device, stratum, old, digest, natural, chance, scenario.beat_s)
        self.devices[device] = made
        rows.documents[device] = made.document
        made.begin(self)
        made.again(self)

    def _leave(self) -> None:
        """A device loses the label by which it belongs, or is revoked."""
        device = self.devices[self.chance.choice(sorted(self.devices))]
        self.rows.members.pop(device.id, None)
        if self.chance.random() < 0.5:
            device.is_dead, device.is_up = True, False
            self.rows.revoke(device.id)
        self._wake()

    def _redeploy(self) -> None:
        """Somebody gives a device another version."""
        device = self.chance.choice(sorted(self.devices.keys() - self.rows.revoked))
        before = self.rows.documents[device]
        self.rows.documents[device] = Document(
            before.gen + 1, bundle_of("3.0.0", profile_of(self.devices[device].stratum))
        )
        self._publish(device)
        self._wake()

    def _schedule(self) -> None:
        scenario, chance = self.scenario, self.chance
        for device in list(self.devices.values()) if scenario.device_crash else ():
            for _ in range(int(chance.expovariate(1.0 / (scenario.device_crash * CRASH_DAYS)))):
                self.at(chance.uniform(0, CRASH_DAYS * 86_400 / 6), partial(device.crash, self))
        for _ in range(scenario.joiners):
            profile = chance.choice(sorted(scenario.devices))
            self.at(chance.uniform(60, 7200), partial(self._join, profile))
        span_s = due_times.length(self.rows.spec).total_seconds()
        for act in (self._leave,) * scenario.leavers + (self._redeploy,) * scenario.redeployed:
            self.at(chance.uniform(0, span_s), act)
        for at_s, verb in scenario.commands:
            self.at(at_s, partial(self._command, verb))

    # ---- replicas

    def _wake(self) -> None:
        if self.rows.due_at is None:
            return  # it has ended, and nothing can happen any more
        self._patience_s = TICK_S
        self._look_again(self.chance.uniform(0.05, TICK_S / 2) + self.scenario.look_s)

    def _look_again(self, after_s: float) -> None:
        at = self._now + timedelta(seconds=after_s)
        if self._look_at is None or at < self._look_at:
            self._look_at = at

    def _look(self) -> None:
        """One replica after the other tries to claim the rollout, in an order that is drawn."""
        self._look_at = None
        if self.rows.due_at is None:
            return
        self.counts["ticks"] += 1
        names = [f"replica-{number}" for number in range(self.scenario.replicas)]
        self.chance.shuffle(names)
        up = [name for name in names if self._down.get(name, START) <= self._now]
        for name in up:
            fence = self.rows.claim(name, self._now, is_woken=True)
            if fence is not None:
                self._begin_tick(name, fence)
                return
        back_at = min([*self._down.values(), *([self.rows.lease_until] if self.rows.lease_until else [])], default=None)
        wait_s = TICK_S if back_at is None else (back_at - self._now).total_seconds()
        self._look_again(min(max(wait_s, TICK_S), LEASE.total_seconds()))

    def _begin_tick(self, name: str, fence: int) -> None:
        draw = self.chance.random()
        if draw < self.scenario.replica_crash / 2:
            self._crash_replica(name)
        elif draw < self.scenario.replica_crash / 2 + self.scenario.replica_stall:
            self.counts["stalls"] += 1
            self._look_again(LEASE.total_seconds())
            self.at(self.chance.uniform(10, 40), lambda: self._commit(name, fence))
        else:
            self._commit(name, fence)

    def _crash_replica(self, name: str) -> None:
        self.counts["crashes"] += 1
        self._down[name] = self._now + timedelta(seconds=self.chance.uniform(3, 30))
        others = (other for other in range(self.scenario.replicas) if f"replica-{other}" != name)
        is_alone = not any(self._down.get(f"replica-{other}", START) <= self._now for other in others)
        self._crashed_at = None if is_alone else self._now
        self._look_again(TICK_S)

    def _commit(self, name: str, fence: int) -> None:
        """One tick: snapshot, plan and rows in one transaction, documents after it."""
        if not self.rows.is_held(fence):
            self._look_again(TICK_S)
            return
        plan = plan_tick(self._snapshot(), self._now)
        self._carry(plan, "engine", dies=self.chance.random() < self.scenario.replica_crash / 2, name=name)
        self._patience_s = TICK_S if plan.effects else min(self._patience_s * 2, LONGEST_LOOK_S)
        if self._crashed_at is not None:
            self.failovers_s.append((self._now - self._crashed_at).total_seconds())
            self._crashed_at = None
        if plan.next_at == self._now:
            self._look_again(0.05)
        elif self.rows.state not in ROLLOUT_FINAL or plan.next_at is not None:
            self._look_again(self._until_due())

    def _snapshot(self) -> Snapshot:
        snapshot = self.rows.snapshot()
        return snapshot if self._measure is None else replace(snapshot, measured=self._measure(snapshot, self._now))

    def _carry(self, plan: Plan, by: str, *, dies: bool = False, name: str = "") -> None:
        check_plan(self.rows, plan, self.devices, self._now)
        seq = self.rows.hold.seq
        fresh = self.rows.carry(plan, by, self._now)
        self.confirmers.follow(plan, self)
        self.counts["commits"] += 1
        self._note_events()
        if dies:
            self.note(f"{name} crashed after its commit, before it sent {len(fresh)} documents")
            self._crash_replica(name)
            return
        if self.rows.hold.seq != seq:
            for device in self.devices:
                self._publish_hold(device)
        for device in fresh:
            self._publish(device)

    def _note_events(self) -> None:
        """Tell the story of the new events, and watch how fast a failing release is stopped."""
        for event in self.rows.events[self._noted :]:
            self.story.append(event.line(START))
        self._noted = len(self.rows.events)
        failed = any(cell.ended_at and cell.state == "failed" for cell in self.rows.cells.values())
        is_stopped = failed or self.rows.state is not RolloutState.RUNNING
        if self.stopped_at is None and is_stopped:
            self.stopped_at = self._now
        if self.halted_at is None and (is_stopped or self._is_in_doubt()):
            self.halted_at = self._now

    def _note_failure(self, device: DeviceId, said: Said) -> None:
        """Note when the server hears of the second device on which the release failed."""
        report = said.report
        bundle = self.new.get(self.devices[device].stratum)
        if report.phase in (Phase.FAILED, Phase.ROLLED_BACK) and bundle and report.wanted_sha256 == bundle.sha256:
            self._failed.add(device)
        if self.second_failure_at is None and len(self._failed) >= 2:
            self.second_failure_at = self._now
            self.exposed_at_second = self.exposed

    def _is_in_doubt(self) -> bool:
        """Whether the planner offers the release to nobody else for now."""
        if self.second_failure_at is None or self.rows.is_asking():
            return self.rows.is_asking()
        snapshot, ones = self._bare, tuple(self.rows.assignments.values())
        return any(
            doubt(facts_of(snapshot, cell, ones, self._now))
            for cell in self.rows.cells.values()
            if cell.state in CELL_OPEN
        )

    @property
    def exposed(self) -> int:
        """Devices that took the release up, as the server knows."""
        ones = self.rows.assignments.values()
        return sum(one.exposed_at is not None or one.state in EXPOSED_STATES for one in ones)

    def _until_due(self) -> float:
        """Return how long nothing changes by time alone; the server looks every two seconds, which changes nothing either."""
        if self._patience_s <= TICK_S:  # nothing that is due would be looked at sooner
            return TICK_S
        dues = [due for due in due_times.dues(self.rows, self._bare, self._now) if due > self._now]
        nearest = min(dues, default=self._now + timedelta(seconds=LONGEST_LOOK_S))
        return max(TICK_S, min(self._patience_s, (nearest - self._now).total_seconds()))

    # ---- people

    def _command(self, verb: str) -> None:
        """Do what a person asks for; what the state does not allow is refused, as the API does."""
        try:
            plan = operator.plan_of(verb, self._snapshot(), self._now)
        except IllegalTransitionError:
            self.note(f"a person asked to {verb}: refused, it is {self.rows.state}")
            return
        self.note(f"a person asked to {verb}")
        self.rows.fence += 1
        self._carry(plan, "a person")
        self._wake()

    def _ask_person(self) -> None:
        self._has_asked = False
        if self.rows.state is RolloutState.PAUSED:
            self._command(self._person.pop(0) if self._person else "abort_rollback")

    def _ask_approver(self) -> None:
        self._is_asked, waiting = False, awaiting_approval(self.rows.cells.values())
        if word := next(self._answers, "") if waiting else "":
            self._command(word)
        self._silent_about = [] if word else waiting

    # ---- running

    def run(self) -> Result:
        """Run until the rollout has ended and all is quiet; return how it ended. Never raises BrokenPromiseError."""
        broken: list[str] = []
        try:
            self._run()
            broken = problems(self.rows, self.devices, self._now)
        except (BrokenPromiseError, IllegalTransitionError) as error:
            broken = [f"{error} (after {(self._now - START).total_seconds():.1f} s)"]
        return self._result(broken)

    def _run(self) -> None:
        while not self._is_over():
            self._next()
        backs_s = (
            back_s for device in self.devices.values() for _, back_s in device.nature.away_s if back_s < math.inf
        )
        until = max(self._now, START + timedelta(seconds=max(backs_s, default=0.0))) + SETTLING
        while self._is_busy(until):
            self._next()
            if not self._is_over():  # a person's word brought it back
                until = max(until, self._now + SETTLING)

    def settle(self, span: timedelta) -> None:
        """Let time pass, whatever the rollout's state. Raises BrokenPromiseError."""
        until = self._now + span
        while self._is_busy(until):
            self._next()
        self._now = until

    def _is_busy(self, until: datetime) -> bool:
        return bool(self._events) and min(self._events[0][0], self._look_at or self._events[0][0]) <= until

    def _is_over(self) -> bool:
        if self._now - START > self._longest or self.counts["ticks"] > MAX_TICKS:
            raise BrokenPromiseError(f"not ended in time: {self.rows.state} ({self.rows.reason})")
        return self.rows.state in ROLLOUT_FINAL and not self._is_command_due

    @property
    def _is_command_due(self) -> bool:
        return any(at_s > (self._now - START).total_seconds() for at_s, _ in self.scenario.commands)

    def _next(self) -> None:
        """Let the next thing happen."""
        if self._look_at is not None and (not self._events or self._look_at <= self._events[0][0]):
            self._now = max(self._now, self._look_at)
            self._look()
        else:
            when, _, act = heapq.heappop(self._events)
            self._now = max(self._now, when)
            act()
        if self.rows.state is RolloutState.PAUSED and not self._has_asked and not self._is_command_due:
            self._has_asked = True
            self.at(PERSON_S, self._ask_person)
        if self.scenario.approval and not self._is_asked:
            waiting = awaiting_approval(self.rows.cells.values())
            if waiting and waiting != self._silent_about:
                self._is_asked = True
                self.at(PERSON_S, self._ask_approver)

    def _result(self, broken: list[str]) -> Result:
        rows = self.rows
        return Result(
            state=rows.state.value,
            reason=rows.reason,
            took_s=round((self._now - START).total_seconds(), 1),
            ticks=self.counts["ticks"],
            commits=self.counts["commits"],
            refused=rows.refused,
            crashes=self.counts["crashes"],
            device_crashes=sum(device.crashes for device in self.devices.values()),
            exposed=self.exposed,
            devices=dict(sorted(Counter(one.state.value for one in rows.assignments.values()).items())),
            stages={
                f"{rows.spec.stages[stage].name}/{stratum}": cell.state.value
                for (stage, stratum), cell in sorted(rows.cells.items())
            },
            broken=broken,
            failovers_s=self.failovers_s,
            transcript=self.story,
        )


def bundle_of(version: str, profile: str) -> Bundle:
    """Return the bundle of a version for a profile."""
    target = f"digits/{version}/{profile}.bundle"
    return Bundle(target, sha256_hex(target.encode()), 2_000_000)


def simulate(scenario: Scenario) -> Result:
    """Run one scenario to its end."""
    return World(scenario).run()
