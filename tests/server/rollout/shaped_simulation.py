"""The simulated world of `simulation`, for rollouts of every form: candidates, matches, approvals, ways back, strata by label.

A device of it may run nothing, may be pinned, has a site, and runs a candidate as a real one does: it brings it, starts it, says
so, and may be suspended for a while or fail. People answer approvals late, with no, or not at all.
Beside what `simulation` watches, after each tick: nobody is in a stage that bars them; no stage opens that was not approved; what
is judged beside a version really ran there. At the end: no document names a candidate of the rollout, and everybody has an outcome.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final

from edgefleet_protocol.ids import DeviceId, ProfileName
from edgefleet_protocol.messages import AssignmentState, CandidatePhase
from edgefleet_protocol.rollout_states import ROLLOUT_FINAL
from edgefleet_server.fleet.selectors.grammar import parse_selector
from edgefleet_server.rollout.analysis import decide, metrics, stage_gates
from edgefleet_server.rollout.analysis.device_metrics import LATE
from edgefleet_server.rollout.commands import steer
from edgefleet_server.rollout.effects import Offer, Plan, Revert
from edgefleet_server.rollout.model import (
    Assignment,
    Bundle,
    CandidateReport,
    Member,
    Report,
    RolloutState,
    Snapshot,
    StageRun,
    StageState,
    Strength,
)
from edgefleet_server.rollout.planner.completion import NOT_BACK
from edgefleet_server.rollout.planner.stages import DENIED, NO_CANARY, OPENED, UNANSWERED, awaiting_approval
from edgefleet_server.rollout.spec.model import Mode, Spec, profile_of
from edgefleet_server.rollout.state_machines import ASSIGNMENT_FINAL, ROLLOUT_WALKS
from tests.server.rollout.simulated_devices import Document, Kind, Scenario, SimulatedDevice, Surroundings, bundle_of
from tests.server.rollout.simulated_state import START
from tests.server.rollout.simulated_telemetry import Shows, SimulatedTelemetry
from tests.server.rollout.simulation import MAX_TICKS, Ended, World

FAILS_UNOPENED: Final = frozenset(
    {
        UNANSWERED,
        DENIED,
        NO_CANARY,
        decide.GUARD_CLASS,
        decide.GUARD_LOST,
        decide.SMALL_CLASS,
        decide.SMALL_TWO,
        decide.ABORT_EVIDENCE,
        decide.ABORT_POOLED,
        metrics.QUALITY_BREACH,
        stage_gates.GATE_ROLLBACK,
    }
)
"""The codes with which a stage is opened only to fail in the same plan, offered to nobody: a person said no or nothing, no other
stratum had a canary, or the devices of the stage before spoke against the release while it waited (no `inconclusive` among these:
they are asked as if no time had passed)."""
SITES: Final = ("a", "b")
SUSPENSIONS: Final = 3
_GOES_WRONG: Final = {Kind.FAILS_INSTALL: "install.golden", Kind.FAILS_PROBATION: "candidate.crash"}


@dataclass(frozen=True)
class ShapedDocument(Document):
    """A document that may name a candidate beside the active bundle."""

    candidate: Bundle | None = None


class ShapedDevice(SimulatedDevice):
    """A device that can run a candidate. ran_beside: since when it runs which digest, without a pause that anybody was told of."""

    def __init__(self, device: DeviceId, stratum: ProfileName, kind: Kind, old: Bundle, chance: random.Random) -> None:
        super().__init__(device, stratum, kind, old, chance)
        self.ran_beside: dict[str, datetime] = {}
        self._beside: Bundle | None = None
        self._try = 0

    def receive(self, world: Surroundings) -> None:
        before = self._document.gen
        super().receive(world)
        document = self._document
        if document.gen == before:
            return
        wanted = document.candidate if isinstance(document, ShapedDocument) else None
        if wanted != self._beside:
            self._beside = wanted
            self._try += 1
            self.ran_beside.clear()
            self._tell(world, CandidateReport() if wanted is None else CandidateReport(wanted.sha256, "waiting"))
            if wanted is not None:
                self._later(world, CandidatePhase.DOWNLOADING)

    def _later(self, world: Surroundings, phase: CandidatePhase) -> None:
        number = self._try
        factor = self._chance.uniform(1.1, 1.5) if self.kind is Kind.SLOW else self._chance.uniform(0.02, 0.3)
        base = world.spec.device.download if phase is CandidatePhase.STARTING else world.spec.device.apply
        world.at(base * factor * 0.5, lambda: self._go(world, phase) if number == self._try else None)

    def _go(self, world: Surroundings, phase: CandidatePhase) -> None:
        wanted = self._beside
        if wanted is None or self.is_revoked:
            return
        told = CandidateReport(wanted.sha256, phase.value)
        if phase is CandidatePhase.RUNNING and self.kind in _GOES_WRONG:
            told = CandidateReport(wanted.sha256, "failed", _GOES_WRONG[self.kind], f"{self.kind} beside")
        elif phase is CandidatePhase.RUNNING:
            self.ran_beside[wanted.sha256] = world.now
        self._tell(world, told)
        following = {"downloading": CandidatePhase.STARTING, "starting": CandidatePhase.RUNNING}.get(phase.value)
        if following is not None:
            self._later(world, following)
        elif told.state == "running":
            self._after_start(world, wanted)

    def _after_start(self, world: Surroundings, wanted: Bundle) -> None:
        number, minutes = self._try, timedelta(minutes=self._chance.uniform(1, 200))
        if self.kind is Kind.REGRESSES:
            bad = CandidateReport(wanted.sha256, "failed", "candidate.restarts", "it crashed again and again")
            world.at(minutes, lambda: self._end_beside(world, bad) if number == self._try else None)
        elif self.kind is Kind.FLAPPING:
            self._suspend(world, wanted, SUSPENSIONS)
        elif self.kind is Kind.DIES:
            self._set_online(world, False)

    def _suspend(self, world: Surroundings, wanted: Bundle, left: int) -> None:
        number, span = self._try, timedelta(minutes=self._chance.uniform(1, 20))
        since = world.now

        def stop() -> None:
            nonlocal since
            if number == self._try and left:
                since = self.ran_beside.get(wanted.sha256, world.now)
                self._end_beside(world, CandidateReport(wanted.sha256, "suspended", "candidate.memory", "no memory"))
                world.at(span, again)

        def again() -> None:
            if number == self._try:
                # where every word of the pause was lost, nobody can know of it
                self._go_on(world, wanted, since if self.told.candidate.state == "running" else world.now)
                world.at(span, lambda: self._suspend(world, wanted, left - 1))

        world.at(span, stop)

    def _go_on(self, world: Surroundings, wanted: Bundle, since: datetime) -> None:
        self.ran_beside[wanted.sha256] = since
        self._tell(world, CandidateReport(wanted.sha256, "running"))

    def _end_beside(self, world: Surroundings, told: CandidateReport) -> None:
        self.ran_beside.clear()
        self._tell(world, told)

    def _tell(self, world: Surroundings, told: CandidateReport) -> None:
        self._say(world, candidate=told)


@dataclass(frozen=True)
class People:
    """What people do about approvals: each answer in turn, after so long; after that they are silent."""

    answers: tuple[str, ...] = ("approve",) * 8
    after: timedelta = timedelta(hours=1)


class ShapedWorld(World):
    """One rollout of any form."""

    def __init__(
        self,
        spec: Spec,
        fleet: Mapping[str, int],
        scenario: Scenario,
        people: People | None = None,
        idle: float = 0.0,
        pinned: float = 0.0,
        shows: Shows | None = None,
    ) -> None:
        self._people = iter((people or People()).answers)
        self._answer_after = (people or People()).after
        self._idle, self._pinned = idle, pinned
        self._telemetry = None if shows is None else SimulatedTelemetry(shows)
        self._is_asked = False
        self._failing: set[tuple[int, ProfileName]] = set()
        self.sites: dict[DeviceId, str] = {}
        self.timeouts = 0
        super().__init__(spec, fleet, scenario)
        back = spec.rollback_to
        self.rollback_bundles = (
            {name: bundle_of("safe", profile_of(name)) for name in self.bundles} if "@" in back else {}
        )

    # ---- the fleet

    def join(self, profile: str) -> None:
        device = DeviceId(f"{profile.replace('/', '_')}-{len(self.devices):04}")
        kinds = list(self.scenario.mix)
        (kind,) = self.chance.choices(kinds, [self.scenario.mix[kind] for kind in kinds])
        old = bundle_of("old", profile)
        made = ShapedDevice(device, ProfileName(profile), kind, old, random.Random(self.chance.random()))
        runs = self.chance.random() >= self._idle
        if not runs:
            made.active = None
            made.report = made.told = replace(made.report, active_sha256="", phase=None)
        self.sites[device] = self.chance.choice(SITES)
        pinned = "rig" if self.chance.random() < self._pinned else ""
        self.devices[device] = made
        self.members[device] = Member(device, made.stratum, self._barred(device, runs=runs), pinned)
        self.documents[device] = ShapedDocument(0, old if runs else None)
        made.start(self)

    def _barred(self, device: DeviceId, *, runs: bool) -> frozenset[int]:
        facts = {"site": self.sites[device]}
        return frozenset(
            index
            for index, stage in enumerate(self.spec.stages)
            if not parse_selector(stage.match).matches(facts) or (stage.mode is not Mode.ACTIVE and not runs)
        )

    # ---- the store

    def snapshot(self) -> Snapshot:
        made = super().snapshot()
        is_walking = self.state in ROLLOUT_WALKS
        members = tuple(self.members.values()) if is_walking else ()
        made = replace(made, members=members, rollback_bundles=self.rollback_bundles, reason=self.reason)
        return made if self._telemetry is None else replace(made, measured=self._telemetry.take(made, self.now))

    def _report(self, device: DeviceId) -> Report:
        told, document = self.devices[device].told, self.documents[device]
        candidate = document.candidate if isinstance(document, ShapedDocument) else None
        return replace(
            told,
            wanted_by_server="" if document.active is None else document.active.sha256,
            candidate=replace(told.candidate, wanted_by_server="" if candidate is None else candidate.sha256),
        )

    def _sign(self, device_id: DeviceId, wish: Offer | Revert, before: RolloutState) -> None:
        device, one = self.devices[device_id], self.assignments[device_id]
        document = self.documents[device_id]
        stage = self.spec.stages[one.stage]
        if before is RolloutState.AWAITING_APPROVAL:
            before = self.state  # the word that it waited for has come: it runs again, and the stage opens at once
        if isinstance(wish, Offer):
            member = self.members.get(device_id)
            is_barred = member is not None and one.stage in member.barred
            self._check(not is_barred, f"{device_id} was offered the release in {stage.name}, which bars it")
            if stage.mode is Mode.ACTIVE:
                super()._sign(device_id, wish, before)
                return
            self._check(self.state is RolloutState.RUNNING, "offered while not running")
            self._check(document.active is not None, "a candidate beside nothing")
            gen = self._write_beside(device, self.bundles[one.stratum])
            self.assignments[device_id] = one.but(gen=gen or one.gen)
        elif wish.is_beside:
            mine = isinstance(document, ShapedDocument) and document.candidate == self.bundles[one.stratum]
            gen = self._write_beside(device, None) if mine else 0
            if wish.is_rollback:
                done_at = one.back_done_at if gen else self.now
                self.assignments[device_id] = one.but(back_gen=gen or max(1, one.gen), back_done_at=done_at)
        elif wish.to is not None:
            self.assignments[device_id] = one.but(previous=wish.to)
            super()._sign(device_id, wish, before)
        else:
            super()._sign(device_id, wish, before)

    def _write_beside(self, device: SimulatedDevice, candidate: Bundle | None) -> int:
        if device.is_revoked:
            return 0
        before = self.documents[device.id]
        self.documents[device.id] = ShapedDocument(
            before.gen + 1, before.active, before.attempt, before.is_rollout, candidate
        )
        self.at(timedelta(seconds=self.chance.uniform(0.1, 3)), lambda: device.receive(self))
        self.heard(device)
        return before.gen + 1

    # ---- what must hold

    def carry(self, plan: Plan) -> None:
        super().carry(plan)
        for key in self._failing:
            self._check(self.cells[key].state is StageState.FAILED, f"stage {key} was to fail unopened and is open")
            new = [a.device for a in self.assignments.values() if (a.stage, a.stratum) == key and a.gen]
            self._check(not new, f"stage {key} failed unopened, and was offered to {new}")
        self._failing.clear()

    def _check_order(self, stored: StageRun, cell: StageRun) -> None:
        stages = self.spec.stages
        if stored.state is StageState.PENDING and cell.state is not StageState.SKIPPED:
            lane = [c for c in self.cells.values() if c.stratum == cell.stratum and c.stage < cell.stage]
            done = all(c.state in (StageState.PASSED, StageState.SKIPPED) for c in lane)
            self._check(done, f"stage {cell.stage} of {cell.stratum} left pending before the one before it passed")
            same = [c.cut for c in lane if stages[c.stage].match == stages[cell.stage].match]
            self._check(cell.cut >= max(same, default=0), "a cut fell")
            if cell.code in FAILS_UNOPENED:
                self._failing.add((cell.stage, cell.stratum))
                return
            self._check(cell.code == OPENED, f"opened with the code {cell.code!r}")
            asked = stages[cell.stage].approval
            self._check(asked is None or bool(cell.approved_by), "opened without its approval")
        elif stored.state is not StageState.PENDING:
            self._check(stored.cut == cell.cut, "the cut of an open stage changed")

    def _ran_past_soak(self, one: Assignment, digest: str) -> bool:
        stage = self.spec.stages[one.stage]
        if stage.mode is Mode.ACTIVE:
            return super()._ran_past_soak(one, digest)
        device = self.devices[one.device]
        assert isinstance(device, ShapedDevice)
        since = device.ran_beside.get(digest)
        # what a device has not told yet cannot be known: one may have failed between its last report and the verdict
        is_untold = device.told.candidate != device.report.candidate or not device.is_online
        return is_untold or (since is not None and since + stage.soak <= self.now)

    def _check_end(self) -> None:
        hurried = any(
            c.strength is Strength.OVERRIDE for c in self.cells.values() if c.stage == len(self.spec.stages) - 1
        )
        for one in self.assignments.values():
            known = one.state in ASSIGNMENT_FINAL or one.state is AssignmentState.UNREACHABLE or one.reason or hurried
            self._check(bool(known), f"{one.device} ended {one.state} without an outcome or a reason")
            document, bundle = self.documents[one.device], self.bundles.get(one.stratum)
            beside = document.candidate if isinstance(document, ShapedDocument) else None
            if bundle is not None and not self.devices[one.device].is_revoked:
                self._check(beside != bundle, f"{one.device} ({one.state}) still runs the release beside")
        if self.state is RolloutState.FINISHED:
            failed = {c.stratum for c in self.cells.values() if c.state is StageState.FAILED}
            members = [m for m in self.members.values() if m.stratum not in failed]
            left = [m.device for m in members if m.device not in self.assignments]
            self._check(len(left) <= self.scenario.joiners, f"{left} were never asked")
        kept = {d for d, one in self.assignments.items() if one.reason.startswith(NOT_BACK)}
        documents = dict(self.documents)
        for device in kept if self.spec.rollback_to == "none" else ():
            self.documents[device] = replace(documents[device], is_rollout=False)
        super()._check_end()
        self.documents = documents

    # ---- running

    def run(self) -> Ended:
        person = iter(self.scenario.person)
        bound = self.now + self._bound()
        while self.state not in ROLLOUT_FINAL:
            if self.now > bound or self.ticks > MAX_TICKS:
                self._check(False, f"not ended in time ({self.ticks} looks): {self.state}, {self._standing()}")
            self._pass_time()
            self._tick()
            self._ask_people()
            if self.state is RolloutState.PAUSED and not self._is_awaiting_resume():
                self._act(next(person, "abort_rollback"))
        self._check(self.reason != "", "ended without a reason")
        self._check_end()
        return Ended(self.state, self.reason, self.now - START, self.ticks, dict(self.cells), self.verdicts)

    def _bound(self) -> timedelta:
        spec, limits = self.spec, self.spec.device
        way = limits.ack + limits.download + limits.apply + 4 * limits.verify
        each = sum((one.soak + way for one in spec.stages), timedelta())
        asked = sum((one.approval.timeout for one in spec.stages if one.approval), timedelta())
        lanes = len(self.bundles)
        again = 1 + len(self.scenario.person) + self.scenario.pauses
        unclear = spec.on_inconclusive.after * (len(spec.stages) + again)
        return (each + asked * lanes + unclear) * again + limits.ack * 2 + timedelta(days=3) * again

    def _ask_people(self) -> None:
        """Let somebody answer, later, whom the rollout has just asked."""
        is_waiting = bool(awaiting_approval(self.cells.values()))
        if is_waiting and not self._is_asked:
            self._is_asked = True
            answer = next(self._people, "silence")
            if answer != "silence":
                self.at(self._answer_after * self.chance.uniform(0.1, 1), lambda: self._answer(answer))
        self._is_asked = self._is_asked and is_waiting

    def _answer(self, answer: str) -> None:
        self._is_asked = False
        if self.state not in ROLLOUT_WALKS:
            return
        if answer == "approve":
            self.carry(steer.plan_approval(self.snapshot(), self.now, "ann", "approved by ann", None))
        else:
            self.carry(steer.plan_denial(self.snapshot(), self.now, "denied by ann", None))
        self._look_at = self.now

    def _dues(self) -> Iterator[datetime]:
        yield from super()._dues()
        if self._telemetry is not None and self.spec.gates.quality is not None:
            switches = (one.switched_at for one in self.assignments.values())
            yield from (
                switched + self.spec.gates.quality.after + LATE for switched in switches if switched is not None
            )
        for cell in awaiting_approval(self.cells.values()):
            wanted = self.spec.stages[cell.stage].approval
            if cell.asked_at is not None and wanted is not None:
                yield cell.asked_at + wanted.timeout


def world_with(document: dict[str, Any], fleet: Mapping[str, int], seed: int, **more: Any) -> ShapedWorld:
    """Return a world of a spec."""
    from edgefleet_server.rollout.spec.parser import parse_spec

    scenario = more.pop("scenario", None) or Scenario(seed=seed)
    return ShapedWorld(parse_spec(document), fleet, scenario, **more)
